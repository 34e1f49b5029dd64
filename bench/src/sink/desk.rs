//! What all sessions of a sink share: its rules, its dice, its counters, and the reply being written.

use super::counts::Tally;
use super::rules::{Dice, DropRule, FailRule, Offers};
use super::store::Store;
use crate::stage::Stage;

/// The largest message taken, announced by SIZE.
pub(super) const MESSAGE_BYTES_MAX: u64 = 256 << 20;

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
    /// Owes the final reply, after the latency.
    Answer,
    /// Sends what is out, then closes.
    Close,
    /// Never answers again.
    Hang,
}

/// What the rules say at a stage.
pub(super) enum Gate {
    Pass,
    Refuse(u16),
    Leave(Step),
}

impl Desk<'_> {
    /// Lets the rules decide what happens at `stage`.
    pub(super) fn gate(&mut self, stage: Stage) -> Gate {
        for (rules, step) in [(self.drop, Step::Close), (self.hang, Step::Hang)] {
            if rules.iter().any(|rule| rule.stage == stage && self.dice.chance(rule.probability)) {
                match step {
                    Step::Hang => self.tally.hung(stage),
                    _ => self.tally.dropped(stage),
                }
                return Gate::Leave(step);
            }
        }
        let refusal = self.fail.iter().find(|rule| rule.stage == stage && self.dice.chance(rule.probability));
        refusal.map_or(Gate::Pass, |rule| Gate::Refuse(rule.code))
    }

    pub(super) fn reply(&mut self, stage: Stage, code: u16, text: &str) {
        self.tally.reply(stage, code);
        let digits =
            [b'0' + (code / 100) as u8, b'0' + (code / 10 % 10) as u8, b'0' + (code % 10) as u8, b' '];
        self.out.extend_from_slice(&digits);
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// A refusal by rule. 421 means that the connection ends (RFC 5321 4.2.3).
    pub(super) fn refuse(&mut self, stage: Stage, code: u16) -> Step {
        let class = code / 100;
        match stage {
            Stage::Connect | Stage::Ehlo => self.reply(stage, code, "Refused by rule"),
            Stage::Rcpt => self.reply(stage, code, &format!("{class}.2.0 Recipient refused by rule")),
            _ => self.reply(stage, code, &format!("{class}.3.0 Refused by rule at {stage}")),
        }
        if code == 421 { Step::Close } else { Step::More }
    }

    pub(super) fn capabilities(&mut self) {
        let offers = self.offers;
        let size = format!("SIZE {MESSAGE_BYTES_MAX}");
        let lines = [
            (offers.pipelining, "PIPELINING"),
            (offers.size, &size),
            (offers.eight_bit, "8BITMIME"),
            (offers.smtputf8, "SMTPUTF8"),
            (offers.dsn, "DSN"),
            (offers.chunking, "CHUNKING"),
            (offers.chunking && offers.binary, "BINARYMIME"),
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
