//! The sink's side of one SMTP session: bytes in, replies and a next step out. No I/O.

use memchr::{memchr, memmem};

use super::counts::Tally;
use super::rules::{Dice, DropRule, FailRule, Offers};
use super::store::{Draft, Store, unstuff};
use crate::stage::Stage;

/// The largest message taken, announced by SIZE.
const MESSAGE_BYTES_MAX: u64 = 256 << 20;
/// The longest command line taken; far more than RFC 5321 4.5.3 asks for, so that long DSN parameters fit.
const LINE_BYTES_MAX: usize = 8192;

/// What all sessions of a sink share.
pub(super) struct Desk<'a> {
    pub(super) offers: Offers,
    pub(super) fail: &'a [FailRule],
    pub(super) drop: &'a [DropRule],
    pub(super) hang: &'a [DropRule],
    pub(super) dice: Dice,
    pub(super) tally: &'a Tally,
    pub(super) store: Store,
    /// Replies of the session at hand, not yet sent.
    pub(super) out: Vec<u8>,
    /// Makes ids of this sink unlike those of any other.
    pub(super) run: u64,
    /// Messages taken so far: the other half of an id.
    pub(super) sequence: u64,
}

/// What happens to the session next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Waits for more bytes.
    More,
    /// Owes the final reply: [`Dialogue::answer`], after the latency.
    Answer,
    /// Sends what is out, then closes.
    Close,
    /// Never answers again.
    Hang,
}

enum Gate {
    Pass,
    Refuse(u16),
    Leave(Step),
}

impl Desk<'_> {
    /// Lets the rules decide what happens at `stage`.
    fn gate(&mut self, stage: Stage) -> Gate {
        for (rules, step) in [(self.drop, Step::Close), (self.hang, Step::Hang)] {
            if rules
                .iter()
                .any(|rule| rule.stage == stage && self.dice.chance(rule.probability))
            {
                match step {
                    Step::Hang => self.tally.hung(stage),
                    _ => self.tally.dropped(stage),
                }
                return Gate::Leave(step);
            }
        }
        let refusal = self
            .fail
            .iter()
            .find(|rule| rule.stage == stage && self.dice.chance(rule.probability));
        refusal.map_or(Gate::Pass, |rule| Gate::Refuse(rule.code))
    }

    fn reply(&mut self, stage: Stage, code: u16, text: &str) {
        self.tally.reply(stage, code);
        let digits = [
            b'0' + (code / 100) as u8,
            b'0' + (code / 10 % 10) as u8,
            b'0' + (code % 10) as u8,
            b' ',
        ];
        self.out.extend_from_slice(&digits);
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// A refusal by rule. 421 means that the connection ends (RFC 5321 4.2.3).
    fn refuse(&mut self, stage: Stage, code: u16) -> Step {
        let class = code / 100;
        match stage {
            Stage::Connect | Stage::Ehlo => self.reply(stage, code, "Refused by rule"),
            Stage::Rcpt => self.reply(stage, code, &format!("{class}.2.0 Recipient refused by rule")),
            _ => self.reply(stage, code, &format!("{class}.3.0 Refused by rule at {stage}")),
        }
        if code == 421 { Step::Close } else { Step::More }
    }

    fn capabilities(&mut self) {
        let offers = self.offers;
        let size = format!("SIZE {MESSAGE_BYTES_MAX}");
        let lines = [
            (offers.pipelining, "PIPELINING"),
            (offers.size, &size),
            (offers.eight_bit, "8BITMIME"),
            (offers.smtputf8, "SMTPUTF8"),
            (offers.dsn, "DSN"),
            (offers.chunking, "CHUNKING"),
        ];
        self.out.extend_from_slice(b"250-sink.postlane.example\r\n");
        for (_, line) in lines.into_iter().filter(|(offered, _)| *offered) {
            self.out.extend_from_slice(b"250-");
            self.out.extend_from_slice(line.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        self.reply(Stage::Ehlo, 250, "ENHANCEDSTATUSCODES");
    }
}

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
                if code == 421 || code == 554 {
                    Step::Close
                } else {
                    Step::More
                }
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
        if left == 0 {
            self.end_chunk(desk)
        } else {
            Step::More
        }
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
            self.draft
                .content
                .truncate(self.draft.content.len().saturating_sub(3));
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
        self.phase = if last && refusal.is_none() {
            Phase::Answering
        } else {
            Phase::Command
        };
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

/// Looks for CRLF.CRLF and nothing less; `matched` carries what was seen of it from one piece to the next.
/// Returns how many bytes belong to the data, the end included.
fn find_end(matched: &mut usize, input: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n.\r\n";
    let mut at = 0;
    while *matched > 0 && at < input.len() {
        *matched = match input[at] {
            byte if byte == END[*matched] => *matched + 1,
            b'\r' => 1,
            _ => 0,
        };
        at += 1;
        if *matched == END.len() {
            return Some(at);
        }
    }
    let rest = &input[at..];
    if rest.is_empty() {
        return None;
    }
    if let Some(found) = memmem::find(rest, END) {
        return Some(at + found + END.len());
    }
    *matched = (1..END.len())
        .rev()
        .find(|n| rest.ends_with(&END[..*n]))
        .unwrap_or(0);
    None
}

/// The address between the brackets of `FROM:<...> rest` (a space before it is tolerated), and the rest.
fn path<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let argument = argument.trim_ascii_start();
    let start = argument.get(..keyword.len())?;
    if !start.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let address = argument[keyword.len()..].trim_ascii_start().strip_prefix(b"<")?;
    let mut quoted = false;
    let mut escaped = false;
    let end = address.iter().position(|byte| {
        let open = quoted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *byte == b'>' && !open
    })?;
    Some((&address[..end], &address[end + 1..]))
}

/// Whether every `NAME=value` is `known`; otherwise the name of the first that is not.
fn check_parameters(parameters: &[u8], known: impl Fn(&str) -> bool) -> Result<(), String> {
    for word in parameters
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        let name = word.split(|byte| *byte == b'=').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        if !known(&name) {
            return Err(name.chars().filter(|c| c.is_ascii_graphic()).take(64).collect());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_bytes_are_cut() {
        let texts: [(&[u8], Option<usize>); 8] = [
            (b".\r\n", Some(3)),
            (b"a\r\n.\r\nQUIT\r\n", Some(6)),
            (b"a\r\n\r\n.\r\n", Some(8)),
            (b"a\n.\n\r.\r\r\n.\n", None),
            (b"a\r\n.\r\r\n.\r\n", Some(10)),
            (b"a\r\n..\r\n", None),
            (b"\r\n.\r\n", Some(5)),
            (b"a\r\n.\rb\r\n.\r\n", Some(11)),
        ];
        for (text, expected) in texts {
            for cut in 0..=text.len() {
                for second in cut..=text.len() {
                    let mut matched = 2;
                    let pieces = [
                        (0, &text[..cut]),
                        (cut, &text[cut..second]),
                        (second, &text[second..]),
                    ];
                    let found = pieces
                        .into_iter()
                        .find_map(|(base, piece)| find_end(&mut matched, piece).map(|used| base + used));
                    assert_eq!(
                        found,
                        expected,
                        "{:?} cut at {cut}, {second}",
                        text.escape_ascii().to_string()
                    );
                }
            }
        }
    }

    #[test]
    fn paths_and_parameters() {
        let parsed = path(b" FROM:<a@b> SIZE=10", b"FROM:");
        assert_eq!(parsed, Some((&b"a@b"[..], &b" SIZE=10"[..])));
        assert_eq!(path(b" to: <>", b"TO:"), Some((&b""[..], &b""[..])));
        assert_eq!(
            path(b" TO:<\"a>\\\"b\"@c>", b"TO:"),
            Some((&b"\"a>\\\"b\"@c"[..], &b""[..]))
        );
        assert_eq!(path(b" TO:a@b", b"TO:"), None);
        assert_eq!(
            check_parameters(b" SIZE=1 body=7BIT", |n| n == "SIZE"),
            Err("BODY".into())
        );
    }
}
