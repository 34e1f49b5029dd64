//! Shards with real links to upstreams that share what they have among all that is in flight there: what the bound on
//! links in use is worth, and how links are opened. In virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use postlane::balance::health::Rules;
use postlane::balance::{Ask, Care, Fleet, Heard, Pick, Policy, Tried, key};
use postlane::handle::LinkId;
use postlane::pool::{Lease, Links, Was};
use postlane::time::Instant;

use super::brain::instant;
use super::dice::Dice;
use super::farm::{MEAN, ROUND_TRIP};
use super::scenario::{MS, Nanos, SECOND};

/// From the call until a link is ready, and until a refusal.
const OPENING: Nanos = MS;
const LINKS_EVERY: Nanos = 2 * MS;
const ATTEMPTS: usize = 3;

/// The farm, and what is asked of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) shards: usize,
    pub(crate) upstreams: usize,
    pub(crate) links_per_shard: usize,
    /// Served at full speed at once; more share it.
    pub(crate) knee: f64,
    /// So much of it is lost for each one beyond the knee.
    pub(crate) thrash: f64,
    pub(crate) policy: Policy,
    /// Messages a second.
    pub(crate) rate: f64,
    /// Links in use follow what the upstream does best with; or all that there may be are used.
    pub(crate) adaptive: bool,
    /// The first upstream is dead from the first time to the second, and shards hear of both.
    pub(crate) dead: Option<(Nanos, Nanos)>,
    /// Messages that come from here on are looked at.
    pub(crate) from: Nanos,
    pub(crate) end: Nanos,
    pub(crate) seed: u64,
}

impl Setup {
    /// Messages a second that it could serve at the knee.
    pub(crate) fn capacity(upstreams: usize, knee: f64) -> f64 {
        upstreams as f64 * knee / (MEAN / 1e9)
    }
}

#[derive(Default)]
struct Upstream {
    is_dead: bool,
    running: Vec<Running>,
}

struct Running {
    shard: usize,
    link: LinkId,
    message: usize,
    began: Nanos,
    /// Nanoseconds.
    work: f64,
}

struct Link {
    id: LinkId,
    upstream: usize,
    /// What it carries, and what comes next on it.
    current: Option<usize>,
    next: Option<usize>,
    /// Until then it opens.
    ready_at: Option<Nanos>,
}

struct Shard {
    fleet: Fleet,
    links: Vec<Links>,
    open: Vec<Link>,
    waiting: VecDeque<usize>,
}

struct Message {
    arrived: Nanos,
    tried: Tried,
    attempts: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Result {
    pub(crate) times: Vec<Nanos>,
    pub(crate) failed: usize,
    /// Mean of the links in use at once as found, to each upstream, over all shards.
    pub(crate) limit: f64,
    /// After the return: the most links opening at once, and the time until all shards together have this many ready.
    pub(crate) opening_most: usize,
    pub(crate) ready: Vec<(usize, Nanos)>,
}

impl Result {
    pub(crate) fn percentile(&mut self, share: f64) -> Nanos {
        self.times.sort_unstable();
        let place = (self.times.len() as f64 * share).ceil() as usize;
        self.times.get(place.saturating_sub(1)).copied().unwrap_or(0)
    }
}

struct Play {
    setup: Setup,
    now: Nanos,
    dice: Dice,
    upstreams: Vec<Upstream>,
    shards: Vec<Shard>,
    messages: Vec<Message>,
    next_link: u32,
    result: Result,
    limits: (f64, f64),
}

pub(crate) fn play(setup: Setup) -> Result {
    let identity = |i: usize| key(format!("mta{i}").as_bytes());
    let shard = || {
        let mut fleet = Fleet::new(setup.policy, (0..setup.upstreams).map(|i| (1, identity(i))));
        fleet.set_care(Care { slow_start: Duration::ZERO, panic_below_permille: 300 });
        let links = (0..setup.upstreams).map(|i| Links::new(setup.links_per_shard, i)).collect();
        Shard { fleet, links, open: Vec::new(), waiting: VecDeque::new() }
    };
    let mut play = Play {
        setup,
        now: 0,
        dice: Dice::new(setup.seed),
        upstreams: (0..setup.upstreams).map(|_| Upstream::default()).collect(),
        shards: (0..setup.shards).map(|_| shard()).collect(),
        messages: Vec::new(),
        next_link: 0,
        result: Result::default(),
        limits: (0.0, 0.0),
    };
    play.run();
    play.result.limit = play.limits.0 / play.limits.1.max(1.0);
    play.result.failed += play.shards.iter().map(|shard| shard.waiting.len()).sum::<usize>();
    play.result
}

impl Play {
    fn run(&mut self) {
        let gap = 1e9 / self.setup.rate;
        let (mut arrival, mut look, mut is_dead) = (0, 0, false);
        while self.now < self.setup.end {
            let dead = self.setup.dead.is_some_and(|(from, to)| (from..to).contains(&self.now));
            if dead != is_dead {
                is_dead = dead;
                self.change(dead);
            }
            if arrival <= self.now {
                arrival = self.now + self.dice.exponential(gap) as Nanos + 1;
                let shard = self.dice.below(self.shards.len());
                let (arrived, tried) = (self.now, Tried::default());
                self.messages.push(Message { arrived, tried, attempts: 0 });
                self.shards[shard].waiting.push_back(self.messages.len() - 1);
            }
            if look <= self.now {
                look = self.now + LINKS_EVERY;
                (0..self.shards.len()).for_each(|shard| self.look(shard));
            }
            self.open_ready();
            (0..self.shards.len()).for_each(|shard| self.place(shard));
            self.pass(arrival.min(look));
        }
    }

    /// Time goes on to the next thing.
    fn pass(&mut self, latest: Nanos) {
        let opening = self.shards.iter().flat_map(|shard| &shard.open).filter_map(|link| link.ready_at);
        let mut until = opening.min().unwrap_or(latest).min(latest).max(self.now + 1);
        let speeds: Vec<f64> = self.upstreams.iter().map(|upstream| self.speed(upstream)).collect();
        for (upstream, speed) in self.upstreams.iter().zip(&speeds) {
            let least = upstream.running.iter().map(|running| running.work).fold(f64::INFINITY, f64::min);
            if least.is_finite() {
                until = until.min(self.now + (least / speed).ceil() as Nanos);
            }
        }
        let step = (until - self.now) as f64;
        self.now = until;
        for (i, speed) in speeds.iter().enumerate() {
            let running = &mut self.upstreams[i].running;
            running.iter_mut().for_each(|running| running.work -= step * speed);
            let mut done = Vec::new();
            while let Some(place) = running.iter().position(|running| running.work <= 0.5) {
                done.push(running.swap_remove(place));
            }
            done.into_iter().for_each(|done| self.answered(i, &done));
        }
    }

    fn speed(&self, upstream: &Upstream) -> f64 {
        let n = upstream.running.len() as f64;
        let lost = 1.0 + self.setup.thrash * (n - self.setup.knee).max(0.0);
        (self.setup.knee / n).min(1.0) / lost
    }

    /// What time alone changes.
    fn look(&mut self, shard: usize) {
        for upstream in 0..self.upstreams.len() {
            if self.shards[shard].links[upstream].look(instant(self.now)) {
                self.refresh(shard, upstream);
            }
            self.limits.0 += self.shards[shard].links[upstream].limit() as f64;
        }
        self.limits.1 += self.upstreams.len() as f64 / self.shards.len() as f64;
        if self.shards[shard].fleet.wants_news(instant(self.now)) {
            for upstream in 0..self.upstreams.len() {
                let others = self.shards.iter().enumerate().filter(|(other, _)| *other != shard);
                let elsewhere = others.map(|(_, other)| other.fleet.members()[upstream].in_flight()).sum();
                self.shards[shard].fleet.elsewhere(upstream, elsewhere, None, instant(self.now));
            }
        }
    }

    fn place(&mut self, shard: usize) {
        while let Some(&message) = self.shards[shard].waiting.front() {
            let random = self.dice.next();
            let tried = &self.messages[message].tried;
            let waiting = self.shards[shard].waiting.len() as u32 - 1;
            let ask = Ask { tried, recipient: random, source: random, bytes: 10_000, waiting, random };
            match self.shards[shard].fleet.pick(&ask, instant(self.now)) {
                Pick::Now(upstream) => {
                    match self.shards[shard].links[upstream].lease(false, instant(self.now)) {
                        Some(lease) => self.offer(shard, upstream, message, lease),
                        None => return,
                    }
                }
                Pick::Nobody => self.result.failed += 1,
                Pick::Wait => return,
            }
            self.shards[shard].waiting.pop_front();
        }
    }

    fn offer(&mut self, shard: usize, upstream: usize, message: usize, lease: Lease) {
        let at = &mut self.shards[shard];
        at.fleet.began(upstream);
        let find = |id: LinkId| move |link: &&mut Link| link.id == id;
        match lease {
            Lease::Open => {
                self.next_link += 1;
                let (id, ready_at) = (LinkId(self.next_link), Some(self.now + OPENING));
                at.open.push(Link { id, upstream, current: Some(message), next: None, ready_at });
                let opening = self.shards.iter().flat_map(|shard| &shard.open);
                let opening = opening.filter(|link| link.upstream == 0 && link.ready_at.is_some()).count();
                if self.setup.dead.is_some_and(|(_, to)| self.now >= to) {
                    self.result.opening_most = self.result.opening_most.max(opening);
                }
            }
            Lease::Idle(id) => {
                at.open.iter_mut().find(find(id)).unwrap().current = Some(message);
                self.begin(shard, id);
            }
            Lease::Join(id) => at.open.iter_mut().find(find(id)).unwrap().next = Some(message),
        }
        self.refresh(shard, upstream);
    }

    /// What a link carries is under way.
    fn begin(&mut self, shard: usize, id: LinkId) {
        let link = self.shards[shard].open.iter().find(|link| link.id == id).unwrap();
        let (upstream, message) = (link.upstream, link.current.unwrap());
        self.shards[shard].links[upstream].joinable(id);
        let work = self.dice.service(MEAN) + ROUND_TRIP as f64;
        let began = self.now;
        self.upstreams[upstream].running.push(Running { shard, link: id, message, began, work });
    }

    /// Links whose opening has come to its end, this way or that.
    fn open_ready(&mut self) {
        for shard in 0..self.shards.len() {
            let now = self.now;
            let is_due = |link: &Link| link.ready_at.is_some_and(|at| at <= now);
            while let Some(place) = self.shards[shard].open.iter().position(is_due) {
                let (id, upstream) =
                    (self.shards[shard].open[place].id, self.shards[shard].open[place].upstream);
                if self.upstreams[upstream].is_dead {
                    let chance = self.dice.next();
                    self.shards[shard].links[upstream].not_opened(true, chance, instant(self.now));
                    self.lose(shard, place, Was::Opening);
                    continue;
                }
                self.shards[shard].open[place].ready_at = None;
                self.shards[shard].links[upstream].opened(false);
                self.begin(shard, id);
                self.refresh(shard, upstream);
                if let Some((_, to)) = self.setup.dead.filter(|(_, to)| self.now >= *to) {
                    let ready = self.shards.iter().map(|shard| shard.links[0].counts());
                    let ready: usize = ready.map(|(_, opening, total)| total - opening).sum();
                    self.result.ready.push((ready, self.now - to));
                }
            }
        }
    }

    fn answered(&mut self, upstream: usize, done: &Running) {
        let (now, nanos) = (instant(self.now), self.now - done.began);
        let shard = &mut self.shards[done.shard];
        let arrived = self.messages[done.message].arrived;
        if arrived >= self.setup.from {
            self.result.times.push(self.now - arrived);
        }
        shard.fleet.heard(upstream, Heard::Done { bytes: 10_000 }, nanos, now);
        if self.setup.adaptive {
            let load = shard.fleet.members()[upstream].on_machine();
            shard.links[upstream].observe(nanos, 10_000, load, now);
        }
        shard.fleet.ended(upstream);
        shard.links[upstream].not_joinable(done.link);
        let link = shard.open.iter_mut().find(|link| link.id == done.link).unwrap();
        link.current = link.next.take();
        match link.current {
            Some(_) => self.begin(done.shard, done.link),
            None => shard.links[upstream].idle(done.link),
        }
        self.refresh(done.shard, upstream);
    }

    /// The first upstream dies or is back, and shards are told so, as by probes.
    fn change(&mut self, is_dead: bool) {
        self.upstreams[0].is_dead = is_dead;
        self.upstreams[0].running.clear();
        for shard in 0..self.shards.len() {
            let stands = |link: &Link| link.upstream == 0 && link.ready_at.is_none();
            while is_dead && let Some(place) = self.shards[shard].open.iter().position(stands) {
                self.lose(shard, place, Was::Standing);
            }
            let chance = self.dice.next();
            let now = instant(self.now);
            if self.shards[shard].fleet.mark(0, false, is_dead, now) {
                self.shards[shard].links[0].returned(chance, now);
            }
            self.refresh(shard, 0);
        }
    }

    /// A link is gone; what was on it goes elsewhere.
    fn lose(&mut self, shard: usize, place: usize, was: Was) {
        let link = self.shards[shard].open.swap_remove(place);
        let upstream = link.upstream;
        self.shards[shard].links[upstream].gone(link.id, was);
        for message in link.current.into_iter().chain(link.next) {
            self.shards[shard].fleet.ended(upstream);
            self.messages[message].tried.push(upstream);
            self.messages[message].attempts += 1;
            if self.messages[message].attempts < ATTEMPTS {
                self.shards[shard].waiting.push_back(message);
            } else {
                self.result.failed += 1;
            }
        }
        if link.current.is_some() {
            let now = instant(self.now);
            self.shards[shard].fleet.punish(upstream, now);
            self.shards[shard].fleet.unreached(upstream, &Rules::default(), now);
        }
        self.refresh(shard, upstream);
    }

    fn refresh(&mut self, shard: usize, upstream: usize) {
        let Shard { fleet, links, .. } = &mut self.shards[shard];
        let running = self.upstreams[upstream].running.iter().filter(|running| running.shard == shard);
        let oldest = running.map(|running| running.began).min();
        let oldest = oldest.map_or(Instant::NEVER, instant);
        let links = &links[upstream];
        fleet.set_rest(upstream, links.rest());
        fleet.set_links(upstream, links.has_room(), links.must_open(), (oldest, 10_000));
    }
}

/// Ends of runs.
pub(crate) const LONG: Nanos = 60 * SECOND;
