//! The one place that decides what trouble with an upstream means: whose fault it is, how far it reaches, and
//! whether trying again is safe.

use crate::protocol::client::Lack;
use crate::protocol::wire::reply::{Enhanced, Line, Reply, ReplyBuf};

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble<'a> {
    /// The link could not be opened.
    NotOpened,
    /// Its greeting or hello was refused, or it says it is closing (421).
    Unwelcome(Reply<'a>),
    /// The link was lost, or spoke something that is not SMTP.
    Lost,
    /// No answer in time.
    TimedOut,
    /// Silent for far longer than it ever takes, while others answer; `all`: on every one of its links.
    Overdue { all: bool },
    /// A negative reply to MAIL, DATA or the final dot.
    Said(Reply<'a>),
    /// A negative reply to RCPT.
    SaidOfRecipient(Reply<'a>),
    /// The upstream cannot carry this message.
    Cannot(Lack),
}

/// How far the transaction had come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The link was being opened for it.
    Opening,
    /// Its commands may have been sent; `heard`: and something was answered to them.
    Envelope { heard: bool },
    /// Its message was being sent, and its end had not been: it cannot have been taken. `heard`: something was answered.
    Leaving { heard: bool },
    /// Its final dot was sent.
    Dotted,
    /// Some of its body may have been sent while the rest was still arriving: it is streamed. Without its end no upstream
    /// can have taken it.
    Parts,
    /// All of it was sent at once, by BDAT; `heard`: and something was answered.
    Whole { heard: bool },
}

/// What trying again would mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    /// Another upstream may take it; this one did not.
    Elsewhere,
    /// The link had died while idle: any link but that one, the same upstream's too. Not an attempt.
    FreshLink,
    /// This upstream may have taken it: repeated elsewhere all the same, and counted.
    InDoubt,
    /// This upstream lacks what the message needs; another may have it. Nothing was offered: not an attempt.
    Unable,
    /// Another upstream will be quicker; nothing was committed here. Not an attempt.
    Sooner,
    /// Another upstream might take it, but part of its body is gone: only the client can repeat it, and is told so.
    ByClient,
    /// The answer is final.
    Never,
}

/// Whom it is held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blame {
    /// The upstream as a whole: counts towards its ejection and its response time.
    Upstream,
    /// The same, and it could not be reached: a probe would see that too.
    Unreached,
    /// The upstream asks for less: fewer links, unless it has none; then it counts like `Upstream`.
    Pressure,
    /// The upstream says nothing at all any more: it is left alone for a moment.
    Silence,
    /// The upstream is slow or unwilling for this message: counts in its response time alone.
    Message,
    /// Nobody.
    Nobody,
}

/// The judgement.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) retry: Retry,
    pub(super) blame: Blame,
    /// What the client is told if nobody else takes it.
    pub(super) reply: ReplyBuf,
}

impl Fault {
    /// What it comes to when some of a streamed body has been sent and released: whatever happened, in whatever phase,
    /// the message cannot be offered again from here. The client still has it: what is not refused for good is put off.
    pub(super) fn without_body(self) -> Fault {
        if self.retry == Retry::Never { self } else { Fault { retry: Retry::ByClient, ..self } }
    }
}

/// Judges. `reused`: the link had served before and was idle when this message got it.
pub(super) fn judge(trouble: Trouble<'_>, phase: Phase, reused: bool) -> Fault {
    let fault = |retry, blame, reply| Fault { retry, blame, reply };
    match trouble {
        Trouble::NotOpened => {
            fault(Retry::Elsewhere, Blame::Unreached, ours(1, "no upstream could be reached"))
        }
        Trouble::Unwelcome(reply) => {
            // A refusal in words, so not in doubt even after the dot; on a link grown old it concerns only the link.
            let old_link = reused
                && matches!(
                    phase,
                    Phase::Envelope { heard: false }
                        | Phase::Leaving { heard: false }
                        | Phase::Whole { heard: false }
                );
            let (retry, blame) = if old_link {
                (Retry::FreshLink, Blame::Nobody)
            } else {
                (Retry::Elsewhere, blame_for(reply))
            };
            fault(retry, blame, deferred(reply))
        }
        Trouble::Lost => {
            let retry = retry_of_loss(phase, reused);
            // A link closed while idle is nobody's fault, also where it cannot be told whether it was.
            let is_stale = retry == Retry::FreshLink || reused && phase == Phase::Whole { heard: false };
            let blame = if is_stale { Blame::Nobody } else { Blame::Unreached };
            fault(retry, blame, ours(2, "lost the link to the upstream"))
        }
        Trouble::TimedOut => {
            let is_sent = matches!(phase, Phase::Dotted | Phase::Whole { .. });
            let retry = if is_sent { Retry::InDoubt } else { Retry::Elsewhere };
            fault(retry, Blame::Upstream, ours(2, "the upstream did not answer in time"))
        }
        Trouble::Overdue { all } => {
            // It may be this message that it takes so long for.
            let blame = if all { Blame::Silence } else { Blame::Message };
            fault(Retry::Sooner, blame, ours(2, "the upstream did not answer in time"))
        }
        Trouble::Said(reply) if reply.is_temporary() => {
            fault(Retry::Elsewhere, blame_for(reply), deferred(reply))
        }
        Trouble::SaidOfRecipient(reply) if reply.is_temporary() => {
            fault(Retry::Elsewhere, Blame::Message, deferred(reply))
        }
        Trouble::Said(reply) | Trouble::SaidOfRecipient(reply) if reply.is_permanent() => {
            fault(Retry::Never, Blame::Nobody, refused(reply))
        }
        // A 1xx, 2xx or 3xx where none is due: it does not speak SMTP, which another may. After the dot that is no no.
        Trouble::Said(_) | Trouble::SaidOfRecipient(_) => fault(
            if phase == Phase::Dotted { Retry::InDoubt } else { Retry::Elsewhere },
            Blame::Upstream,
            ours(0, "the upstream's answer made no sense"),
        ),
        Trouble::Cannot(lack) => fault(Retry::Unable, Blame::Nobody, unable(lack)),
    }
}

/// 421, or words like "too many connections": it is not ill, only full.
fn blame_for(reply: Reply<'_>) -> Blame {
    let says = |words: &[u8]| reply.text.windows(words.len()).any(|part| part.eq_ignore_ascii_case(words));
    let is_full = reply.code == 421 || reply.is_temporary() && says(b"too many");
    if is_full { Blame::Pressure } else { Blame::Upstream }
}

fn retry_of_loss(phase: Phase, reused: bool) -> Retry {
    match phase {
        Phase::Dotted | Phase::Whole { .. } => Retry::InDoubt,
        Phase::Envelope { heard: false } | Phase::Leaving { heard: false } if reused => Retry::FreshLink,
        Phase::Opening | Phase::Envelope { .. } | Phase::Leaving { .. } | Phase::Parts => Retry::Elsewhere,
    }
}

/// 451 4.4.x in our own words.
pub(super) fn ours(detail: u16, text: &'static str) -> ReplyBuf {
    Reply::new(451, Enhanced(4, 4, detail), text).to_buf()
}

const TOO_LATE: &[u8] = b"not delivered in the time that its sender gave it";

/// What is to come back is not delivered in time (RFC 2852 section 4); `last`: what was said of it last.
pub(super) fn too_late(last: Option<ReplyBuf>) -> ReplyBuf {
    let mut text = TOO_LATE.to_vec();
    if let Some(last) = last {
        text.extend_from_slice(b"; last: ");
        text.extend_from_slice(last.as_reply().text);
    }
    Reply { code: 554, enhanced: Some(Enhanced(5, 4, 7)), text: &text }.to_buf()
}

/// Is that what it says?
pub(super) fn says_too_late(reply: Reply<'_>) -> bool {
    reply.enhanced == Some(Enhanced(5, 4, 7)) && reply.text.starts_with(TOO_LATE)
}

/// Goes before what an upstream said, where the answer is ours.
const PASSED_ON: &str = "upstream said: ";

/// What no upstream would take now, in the last one's words.
fn deferred(reply: Reply<'_>) -> ReplyBuf {
    let mut text = format!("{PASSED_ON}{}", reply.code).into_bytes();
    if let Some(Enhanced(class, subject, detail)) = reply.enhanced {
        text.extend_from_slice(format!(" {class}.{subject}.{detail}").as_bytes());
    }
    text.push(b' ');
    text.extend_from_slice(reply.text);
    Reply { code: 451, enhanced: Some(Enhanced(4, 4, 0)), text: &text }.to_buf()
}

/// What the upstream itself said, of an answer that passes it on.
pub(super) fn passed_on(reply: Reply<'_>) -> Option<Reply<'_>> {
    let line = Line::parse(reply.text.strip_prefix(PASSED_ON.as_bytes())?)?;
    let (enhanced, text) = line.split();
    Some(Reply { code: line.code, enhanced, text })
}

/// A refusal as the upstream gave it; every reply of ours has an enhanced code.
fn refused(reply: Reply<'_>) -> ReplyBuf {
    Reply { enhanced: Some(reply.enhanced.unwrap_or(Enhanced(5, 0, 0))), ..reply }.to_buf()
}

fn unable(lack: Lack) -> ReplyBuf {
    match lack {
        Lack::EightBit => Reply::new(554, Enhanced(5, 6, 3), "no upstream takes 8-bit messages"),
        Lack::Binary => Reply::new(554, Enhanced(5, 6, 3), "no upstream takes binary messages"),
        Lack::Utf8 => Reply::new(554, Enhanced(5, 6, 7), "no upstream takes internationalised addresses"),
        Lack::Time => {
            Reply::new(554, Enhanced(5, 4, 7), "no upstream promises to deliver in the time that is left")
        }
        Lack::Size => Reply::new(552, Enhanced(5, 3, 4), "the message is larger than any upstream takes"),
    }
    .to_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_safe_to_repeat() {
        let retry = |trouble, phase, reused| judge(trouble, phase, reused).retry;
        let (silent, heard) = (Phase::Envelope { heard: false }, Phase::Envelope { heard: true });
        assert_eq!(retry(Trouble::Lost, silent, true), Retry::FreshLink);
        assert_eq!(retry(Trouble::Lost, silent, false), Retry::Elsewhere);
        assert_eq!(retry(Trouble::Lost, heard, true), Retry::Elsewhere);
        assert_eq!(retry(Trouble::Lost, Phase::Dotted, true), Retry::InDoubt);
        assert_eq!(retry(Trouble::TimedOut, silent, true), Retry::Elsewhere);
        assert_eq!(retry(Trouble::TimedOut, Phase::Dotted, false), Retry::InDoubt);
        // What had not left to its end cannot have been taken.
        assert_eq!(retry(Trouble::Lost, Phase::Leaving { heard: false }, true), Retry::FreshLink);
        assert_eq!(retry(Trouble::Lost, Phase::Leaving { heard: true }, true), Retry::Elsewhere);
        assert_eq!(retry(Trouble::TimedOut, Phase::Leaving { heard: true }, false), Retry::Elsewhere);
        // Nobody can tell whether what was sent whole was taken before the link was lost.
        let (unheard, begun) = (Phase::Whole { heard: false }, Phase::Whole { heard: true });
        for (phase, reused) in [(unheard, false), (unheard, true), (begun, false), (begun, true)] {
            assert_eq!(retry(Trouble::Lost, phase, reused), Retry::InDoubt);
            assert_eq!(retry(Trouble::TimedOut, phase, reused), Retry::InDoubt);
        }
        assert_eq!(judge(Trouble::Lost, unheard, true).blame, Blame::Nobody);
        assert_eq!(judge(Trouble::Lost, unheard, false).blame, Blame::Unreached);
        // But a refusal in words says that it was not.
        let closing = Reply::new(421, Enhanced(4, 3, 2), "closing");
        assert_eq!(retry(Trouble::Unwelcome(closing), unheard, true), Retry::FreshLink);
        assert_eq!(retry(Trouble::Unwelcome(closing), begun, true), Retry::Elsewhere);
        assert_eq!(retry(Trouble::NotOpened, Phase::Opening, false), Retry::Elsewhere);
        for (all, blame) in [(true, Blame::Silence), (false, Blame::Message)] {
            let fault = judge(Trouble::Overdue { all }, silent, true);
            assert_eq!((fault.retry, fault.blame), (Retry::Sooner, blame));
        }
        let no = Reply::new(550, Enhanced(5, 1, 1), "no such user");
        assert_eq!(retry(Trouble::Said(no), Phase::Dotted, true), Retry::Never);
        let later = Reply::new(450, Enhanced(4, 2, 0), "busy");
        assert_eq!(retry(Trouble::Said(later), Phase::Dotted, true), Retry::Elsewhere);
        let what = Reply { code: 354, enhanced: None, text: b"go on" };
        assert_eq!(retry(Trouble::Said(what), Phase::Dotted, false), Retry::InDoubt);
        assert_eq!(retry(Trouble::Said(what), heard, false), Retry::Elsewhere);
    }

    #[test]
    fn what_is_gone_only_the_client_can_repeat() {
        let parts = Phase::Parts;
        for trouble in [Trouble::Lost, Trouble::TimedOut] {
            for reused in [false, true] {
                let fault = judge(trouble, parts, reused);
                assert_eq!(fault.retry, Retry::Elsewhere, "all of it is still here");
                let gone = fault.without_body();
                assert_eq!((gone.retry, gone.reply.as_reply().code), (Retry::ByClient, 451));
            }
        }
        let later = Reply::new(450, Enhanced(4, 2, 0), "busy");
        let gone = judge(Trouble::Said(later), parts, false).without_body();
        assert_eq!((gone.retry, gone.reply.as_reply().code), (Retry::ByClient, 451));
        let no = Reply::new(552, Enhanced(5, 3, 4), "too big");
        assert_eq!(judge(Trouble::Said(no), parts, false).without_body().retry, Retry::Never);
        // Its end was sent and no answer came: in doubt, and told as 451 all the same.
        let doubt = judge(Trouble::Lost, Phase::Dotted, false);
        assert_eq!((doubt.retry, doubt.without_body().retry), (Retry::InDoubt, Retry::ByClient));
    }

    #[test]
    fn what_the_client_is_told() {
        let later = Reply::new(450, Enhanced(4, 2, 0), "busy");
        let fault = judge(Trouble::SaidOfRecipient(later), Phase::Envelope { heard: true }, false);
        let told = fault.reply.as_reply();
        assert_eq!((told.code, told.enhanced), (451, Some(Enhanced(4, 4, 0))));
        assert_eq!(told.text, b"upstream said: 450 4.2.0 busy");
        assert_eq!(passed_on(told), Some(later));
        assert_eq!(passed_on(later), None);
        let lines = Reply { code: 421, enhanced: None, text: b"busy\ncome back" };
        assert_eq!(passed_on(deferred(lines).as_reply()), Some(lines));
        let bare = Reply { code: 550, enhanced: None, text: b"go away" };
        let told = judge(Trouble::Said(bare), Phase::Dotted, false).reply;
        assert_eq!(told.as_reply(), Reply { code: 550, enhanced: Some(Enhanced(5, 0, 0)), text: b"go away" });
    }
}
