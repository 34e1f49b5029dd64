//! The client's side of the dialogue: what each reply means and what is sent next.

use std::collections::VecDeque;
use std::io;

use super::message::Kit;
use super::result::{BIN_MS, LoadResult, Logged, Outcome};
use super::schedule::Schedule;
use super::session::{Awaited, Job, Link, Session};
use super::{Exchange, Options};
use crate::sink::Dice;
use crate::stage::Stage;

/// What all sessions of a run share.
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) kit: Kit,
    pub(super) schedule: Schedule,
    pub(super) dice: Dice,
    pub(super) result: LoadResult,
    /// Sessions that wait for a message; entries may be out of date.
    pub(super) idle: VecDeque<usize>,
    /// Messages started over the whole run: the next one's number.
    pub(super) numbers: u64,
    /// Messages started and not yet accounted for.
    pub(super) in_flight: u64,
    /// Since when results count.
    pub(super) window_ns: u64,
    pub(super) last_answer_ns: u64,
    /// A reason why the run makes no sense.
    pub(super) fatal: Option<io::Error>,
}

impl Run<'_> {
    /// Takes one reply.
    ///
    /// # Errors
    /// When the connection is of no more use; messages on it are accounted for by [`Run::lost`].
    pub(super) fn on_reply(&mut self, index: usize, s: &mut Session, code: u16, now: u64) -> io::Result<()> {
        let awaited = s.awaited.pop_front();
        if code == 421 || awaited.is_none() {
            self.on_closing(s, awaited, code, now);
            return Err(ended(&format!("the server said {code} and closes")));
        }
        match awaited.unwrap_or(Awaited::Quit) {
            Awaited::Greeting if code == 220 => {
                s.out.end().extend_from_slice(b"EHLO load.postlane.example\r\n");
                s.awaited.push_back(Awaited::Hello);
            }
            Awaited::Greeting => return Err(ended(&format!("greeting {code}"))),
            Awaited::Hello if code == 250 => self.on_hello(index, s, now),
            Awaited::Hello => return Err(ended(&format!("EHLO answered {code}"))),
            Awaited::Reset => {
                if let Some(Job { rcpts_sent: 0, .. }) = s.opening
                    && s.awaited.is_empty()
                {
                    self.ask_mail(s);
                }
            }
            Awaited::Mail => self.on_envelope(index, s, Stage::Mail, code, now),
            Awaited::Rcpt => self.on_envelope(index, s, Stage::Rcpt, code, now),
            Awaited::Data => self.on_data(index, s, code, now),
            Awaited::End if s.is_answered_early() => {
                return Err(ended("answered before the end of the message"));
            }
            Awaited::End => self.on_end(index, s, code, now),
            Awaited::Quit => s.link = Link::Down { retry_ns: now },
        }
        Ok(())
    }

    fn on_hello(&mut self, index: usize, s: &mut Session, now: u64) {
        let missing = match self.options.exchange {
            Exchange::Pipelining if !s.pipelining_offered => Some("PIPELINING"),
            Exchange::Chunking if !s.chunking_offered => Some("CHUNKING"),
            _ => None,
        };
        if let Some(name) = missing {
            let text = format!("{} does not offer {name}", self.options.target);
            self.fatal = Some(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        s.link = Link::Up;
        s.failures = 0;
        self.go_on(index, s, now);
    }

    /// Gives a session that has nothing to do its next message, or lets it wait for one.
    pub(super) fn go_on(&mut self, index: usize, s: &mut Session, now: u64) {
        if self.options.per_connection.is_some_and(|most| s.messages >= most) {
            return self.quit(s);
        }
        match self.next_job(now) {
            Some(job) => self.open(s, job),
            None => self.idle.push_back(index),
        }
    }

    pub(super) fn next_job(&mut self, now: u64) -> Option<Job> {
        let from_ns = self.schedule.take(now)?;
        let number = self.numbers;
        self.numbers += 1;
        self.in_flight += 1;
        let measured = self.schedule.measured;
        self.result.started += u64::from(measured);
        let class = self.options.size.draw(&mut self.dice);
        Some(Job {
            number,
            from_ns,
            measured,
            class,
            rcpts_sent: 0,
            rcpts_accepted: 0,
            end: None,
            refusal: None,
        })
    }

    pub(super) fn quit(&self, s: &mut Session) {
        s.out.end().extend_from_slice(b"QUIT\r\n");
        s.awaited.push_back(Awaited::Quit);
    }

    /// Starts a message: as much of it in one send as the way of exchange allows.
    pub(super) fn open(&mut self, s: &mut Session, job: Job) {
        s.messages += 1;
        if self.options.exchange == Exchange::Chunking {
            return self.open_chunked(s, job);
        }
        let reset = std::mem::take(&mut s.must_reset);
        if reset {
            s.out.end().extend_from_slice(b"RSET\r\n");
            s.awaited.push_back(Awaited::Reset);
        }
        s.opening = Some(job);
        match self.options.exchange {
            Exchange::Plain if reset => {}
            Exchange::Plain => self.ask_mail(s),
            Exchange::Pipelining => {
                self.ask_mail(s);
                self.ask_opening_rcpts(s, self.options.recipients);
                self.ask_data(s);
            }
            Exchange::Chunking => {}
        }
    }

    /// The whole message, and others behind it: none waits for the answer to the one before.
    fn open_chunked(&mut self, s: &mut Session, job: Job) {
        let mut next = Some(job);
        while let Some(mut job) = next.take() {
            // What became of those before is not known, and only RSET ends a transaction for certain (RFC 3030 2).
            if std::mem::take(&mut s.must_reset) || s.opening.is_some() {
                s.out.end().extend_from_slice(b"RSET\r\n");
                s.awaited.push_back(Awaited::Reset);
            }
            self.ask_mail(s);
            self.ask_rcpts(s, &mut job, self.options.recipients);
            self.kit.push_bdat(job.class, s.out.end());
            self.kit.push_header(job.number, s.out.end());
            s.out.push_body(job.class, false, &self.kit);
            s.awaited.push_back(Awaited::End);
            job.end = Some(s.out.position());
            self.result.sent += u64::from(job.measured);
            match &mut s.opening {
                None => s.opening = Some(job),
                Some(_) => s.behind.push_back(job),
            }
            let under_way = 1 + s.behind.len();
            let may_more = self.options.per_connection.is_none_or(|most| s.messages < most);
            if under_way < self.options.in_flight && may_more && self.may_hurry() {
                next = self.next_job(s.active_ns);
                s.messages += u64::from(next.is_some());
            }
        }
    }

    /// May a message ride behind another: it is due, or no session is free for it.
    fn may_hurry(&self) -> bool {
        self.options.rate.is_none() || self.idle.is_empty()
    }

    fn ask_mail(&self, s: &mut Session) {
        self.kit.push_mail(s.out.end());
        s.awaited.push_back(Awaited::Mail);
    }

    fn ask_opening_rcpts(&self, s: &mut Session, count: usize) {
        if let Some(mut job) = s.opening.take() {
            self.ask_rcpts(s, &mut job, count);
            s.opening = Some(job);
        }
    }

    fn ask_rcpts(&self, s: &mut Session, job: &mut Job, count: usize) {
        for _ in 0..count {
            let number = job.number * self.options.recipients as u64 + job.rcpts_sent as u64;
            self.kit.push_rcpt(number, s.out.end());
            s.awaited.push_back(Awaited::Rcpt);
            job.rcpts_sent += 1;
        }
    }

    fn ask_data(&self, s: &mut Session) {
        s.out.end().extend_from_slice(b"DATA\r\n");
        s.awaited.push_back(Awaited::Data);
    }

    fn on_envelope(&mut self, index: usize, s: &mut Session, stage: Stage, code: u16, now: u64) {
        let Some(job) = &mut s.opening else { return };
        match code / 100 {
            2 => job.rcpts_accepted += usize::from(stage == Stage::Rcpt),
            _ => job.refusal = job.refusal.or(Some((stage, code))),
        }
        let job = *job;
        if self.options.exchange != Exchange::Plain {
            return;
        }
        let mail_refused = matches!(job.refusal, Some((Stage::Mail, _)));
        if !mail_refused && job.rcpts_sent < self.options.recipients {
            self.ask_opening_rcpts(s, 1);
        } else if job.rcpts_accepted > 0 {
            self.ask_data(s);
        } else {
            self.give_up(index, s, (stage, code), now);
        }
    }

    /// Ends a message whose content was never wanted.
    fn give_up(&mut self, index: usize, s: &mut Session, last: (Stage, u16), now: u64) {
        let Some(job) = s.opening.take() else { return };
        s.must_reset = true;
        self.refused(job, job.refusal.unwrap_or(last), now);
        self.go_on(index, s, now);
    }

    fn on_data(&mut self, index: usize, s: &mut Session, code: u16, now: u64) {
        if code != 354 {
            return self.give_up(index, s, (Stage::Data, code), now);
        }
        let Some(mut job) = s.opening.take() else { return };
        s.awaited.push_back(Awaited::End);
        if job.rcpts_accepted > 0 {
            self.kit.push_header(job.number, s.out.end());
            s.out.push_body(job.class, true, &self.kit);
        }
        // Where nobody wants it the server listens all the same: an empty message ends that (RFC 2920 3.1).
        s.out.end().extend_from_slice(b".\r\n");
        job.end = Some(s.out.position());
        s.ending = Some(job);
        if job.rcpts_accepted == 0 {
            return;
        }
        self.result.sent += u64::from(job.measured);
        if self.options.exchange == Exchange::Pipelining {
            if self.options.per_connection.is_some_and(|most| s.messages >= most) {
                self.quit(s);
            } else if self.may_hurry()
                && let Some(next) = self.next_job(now)
            {
                self.open(s, next);
            }
        }
    }

    fn on_end(&mut self, index: usize, s: &mut Session, code: u16, now: u64) {
        let Some(job) = s.ending.take().or_else(|| s.opening.take()) else {
            return;
        };
        if job.rcpts_accepted == 0 || code / 100 != 2 {
            s.must_reset |= self.options.exchange == Exchange::Chunking;
            let nobody = job.refusal.filter(|_| job.rcpts_accepted == 0);
            self.refused(job, nobody.unwrap_or((Stage::Eod, code)), now);
        } else {
            self.acknowledged(job, now);
        }
        s.opening = s.opening.take().or_else(|| s.behind.pop_front());
        // A message that rode along starts to wait only now.
        if let (Some(next), None) = (&mut s.opening, self.options.rate) {
            next.from_ns = now;
        }
        if s.awaited.is_empty() {
            self.go_on(index, s, now);
        }
    }

    fn on_closing(&mut self, s: &mut Session, awaited: Option<Awaited>, code: u16, now: u64) {
        let (job, stage) = match awaited {
            Some(Awaited::End) => (s.ending.take().or_else(|| s.opening.take()), Stage::Eod),
            Some(Awaited::Mail) => (s.opening.take(), Stage::Mail),
            Some(Awaited::Rcpt) => (s.opening.take(), Stage::Rcpt),
            Some(Awaited::Data) => (s.opening.take(), Stage::Data),
            _ => (None, Stage::Other),
        };
        if let Some(job) = job {
            self.refused(job, job.refusal.unwrap_or((stage, code)), now);
        }
    }

    fn acknowledged(&mut self, job: Job, now: u64) {
        self.in_flight -= 1;
        let result = &mut self.result;
        if !job.measured {
            result.warmup_acknowledged += 1;
            return;
        }
        self.last_answer_ns = now;
        result.acknowledged += 1;
        result.recipients += job.rcpts_accepted as u64;
        result.recipients_refused += (job.rcpts_sent - job.rcpts_accepted) as u64;
        result.bytes += self.kit.message_bytes(job.class) as u64;
        result.latency.record(now.saturating_sub(job.from_ns));
        let bin = ((now - self.window_ns) / (BIN_MS * 1_000_000)) as usize;
        if bin >= result.acknowledged_per_100ms.len() {
            result.acknowledged_per_100ms.resize(bin + 1, 0);
        }
        result.acknowledged_per_100ms[bin] += 1;
        self.note(job, Outcome::Acknowledged, now);
    }

    /// Keeps what became of a message that counts, if that is wanted.
    fn note(&mut self, job: Job, outcome: Outcome, now: u64) {
        if self.options.log {
            let us = |from: u64, to: u64| to.saturating_sub(from) / 1_000;
            let (due_us, took_us) = (us(self.window_ns, job.from_ns), us(job.from_ns, now));
            self.result.log.push(Logged { number: job.number, due_us, took_us, outcome });
        }
    }

    fn refused(&mut self, job: Job, (stage, code): (Stage, u16), now: u64) {
        self.in_flight -= 1;
        if job.measured {
            self.last_answer_ns = now;
            *self.result.refused.entry(stage).or_default().entry(code).or_default() += 1;
            self.note(job, Outcome::Refused, now);
        }
    }

    /// Accounts for the messages of a connection that is gone.
    pub(super) fn lost(&mut self, s: &mut Session, now: u64) {
        for (job, is_sent) in s.disconnect() {
            self.in_flight -= 1;
            if !job.measured {
                continue;
            }
            let (count, outcome) = match is_sent {
                true => (&mut self.result.in_doubt, Outcome::InDoubt),
                false => (&mut self.result.interrupted, Outcome::Interrupted),
            };
            *count += 1;
            self.note(job, outcome, now);
        }
    }
}

fn ended(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, text)
}
