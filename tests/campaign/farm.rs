//! Upstreams: some workers, a queue before them, and what the scenario does to them.

use std::collections::VecDeque;

use super::dice::Dice;
use super::scenario::{MS, Mode, Nanos, SECOND, Scenario};

/// Workers of an ordinary upstream, and its mean time of service.
const WORKERS: usize = 4;
pub(crate) const MEAN: f64 = 5e6;
/// As configured; the reply's is shorter than the default of five minutes, to see what follows it.
pub(crate) const REPLY_TIMEOUT: Nanos = 5 * SECOND;
pub(crate) const CONNECT_TIMEOUT: Nanos = SECOND;
/// There and back.
pub(crate) const ROUND_TRIP: Nanos = MS / 5;

/// One attempt to deliver a message; unique.
pub(crate) type Token = u64;

pub(crate) struct Upstream {
    pub(crate) weight: u32,
    pub(crate) workers: usize,
    /// Mean time of service, nanoseconds.
    pub(crate) mean: f64,
    pub(crate) mode: Mode,
    working: Vec<Token>,
    queue: VecDeque<Token>,
    /// Ended while it hung: answered when it goes on.
    withheld: Vec<Token>,
}

/// So many upstreams as the scenario has them, and messages a second: those asked for, or as many as keep them as busy as
/// it says.
pub(crate) fn fleet(scenario: Scenario, size: usize, rate: Option<f64>) -> (Vec<Upstream>, f64) {
    let of_weight = |weight: u32| Upstream::new(weight, WORKERS * weight as usize, MEAN);
    let upstreams: Vec<Upstream> = (0..size).map(|upstream| of_weight(scenario.weight(upstream))).collect();
    let workers: usize = upstreams.iter().map(|upstream| upstream.workers).sum();
    let rate = rate.unwrap_or(scenario.utilisation() * workers as f64 / (MEAN / 1e9));
    (upstreams, rate)
}

impl Upstream {
    fn new(weight: u32, workers: usize, mean: f64) -> Upstream {
        let (working, queue, withheld) = (Vec::new(), VecDeque::new(), Vec::new());
        Upstream { weight, workers, mean, mode: Mode::Well, working, queue, withheld }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.working.len() + self.queue.len() + self.withheld.len()
    }

    pub(crate) fn arrive(&mut self, token: Token) {
        self.queue.push_back(token);
    }

    /// Those whose service begins now, and how long it takes.
    pub(crate) fn begin(&mut self, dice: &mut Dice) -> Vec<(Token, Nanos)> {
        let mut begun = Vec::new();
        let slower = match self.mode {
            Mode::Well => 1.0,
            Mode::Slow(times) => times,
            _ => return begun,
        };
        while self.working.len() < self.workers
            && let Some(token) = self.queue.pop_front()
        {
            self.working.push(token);
            begun.push((token, dice.service(self.mean * slower) as Nanos));
        }
        begun
    }

    /// Its service is over. True if it is answered now.
    pub(crate) fn finish(&mut self, token: Token) -> bool {
        let Some(place) = self.working.iter().position(|t| *t == token) else { return false };
        self.working.swap_remove(place);
        if self.mode == Mode::Hangs {
            self.withheld.push(token);
        }
        self.mode != Mode::Hangs && self.mode != Mode::BlackHole
    }

    /// The other side has given up on it.
    pub(crate) fn forget(&mut self, token: Token) {
        self.working.retain(|t| *t != token);
        self.queue.retain(|t| *t != token);
        self.withheld.retain(|t| *t != token);
    }

    /// What was withheld, to be answered; or, if it died, all that was there, lost.
    pub(crate) fn change(&mut self, mode: Mode) -> (Vec<Token>, Vec<Token>) {
        self.mode = mode;
        match mode {
            Mode::Well | Mode::Slow(_) => (std::mem::take(&mut self.withheld), Vec::new()),
            Mode::Dead => {
                let mut lost = std::mem::take(&mut self.working);
                lost.extend(self.queue.drain(..));
                lost.append(&mut self.withheld);
                (Vec::new(), lost)
            }
            _ => (Vec::new(), Vec::new()),
        }
    }
}
