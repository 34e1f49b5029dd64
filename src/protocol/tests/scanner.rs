//! The end of data against an oracle that looks at every octet by the book.

use proptest::prelude::*;

use crate::protocol::wire::data::Scanner;

/// End of the message, whether it has what must not be in it, and its size unstuffed without the final dot.
fn oracle(message: &[u8]) -> (Option<usize>, bool, u64) {
    // As if the message came after a line: that makes its first line like the others.
    let stream = [b"\r\n", message].concat();
    let end = (5..=stream.len()).find(|&end| stream[..end].ends_with(b"\r\n.\r\n"));
    let part = &stream[..end.unwrap_or(stream.len())];
    let is_bare = (0..part.len()).any(|i| match part[i] {
        0 => true,
        b'\r' => part.get(i + 1).is_some_and(|&b| b != b'\n'),
        b'\n' => i == 0 || part[i - 1] != b'\r',
        _ => false,
    });
    let stuffed = part.windows(4).filter(|w| w.starts_with(b"\r\n.") && w[3] != b'\r').count();
    (end.map(|end| end - 2), is_bare, (part.len() - 2 - stuffed) as u64)
}

fn check(message: &[u8], cuts: &[usize]) {
    let (end, is_bare, unstuffed) = oracle(message);
    let mut scanner = Scanner::default();
    let mut taken = 0;
    let mut cuts = cuts.iter().cycle();
    let mut rest = message;
    while !rest.is_empty() && !scanner.is_ended() {
        let len = rest.len().min(*cuts.next().unwrap_or(&usize::MAX));
        let piece = scanner.push(&rest[..len]);
        assert!(piece == len || scanner.is_ended(), "all is taken but what follows the end");
        taken += piece;
        rest = &rest[len..];
    }
    assert_eq!(scanner.is_ended(), end.is_some(), "ended");
    assert_eq!(taken, end.unwrap_or(message.len()), "taken");
    assert_eq!(scanner.size(), taken as u64, "size");
    assert_eq!(scanner.is_bare(), is_bare, "bare");
    if end.is_some() {
        let body = unstuffed - 3;
        assert!(!scanner.is_beyond(body), "fits");
        assert!(body == 0 || scanner.is_beyond(body - 1), "just fits");
    }
}

#[test]
fn every_short_message() {
    // All strings of up to seven octets of these, whole and in small pieces.
    const ALPHABET: [u8; 5] = [b'\r', b'\n', b'.', b'x', 0];
    for len in 0..=7u32 {
        for number in 0..ALPHABET.len().pow(len) {
            let message: Vec<u8> = (0..len).map(|i| ALPHABET[number / 5usize.pow(i) % 5]).collect();
            for prefix in [&b""[..], b"y"] {
                let message = [prefix, &message].concat();
                check(&message, &[]);
                for cuts in [&[1][..], &[2], &[3], &[1, 3], &[4, 1]] {
                    check(&message, cuts);
                }
            }
        }
    }
}

fn mixture() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        4 => Just(b"\r\n".to_vec()),
        2 => Just(b".".to_vec()),
        1 => Just(b"\r\n.\r".to_vec()),
        1 => prop::sample::select(vec![b"\r".to_vec(), b"\n".to_vec(), b"\0".to_vec()]),
        4 => prop::collection::vec(b'a'..=b'e', 0..60),
        1 => prop::collection::vec(b'a'..=b'e', 1900..2300),
    ];
    prop::collection::vec(fragment, 0..60).prop_map(|fragments| fragments.concat())
}

/// The same without what must not be in it.
fn clean() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        4 => Just(b"\r\n".to_vec()),
        2 => Just(b".".to_vec()),
        4 => prop::collection::vec(b'a'..=b'e', 0..60),
        1 => prop::collection::vec(b'a'..=b'e', 1900..2300),
    ];
    prop::collection::vec(fragment, 0..60).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn mixtures(
        message in mixture(),
        tail in prop_oneof![Just(&b""[..]), Just(&b"\r\n.\r\n"[..]), Just(&b"\r\n.\r\nMAIL\n\r\n.x"[..])],
        cuts in prop::collection::vec(1usize..3000, 0..6),
    ) {
        check(&[&message, tail].concat(), &cuts);
    }

    #[test]
    fn clean_mixtures(
        message in clean(),
        tail in prop_oneof![Just(&b"\r\n.\r\n"[..]), Just(&b"\r\n.\r\nMAIL\n\r\n.x"[..])],
        cuts in prop::collection::vec(1usize..3000, 0..6),
    ) {
        let whole = [&message, tail].concat();
        prop_assert!(!oracle(&whole).1);
        check(&whole, &cuts);
    }
}
