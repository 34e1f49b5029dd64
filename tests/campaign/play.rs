//! One run: messages that arrive by chance, a brain that chooses, a farm that serves, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use postlane::balance::{Pick, Tried};

use super::brain::{Brain, Way};
use super::dice::Dice;
use super::farm::{self, CONNECT_TIMEOUT, REPLY_TIMEOUT, ROUND_TRIP, Token, Upstream};
use super::outcome::Outcome;
use super::scenario::{END, FROM, MS, Mode, Nanos, SECOND, Scenario};

const ATTEMPTS: u8 = 3;
/// Waiting messages look again.
const TICK: Nanos = 10 * MS;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Change,
    Arrival,
    Served(Token),
    Refused(Token),
    Probe(usize),
    TimedOut(Token),
    Tick,
}

pub(crate) struct Message {
    pub(crate) arrived: Nanos,
    tried: Tried,
    attempts: u8,
}

/// As configured by default: every five seconds, two good ones in a row bring it up, three bad ones take it down.
const PROBE_EVERY: Nanos = 5 * SECOND;
const RISE: u32 = 2;
const FALL: u32 = 3;

/// What the probes of one upstream have seen.
#[derive(Clone, Copy, Default)]
struct Probes {
    good: u32,
    bad: u32,
    is_down: bool,
    vouched: u8,
}

struct Attempt {
    message: usize,
    upstream: usize,
    since: Nanos,
}

pub(crate) struct Play {
    pub(crate) now: Nanos,
    pub(crate) scenario: Scenario,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) dice: Dice,
    pub(crate) messages: Vec<Message>,
    pub(crate) outcome: Outcome,
    brain: Brain,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    order: u64,
    attempts: HashMap<Token, Attempt>,
    ages: Vec<VecDeque<(Nanos, Token)>>,
    probes: Vec<Probes>,
    waiting: VecDeque<usize>,
    next_token: Token,
    gap: f64,
}

/// Plays one scenario. `rate`: messages a second; `None`: as many as keep the fleet as busy as the scenario says.
pub(crate) fn play(way: Way, scenario: Scenario, fleet: usize, rate: Option<f64>, seed: u64) -> Outcome {
    play_with(way, scenario, fleet, rate, seed, Duration::ZERO)
}

/// The same with so slow a start of those that come back.
pub(crate) fn play_with(
    way: Way,
    scenario: Scenario,
    fleet: usize,
    rate: Option<f64>,
    seed: u64,
    slow_start: Duration,
) -> Outcome {
    let (upstreams, rate) = farm::fleet(scenario, fleet, rate);
    let outcome = Outcome::new(scenario, &upstreams, rate);
    let mut play = Play {
        now: 0,
        scenario,
        brain: Brain::new(way, &upstreams, slow_start),
        ages: vec![VecDeque::new(); fleet],
        probes: vec![Probes::default(); fleet],
        upstreams,
        dice: Dice::new(seed),
        messages: Vec::new(),
        outcome,
        events: BinaryHeap::new(),
        order: 0,
        attempts: HashMap::new(),
        waiting: VecDeque::new(),
        next_token: 0,
        gap: 1e9 / rate,
    };
    play.at(0, Event::Arrival);
    scenario.changes().into_iter().for_each(|time| play.at(time, Event::Change));
    let first = |upstream: usize| PROBE_EVERY * (upstream as u64 + 1) / fleet as u64;
    (0..fleet).for_each(|upstream| play.at(first(upstream), Event::Probe(upstream)));
    play.run();
    play.outcome
}

impl Play {
    fn at(&mut self, time: Nanos, event: Event) {
        self.order += 1;
        self.events.push(Reverse((time, self.order, event)));
    }

    fn run(&mut self) {
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            // What is under way at the end may still end.
            if time > END + 2 * REPLY_TIMEOUT {
                break;
            }
            self.now = time;
            match event {
                Event::Arrival => self.arrive(),
                Event::Change => self.change(),
                Event::Served(token) => self.served(token),
                Event::Refused(token) | Event::TimedOut(token) => self.failed(token),
                Event::Probe(upstream) => self.probe(upstream),
                Event::Tick => {}
            }
            self.place_waiting();
        }
        let unanswered = self.attempts.len() + self.waiting.len();
        (0..unanswered).for_each(|_| self.outcome.failed(END));
    }

    fn arrive(&mut self) {
        if self.now < END {
            let next = self.now + self.dice.exponential(self.gap) as Nanos + 1;
            self.at(next, Event::Arrival);
        }
        self.messages.push(Message { arrived: self.now, tried: Tried::default(), attempts: 0 });
        self.waiting.push_back(self.messages.len() - 1);
    }

    fn place_waiting(&mut self) {
        while let Some(&message) = self.waiting.front() {
            let random = self.dice.next();
            let tried = self.messages[message].tried;
            match self.brain.pick(&tried, &self.upstreams, self.now, random) {
                Pick::Now(upstream) => self.offer(message, upstream),
                Pick::Nobody => self.outcome.failed(self.messages[message].arrived),
                Pick::Wait => {
                    self.at(self.now + TICK, Event::Tick);
                    return;
                }
            }
            self.waiting.pop_front();
        }
    }

    fn offer(&mut self, message: usize, upstream: usize) {
        let token = self.next_token;
        self.next_token += 1;
        self.attempts.insert(token, Attempt { message, upstream, since: self.now });
        self.ages[upstream].push_back((self.now, token));
        self.outcome.given(upstream, self.now);
        self.brain.began(upstream);
        match self.upstreams[upstream].mode {
            Mode::Dead => self.at(self.now + ROUND_TRIP, Event::Refused(token)),
            Mode::FailsFast => self.at(self.now + MS, Event::Refused(token)),
            Mode::BlackHole => self.at(self.now + CONNECT_TIMEOUT, Event::TimedOut(token)),
            _ => {
                self.upstreams[upstream].arrive(token);
                self.at(self.now + REPLY_TIMEOUT, Event::TimedOut(token));
                self.serve(upstream);
            }
        }
        self.tell_links(upstream);
    }

    fn serve(&mut self, upstream: usize) {
        for (token, takes) in self.upstreams[upstream].begin(&mut self.dice) {
            self.at(self.now + ROUND_TRIP + takes, Event::Served(token));
        }
    }

    fn served(&mut self, token: Token) {
        let Some(attempt) = self.attempts.get(&token) else { return };
        let upstream = attempt.upstream;
        if self.upstreams[upstream].finish(token) {
            self.answered(token);
        }
        self.serve(upstream);
    }

    fn answered(&mut self, token: Token) {
        let Some(attempt) = self.attempts.remove(&token) else { return };
        self.brain.ended(attempt.upstream);
        self.brain.answered(attempt.upstream, self.now - attempt.since, self.now);
        self.tell_links(attempt.upstream);
        self.outcome.delivered(self.messages[attempt.message].arrived, self.now);
    }

    fn failed(&mut self, token: Token) {
        let Some(attempt) = self.attempts.remove(&token) else { return };
        self.upstreams[attempt.upstream].forget(token);
        self.brain.ended(attempt.upstream);
        let reached = matches!(self.upstreams[attempt.upstream].mode, Mode::FailsFast | Mode::Hangs);
        self.brain.failed(attempt.upstream, reached, self.now);
        self.tell_links(attempt.upstream);
        self.serve(attempt.upstream);
        let message = &mut self.messages[attempt.message];
        message.tried.push(attempt.upstream);
        message.attempts += 1;
        if message.attempts < ATTEMPTS {
            self.waiting.push_back(attempt.message);
        } else {
            self.outcome.failed(message.arrived);
        }
    }

    fn change(&mut self) {
        for upstream in 0..self.upstreams.len() {
            let mode = self.scenario.mode(upstream, self.upstreams.len(), self.now);
            if mode == self.upstreams[upstream].mode {
                continue;
            }
            let (answered, lost) = self.upstreams[upstream].change(mode);
            answered.into_iter().for_each(|token| self.answered(token));
            lost.into_iter().for_each(|token| self.failed(token));
            self.serve(upstream);
        }
    }

    /// Connect, greeting, EHLO: whoever refuses mail or is slow with it passes.
    fn probe(&mut self, upstream: usize) {
        if self.now < END {
            self.at(self.now + PROBE_EVERY, Event::Probe(upstream));
        }
        let is_well = matches!(self.upstreams[upstream].mode, Mode::Well | Mode::Slow(_) | Mode::FailsFast);
        let probes = &mut self.probes[upstream];
        (probes.good, probes.bad) = if is_well { (probes.good + 1, 0) } else { (0, probes.bad + 1) };
        let changes = if probes.is_down { probes.good >= RISE } else { probes.bad >= FALL };
        probes.is_down ^= changes;
        if probes.good >= RISE && self.brain.is_ejected(upstream, self.now) {
            probes.vouched = probes.vouched.wrapping_add(1);
        }
        self.brain.mark(upstream, probes.is_down, probes.vouched, self.now);
    }

    fn tell_links(&mut self, upstream: usize) {
        let ages = &mut self.ages[upstream];
        while ages.front().is_some_and(|(_, token)| !self.attempts.contains_key(token)) {
            ages.pop_front();
        }
        let oldest = ages.front().map(|(since, _)| *since);
        let in_flight = ages.iter().filter(|(_, token)| self.attempts.contains_key(token)).count();
        self.brain.links(upstream, in_flight, oldest);
    }
}

/// Is the fault on at this moment?
pub(crate) fn is_during(now: Nanos) -> bool {
    (FROM..super::scenario::TO).contains(&now)
}
