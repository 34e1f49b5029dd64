//! Finding things in what a client sends: the end of its data, its paths and parameters.

use memchr::memmem;

/// Looks for CRLF.CRLF and nothing less; `matched` carries what was seen of it from one piece to the next.
/// Returns how many bytes belong to the data, the end included.
pub(super) fn find_end(matched: &mut usize, input: &[u8]) -> Option<usize> {
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
    *matched = (1..END.len()).rev().find(|n| rest.ends_with(&END[..*n])).unwrap_or(0);
    None
}

/// The address between the brackets of `FROM:<...> rest` (a space before it is tolerated), and the rest.
pub(super) fn path<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
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
pub(super) fn check_parameters(parameters: &[u8], known: impl Fn(&str) -> bool) -> Result<(), String> {
    for word in parameters.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
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
                    let pieces = [(0, &text[..cut]), (cut, &text[cut..second]), (second, &text[second..])];
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
        assert_eq!(path(b" TO:<\"a>\\\"b\"@c>", b"TO:"), Some((&b"\"a>\\\"b\"@c"[..], &b""[..])));
        assert_eq!(path(b" TO:a@b", b"TO:"), None);
        assert_eq!(check_parameters(b" SIZE=1 body=7BIT", |n| n == "SIZE"), Err("BODY".into()));
    }
}
