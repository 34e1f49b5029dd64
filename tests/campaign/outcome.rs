//! What a run came to.

use super::farm::Upstream;
use super::play::is_during;
use super::scenario::{END, FROM, MS, Nanos, SECOND, Scenario, TO};

pub(crate) struct Outcome {
    affected: usize,
    /// What those affected get of all mail when they are well, messages a second.
    fair_rate: f64,
    /// Of messages that came while the fault was on: how long they took, nanoseconds.
    times: Vec<Nanos>,
    failures: u64,
    /// When those affected were given mail.
    given: Vec<Nanos>,
    by_upstream: Vec<u64>,
    /// For the plot: by tenths of a second the longest time of a message that came then.
    pub(crate) worst: Vec<Nanos>,
}

impl Outcome {
    pub(crate) fn new(scenario: Scenario, upstreams: &[Upstream], rate: f64) -> Outcome {
        let affected = scenario.affected(upstreams.len());
        let weight = |upstreams: &[Upstream]| f64::from(upstreams.iter().map(|u| u.weight).sum::<u32>());
        Outcome {
            affected,
            fair_rate: rate * weight(&upstreams[..affected]) / weight(upstreams),
            times: Vec::new(),
            failures: 0,
            given: Vec::new(),
            by_upstream: vec![0; upstreams.len()],
            worst: vec![0; (END / (100 * MS)) as usize],
        }
    }

    pub(crate) fn given(&mut self, upstream: usize, now: Nanos) {
        if upstream < self.affected {
            self.given.push(now);
        }
        self.by_upstream[upstream] += u64::from(is_during(now));
    }

    pub(crate) fn delivered(&mut self, arrived: Nanos, now: Nanos) {
        if is_during(arrived) {
            self.times.push(now - arrived);
        }
        if let Some(worst) = self.worst.get_mut((arrived / (100 * MS)) as usize) {
            *worst = (*worst).max(now - arrived);
        }
    }

    pub(crate) fn failed(&mut self, arrived: Nanos) {
        self.failures += u64::from(is_during(arrived));
    }

    /// Nanoseconds that this share of the messages took at most.
    pub(crate) fn percentile(&mut self, share: f64) -> Nanos {
        self.times.sort_unstable();
        let place = (self.times.len() as f64 * share).ceil() as usize;
        self.times.get(place.saturating_sub(1)).copied().unwrap_or(0)
    }

    pub(crate) fn failure_share(&self) -> f64 {
        self.failures as f64 / (self.failures + self.times.len() as u64).max(1) as f64
    }

    fn given_between(&self, from: Nanos, to: Nanos) -> usize {
        self.given.partition_point(|time| *time < to) - self.given.partition_point(|time| *time < from)
    }

    /// From the fault on until those affected get, for a second, less than a tenth of what is fair.
    pub(crate) fn noticed_after(&self) -> Option<Nanos> {
        let quiet = |from: &Nanos| (self.given_between(*from, from + SECOND) as f64) < self.fair_rate / 10.0;
        let starts = self.given.iter().map(|time| time + 1).filter(|time| (FROM..TO).contains(time));
        std::iter::once(FROM).chain(starts).find(quiet).map(|time| time - FROM)
    }

    /// From the fault's end until they get, for a second, at least four fifths of it.
    pub(crate) fn returned_after(&self) -> Option<Nanos> {
        let full = |from: &Nanos| self.given_between(*from, from + SECOND) as f64 >= self.fair_rate * 0.8;
        (TO..END - SECOND).step_by(10 * MS as usize).find(full).map(|time| time - TO)
    }

    /// Messages given to those affected from so long after the fault on, within so long.
    pub(crate) fn given_after(&self, delay: Nanos, within: Nanos) -> usize {
        self.given_between(FROM + delay, FROM + delay + within)
    }

    /// The fewest that any upstream got while the fault was on.
    pub(crate) fn fewest(&self) -> u64 {
        self.by_upstream.iter().copied().min().unwrap_or(0)
    }

    pub(crate) fn share_of_affected(&self) -> f64 {
        let affected: u64 = self.by_upstream[..self.affected].iter().sum();
        affected as f64 / self.by_upstream.iter().sum::<u64>().max(1) as f64
    }
}
