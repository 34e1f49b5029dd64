//! Replies: written, folded, kept, parsed.

use proptest::prelude::*;

use crate::protocol::client::ReplyReader;
use crate::protocol::wire::reply::{Enhanced, LINE_MAX, Line, Reply};

fn written(reply: Reply<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    reply.write(&mut out);
    out
}

#[test]
fn wire_form() {
    let enhanced = Some(Enhanced(2, 1, 0));
    for (reply, wire) in [
        (Reply { code: 250, enhanced, text: b"a\nb" }, "250-2.1.0 a\r\n250 2.1.0 b\r\n"),
        (Reply { code: 250, enhanced, text: b"" }, "250 2.1.0\r\n"),
        (Reply { code: 354, enhanced: None, text: b"go" }, "354 go\r\n"),
        (Reply { code: 250, enhanced: None, text: b"" }, "250 \r\n"),
        (Reply { code: 550, enhanced: None, text: b"a\rb\0\x7f\tc" }, "550 a?b??\tc\r\n"),
        (Reply { code: 550, enhanced: None, text: b"a\n\n" }, "550-a\r\n550-\r\n550 \r\n"),
    ] {
        assert_eq!(String::from_utf8(written(reply)).expect("text"), wire);
    }
}

#[test]
fn long_lines_are_folded() {
    let words = "word ".repeat(300);
    let solid = "é".repeat(900);
    let shifted = format!("x{solid}");
    for text in [words.trim_end(), &solid, &shifted] {
        let wire = written(Reply::new(550, Enhanced(5, 123, 456), text));
        let mut seen = Vec::new();
        for line in wire.split_inclusive(|&b| b == b'\n') {
            assert!(line.len() <= LINE_MAX);
            let parsed = Line::parse(line).expect("a reply line");
            let (enhanced, part) = parsed.split();
            assert_eq!(enhanced, Some(Enhanced(5, 123, 456)));
            std::str::from_utf8(part).expect("not cut within a character");
            seen.extend_from_slice(part);
        }
        let without_spaces = |text: &[u8]| text.iter().copied().filter(|&b| b != b' ').collect::<Vec<_>>();
        assert_eq!(without_spaces(&seen), without_spaces(text.as_bytes()));
    }
}

#[test]
fn lines() {
    for (line, code, last, rest) in [
        ("250-a\r\n", 250, false, "a"),
        ("250 a\n", 250, true, "a"),
        ("250\r\n", 250, true, ""),
        ("599 ", 599, true, ""),
        ("250-\r\n", 250, false, ""),
    ] {
        assert_eq!(
            Line::parse(line.as_bytes()),
            Some(Line { code, last, rest: rest.as_bytes() }),
            "{line:?}"
        );
    }
    for line in ["", "25", "150 a", "650 a", "2x0 a", "250a", "250_a", "2500", "hello", "\r\n"] {
        assert_eq!(Line::parse(line.as_bytes()), None, "{line:?}");
    }
}

#[test]
fn enhanced_codes() {
    for (line, enhanced, text) in [
        ("550 5.1.1 no", Some(Enhanced(5, 1, 1)), "no"),
        ("550 5.123.456 no", Some(Enhanced(5, 123, 456)), "no"),
        ("550 5.1.1", Some(Enhanced(5, 1, 1)), ""),
        ("550 5.1.1  no", Some(Enhanced(5, 1, 1)), " no"),
        ("550 4.1.1 no", None, "4.1.1 no"),
        ("550 5.1 no", None, "5.1 no"),
        ("550 5.1.1.1 no", None, "5.1.1.1 no"),
        ("550 5.1.1234 no", None, "5.1.1234 no"),
        ("550 5.01.1 no", None, "5.01.1 no"),
        ("550 5.1.1no", None, "5.1.1no"),
        ("550 5..1 no", None, "5..1 no"),
    ] {
        let parsed = Line::parse(line.as_bytes()).expect("a reply line");
        assert_eq!(parsed.split(), (enhanced, text.as_bytes()), "{line}");
    }
}

#[test]
fn the_enhanced_code_of_further_lines() {
    for (wire, enhanced, text) in [
        ("550-5.1.1 a\r\n550 5.1.1 b\r\n", Some(Enhanced(5, 1, 1)), "a\nb"),
        ("550-5.1.1 a\r\n550 b\r\n", Some(Enhanced(5, 1, 1)), "a\nb"),
        ("550-5.1.1 a\n550-5.1.2 b\n550\n", Some(Enhanced(5, 1, 1)), "a\n5.1.2 b\n"),
        ("550-a\r\n550 5.1.1 b\r\n", None, "a\n5.1.1 b"),
        ("550-\r\n550 \r\n", None, "\n"),
    ] {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        reader.read(wire.as_bytes(), &mut |reply| replies.push(reply.to_buf())).expect("legal");
        let expected = Reply { code: 550, enhanced, text: text.as_bytes() };
        assert_eq!(replies, [expected.to_buf()], "{wire:?}");
    }
}

#[test]
fn the_bound_is_on_one_reply() {
    let mut reader = ReplyReader::default();
    let wire = "250-a line\r\n250 another\r\n".repeat(10_000);
    let mut count = 0;
    reader.read(wire.as_bytes(), &mut |_| count += 1).expect("each is short");
    assert_eq!(count, 10_000);
}

proptest! {
    #[test]
    fn kept_as_it_is(code in 200u16..600, text in prop::collection::vec(any::<u8>(), 0..300)) {
        let reply = Reply { code, enhanced: Some(Enhanced(2, 0, 0)), text: &text };
        let kept = reply.to_buf();
        prop_assert_eq!(kept.as_reply(), reply);
        prop_assert_eq!(kept.clone(), kept);
    }

    #[test]
    fn written_and_read_again(
        code in 200u16..600,
        codes in prop::option::of((0u16..1000, 0u16..1000)),
        text in "[a-zü]{0,60}(\n[a-z ]{0,60}){0,5}",
        cut in 1usize..40,
    ) {
        let enhanced = codes.map(|(subject, detail)| Enhanced((code / 100) as u8, subject, detail));
        let reply = Reply { code, enhanced, text: text.as_bytes() };
        let wire = written(reply);
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for piece in wire.chunks(cut) {
            reader.read(piece, &mut |reply| replies.push(reply.to_buf())).expect("a legal reply");
        }
        prop_assert_eq!(replies, vec![reply.to_buf()]);
    }

    #[test]
    fn no_line_is_too_long(text in prop::collection::vec(any::<u8>(), 0..3000), has_code in any::<bool>()) {
        let enhanced = has_code.then_some(Enhanced(5, 999, 999));
        let wire = written(Reply { code: 599, enhanced, text: &text });
        for line in wire.split_inclusive(|&b| b == b'\n') {
            prop_assert!(line.len() <= LINE_MAX && line.ends_with(b"\r\n"));
            prop_assert!(Line::parse(line).is_some());
            prop_assert!(!line[..line.len() - 2].iter().any(|&b| b < 32 && b != b'\t'));
        }
    }
}
