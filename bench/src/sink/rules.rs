//! What a sink does wrong on purpose, and what it does not offer: the grammar of its options.

use std::str::FromStr;

use crate::stage::Stage;

/// Refuse at `stage` with `code`, this often. Written `rcpt:450:0.01`; without a probability, always.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailRule {
    /// Where.
    pub stage: Stage,
    /// The reply's code, 400 to 599. 421 closes the connection after it.
    pub code: u16,
    /// 0 to 1.
    pub probability: f64,
}

/// Close the connection (or stop answering) at `stage`, this often. Written `data:0.001`; `data` alone: always.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropRule {
    /// Where: instead of the reply.
    pub stage: Stage,
    /// 0 to 1.
    pub probability: f64,
}

impl FromStr for FailRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let within = |error: String| format!("`{text}`: {error} (a rule is stage:code:probability)");
        let mut parts = text.split(':');
        let stage = parts.next().unwrap_or_default().parse().map_err(within)?;
        let code = parts.next().ok_or_else(|| within("the reply code is missing".into()))?;
        let code = match code.parse::<u16>() {
            Ok(number) if (400..600).contains(&number) && code.len() == 3 => number,
            _ => return Err(within(format!("`{code}` is not a reply code from 400 to 599"))),
        };
        let probability = probability(parts.next()).map_err(within)?;
        match parts.next() {
            Some(rest) => Err(within(format!("`{rest}` is one part too many"))),
            None => Ok(FailRule { stage, code, probability }),
        }
    }
}

impl FromStr for DropRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let within = |error: String| format!("`{text}`: {error} (a rule is stage:probability)");
        let mut parts = text.split(':');
        let stage = parts.next().unwrap_or_default().parse().map_err(within)?;
        let probability = probability(parts.next()).map_err(within)?;
        match parts.next() {
            Some(rest) => Err(within(format!("`{rest}` is one part too many"))),
            None => Ok(DropRule { stage, probability }),
        }
    }
}

fn probability(text: Option<&str>) -> Result<f64, String> {
    let Some(text) = text else { return Ok(1.0) };
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is not a probability from 0 to 1")),
    }
}

/// The service extensions a sink offers; all of them by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870.
    pub size: bool,
    /// RFC 6152.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3030, BDAT.
    pub chunking: bool,
    /// RFC 3030, BODY=BINARYMIME.
    pub binary: bool,
}

impl Default for Offers {
    fn default() -> Self {
        Offers {
            pipelining: true,
            size: true,
            eight_bit: true,
            smtputf8: true,
            dsn: true,
            chunking: true,
            binary: true,
        }
    }
}

impl Offers {
    /// Takes one extension away by its name: `chunking`, `binarymime`, `pipelining`, `8bitmime`, `smtputf8`, `size` or `dsn`.
    ///
    /// # Errors
    /// A sentence that names the unknown extension and those that are known.
    pub fn hide(&mut self, name: &str) -> Result<(), String> {
        let offer = match name.trim().to_ascii_lowercase().as_str() {
            "pipelining" => &mut self.pipelining,
            "size" => &mut self.size,
            "8bitmime" => &mut self.eight_bit,
            "smtputf8" => &mut self.smtputf8,
            "dsn" => &mut self.dsn,
            "chunking" => &mut self.chunking,
            "binarymime" => &mut self.binary,
            _ => {
                return Err(format!(
                    "`{name}` is not an extension of the sink: expected chunking, binarymime, pipelining, \
                     8bitmime, smtputf8, size or dsn"
                ));
            }
        };
        *offer = false;
        Ok(())
    }

    /// All extensions but those named in a comma-separated list.
    ///
    /// # Errors
    /// As [`Offers::hide`].
    pub fn all_but(names: &str) -> Result<Self, String> {
        let mut offers = Offers::default();
        names.split(',').filter(|name| !name.trim().is_empty()).try_for_each(|name| offers.hide(name))?;
        Ok(offers)
    }
}

/// A small generator of pseudo-random numbers (SplitMix64), the same from the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to but not including 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True this often.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Exponentially distributed around `mean`.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rule: FailRule = "rcpt:450:0.01".parse().expect("valid");
        assert_eq!(rule, FailRule { stage: Stage::Rcpt, code: 450, probability: 0.01 });
        let rule: FailRule = "eod:554".parse().expect("valid");
        assert_eq!(rule.probability, 1.0);
        let rule: DropRule = "data:0.001".parse().expect("valid");
        assert_eq!(rule, DropRule { stage: Stage::Data, probability: 0.001 });
    }

    #[test]
    fn wrong_rules_say_what_and_where() {
        let fail = |text: &str| text.parse::<FailRule>().expect_err("must be refused");
        assert!(fail("rpct:450:0.01").contains("`rpct` is not a stage"));
        assert!(fail("rcpt").contains("code is missing"));
        assert!(fail("rcpt:250:1").contains("`250` is not a reply code"));
        assert!(fail("rcpt:450:1.5").contains("`1.5` is not a probability"));
        assert!(fail("rcpt:450:1:2").contains("`2` is one part too many"));
        assert!(fail("other:450").contains("`other` is not a stage"));
        assert!("data:x".parse::<DropRule>().expect_err("must be refused").contains("`x`"));
        assert!(Offers::all_but("chunking,tls").expect_err("must be refused").contains("`tls`"));
        let offers = Offers::all_but("chunking, 8BITMIME").expect("valid");
        assert!(!offers.chunking && !offers.eight_bit && offers.pipelining);
    }

    #[test]
    fn dice_keep_their_odds() {
        let mut dice = Dice::new(7);
        let hits = (0..100_000).filter(|_| dice.chance(0.1)).count();
        assert!((9_500..10_500).contains(&hits), "{hits}");
        let sum: f64 = (0..100_000).map(|_| dice.exponential(5.0)).sum();
        assert!((4.9..5.1).contains(&(sum / 1e5)), "{sum}");
        assert!(!dice.chance(0.0) && dice.chance(1.0));
    }
}
