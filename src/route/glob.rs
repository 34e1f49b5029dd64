//! Patterns with `*` and `?`, as in the shell, blind to the case of ASCII letters.

/// A pattern for a whole text: `*` is any run of octets, `?` any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<[u8]>);

impl Glob {
    /// From its text. Every text is a pattern.
    pub fn new(text: &str) -> Glob {
        Glob(text.to_ascii_lowercase().into_bytes().into_boxed_slice())
    }

    /// Whether the whole of `text` is like it. Time is at most the product of both lengths.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (pattern, mut p, mut t) = (&self.0, 0, 0);
        // Where the last star was, and how far it reaches so far.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(b'?') => (p, t) = (p + 1, t + 1),
                Some(byte) if *byte == text[t].to_ascii_lowercase() => (p, t) = (p + 1, t + 1),
                _ => {
                    let Some((at, reach)) = star else { return false };
                    star = Some((at, reach + 1));
                    (p, t) = (at + 1, reach + 1);
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}
