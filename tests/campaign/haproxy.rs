//! HAProxy's way with mail: it sees connections, not messages. Clients keep sessions open and send one message after
//! another on them; each session's upstream is the one with the fewest connections when the session begins.
//! `balance leastconn`, `option redispatch`, `retries 3`, `check inter 2s fall 3 rise 2`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::dice::Dice;
use super::farm::{self, CONNECT_TIMEOUT, REPLY_TIMEOUT, ROUND_TRIP, Token, Upstream};
use super::outcome::Outcome;
use super::scenario::{END, MS, Mode, Nanos, SECOND, Scenario};

/// Sessions for each upstream there is, and messages on each before it ends.
const SESSIONS_PER_UPSTREAM: usize = 16;
const MESSAGES_PER_SESSION: u32 = 200;
const CHECK_EVERY: Nanos = 2 * SECOND;
const FALL: u32 = 3;
const RISE: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Change,
    Check,
    Arrival,
    Served(Token),
    Lost(Token),
}

struct Session {
    upstream: Option<usize>,
    sent: u32,
}

struct Check {
    is_up: bool,
    in_a_row: u32,
}

struct Play {
    now: Nanos,
    scenario: Scenario,
    upstreams: Vec<Upstream>,
    checks: Vec<Check>,
    connections: Vec<u32>,
    sessions: Vec<Session>,
    free: VecDeque<usize>,
    /// Arrived and waiting for a session.
    waiting: VecDeque<Nanos>,
    /// Session, upstream, and when the message arrived.
    under_way: HashMap<Token, (usize, usize, Nanos)>,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    order: u64,
    dice: Dice,
    gap: f64,
    outcome: Outcome,
}

pub(crate) fn play(scenario: Scenario, fleet: usize, rate: Option<f64>, seed: u64) -> Outcome {
    let (upstreams, rate) = farm::fleet(scenario, fleet, rate);
    let sessions = fleet * SESSIONS_PER_UPSTREAM;
    let mut play = Play {
        now: 0,
        scenario,
        checks: (0..fleet).map(|_| Check { is_up: true, in_a_row: 0 }).collect(),
        connections: vec![0; fleet],
        // They began at different times: their ends are spread.
        sessions: (0..sessions)
            .map(|i| Session { upstream: None, sent: i as u32 * MESSAGES_PER_SESSION / sessions as u32 })
            .collect(),
        free: (0..sessions).collect(),
        waiting: VecDeque::new(),
        under_way: HashMap::new(),
        events: BinaryHeap::new(),
        order: 0,
        dice: Dice::new(seed),
        gap: 1e9 / rate,
        outcome: Outcome::new(scenario, &upstreams, rate),
        upstreams,
    };
    play.at(0, Event::Arrival);
    play.at(CHECK_EVERY / 2, Event::Check);
    scenario.changes().into_iter().for_each(|time| play.at(time, Event::Change));
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
            if time > END + 2 * REPLY_TIMEOUT {
                break;
            }
            self.now = time;
            match event {
                Event::Arrival => {
                    if self.now < END {
                        let next = self.now + self.dice.exponential(self.gap) as Nanos + 1;
                        self.at(next, Event::Arrival);
                    }
                    self.waiting.push_back(self.now);
                }
                Event::Change => self.change(),
                Event::Check => self.check(),
                Event::Served(token) => self.served(token),
                Event::Lost(token) => self.lost(token),
            }
            while !self.free.is_empty()
                && let Some(arrived) = self.waiting.pop_front()
            {
                self.send(arrived);
            }
        }
        let unanswered = self.under_way.len() + self.waiting.len();
        (0..unanswered).for_each(|_| self.outcome.failed(END));
    }

    /// The fewest connections for its weight, of those that are up (of all if none is).
    fn least_connections(&mut self) -> usize {
        let start = self.dice.below(self.upstreams.len());
        let any_up = self.checks.iter().any(|check| check.is_up);
        let round = (start..self.upstreams.len()).chain(0..start);
        let load = |i: &usize| f64::from(self.connections[*i]) / f64::from(self.upstreams[*i].weight);
        let up = round.filter(|i| self.checks[*i].is_up || !any_up);
        up.min_by(|a, b| load(a).total_cmp(&load(b))).unwrap_or(start)
    }

    fn send(&mut self, arrived: Nanos) {
        let Some(session) = self.free.pop_front() else { return };
        let mut delay = 0;
        for _ in 0..3 {
            if self.sessions[session].upstream.is_some() {
                break;
            }
            let upstream = self.least_connections();
            match self.upstreams[upstream].mode {
                Mode::Dead => delay += ROUND_TRIP,
                Mode::BlackHole => delay += CONNECT_TIMEOUT,
                _ => {
                    self.connections[upstream] += 1;
                    self.sessions[session].upstream = Some(upstream);
                }
            }
        }
        let token = self.order;
        let Some(upstream) = self.sessions[session].upstream else {
            self.under_way.insert(token, (session, usize::MAX, arrived));
            self.at(self.now + delay, Event::Lost(token));
            return;
        };
        self.under_way.insert(token, (session, upstream, arrived));
        self.outcome.given(upstream, self.now);
        match self.upstreams[upstream].mode {
            Mode::FailsFast => self.at(self.now + delay + MS, Event::Lost(token)),
            _ => {
                self.upstreams[upstream].arrive(token);
                self.at(self.now + delay + REPLY_TIMEOUT, Event::Lost(token));
                self.serve(upstream, delay);
            }
        }
    }

    fn serve(&mut self, upstream: usize, delay: Nanos) {
        for (token, takes) in self.upstreams[upstream].begin(&mut self.dice) {
            self.at(self.now + delay + ROUND_TRIP + takes, Event::Served(token));
        }
    }

    fn served(&mut self, token: Token) {
        let Some((_, upstream, _)) = self.under_way.get(&token).copied() else { return };
        if self.upstreams[upstream].finish(token) {
            self.answered(token);
        }
        self.serve(upstream, 0);
    }

    fn answered(&mut self, token: Token) {
        let Some((session, upstream, arrived)) = self.under_way.remove(&token) else { return };
        self.outcome.delivered(arrived, self.now);
        let place = &mut self.sessions[session];
        place.sent += 1;
        if place.sent >= MESSAGES_PER_SESSION {
            *place = Session { upstream: None, sent: 0 };
            self.connections[upstream] -= 1;
        }
        self.free.push_back(session);
    }

    /// The client hears nothing or a refusal, and its session is over.
    fn lost(&mut self, token: Token) {
        let Some((session, upstream, arrived)) = self.under_way.remove(&token) else { return };
        self.outcome.failed(arrived);
        if let Some(there) = self.upstreams.get_mut(upstream) {
            there.forget(token);
            self.connections[upstream] -= 1;
            self.serve(upstream, 0);
        }
        self.sessions[session] = Session { upstream: None, sent: 0 };
        self.free.push_back(session);
    }

    fn change(&mut self) {
        for upstream in 0..self.upstreams.len() {
            let mode = self.scenario.mode(upstream, self.upstreams.len(), self.now);
            if mode == self.upstreams[upstream].mode {
                continue;
            }
            let (answered, lost) = self.upstreams[upstream].change(mode);
            answered.into_iter().for_each(|token| self.answered(token));
            lost.into_iter().for_each(|token| self.lost(token));
            if mode == Mode::Dead {
                // Its idle sessions are cut too.
                for session in self.sessions.iter_mut().filter(|session| session.upstream == Some(upstream)) {
                    *session = Session { upstream: None, sent: 0 };
                }
                self.connections[upstream] = 0;
            }
            self.serve(upstream, 0);
        }
    }

    /// A TCP check finds a closed port and a black hole, and nothing else.
    fn check(&mut self) {
        for (check, upstream) in self.checks.iter_mut().zip(&self.upstreams) {
            let answers = !matches!(upstream.mode, Mode::Dead | Mode::BlackHole);
            check.in_a_row = if answers == check.is_up { 0 } else { check.in_a_row + 1 };
            if check.in_a_row >= if check.is_up { FALL } else { RISE } {
                *check = Check { is_up: answers, in_a_row: 0 };
            }
        }
        if self.now < END {
            self.at(self.now + CHECK_EVERY, Event::Check);
        }
    }
}
