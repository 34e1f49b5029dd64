//! Settings that a plan wants, each with what it is good for.

use serde::Serialize;

use crate::Setting;

/// A setting that the plan wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The thing and its value.
    pub setting: Setting,
    /// What it costs when it is otherwise.
    pub cost: String,
}

impl Step {
    pub(crate) fn new(setting: Setting, cost: impl Into<String>) -> Step {
        Step { setting, cost: cost.into() }
    }
}

/// Local ports of ours added to those reserved already, as the kernel writes such lists. `None`: the list makes no
/// sense.
pub(crate) fn with_ports(reserved: &str, first: u16, last: u16) -> Option<String> {
    let mut ranges = vec![(u32::from(first), u32::from(last))];
    for part in reserved.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        ranges.push((first.trim().parse().ok()?, last.trim().parse().ok()?));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    Some(merged.iter().map(text).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_to_those_reserved() {
        for (reserved, all) in [
            ("", "61000-65535"),
            ("\n", "61000-65535"),
            ("8080,9000-9001", "8080,9000-9001,61000-65535"),
            ("60999", "60999-65535"),
            ("61000-65535", "61000-65535"),
            ("61500,60000-61500", "60000-65535"),
        ] {
            assert_eq!(with_ports(reserved, 61_000, 65_535).as_deref(), Some(all), "{reserved}");
        }
        assert_eq!(with_ports("a-b", 1, 2), None);
    }
}
