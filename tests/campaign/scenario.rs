//! What happens to a fleet.

/// Nanoseconds.
pub(crate) type Nanos = u64;
pub(crate) const MS: Nanos = 1_000_000;
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// When it begins, when it is over, and when the run ends.
pub(crate) const FROM: Nanos = 5 * SECOND;
pub(crate) const TO: Nanos = 17 * SECOND;
pub(crate) const END: Nanos = 50 * SECOND;
/// A flapping upstream is up and down for so long each.
const FLAP: Nanos = SECOND;

/// How an upstream is at a moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mode {
    Well,
    /// So many times slower.
    Slow(f64),
    /// Takes mail and says nothing; goes on afterwards.
    Hangs,
    /// Refuses each message at once.
    FailsFast,
    /// Nothing sent to it arrives, nothing comes back.
    BlackHole,
    /// Its port is closed, its links are cut.
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Slows,
    Flaps,
    NeverAnswers,
    FailsFast,
    BlackHoles,
    HalfVanish,
    AllVanish,
    Larger,
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 8] = [
        Scenario::Slows,
        Scenario::Flaps,
        Scenario::NeverAnswers,
        Scenario::FailsFast,
        Scenario::BlackHoles,
        Scenario::HalfVanish,
        Scenario::AllVanish,
        Scenario::Larger,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Scenario::Slows => "one slows tenfold",
            Scenario::Flaps => "one flaps",
            Scenario::NeverAnswers => "one accepts and never answers",
            Scenario::FailsFast => "one fails fast",
            Scenario::BlackHoles => "one is a black hole",
            Scenario::HalfVanish => "half of them vanish",
            Scenario::AllVanish => "all of them vanish",
            Scenario::Larger => "one is three times larger",
        }
    }

    /// How many of the fleet it happens to: the first ones.
    pub(crate) fn affected(self, fleet: usize) -> usize {
        match self {
            Scenario::HalfVanish => fleet / 2,
            Scenario::AllVanish => fleet,
            _ => 1,
        }
    }

    pub(crate) fn mode(self, upstream: usize, fleet: usize, now: Nanos) -> Mode {
        if upstream >= self.affected(fleet) || !(FROM..TO).contains(&now) {
            return Mode::Well;
        }
        match self {
            Scenario::Slows => Mode::Slow(10.0),
            Scenario::Flaps if (now - FROM) / FLAP % 2 == 1 => Mode::Well,
            Scenario::Flaps | Scenario::HalfVanish | Scenario::AllVanish => Mode::Dead,
            Scenario::NeverAnswers => Mode::Hangs,
            Scenario::FailsFast => Mode::FailsFast,
            Scenario::BlackHoles => Mode::BlackHole,
            Scenario::Larger => Mode::Well,
        }
    }

    /// When modes change.
    pub(crate) fn changes(self) -> Vec<Nanos> {
        match self {
            Scenario::Flaps => (FROM..=TO).step_by(FLAP as usize).collect(),
            Scenario::Larger => Vec::new(),
            _ => vec![FROM, TO],
        }
    }

    /// Its size relative to the others': workers, and configured weight.
    pub(crate) fn weight(self, upstream: usize) -> u32 {
        if self == Scenario::Larger && upstream == 0 { 3 } else { 1 }
    }

    /// How busy the fleet is while all are well.
    pub(crate) fn utilisation(self) -> f64 {
        if self == Scenario::Larger { 0.65 } else { 0.31 }
    }
}
