//! BDAT: its rules by table, and what is scanned of a plain message against an oracle.

use proptest::prelude::*;

use super::streams::pieces;
use super::{Session, options};
use crate::protocol::wire::data::{Form, Scanner, Shape};

const BEGIN: &str = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

/// The session after these lines, which follow an accepted recipient, fed in whole and in single octets.
fn after(lines: &str) -> Session {
    let mut session = Session::default();
    session.feed(BEGIN.as_bytes(), &options());
    session.out.clear();
    session.feed(lines.as_bytes(), &options());
    let mut slow = Session::default();
    slow.feed(BEGIN.as_bytes(), &options());
    slow.out.clear();
    lines.as_bytes().iter().for_each(|&octet| slow.feed(&[octet], &options()));
    assert_eq!((&session.out, &session.events), (&slow.out, &slow.events), "{lines:?}");
    assert_eq!(bodies(&session), bodies(&slow));
    session
}

fn bodies(session: &Session) -> Vec<String> {
    session.taken.iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
}

#[test]
fn chunks_make_a_message() {
    for (lines, replies, body) in [
        ("BDAT 4 LAST\r\na\r\n.", "250 2.1.5", "a\r\n."),
        ("bdat 2\r\nhiBDAT 1 last\r\n!", "250 2.1.5, 250 2.1.5", "hi!"),
        ("BDAT 3\r\na\r\nBDAT 0 LAST\r\n", "250 2.1.5, 250 2.1.5", "a\r\n"),
        ("BDAT 0\r\nBDAT 0 LAST\r\n", "250 2.1.5, 250 2.1.5", ""),
        // A line end may be in two chunks, and what looks like DATA's end or a command is nothing of the sort.
        ("BDAT 2\r\na\rBDAT 7 LAST\r\n\n.\r\nX\r\n", "250 2.1.5, 250 2.1.5", "a\r\n.\r\nX\r\n"),
        ("BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "250 2.1.5, 250 2.0.0", "QUIT\r\n"),
        ("BDAT 1\r\naNOOP\r\nBDAT 1 LAST\r\nb", "250 2.1.5, 250 2.0.0, 250 2.1.5", "ab"),
    ] {
        let session = after(lines);
        assert_eq!(session.said().join(", "), replies, "{lines:?}");
        assert_eq!(bodies(&session), [body], "{lines:?}");
    }
}

#[test]
fn what_is_refused_is_swallowed_first() {
    let big = format!("BDAT 999\r\n{}", "x".repeat(999));
    for (lines, replies) in [
        // DATA and BDAT do not mix.
        ("BDAT 1\r\naDATA\r\nNOOP\r\n", "250 2.1.5, 503 5.5.1, 250 2.0.0"),
        ("BDAT 1\r\naRCPT TO:<e@f>\r\n", "250 2.1.5, 503 5.5.1"),
        ("BDAT 1\r\naMAIL FROM:<e@f>\r\n", "250 2.1.5, 503 5.5.1"),
        ("BDAT 1\r\naRSET\r\nBDAT 5 LAST\r\nNOOP\nNOOP\r\n", "250 2.1.5, 250 2.0.0, 503 5.5.1, 250 2.0.0"),
        ("BDAT 1\r\naEHLO x\r\nBDAT 0 LAST\r\n", "250 2.1.5, 250, 503 5.5.1"),
        ("RSET\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "250 2.0.0, 503 5.5.1, 250 2.0.0"),
        (
            "RSET\r\nMAIL FROM:<>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
            "250 2.0.0, 250 2.1.5, 503 5.5.1, 250 2.0.0",
        ),
        // Bare newlines and NUL, also where chunks meet, and at the end.
        ("BDAT 3 LAST\r\na\nbNOOP\r\n", "554 5.6.0, 250 2.0.0"),
        ("BDAT 3 LAST\r\na\rbNOOP\r\n", "554 5.6.0, 250 2.0.0"),
        ("BDAT 3 LAST\r\na\0bNOOP\r\n", "554 5.6.0, 250 2.0.0"),
        ("BDAT 2 LAST\r\na\rNOOP\r\n", "554 5.6.0, 250 2.0.0"),
        ("BDAT 2\r\na\rBDAT 1 LAST\r\nbNOOP\r\n", "250 2.1.5, 554 5.6.0, 250 2.0.0"),
        ("BDAT 2\r\na\rBDAT 0 LAST\r\nNOOP\r\n", "250 2.1.5, 554 5.6.0, 250 2.0.0"),
        // The transaction is over with the first refusal, chunks that follow have none.
        ("BDAT 1\r\n\nBDAT 1\r\naBDAT 1 LAST\r\nb", "554 5.6.0, 503 5.5.1, 503 5.5.1"),
        // Sizes.
        (&format!("{big}BDAT 1 LAST\r\nx"), "250 2.1.5, 250 2.1.5"),
        (&format!("{big}BDAT 2 LAST\r\nxxNOOP\r\n"), "250 2.1.5, 552 5.3.4, 250 2.0.0"),
        (&format!("{big}BDAT 2\r\nxxBDAT 2 LAST\r\nxx"), "250 2.1.5, 552 5.3.4, 503 5.5.1"),
        // Where the next command begins is unknown.
        ("BDAT\r\nNOOP\r\n", "501 5.5.4"),
        ("BDAT x\r\nNOOP\r\n", "501 5.5.4"),
        ("BDAT 1 FIRST\r\naNOOP\r\n", "501 5.5.4"),
        ("BDAT 99999999999999999999 LAST\r\nNOOP\r\n", "501 5.5.4"),
    ] {
        let session = after(lines);
        assert_eq!(session.said().join(", "), replies, "{lines:?}");
        assert_eq!(session.taken.len(), usize::from(lines.ends_with("LAST\r\nx")), "{lines:?}");
    }
}

fn oracle(message: &[u8]) -> (bool, Shape) {
    let is_bare = (0..message.len()).any(|i| match message[i] {
        0 => true,
        b'\r' => message.get(i + 1) != Some(&b'\n'),
        b'\n' => i == 0 || message[i - 1] != b'\r',
        _ => false,
    });
    let stream = [b"\r\n", message].concat();
    let dots = stream.windows(3).filter(|window| window == b"\r\n.").count() as u64;
    (is_bare, Shape { form: Form::Plain, dots, ends_line: stream.ends_with(b"\r\n") })
}

proptest! {
    #[test]
    fn a_plain_message_is_scanned(
        fragments in prop::collection::vec(
            prop_oneof![
                8 => Just(b"\r\n".to_vec()),
                4 => Just(b".".to_vec()),
                4 => prop::collection::vec(b'a'..=b'e', 0..60),
                1 => prop::collection::vec(b'a'..=b'e', 1900..2300),
                1 => prop::sample::select(vec![b"\r".to_vec(), b"\n".to_vec(), b"\0".to_vec()]),
            ],
            0..60,
        ),
        cuts in prop::collection::vec(1usize..3000, 0..6),
    ) {
        let message = fragments.concat();
        let mut scanner = Scanner::of(Form::Plain);
        for piece in pieces(&message, &cuts) {
            prop_assert_eq!(scanner.push(piece), piece.len());
        }
        let (is_bare, shape) = oracle(&message);
        prop_assert_eq!(scanner.is_bare() || scanner.is_after_cr(), is_bare);
        prop_assert_eq!(scanner.shape(), shape);
        prop_assert_eq!(scanner.size(), message.len() as u64);
        prop_assert!(!scanner.is_beyond(message.len() as u64));
        prop_assert!(message.is_empty() || scanner.is_beyond(message.len() as u64 - 1));
    }
}
