//! Tests of the room as a whole: rules by table, streams by property, and the two sides against each other.

mod chunks;
mod client;
mod exchange;
mod grammar;
mod replies;
mod scanner;
mod server;
mod streams;

use super::server::{Event, Options, Server};
use super::wire::reply::{Enhanced, Reply};
use super::{Envelope, MailParameters};

pub(super) const OK: Reply<'static> = Reply::new(250, Enhanced(2, 1, 5), "fine");
pub(super) const NO: Reply<'static> = Reply::new(550, Enhanced(5, 1, 1), "none such");
pub(super) const GO: Reply<'static> = Reply { code: 354, enhanced: None, text: b"go on" };

pub(super) fn options() -> Options {
    Options {
        hostname: "mx.example".into(),
        size_max: 1000,
        recipients_max: 3,
        faults_max: 20,
        ..Options::default()
    }
}

/// A session with all it heard: events as text, and messages taken with their envelopes.
#[derive(Default)]
pub(super) struct Session {
    pub(super) server: Server,
    pub(super) out: Vec<u8>,
    pub(super) events: Vec<String>,
    pub(super) taken: Vec<(Envelope, Vec<u8>)>,
    envelope: Envelope,
    body: Vec<u8>,
}

impl Session {
    /// Feeds all of `input`, as a piece. Answers every event at once: paths that begin with `no` are refused.
    pub(super) fn feed(&mut self, input: &[u8], options: &Options) {
        let Session { server, out, events, taken, envelope, body } = self;
        let mut at = 0;
        loop {
            let (taken_octets, event) = server.receive(&input[at..], options, out);
            let start = at;
            at += taken_octets;
            assert!(at <= input.len());
            let Some(event) = event else {
                assert_eq!(at, input.len(), "without an event all is consumed");
                return;
            };
            let answer = match &event {
                Event::Body(range) => {
                    assert!(!range.is_empty());
                    assert_eq!(start + range.end, at);
                    body.extend_from_slice(&input[start..][range.clone()]);
                    continue;
                }
                Event::Mail(mail) => {
                    envelope.clear();
                    envelope.set_sender(mail);
                    Some(if mail.path.starts_with(b"no") { NO } else { OK })
                }
                Event::Recipient(recipient) if recipient.path.starts_with(b"no") => Some(NO),
                Event::Recipient(recipient) => {
                    envelope.push_recipient(recipient);
                    Some(OK)
                }
                Event::Data if envelope.sender().starts_with(b"late") => Some(NO),
                Event::Data => Some(GO),
                Event::Chunk(Ok(size)) => {
                    assert_eq!(*size, body.len() as u64);
                    Some(OK)
                }
                Event::Hello { .. } | Event::Reset => {
                    body.clear();
                    None
                }
                Event::End(Ok(size)) => {
                    assert_eq!(*size, body.len() as u64);
                    taken.push((envelope.clone(), std::mem::take(body)));
                    Some(OK)
                }
                Event::Chunk(Err(violation)) | Event::End(Err(violation)) => {
                    body.clear();
                    Some(violation.reply())
                }
                _ => None,
            };
            events.push(describe(&event));
            assert_eq!(server.answer_due(), answer.is_some());
            if let Some(answer) = answer {
                let before = out.len();
                assert!(matches!(server.receive(&input[at..], options, out), (0, None)));
                assert_eq!(out.len(), before, "nothing is said while an answer is due");
                server.answer(answer, out);
            }
        }
    }

    /// The codes of all replies so far, one per reply, with the enhanced codes where there are any.
    pub(super) fn said(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.out).expect("we say UTF-8");
        let last_lines = text.split_terminator("\r\n").filter(|line| line.as_bytes()[3] == b' ');
        last_lines
            .map(|line| {
                let mut words = line.split(' ');
                let code = words.next().expect("a code");
                match words.next().filter(|word| word.starts_with(['2', '4', '5']) && word.contains('.')) {
                    Some(enhanced) => format!("{code} {enhanced}"),
                    None => code.to_owned(),
                }
            })
            .collect()
    }
}

fn describe(event: &Event<'_>) -> String {
    let text = String::from_utf8_lossy;
    match event {
        Event::Hello { name, extended } => format!("hello {} {extended}", text(name)),
        Event::Mail(mail) => {
            let MailParameters { size, body, utf8, ret, envid, hold, by } = mail.parameters;
            let envid = envid.map(text);
            let times = match (hold, by) {
                (None, None) => String::new(),
                times => format!(" {times:?}"),
            };
            format!("mail {} {size:?} {body:?} {utf8} {ret:?} {envid:?}{times}", text(mail.path))
        }
        Event::Recipient(recipient) => {
            let orcpt = recipient.orcpt.map(text);
            format!("recipient {} {:?} {orcpt:?}", text(recipient.path), recipient.notify)
        }
        other => format!("{other:?}"),
    }
}
