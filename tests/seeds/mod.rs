//! Runs drawn from seeds: how one that fails is played again, and how new ones are looked for.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A kind of run, and what it counts.
pub(crate) struct Seeds<C> {
    /// The environment's name for the seed to play again, and the test that does: arguments of `cargo test`.
    pub(crate) variable: &'static str,
    pub(crate) replay: &'static str,
    /// Plays one seed, with a trace if asked for.
    pub(crate) play: fn(u64, bool) -> C,
    pub(crate) add: fn(&mut C, &C),
}

struct Hint(String);

impl Drop for Hint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl<C: Debug + Default> Seeds<C> {
    fn play(&self, seed: u64, trace: bool) -> C {
        let Seeds { variable, replay, play, .. } = self;
        let again = format!("{variable}={seed} cargo test {replay} -- --nocapture");
        let _hint = Hint(format!("seed {seed} failed; to see it again:\n  {again}"));
        play(seed, trace)
    }

    /// All of them together.
    pub(crate) fn all(&self, seeds: impl IntoIterator<Item = u64>) -> C {
        let mut total = C::default();
        seeds.into_iter().for_each(|seed| (self.add)(&mut total, &self.play(seed, false)));
        total
    }

    /// The one that the environment names, with a trace of everything said.
    pub(crate) fn replay(&self) {
        if let Some(seed) = number(self.variable) {
            println!("{:?}", self.play(seed, true));
        }
    }

    /// The same seed is the same run.
    pub(crate) fn is_a_run(&self, seed: u64) {
        let (first, second) = (self.play(seed, false), self.play(seed, false));
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }

    /// New ones for as long as the environment's `seconds` says, from `POSTLANE_FROM` or `first` on; all that fail are
    /// named. What they came to, and how long it took.
    pub(crate) fn explore(&self, seconds: &str, first: u64) -> Option<(C, Duration)> {
        let time = Duration::from_secs(number(seconds)?);
        let first = number("POSTLANE_FROM").unwrap_or(first);
        let (start, mut total, mut seeds) = (Instant::now(), C::default(), 0);
        let mut failed = Vec::new();
        while start.elapsed() < time {
            let seed = first + seeds;
            match std::panic::catch_unwind(|| self.play(seed, false)) {
                Ok(count) => (self.add)(&mut total, &count),
                Err(_) => failed.push(seed),
            }
            seeds += 1;
        }
        let took = start.elapsed();
        println!("{seeds} seeds from {first} in {took:?}: {total:?}");
        assert!(failed.is_empty(), "failed: {failed:?}");
        Some((total, took))
    }
}
