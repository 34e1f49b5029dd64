//! Message sizes: one, or a mix.

use std::fmt;
use std::str::FromStr;

use crate::sink::Dice;
use crate::text;

/// Sizes of whole messages (header and body) in bytes, each with its share.
/// Written `10KiB`, or as a mix `1KiB:0.5,10KiB:0.4,100KiB:0.1` whose shares need not add up to one.
#[derive(Clone, Debug, PartialEq)]
pub struct SizeMix {
    classes: Vec<(usize, f64)>,
    total: f64,
}

impl SizeMix {
    /// All messages of one size.
    pub fn one(bytes: usize) -> Self {
        SizeMix { classes: vec![(bytes, 1.0)], total: 1.0 }
    }

    /// The sizes in bytes, in the order they were written.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.classes.iter().map(|(bytes, _)| *bytes)
    }

    /// An index into [`SizeMix::sizes`], by the shares.
    pub(super) fn draw(&self, dice: &mut Dice) -> usize {
        if self.classes.len() == 1 {
            return 0;
        }
        let mut point = dice.unit() * self.total;
        let drawn = self.classes.iter().position(|(_, share)| {
            point -= share;
            point < 0.0
        });
        drawn.unwrap_or(self.classes.len() - 1)
    }
}

impl FromStr for SizeMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut classes = Vec::new();
        for part in text.split(',') {
            let (size, share) = match part.split_once(':') {
                Some((size, share)) => (size, share.trim().parse::<f64>().ok()),
                None => (part, Some(1.0)),
            };
            let share = share.filter(|share| share.is_finite() && *share > 0.0);
            let share =
                share.ok_or_else(|| format!("`{}`: the share must be a number above 0", part.trim()))?;
            classes.push((text::parse_size(size)?, share));
        }
        let total = classes.iter().map(|(_, share)| share).sum();
        Ok(SizeMix { classes, total })
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(bytes, _)] = self.classes[..] {
            return f.write_str(&text::size(bytes));
        }
        let parts = self.classes.iter().map(|(bytes, share)| format!("{}:{share}", text::size(*bytes)));
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_read_and_drawn_by_share() {
        let mix: SizeMix = "1KiB:0.5,10KiB:0.4, 100KiB:0.1".parse().expect("valid");
        assert_eq!(mix.to_string(), "1KiB:0.5,10KiB:0.4,100KiB:0.1");
        assert_eq!(mix.sizes().collect::<Vec<_>>(), [1 << 10, 10 << 10, 100 << 10]);
        let mut dice = Dice::new(1);
        let mut drawn = [0; 3];
        (0..10_000).for_each(|_| drawn[mix.draw(&mut dice)] += 1);
        assert!((4_700..5_300).contains(&drawn[0]) && (850..1_150).contains(&drawn[2]), "{drawn:?}");
        assert_eq!("10KiB".parse(), Ok(SizeMix::one(10 << 10)));
    }

    #[test]
    fn wrong_mixes_say_what() {
        let error = |text: &str| text.parse::<SizeMix>().expect_err("must be refused");
        assert!(error("10Kb").contains("`Kb`"));
        assert!(error("1KiB:0.5,10KiB:x").contains("`10KiB:x`"));
        assert!(error("1KiB:-1").contains("share"));
        assert!(error("1KiB,").contains("size"));
    }
}
