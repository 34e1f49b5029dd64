//! Words and addresses that came from elsewhere, made fit to be shown.

use std::fmt::Write;

/// Of a reply's text.
const REPLY_BYTES_MAX: usize = 400;

/// On one line, without control characters or what is not UTF-8, and within bounds.
pub(super) fn printable(words: &[u8]) -> String {
    let mut text = String::new();
    for chunk in words.utf8_chunks() {
        for c in chunk.valid().chars() {
            if text.len() + c.len_utf8() > REPLY_BYTES_MAX {
                text.push_str("...");
                return text;
            }
            text.push(match c {
                '\n' | '\t' => ' ',
                c if c.is_control() => '?',
                c => c,
            });
        }
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text
}

/// What is not ASCII becomes `?`.
pub(super) fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// The same, octet by octet.
pub(super) fn make_ascii(text: &mut [u8]) {
    text.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
}

/// xtext (RFC 3461 section 4) as it was meant. What would not be printable ASCII stays encoded.
pub(super) fn decode_xtext(mut text: &[u8]) -> String {
    let mut decoded = String::new();
    while let [first, rest @ ..] = text {
        text = rest;
        if let (b'+', [high, low, after @ ..]) = (first, rest)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
            && let byte @ 32..=126 = high << 4 | low
        {
            decoded.push(char::from(byte));
            text = after;
        } else if first.is_ascii_graphic() {
            decoded.push(char::from(*first));
        } else {
            let _ = write!(decoded, "+{first:02X}");
        }
    }
    decoded
}

/// What follows `utf-8;` (RFC 6533 section 3).
pub(super) fn strip_utf8_type(orcpt: &[u8]) -> Option<&[u8]> {
    let (kind, address) = orcpt.split_at_checked(b"utf-8;".len())?;
    kind.eq_ignore_ascii_case(b"utf-8;").then_some(address)
}

/// An address of type utf-8 in any of its forms, in UTF-8. Control characters stay encoded.
pub(super) fn decode_unitext(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut decoded = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find("\\x{") {
        decoded.push_str(&rest[..at]);
        let after = &rest[at + 3..];
        let end = after.find('}').filter(|end| (1..=6).contains(end));
        let point = end.and_then(|end| u32::from_str_radix(&after[..end], 16).ok());
        match (point.and_then(char::from_u32).filter(|c| !c.is_control()), end) {
            (Some(c), Some(end)) => {
                decoded.push(c);
                rest = &after[end + 1..];
            }
            _ => {
                decoded.push_str("\\x{");
                rest = after;
            }
        }
    }
    decoded + rest
}

/// In ASCII alone: `\x{E4}` for what is beyond.
pub(super) fn encode_unitext(text: &str) -> String {
    let mut encoded = String::new();
    for c in text.chars() {
        if c.is_ascii() {
            encoded.push(c);
        } else {
            let _ = write!(encoded, "\\x{{{:X}}}", u32::from(c));
        }
    }
    encoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A paragraph in lines of up to `width` octets where it has spaces, each begun by `indent`.
pub(super) fn fold(out: &mut Vec<u8>, indent: &str, text: &str, width: usize) {
    let mut line = out.len();
    out.extend_from_slice(indent.as_bytes());
    for (n, word) in text.split(' ').filter(|word| !word.is_empty()).enumerate() {
        if n > 0 && out.len() - line + 1 + word.len() > width {
            out.extend_from_slice(b"\r\n");
            line = out.len();
            out.extend_from_slice(indent.as_bytes());
        } else if n > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A field in such lines; those that go on with it begin with the space that they are folded at.
pub(super) fn fold_field(out: &mut Vec<u8>, field: &str, width: usize) {
    let mut line = out.len();
    for (n, word) in field.trim_end().split(' ').enumerate() {
        // A line of spaces alone could be taken for the field's end.
        if n > 1 && !word.is_empty() && out.len() - line + 1 + word.len() > width {
            out.extend_from_slice(b"\r\n");
            line = out.len();
        }
        if n > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Copies with a dot before each dot that begins a line.
pub(super) fn stuff(plain: &[u8], out: &mut Vec<u8>) {
    let mut from = 0;
    for lf in memchr::memmem::find_iter(plain, b"\n.") {
        out.extend_from_slice(&plain[from..=lf]);
        out.push(b'.');
        from = lf + 1;
    }
    out.extend_from_slice(&plain[from..]);
}
