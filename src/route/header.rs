//! Finding a field in a header block (RFC 5322 2.2).

use super::glob::Glob;

/// Whether some field of that name has a value like `pattern`. What follows the block's first empty line is not
/// looked at; a line cut off at the block's end counts as it is.
pub(super) fn has(block: &[u8], name: &str, pattern: &Glob) -> bool {
    let mut fields = Fields { rest: block };
    fields.any(|field| {
        let Some(colon) = memchr::memchr(b':', field) else { return false };
        let (is, value) = (field[..colon].trim_ascii_end(), &field[colon + 1..]);
        is.eq_ignore_ascii_case(name.as_bytes()) && matches_unfolded(value, pattern)
    })
}

fn matches_unfolded(value: &[u8], pattern: &Glob) -> bool {
    let value = value.trim_ascii();
    if memchr::memchr(b'\n', value).is_none() {
        return pattern.matches(value);
    }
    let unfolded: Vec<u8> = value.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
    pattern.matches(&unfolded)
}

/// Fields with their continuation lines, up to the first empty line.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() || self.rest.starts_with(b"\r\n") {
            return None;
        }
        let continues = |at: &usize| matches!(self.rest.get(at + 1), Some(b' ' | b'\t'));
        let end = memchr::memchr_iter(b'\n', self.rest).find(|at| !continues(at));
        let (field, rest) = self.rest.split_at(end.map_or(self.rest.len(), |at| at + 1));
        self.rest = rest;
        Some(field)
    }
}
