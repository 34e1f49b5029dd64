//! Domains as rules name them, and finding the rules that name one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// How a rule names the sender `<>`, which has no domain.
pub const NULL_SENDER: &str = "<>";

/// Longest domain that is looked up (RFC 5321 4.5.3.1.2).
const DOMAIN_BYTES_MAX: usize = 255;

/// A domain in a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// That one. Lower case; empty: none, as in `<>`.
    Exactly(Box<[u8]>),
    /// Every one below that one, at any depth, but not itself.
    Below(Box<[u8]>),
}

impl Domain {
    /// From `example.net`, `*.example.net` or `<>`. The names themselves are not checked here.
    pub fn from_text(text: &str) -> Domain {
        let lower = |name: &str| name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        match text.strip_prefix("*.") {
            Some(name) => Domain::Below(lower(name)),
            None if text == NULL_SENDER => Domain::Exactly(Box::default()),
            None => Domain::Exactly(lower(text)),
        }
    }

    /// Whether `domain`, in any case, is meant.
    pub fn matches(&self, domain: &[u8]) -> bool {
        match self {
            Domain::Exactly(name) => domain.eq_ignore_ascii_case(name),
            Domain::Below(name) => domain.len().checked_sub(name.len() + 1).is_some_and(|dot| {
                dot > 0 && domain[dot] == b'.' && domain[dot + 1..].eq_ignore_ascii_case(name)
            }),
        }
    }
}

/// Numbers of rules, ascending.
#[derive(Clone, Debug, Default)]
struct Numbers {
    exactly: Vec<u32>,
    below: Vec<u32>,
}

/// Rules by domain.
#[derive(Clone, Debug, Default)]
pub(super) struct DomainIndex(HashMap<Box<[u8]>, Numbers, BuildHasherDefault<Fnv>>);

impl DomainIndex {
    /// Rules must come in ascending order.
    pub(super) fn insert(&mut self, domain: &Domain, number: u32) {
        let numbers = match domain {
            Domain::Exactly(name) => &mut self.0.entry(name.clone()).or_default().exactly,
            Domain::Below(name) => &mut self.0.entry(name.clone()).or_default().below,
        };
        if numbers.last() != Some(&number) {
            numbers.push(number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `consider` with the rules that name `domain`, and with those that name one above it.
    pub(super) fn look_up(&self, domain: &[u8], consider: &mut impl FnMut(&[u32])) {
        let mut lower = [0; DOMAIN_BYTES_MAX];
        let Some(lower) = lower.get_mut(..domain.len()) else { return };
        lower.copy_from_slice(domain);
        lower.make_ascii_lowercase();
        if let Some(numbers) = self.0.get(&*lower) {
            consider(&numbers.exactly);
        }
        for dot in memchr::memchr_iter(b'.', lower).filter(|dot| *dot > 0) {
            if let Some(numbers) = self.0.get(&lower[dot + 1..]) {
                consider(&numbers.below);
            }
        }
    }
}

/// FNV-1a with a final mix. Keys come from the configuration alone, so nobody can make them collide.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
