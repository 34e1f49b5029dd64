//! The sink's side of one SMTP session: bytes in, replies and a next step out. No I/O.

use memchr::memchr;

use super::desk::{Desk, Gate, MESSAGE_BYTES_MAX, Step};
use super::store::{Draft, unstuff};
use super::wire::{check_parameters, find_end, path};
use crate::stage::Stage;

/// The longest command line taken; far more than RFC 5321 4.5.3 asks for, so that long DSN parameters fit.
const LINE_BYTES_MAX: usize = 8192;

enum Phase {
    Command,
    /// After 354; how much of CRLF.CRLF has been seen.
    Data {
        matched: usize,
    },
    /// Within a BDAT chunk; what to say after it if it cannot be taken.
    Chunk {
        left: u64,
        last: bool,
        refusal: Option<Refusal>,
    },
    /// The final reply is owed; whatever comes meanwhile waits.
    Answering,
}

#[derive(Clone, Copy)]
enum Refusal {
    OutOfOrder,
    Rule(u16),
}

/// The state of one session.
pub(super) struct Dialogue {
    phase: Phase,
    /// Bytes received but not yet understood: part of a line, or what came while an answer is owed.
    waiting: Vec<u8>,
    mail: bool,
    chunks: bool,
    recipients: u64,
    size: u64,
    draft: Draft,
}

impl Dialogue {
    pub(super) fn new() -> Self {
        Dialogue {
            phase: Phase::Command,
            waiting: Vec::new(),
            mail: false,
            chunks: false,
            recipients: 0,
            size: 0,
            draft: Draft::default(),
        }
    }

    /// The greeting.
    pub(super) fn greet(&mut self, desk: &mut Desk<'_>) -> Step {
        match desk.gate(Stage::Connect) {
            Gate::Leave(step) => step,
            Gate::Refuse(code) => {
                desk.refuse(Stage::Connect, code);
                if code == 421 || code == 554 { Step::Close } else { Step::More }
            }
            Gate::Pass => {
                desk.reply(Stage::Connect, 220, "sink.postlane.example ESMTP Postlane sink");
                Step::More
            }
        }
    }

    /// Takes what was received (or nothing, to go on with what waits) and says what next.
    pub(super) fn take(&mut self, input: &[u8], desk: &mut Desk<'_>) -> Step {
        if self.waiting.is_empty() {
            return self.take_all(input, desk);
        }
        let mut gathered = std::mem::take(&mut self.waiting);
        gathered.extend_from_slice(input);
        self.take_all(&gathered, desk)
    }

    fn take_all(&mut self, mut input: &[u8], desk: &mut Desk<'_>) -> Step {
        loop {
            let (used, step) = match &mut self.phase {
                Phase::Command => self.take_line(input, desk),
                Phase::Data { .. } => self.take_data(input, desk),
                Phase::Chunk { .. } => self.take_chunk(input, desk),
                Phase::Answering => (0, Step::More),
            };
            input = &input[used..];
            if step != Step::More || used == 0 {
                self.waiting.extend_from_slice(input);
                return step;
            }
        }
    }

    fn take_line(&mut self, input: &[u8], desk: &mut Desk<'_>) -> (usize, Step) {
        let Some(end) = memchr(b'\n', input) else {
            if input.len() <= LINE_BYTES_MAX {
                return (0, Step::More);
            }
            desk.reply(Stage::Other, 500, "5.5.2 Line too long");
            return (input.len(), Step::Close);
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let step = self.command(line, desk);
        let talks_early = end + 1 < input.len() && matches!(self.phase, Phase::Command);
        if talks_early && !desk.offers.pipelining && step == Step::More {
            desk.tally.pipelined_unoffered.add(1);
        }
        (end + 1, step)
    }

    fn command(&mut self, line: &[u8], desk: &mut Desk<'_>) -> Step {
        let mut verb = [b' '; 4];
        for (to, from) in verb.iter_mut().zip(line) {
            *to = from.to_ascii_uppercase();
        }
        let argument = line.get(4..).unwrap_or_default();
        match &verb {
            b"EHLO" | b"HELO" => self.hello(&verb == b"EHLO", desk),
            b"MAIL" => self.mail(argument, desk),
            b"RCPT" => self.rcpt(argument, desk),
            b"DATA" => self.data(desk),
            b"BDAT" if desk.offers.chunking => self.bdat(argument, desk),
            b"RSET" => {
                self.reset();
                say(desk, Stage::Other, 250, "2.0.0 Ok")
            }
            b"QUIT" => {
                say(desk, Stage::Other, 221, "2.0.0 Bye");
                Step::Close
            }
            b"NOOP" => say(desk, Stage::Other, 250, "2.0.0 Ok"),
            b"VRFY" => say(desk, Stage::Other, 252, "2.0.0 Cannot verify, send some mail"),
            b"HELP" => say(desk, Stage::Other, 214, "2.0.0 This is a sink"),
            _ => say(desk, Stage::Other, 502, "5.5.1 Command not known here"),
        }
    }

    fn hello(&mut self, extended: bool, desk: &mut Desk<'_>) -> Step {
        self.reset();
        match desk.gate(Stage::Ehlo) {
            Gate::Leave(step) => return step,
            Gate::Refuse(code) => return desk.refuse(Stage::Ehlo, code),
            Gate::Pass if extended => desk.capabilities(),
            Gate::Pass => desk.reply(Stage::Ehlo, 250, "sink.postlane.example"),
        }
        Step::More
    }

    fn mail(&mut self, argument: &[u8], desk: &mut Desk<'_>) -> Step {
        if self.mail {
            return say(desk, Stage::Mail, 503, "5.5.1 A transaction is under way");
        }
        let Some((path, parameters)) = path(argument, b"FROM:") else {
            return say(desk, Stage::Mail, 501, "5.5.4 Expected MAIL FROM:<address>");
        };
        let offers = desk.offers;
        let known = |name: &str| match name {
            "SIZE" => offers.size,
            "BODY" => offers.eight_bit,
            "SMTPUTF8" => offers.smtputf8,
            "RET" | "ENVID" => offers.dsn,
            _ => false,
        };
        if let Err(name) = check_parameters(parameters, known) {
            return say(desk, Stage::Mail, 555, &format!("5.5.4 {name} was not offered"));
        }
        match desk.gate(Stage::Mail) {
            Gate::Leave(step) => return step,
            Gate::Refuse(code) => return desk.refuse(Stage::Mail, code),
            Gate::Pass => self.mail = true,
        }
        if desk.store.wants_content() {
            self.draft.from = String::from_utf8_lossy(path).into_owned();
        }
        desk.reply(Stage::Mail, 250, "2.1.0 Ok");
        Step::More
    }

    fn rcpt(&mut self, argument: &[u8], desk: &mut Desk<'_>) -> Step {
        if !self.mail || self.chunks {
            return say(desk, Stage::Rcpt, 503, "5.5.1 MAIL comes first");
        }
        let Some((path, parameters)) = path(argument, b"TO:") else {
            return say(desk, Stage::Rcpt, 501, "5.5.4 Expected RCPT TO:<address>");
        };
        let dsn = desk.offers.dsn;
        if let Err(name) = check_parameters(parameters, |name| dsn && matches!(name, "NOTIFY" | "ORCPT")) {
            return say(desk, Stage::Rcpt, 555, &format!("5.5.4 {name} was not offered"));
        }
        match desk.gate(Stage::Rcpt) {
            Gate::Leave(step) => return step,
            Gate::Refuse(code) => return desk.refuse(Stage::Rcpt, code),
            Gate::Pass => self.recipients += 1,
        }
        if desk.store.wants_content() {
            self.draft.to.push(String::from_utf8_lossy(path).into_owned());
        }
        desk.reply(Stage::Rcpt, 250, "2.1.5 Ok");
        Step::More
    }

    fn data(&mut self, desk: &mut Desk<'_>) -> Step {
        if self.recipients == 0 || self.chunks {
            return say(desk, Stage::Data, 503, "5.5.1 No valid recipients");
        }
        match desk.gate(Stage::Data) {
            Gate::Leave(step) => step,
            Gate::Refuse(code) => desk.refuse(Stage::Data, code),
            Gate::Pass => {
                self.phase = Phase::Data { matched: 2 };
                desk.reply(Stage::Data, 354, "End data with <CR><LF>.<CR><LF>");
                Step::More
            }
        }
    }

    fn bdat(&mut self, argument: &[u8], desk: &mut Desk<'_>) -> Step {
        let argument = String::from_utf8_lossy(argument).to_ascii_uppercase();
        let mut words = argument.split_ascii_whitespace();
        let left = words.next().and_then(|word| word.parse().ok());
        let last = match (words.next(), words.next()) {
            (None, _) => Some(false),
            (Some("LAST"), None) => Some(true),
            _ => None,
        };
        // Without a length nobody knows where the next command begins.
        let (Some(left), Some(last)) = (left, last) else {
            say(desk, Stage::Data, 501, "5.5.4 Expected BDAT size [LAST]");
            return Step::Close;
        };
        let refusal = match self.recipients {
            0 => Some(Refusal::OutOfOrder),
            _ if self.chunks => None,
            _ => match desk.gate(Stage::Data) {
                Gate::Leave(step) => return step,
                Gate::Refuse(code) => Some(Refusal::Rule(code)),
                Gate::Pass => None,
            },
        };
        self.chunks = refusal.is_none();
        self.phase = Phase::Chunk { left, last, refusal };
        // An empty chunk is complete already.
        if left == 0 { self.end_chunk(desk) } else { Step::More }
    }

    fn take_data(&mut self, input: &[u8], desk: &mut Desk<'_>) -> (usize, Step) {
        let Phase::Data { matched } = &mut self.phase else {
            return (0, Step::More);
        };
        let end = find_end(matched, input);
        let used = end.unwrap_or(input.len());
        self.keep(&input[..used], desk);
        if end.is_none() {
            return (used, Step::More);
        }
        self.size -= 3;
        if desk.store.wants_content() {
            self.draft.content.truncate(self.draft.content.len().saturating_sub(3));
            unstuff(&mut self.draft.content);
        }
        self.phase = Phase::Answering;
        (used, Step::Answer)
    }

    fn take_chunk(&mut self, input: &[u8], desk: &mut Desk<'_>) -> (usize, Step) {
        let Phase::Chunk { left, refusal, .. } = &mut self.phase else {
            return (0, Step::More);
        };
        let used = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= used as u64;
        let (done, refused) = (*left == 0, refusal.is_some());
        if !refused {
            self.keep(&input[..used], desk);
        }
        (used, if done { self.end_chunk(desk) } else { Step::More })
    }

    fn end_chunk(&mut self, desk: &mut Desk<'_>) -> Step {
        let Phase::Chunk { last, refusal, .. } = self.phase else {
            return Step::More;
        };
        self.phase = if last && refusal.is_none() { Phase::Answering } else { Phase::Command };
        match refusal {
            Some(Refusal::OutOfOrder) => say(desk, Stage::Data, 503, "5.5.1 No valid recipients"),
            Some(Refusal::Rule(code)) => {
                self.reset();
                desk.refuse(Stage::Data, code)
            }
            None if last => Step::Answer,
            None => {
                desk.reply(Stage::Data, 250, "2.0.0 Chunk taken");
                Step::More
            }
        }
    }

    fn keep(&mut self, bytes: &[u8], desk: &Desk<'_>) {
        self.size += bytes.len() as u64;
        if desk.store.wants_content() && self.size <= MESSAGE_BYTES_MAX {
            self.draft.content.extend_from_slice(bytes);
        }
    }

    /// Gives the final reply, by which the message is taken or not.
    pub(super) fn answer(&mut self, desk: &mut Desk<'_>) -> Step {
        let step = match desk.gate(Stage::Eod) {
            Gate::Leave(step) => return step,
            Gate::Refuse(code) => desk.refuse(Stage::Eod, code),
            Gate::Pass if self.size > MESSAGE_BYTES_MAX => say(desk, Stage::Eod, 552, "5.3.4 Too large"),
            Gate::Pass => self.accept(desk),
        };
        self.phase = Phase::Command;
        self.reset();
        step
    }

    fn accept(&mut self, desk: &mut Desk<'_>) -> Step {
        desk.sequence += 1;
        let id = format!("{:010X}{:08X}", desk.run & 0xFF_FFFF_FFFF, desk.sequence);
        if desk.store.wants_content() && desk.store.put(&self.draft, &id).is_err() {
            desk.tally.store_errors.add(1);
            return say(desk, Stage::Eod, 451, "4.3.0 Could not be stored");
        }
        desk.tally.messages.add(1);
        desk.tally.recipients.add(self.recipients);
        desk.tally.bytes.add(self.size);
        desk.reply(Stage::Eod, 250, "2.0.0 Ok: queued as ");
        desk.out.truncate(desk.out.len() - 2);
        desk.out.extend_from_slice(id.as_bytes());
        desk.out.extend_from_slice(b"\r\n");
        Step::More
    }

    fn reset(&mut self) {
        self.mail = false;
        self.chunks = false;
        self.recipients = 0;
        self.size = 0;
        self.draft.from.clear();
        self.draft.to.clear();
        self.draft.content.clear();
    }
}

fn say(desk: &mut Desk<'_>, stage: Stage, code: u16, text: &str) -> Step {
    desk.reply(stage, code, text);
    Step::More
}
