//! The generator's loop: connections, events, time.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use super::dialogue::Run;
use super::message::Kit;
use super::result::LoadResult;
use super::schedule::Schedule;
use super::session::{Awaited, Link, Session};
use super::{Observer, Options, Progress};
use crate::sink::Dice;
use crate::sys::{self, Poll};

const READ_BYTES: usize = 64 << 10;
/// How often timeouts, retries and the stop flag are looked at.
const SWEEP_NS: u64 = 20_000_000;
const PROGRESS_NS: u64 = 500_000_000;
/// A failed connection is tried again after this long, doubled with each failure in a row up to 64 times.
const RETRY_NS: u64 = 10_000_000;
/// Replies to the last QUITs are awaited for this long.
const GOODBYE_NS: u64 = 200_000_000;
/// After being told to stop, answers are awaited for this long.
const LINGER_NS: u64 = 2_000_000_000;

pub(super) fn run(
    options: &Options,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> io::Result<LoadResult> {
    sys::raise_open_files();
    sys::fine_timers();
    let mut engine = Engine::new(options)?;
    engine.open_all(stop)?;
    engine.begin(observer);
    while !engine.turn(stop, observer)? {}
    observer.measured();
    engine.note_own_cost();
    engine.say_goodbye()?;
    engine.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    WarmUp {
        until_ns: u64,
    },
    Measuring,
    /// No connection is opened any more.
    Closing,
}

struct Engine<'a> {
    run: Run<'a>,
    sessions: Vec<Session>,
    poll: Poll,
    phase: Phase,
    epoch: Instant,
    buffer: Vec<u8>,
    /// When the last turn was.
    turned_ns: u64,
    next_sweep_ns: u64,
    next_progress_ns: u64,
    reported: (u64, u64),
    last_up_ns: u64,
    last_error: Option<io::Error>,
    stopped_ns: Option<u64>,
    /// CPU time this thread had taken when measuring began.
    cpu_before_ns: u64,
}

impl<'a> Engine<'a> {
    fn new(options: &'a Options) -> io::Result<Self> {
        let closed = Schedule::new(None, 0, Some(0), None);
        let run = Run {
            options,
            kit: Kit::new(&options.size, options.domains, SystemTime::now()),
            schedule: closed,
            dice: Dice::new(options.seed),
            result: LoadResult::default(),
            idle: VecDeque::new(),
            numbers: 0,
            in_flight: 0,
            window_ns: 0,
            last_answer_ns: 0,
            fatal: None,
        };
        Ok(Engine {
            run,
            sessions: (0..options.sessions).map(|_| Session::new()).collect(),
            poll: Poll::new()?,
            phase: Phase::Opening,
            epoch: Instant::now(),
            buffer: vec![0; READ_BYTES],
            turned_ns: 0,
            next_sweep_ns: 0,
            next_progress_ns: PROGRESS_NS,
            reported: (0, 0),
            last_up_ns: 0,
            last_error: None,
            stopped_ns: None,
            cpu_before_ns: 0,
        })
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Opens all sessions before the first message, or as many as there are within the connect timeout.
    fn open_all(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let patience = self.run.options.connect_timeout.as_nanos() as u64;
        loop {
            self.take_events()?;
            let now = self.now();
            self.sweep(now);
            if let Some(fatal) = self.run.fatal.take() {
                return Err(fatal);
            }
            let up = self.sessions.iter().filter(|session| session.link == Link::Up).count();
            if up == self.sessions.len() || stop.load(Relaxed) || (up > 0 && now > patience) {
                return Ok(());
            }
            if now > patience {
                let error = self.last_error.take().unwrap_or_else(|| io::ErrorKind::TimedOut.into());
                let text = format!("no connection to {}: {error}", self.run.options.target);
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }

    fn begin(&mut self, observer: &mut dyn Observer) {
        let now = self.now();
        let warmup = self.run.options.warmup.as_nanos() as u64;
        self.reported = (0, now);
        self.run.window_ns = now;
        if warmup == 0 {
            return self.measure(now, observer);
        }
        self.phase = Phase::WarmUp { until_ns: now + warmup };
        self.run.schedule = Schedule::new(self.run.options.rate, now, Some(now + warmup), None);
        self.run.schedule.measured = false;
    }

    fn measure(&mut self, now: u64, observer: &mut dyn Observer) {
        self.phase = Phase::Measuring;
        let options = self.run.options;
        let until = options.duration.map(|duration| now + duration.as_nanos() as u64);
        self.run.schedule = Schedule::new(options.rate, now, until, options.messages);
        self.run.window_ns = now;
        self.run.last_answer_ns = now;
        self.reported = (0, now);
        self.cpu_before_ns = sys::thread_cpu_time_ns();
        observer.measuring();
    }

    /// One pass: events, due messages, and now and then the rest. True when all is done.
    fn turn(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> io::Result<bool> {
        self.take_events()?;
        let now = self.now();
        if let Phase::WarmUp { until_ns } = self.phase
            && now >= until_ns
        {
            self.measure(now, observer);
        }
        let owed_at = self.run.schedule.owed_at(self.turned_ns, now);
        self.hand_out(owed_at);
        self.turned_ns = now;
        if now >= self.next_sweep_ns {
            self.next_sweep_ns = now + SWEEP_NS;
            self.sweep(now);
            if self.stopped_ns.is_none() && (stop.load(Relaxed) || self.gave_up(now)) {
                self.stopped_ns = Some(now);
                self.run.schedule.close(now);
            }
        }
        if now >= self.next_progress_ns {
            self.next_progress_ns = now + PROGRESS_NS;
            let progress = self.progress(now);
            observer.progress(&progress);
        }
        if let Some(fatal) = self.run.fatal.take() {
            return Err(fatal);
        }
        let over = self.stopped_ns.is_some_and(|at| now > at + LINGER_NS);
        let issued = self.run.schedule.next_ns(now).is_none();
        let done = issued && self.run.in_flight == 0;
        Ok(over || done && (self.phase == Phase::Measuring || self.stopped_ns.is_some()))
    }

    fn take_events(&mut self) -> io::Result<()> {
        let found = self.poll.wait(self.timeout())?;
        for position in 0..found {
            let event = self.poll.event(position);
            let (index, generation) = (event.token as u32 as usize, (event.token >> 32) as u32);
            let session = &mut self.sessions[index];
            if session.generation != generation {
                continue;
            }
            session.readable |= event.readable;
            session.ended |= event.ended;
            self.serve(index);
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let now = self.now();
        let due = match self.run.schedule.next_ns(now) {
            Some(at) if !self.run.idle.is_empty() => at,
            _ => u64::MAX,
        };
        Duration::from_nanos(due.min(self.next_sweep_ns).saturating_sub(now).min(SWEEP_NS))
    }

    /// Gives due messages to idle sessions, the longest idle first.
    fn hand_out(&mut self, now: u64) {
        while let Some(index) = self.run.idle.front().copied() {
            if !self.sessions[index].is_idle() {
                self.run.idle.pop_front();
                continue;
            }
            let Some(job) = self.run.next_job(now) else { return };
            self.run.idle.pop_front();
            self.run.open(&mut self.sessions[index], job);
            self.serve(index);
        }
    }

    /// Sends and reads what a session can, and mends its connection if need be.
    fn serve(&mut self, index: usize) {
        if let Err(error) = self.advance(index) {
            return self.fail(index, error);
        }
        if matches!(self.sessions[index].link, Link::Down { .. }) {
            // It has said goodbye; nothing was lost.
            let now = self.now();
            self.run.lost(&mut self.sessions[index], now);
            if self.needs_sessions(now) {
                self.connect(index);
            }
        }
    }

    fn advance(&mut self, index: usize) -> io::Result<()> {
        loop {
            let session = &mut self.sessions[index];
            session.flush(&self.run.kit)?;
            if !session.readable || matches!(session.link, Link::Down { .. }) {
                return Ok(());
            }
            let Some(stream) = &mut session.stream else {
                return Ok(());
            };
            let length = match stream.read(&mut self.buffer) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"));
                }
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    session.readable = false;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // A short read has emptied the socket: what comes later makes a new event.
            session.readable = length == self.buffer.len() || session.ended;
            let now = self.epoch.elapsed().as_nanos() as u64;
            session.active_ns = now;
            if session.link == Link::Up {
                self.last_up_ns = now;
            }
            let run = &mut self.run;
            session.take(&self.buffer[..length], |session, code| run.on_reply(index, session, code, now))?;
        }
    }

    /// Whether there is anything left that a new connection could carry.
    fn needs_sessions(&self, now: u64) -> bool {
        match self.phase {
            Phase::Opening => true,
            Phase::Closing => false,
            Phase::WarmUp { .. } | Phase::Measuring => self.run.schedule.next_ns(now).is_some(),
        }
    }

    fn connect(&mut self, index: usize) {
        let now = self.now();
        let session = &mut self.sessions[index];
        session.link = Link::Connecting;
        session.active_ns = now;
        let token = u64::from(session.generation) << 32 | index as u64;
        let opened = sys::connect(self.run.options.target).and_then(|stream| {
            self.poll.add(&stream, token)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                session.stream = Some(stream);
                session.awaited.push_back(Awaited::Greeting);
                self.run.result.connections += 1;
            }
            Err(error) => self.fail(index, error),
        }
    }

    /// Counts a broken connection and what it carried, and plans the next attempt.
    fn fail(&mut self, index: usize, error: io::Error) {
        let now = self.now();
        let session = &mut self.sessions[index];
        self.run.lost(session, now);
        let wait = RETRY_NS << session.failures.min(6);
        session.failures += 1;
        session.link = Link::Down { retry_ns: now + wait };
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
            io::ErrorKind::TimedOut => "timed out".to_owned(),
            _ => error.to_string(),
        };
        *self.run.result.connection_errors.entry(cause).or_default() += 1;
        self.last_error = Some(error);
    }

    /// Looks for sessions that wait too long, and reconnects those whose time has come.
    fn sweep(&mut self, now: u64) {
        let connect_ns = self.run.options.connect_timeout.as_nanos() as u64;
        let reply_ns = self.run.options.reply_timeout.as_nanos() as u64;
        let needed = self.needs_sessions(now);
        for index in 0..self.sessions.len() {
            let session = &self.sessions[index];
            let silent = now.saturating_sub(session.active_ns);
            match session.link {
                Link::Down { retry_ns } if needed && now >= retry_ns => self.connect(index),
                Link::Connecting if silent > connect_ns => self.fail(index, io::ErrorKind::TimedOut.into()),
                Link::Up if session.awaited.is_empty() => {
                    self.sessions[index].active_ns = now;
                    self.last_up_ns = now;
                }
                Link::Up if silent > reply_ns => self.fail(index, io::ErrorKind::TimedOut.into()),
                Link::Up => self.last_up_ns = now,
                _ => {}
            }
        }
    }

    /// Nobody has answered for as long as a connection may take: there is no server any more.
    fn gave_up(&mut self, now: u64) -> bool {
        let patience = self.run.options.connect_timeout.as_nanos() as u64;
        let given_up = now > self.last_up_ns + patience;
        if given_up {
            let error = self.last_error.as_ref().map_or("no answer".to_owned(), ToString::to_string);
            self.run.result.aborted = Some(format!("no session could be kept up: {error}"));
        }
        given_up
    }

    fn progress(&mut self, now: u64) -> Progress {
        let result = &self.run.result;
        let warming_up = self.phase != Phase::Measuring;
        let done = if warming_up { result.warmup_acknowledged } else { result.acknowledged };
        let (before, at) = std::mem::replace(&mut self.reported, (done, now));
        let seconds = now.saturating_sub(at).max(1) as f64 / 1e9;
        Progress {
            elapsed: Duration::from_nanos(now.saturating_sub(self.run.window_ns)),
            warming_up,
            sent: result.sent,
            acknowledged: done,
            failed: result.refused_total() + result.interrupted + result.in_doubt,
            rate: done.saturating_sub(before) as f64 / seconds,
            p50_us: result.latency.percentile_us(50.0),
            p99_us: result.latency.percentile_us(99.0),
        }
    }

    fn note_own_cost(&mut self) {
        let spent = sys::thread_cpu_time_ns().saturating_sub(self.cpu_before_ns);
        let wall = self.now().saturating_sub(self.run.window_ns).max(1);
        self.run.result.generator_busy = spent as f64 / wall as f64;
    }

    /// QUIT on every session that is free to, and a moment for the replies.
    fn say_goodbye(&mut self) -> io::Result<()> {
        self.phase = Phase::Closing;
        let patience = self.now() + GOODBYE_NS;
        for index in
            (0..self.sessions.len()).filter(|index| self.sessions[*index].is_idle()).collect::<Vec<_>>()
        {
            self.run.quit(&mut self.sessions[index]);
            self.serve(index);
        }
        while self.now() < patience && self.sessions.iter().any(|session| session.awaited == [Awaited::Quit])
        {
            self.take_events()?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<LoadResult> {
        let now = self.now();
        // What is still under way has waited long enough.
        for session in &mut self.sessions {
            self.run.lost(session, now);
        }
        let mut result = self.run.result;
        result.unsent = self.run.schedule.missed(now);
        result.elapsed = Duration::from_nanos(self.run.last_answer_ns.saturating_sub(self.run.window_ns));
        let seconds = result.elapsed.as_secs_f64();
        result.rate = if seconds > 0.0 { result.acknowledged as f64 / seconds } else { 0.0 };
        Ok(result)
    }
}
