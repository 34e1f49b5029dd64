//! What the server says by itself.

use crate::protocol::wire::address::Fault as AddressFault;
use crate::protocol::wire::command::Fault;
use crate::protocol::wire::reply::{Enhanced, Reply};

macro_rules! replies {
    ($($name:ident: $code:literal $class:literal . $subject:literal . $detail:literal $text:literal;)*) => {
        $(pub(super) const $name: Reply<'static> =
            Reply::new($code, Enhanced($class, $subject, $detail), $text);)*
    };
}

replies! {
    DONE: 250 2 . 0 . 0 "OK";
    HELP: 214 2 . 0 . 0 "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT";
    BYE: 221 2 . 0 . 0 "Bye";
    CANNOT_VERIFY: 252 2 . 5 . 0 "Cannot verify, but will try to deliver";
    FAULTS: 421 4 . 7 . 0 "Too many errors";
    RECIPIENTS: 452 4 . 5 . 3 "Too many recipients";
    UNKNOWN: 500 5 . 5 . 2 "Command not recognized";
    LINE_LONG: 500 5 . 5 . 2 "Line too long";
    HOLD: 501 5 . 5 . 4 "To be held for longer than offered";
    HELD_TOO_LONG: 501 5 . 5 . 4 "To be held for longer than it may take to be delivered";
    HELLO_BAD: 501 5 . 5 . 4 "Say your name after EHLO or HELO";
    CHUNK_BAD: 501 5 . 5 . 4 "Syntax: BDAT size [LAST]; where the next command begins is unknown, closing";
    ARGUMENTS: 501 5 . 5 . 4 "Takes no arguments";
    UNIMPLEMENTED: 502 5 . 5 . 1 "Command not implemented";
    HELLO_FIRST: 503 5 . 5 . 1 "Say EHLO or HELO first";
    NESTED: 503 5 . 5 . 1 "Sender already given";
    CHUNKED: 503 5 . 5 . 1 "The message has begun by BDAT: BDAT or RSET";
    MAIL_FIRST: 503 5 . 5 . 1 "MAIL first";
    BDAT_ONLY: 503 5 . 5 . 1 "A binary message comes by BDAT";
    RECIPIENT_FIRST: 503 5 . 5 . 1 "No valid recipient";
    SIZE: 552 5 . 3 . 4 "Message too big";
    BARE: 554 5 . 6 . 0 "Bare CR, bare LF or NUL not allowed";
}

/// Which command an address fault was in.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Mail,
    Recipient,
}

/// The answer to a faulty MAIL or RCPT.
pub(super) fn of(fault: Fault, side: Side) -> Reply<'static> {
    let (address, syntax) = match side {
        Side::Mail => (Enhanced(5, 1, 7), "Syntax: MAIL FROM:<address>"),
        Side::Recipient => (Enhanced(5, 1, 3), "Syntax: RCPT TO:<address>"),
    };
    match fault {
        Fault::Syntax => Reply::new(501, Enhanced(5, 5, 4), syntax),
        Fault::Address(AddressFault::Syntax) => Reply::new(501, address, "Bad address syntax"),
        Fault::Address(AddressFault::LocalTooLong) => Reply::new(501, address, "Local part too long"),
        Fault::Address(AddressFault::DomainTooLong) => Reply::new(501, address, "Domain too long"),
        Fault::Address(AddressFault::PathTooLong) => Reply::new(501, address, "Path too long"),
        Fault::Utf8 => Reply::new(553, Enhanced(5, 6, 7), "Address needs SMTPUTF8"),
        Fault::ParameterUnknown => Reply::new(555, Enhanced(5, 5, 4), "Unknown parameter"),
        Fault::ParameterBad => Reply::new(501, Enhanced(5, 5, 4), "Bad or repeated parameter"),
    }
}
