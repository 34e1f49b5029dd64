//! A world: shards on one disk, a model of what they were told, and chance.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use postlane::disk::sim::{Faults, Platter};
use postlane::handle::{Buffers, FileId, ShardId};
use postlane::protocol::wire::data::Shape;
use postlane::protocol::{Enhanced, Envelope, Reply};
use postlane::spool::{EntryId, Event, Kept, Options, Refusal, Report};
use postlane::sys::arena::Arenas;
use postlane::time::Instant;

use crate::dice::Dice;
use crate::letter::{self, State};
use crate::shard::{BUFFERS, Shard};

const SHARDS_MAX: usize = 3;
pub(crate) const SEGMENT: u64 = 128 << 10;
/// A no that is put off with.
const LATER: Reply<'static> = Reply::new(451, Enhanced(4, 4, 1), "later");

/// What a message was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Nothing,
    Durable,
    NotKept,
}

/// What the model knows of a message.
#[derive(Debug)]
struct Known {
    shard: usize,
    entry: EntryId,
    told: Told,
    active: bool,
    loading: bool,
    /// What may be found after a crash: how it stood when all was last on disk, and since. None: it is not there.
    history: Vec<Option<State>>,
}

impl Known {
    fn state(&self) -> Option<State> {
        *self.history.last().unwrap()
    }

    fn push(&mut self, state: Option<State>) {
        if self.state() != state {
            self.history.push(state);
        }
    }
}

/// How a world is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Character {
    pub(crate) steps: usize,
    /// Disks that fail.
    pub(crate) errors: bool,
    /// Disks that fill.
    pub(crate) small: bool,
    /// Bits flip between runs.
    pub(crate) flips: bool,
    /// Crashes per so many steps; 0: never.
    pub(crate) crash_every: usize,
    /// Power is cut when that many requests have been made: with the last one under way, or done.
    pub(crate) cut: Option<(u64, bool)>,
}

/// What was seen.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) durable: u64,
    pub(crate) not_kept: u64,
    pub(crate) full: u64,
    pub(crate) failing: u64,
    pub(crate) done: u64,
    pub(crate) loads: u64,
    pub(crate) crashes: u64,
    pub(crate) replayed: u64,
    pub(crate) torn: u64,
    pub(crate) damages: u64,
    pub(crate) lost: u64,
    pub(crate) unreadable: u64,
    pub(crate) damaged: u64,
    pub(crate) requests: u64,
    pub(crate) writes: u64,
    pub(crate) write_errors: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: &Count) {
        let Count {
            messages,
            durable,
            not_kept,
            full,
            failing,
            done,
            loads,
            crashes,
            replayed,
            torn,
            damages,
            lost,
            unreadable,
            damaged,
            requests,
            writes,
            write_errors,
        } = *other;
        self.messages += messages;
        self.durable += durable;
        self.not_kept += not_kept;
        self.full += full;
        self.failing += failing;
        self.done += done;
        self.loads += loads;
        self.crashes += crashes;
        self.replayed += replayed;
        self.torn += torn;
        self.damages += damages;
        self.lost += lost;
        self.unreadable += unreadable;
        self.damaged += damaged;
        self.requests += requests;
        self.writes += writes;
        self.write_errors += write_errors;
    }
}

pub(crate) struct World {
    dice: Dice,
    character: Character,
    platter: Platter,
    arenas: Arc<Arenas>,
    shards: Vec<Shard>,
    now: Instant,
    unix_at_zero: u64,
    known: BTreeMap<u64, Known>,
    by_entry: HashMap<(usize, EntryId), u64>,
    /// Numbers of `known`, to choose from; some may be gone.
    list: Vec<u64>,
    number: u64,
    faults: Faults,
    bytes_max: u64,
    /// Bits flipped so far, and where.
    flips: u64,
    flipped: Vec<(FileId, u64)>,
    /// Bits flipped since the last start.
    excuses: u64,
    scratch: Vec<u8>,
    envelope: Envelope,
    pub(crate) count: Count,
}

impl World {
    pub(crate) fn new(seed: u64, character: Character) -> World {
        let mut dice = Dice::new(seed);
        let faults =
            Faults { delay_max: Duration::from_micros(dice.pick(&[100, 2_000])), ..Faults::default() };
        let arenas = Arenas::new(SHARDS_MAX, BUFFERS).unwrap();
        let platter = Platter::new(dice.next(), faults.clone());
        let bytes_max = SEGMENT * if character.small { 6 + dice.below(4) as u64 } else { 200 };
        let mut world = World {
            dice,
            character,
            platter,
            arenas,
            shards: Vec::new(),
            now: Instant::from_nanos(1_000_000_000),
            unix_at_zero: 1_700_000_000_000,
            known: BTreeMap::new(),
            by_entry: HashMap::new(),
            list: Vec::new(),
            number: 0,
            faults,
            bytes_max,
            flips: 0,
            flipped: Vec::new(),
            excuses: 0,
            scratch: Vec::new(),
            envelope: Envelope::default(),
            count: Count::default(),
        };
        world.start(0);
        world
    }

    /// Plays it to the end.
    pub(crate) fn play(mut self) -> Count {
        for _ in 0..self.character.steps {
            self.step();
        }
        self.finish();
        self.count
    }

    fn start(&mut self, flips: u64) {
        // Some worlds are always one shard, so that logs get long.
        let count =
            if self.dice.once_in(3) { 1 + self.dice.below(SHARDS_MAX) } else { self.shards.len().max(1) };
        self.shards.clear();
        self.platter.settle();
        let mut reports: Vec<Report> = Vec::new();
        for shard in 0..count {
            let options = Options {
                shard: ShardId(shard as u16),
                shards: count as u16,
                segment_bytes: SEGMENT,
                bytes_max: self.bytes_max,
                retry: [1, 3, 9].map(Duration::from_secs).to_vec(),
                salt: self.dice.next(),
                ..Options::default()
            };
            let (shard, report) =
                Shard::start(options, &self.platter, &self.arenas, self.now, self.unix_at_zero);
            self.shards.push(shard);
            reports.push(report);
        }
        self.compare(&reports, flips);
    }

    /// The oracle: what was found is what had to be, or could be.
    fn compare(&mut self, reports: &[Report], flips: u64) {
        let (torn, damages): (u64, u64) = reports
            .iter()
            .fold((0, 0), |sum, report| (sum.0 + report.torn, sum.1 + report.damages.len() as u64));
        (self.count.torn, self.count.damages) = (self.count.torn + torn, self.count.damages + damages);
        self.flips += flips;
        if self.flips == 0 {
            let all: Vec<String> =
                reports.iter().flat_map(|report| &report.damages).map(ToString::to_string).collect();
            assert!(all.is_empty(), "nothing was damaged: {all:#?}");
        }
        let mut before = std::mem::take(&mut self.known);
        self.by_entry.clear();
        self.list.clear();
        // What a flipped bit may excuse.
        let mut strange = 0;
        for (at, shard) in self.shards.iter().enumerate() {
            let spool = &shard.spool;
            let end = spool.scan(0, usize::MAX, |facts| {
                let number = facts.message.id.number;
                assert_eq!(facts.message.id, letter::id(number));
                let state = State {
                    remaining: facts.remaining().fold(0, |bits, one| bits | 1 << one),
                    attempts: facts.attempts,
                    suspended: facts.suspended,
                };
                let known = before.remove(&number);
                let possible = known.as_ref().is_some_and(|known| known.history.contains(&Some(state)));
                if !possible {
                    assert!(flips > 0, "message {number} cannot stand like this: {state:?}");
                    strange += 1;
                }
                assert!(!facts.active && facts.suspended == facts.due.is_none());
                let known = Known {
                    shard: at,
                    entry: facts.entry,
                    told: Told::Durable,
                    active: false,
                    loading: false,
                    history: vec![Some(state)],
                };
                let twice = self.known.insert(number, known);
                assert!(twice.is_none(), "message {number} is there twice");
                self.by_entry.insert((at, facts.entry), number);
                self.list.push(number);
            });
            assert_eq!(end, None);
        }
        self.count.replayed += self.known.len() as u64;
        for (number, known) in before {
            if !known.history.contains(&None) {
                assert!(flips > 0, "message {number} is lost: {known:?}, {reports:#?}");
                assert!(
                    torn + damages > 0,
                    "message {number} is lost and nobody says so: {known:?} {reports:#?} {:?}",
                    self.flipped
                );
                strange += 1;
                self.count.lost += 1;
            }
        }
        assert!(
            strange <= flips,
            "{flips} flipped bits, {strange} messages: {reports:#?}, {:?}",
            self.flipped
        );
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..7 => (0..1 + self.dice.below(12)).for_each(|_| self.append()),
            7..11 => (0..1 + self.dice.below(8)).for_each(|_| self.touch()),
            11..14 => self.due(),
            _ => {}
        }
        if self.character.errors && self.dice.once_in(60) {
            self.change_faults();
        }
        if self.character.flips && self.dice.once_in(200) {
            let flipped = self.platter.flip_any();
            self.flips += u64::from(flipped.is_some());
            self.excuses += u64::from(flipped.is_some());
            self.flipped.extend(flipped);
        }
        self.turn();
        if self.character.crash_every > 0 && self.dice.once_in(self.character.crash_every) {
            self.crash();
        }
        if let Some((at, done)) = self.character.cut
            && self.count.requests >= at
        {
            self.character.cut = None;
            if done {
                self.now = self.now + Duration::from_secs(1);
                self.complete();
            }
            self.crash();
        }
    }

    fn change_faults(&mut self) {
        let some = |dice: &mut Dice| dice.pick(&[0.0, 0.0, 0.02, 0.3]);
        let dice = &mut self.dice;
        let healthy = dice.once_in(2);
        self.faults = Faults {
            write_error: if healthy { 0.0 } else { some(dice) },
            sync_error: if healthy { 0.0 } else { some(dice) },
            file_error: if healthy { 0.0 } else { some(dice) },
            read_error: if healthy { 0.0 } else { dice.pick(&[0.0, 0.001]) },
            capacity: if dice.once_in(4) { SEGMENT * (2 + dice.below(12) as u64) } else { u64::MAX },
            broken: (!healthy && dice.once_in(4)).then(|| dice.pick(&[5, 13, 28, 30])),
            ..self.faults.clone()
        };
        self.platter.set_faults(self.faults.clone());
    }

    fn append(&mut self) {
        let shard = self.dice.below(self.shards.len());
        let number = self.number;
        self.number += 1;
        let head_len = letter::octets(number, &mut self.scratch);
        letter::envelope(number, &mut self.envelope);
        let hands = &mut self.shards[shard];
        let Some(body) = letter::place(&self.scratch[head_len..], hands.disk.pool()) else { return };
        let remaining: Vec<u16> = (0..letter::recipients(number)).collect();
        let kept = Kept {
            id: letter::id(number),
            envelope: &self.envelope,
            remaining: &remaining,
            head: &self.scratch[..head_len],
            body: &body,
            shape: Shape::default(),
            internal: false,
            listener: "apps",
            source: None,
            source_key: 5,
            size: (self.scratch.len() - head_len) as u64,
            created_unix_ms: self.unix_at_zero + self.now.as_nanos() / 1_000_000,
            pool: (number % 3) as u16,
            attempts: 0,
        };
        self.count.messages += 1;
        // A seed that draws no more dice keeps what it has found.
        hands.spool.set_sources([0, 300, 3000][number as usize / 512 % 3]);
        match hands.spool.append(&kept, number, self.now, &hands.disk) {
            Ok(entry) => {
                hands.bodies.insert(number, body);
                let state = State {
                    remaining: remaining.iter().fold(0, |bits, one| bits | 1 << one),
                    attempts: 0,
                    suspended: false,
                };
                let history = vec![None, Some(state)];
                let known =
                    Known { shard, entry, told: Told::Nothing, active: true, loading: false, history };
                self.known.insert(number, known);
                self.by_entry.insert((shard, entry), number);
                self.list.push(number);
            }
            Err(refusal) => {
                letter::release(&body, hands.disk.pool());
                let excuse = self.character.errors || self.character.small;
                assert!(excuse, "a healthy disk with room refuses: {refusal:?}");
                match refusal {
                    Refusal::Full => self.count.full += 1,
                    Refusal::Failing => self.count.failing += 1,
                }
            }
        }
    }

    /// Something happens to a message.
    fn touch(&mut self) {
        // What the spool has to say of the last one is heard first.
        self.hear();
        let Some(number) = self.any() else { return };
        let now = self.now;
        let known = self.known.get_mut(&number).unwrap();
        let Some(mut state) = known.state() else { return };
        let spool = &mut self.shards[known.shard].spool;
        let entry = known.entry;
        if !known.active {
            match self.dice.below(6) {
                0 => {
                    spool.suspend(entry, now);
                    state.suspended = true;
                }
                1 => {
                    spool.resume(entry, now);
                    state.suspended = false;
                }
                2 => spool.flush(entry, now),
                3 => {
                    assert!(spool.seize(entry));
                    known.active = true;
                }
                _ => {}
            }
            return known.push(Some(state));
        }
        match self.dice.below(8) {
            0 => {
                spool.release(entry, now + Duration::from_secs(1));
                known.active = false;
            }
            1 | 2 => {
                let due = spool.defer(entry, (number % 4) as u16, &LATER.to_buf(), now);
                assert!(due > now + Duration::from_millis(899) && due < now + Duration::from_secs(10));
                known.active = false;
                state.attempts = state.attempts.saturating_add(1);
                known.push(Some(state));
            }
            3 if !known.loading && known.told == Told::Durable => self.load(number),
            4 | 5 => {
                let some: Vec<u16> = (0..128).filter(|n| state.remaining & 1 << n != 0).collect();
                let some: Vec<u16> = some.into_iter().filter(|_| self.dice.once_in(2)).collect();
                some.iter().for_each(|one| state.remaining &= !(1 << one));
                spool.done(entry, &some, now);
                self.now_stands(number, state);
            }
            _ => {
                spool.done_all(entry, now);
                state.remaining = 0;
                self.now_stands(number, state);
            }
        }
    }

    fn now_stands(&mut self, number: u64, state: State) {
        let known = self.known.get_mut(&number).unwrap();
        if state.remaining != 0 {
            return known.push(Some(state));
        }
        known.push(None);
        known.active = false;
        self.count.done += 1;
        assert!(self.shards[known.shard].spool.entry(known.entry).is_none());
    }

    fn load(&mut self, number: u64) {
        let known = self.known.get_mut(&number).unwrap();
        let hands = &mut self.shards[known.shard];
        let facts = hands.spool.entry(known.entry).unwrap();
        let mut left = facts.head_len as usize + facts.body_len as usize;
        let mut extents = Vec::new();
        while left > 0 {
            let Some(extent) = hands.disk.take() else {
                return letter::release(&extents, hands.disk.pool());
            };
            let len = left.min(extent.len as usize);
            extents.push(extent.slice(0..len));
            left -= len;
        }
        assert!(hands.spool.load(known.entry, number, &extents));
        known.loading = true;
        hands.loads.insert(number, extents);
    }

    fn any(&mut self) -> Option<u64> {
        while !self.list.is_empty() {
            let at = self.dice.below(self.list.len());
            let number = self.list[at];
            if self.known.get(&number).is_some_and(|known| known.state().is_some()) {
                return Some(number);
            }
            self.list.swap_remove(at);
        }
        None
    }

    /// What is due becomes active.
    fn due(&mut self) {
        for shard in 0..self.shards.len() {
            let spool = &mut self.shards[shard].spool;
            while let Some(entry) =
                spool.next_due(self.now, |pool| pool != 1 || self.number.is_multiple_of(2))
            {
                let number = self.by_entry[&(shard, entry)];
                let known = self.known.get_mut(&number).unwrap();
                assert!(!known.active && known.state().is_some_and(|state| !state.suspended));
                known.active = true;
            }
        }
    }

    /// Requests go out, time passes, completions come.
    fn turn(&mut self) {
        for shard in &mut self.shards {
            let most = self.character.cut.map_or(u64::MAX, |(at, _)| at.saturating_sub(self.count.requests));
            self.count.requests += shard.ask(self.now, most);
        }
        let pause = self.dice.pick(&[20, 100, 500, 5_000, 50_000, 400_000]);
        self.now = self.now + Duration::from_micros(pause);
        if !self.dice.once_in(4) {
            self.complete();
        }
        for shard in &self.shards {
            let usage = shard.spool.usage();
            // Files that failed, and those of logs that were other shards', are more; so are those behind a damaged
            // message that somebody is at.
            let bounded = usage.bytes <= self.bytes_max + 2 * SEGMENT;
            let excused = self.count.crashes > 0 || self.character.errors || self.flips > 0;
            assert!(bounded || excused, "{} octets on disk", usage.bytes);
        }
        self.hear();
        if self.shards.iter().all(|shard| shard.spool.is_settled()) {
            self.settled();
        }
    }

    fn complete(&mut self) {
        self.each(|shard, now, event| shard.complete(now, event));
    }

    fn hear(&mut self) {
        self.each(|shard, _, event| shard.events(event));
    }

    fn each(&mut self, act: impl Fn(&mut Shard, Instant, &mut dyn FnMut(&mut Shard, Event))) {
        let (mut shards, now) = (std::mem::take(&mut self.shards), self.now);
        for (at, shard) in shards.iter_mut().enumerate() {
            act(shard, now, &mut |shard, event| self.event(at, shard, event));
        }
        self.shards = shards;
    }

    fn event(&mut self, at: usize, shard: &mut Shard, event: Event) {
        match event {
            Event::Durable { token, .. } => {
                self.count.durable += 1;
                let body = shard.bodies.remove(&token).unwrap();
                letter::release(&body, shard.disk.pool());
                let known = self.known.get_mut(&token).unwrap();
                assert_eq!(known.told, Told::Nothing);
                known.told = Told::Durable;
                // How it stood before it was there at all is over.
                if known.history[0].is_none() && known.history.len() > 1 {
                    known.history.remove(0);
                }
            }
            Event::NotKept { token, entry, .. } => {
                self.count.not_kept += 1;
                let body = shard.bodies.remove(&token).unwrap();
                letter::release(&body, shard.disk.pool());
                assert!(shard.spool.entry(entry).is_none());
                let known = self.known.get_mut(&token).unwrap();
                assert_eq!(known.told, Told::Nothing);
                known.told = Told::NotKept;
                known.push(None);
            }
            Event::Loaded { token, .. } => {
                self.count.loads += 1;
                let extents = shard.loads.remove(&token).unwrap();
                let got: Vec<u8> =
                    extents.iter().flat_map(|&extent| shard.disk.bytes(extent).to_vec()).collect();
                letter::release(&extents, shard.disk.pool());
                letter::octets(token, &mut self.scratch);
                assert!(got == self.scratch, "message {token} is not what it was");
                if let Some(known) = self.known.get_mut(&token) {
                    known.loading = false;
                }
            }
            Event::PartLoaded { .. } => unreachable!("nobody asks for parts here"),
            Event::Unreadable { token, .. } => {
                assert!(self.character.errors, "a healthy disk reads");
                self.count.unreadable += 1;
                let extents = shard.loads.remove(&token).unwrap();
                letter::release(&extents, shard.disk.pool());
                if let Some(known) = self.known.get_mut(&token) {
                    known.loading = false;
                }
            }
            Event::Damaged { token, entry } => self.damaged(at, shard, entry, token),
        }
    }

    /// A message that cannot be read: it is given up.
    fn damaged(&mut self, at: usize, shard: &mut Shard, entry: EntryId, token: Option<u64>) {
        if let Some(extents) = token.and_then(|token| shard.loads.remove(&token)) {
            letter::release(&extents, shard.disk.pool());
        }
        let Some(&number) = self.by_entry.get(&(at, entry)) else { return };
        let Some(known) = self.known.get_mut(&number) else { return };
        known.loading = false;
        assert!(token.is_some() || !known.active, "somebody is at message {number}");
        if known.state().is_some() {
            assert!(self.flips > 0, "message {number} is not what it was: {known:?}");
            self.count.damaged += 1;
            known.active = false;
            known.push(None);
            shard.spool.done_all(entry, self.now);
        }
    }

    /// All that was told is on disk: no going back.
    fn settled(&mut self) {
        let by_entry = &mut self.by_entry;
        self.known.retain(|_, known| {
            let stays = known.state().is_some() || known.loading;
            if stays {
                known.history.drain(..known.history.len() - 1);
            } else {
                by_entry.remove(&(known.shard, known.entry));
            }
            stays
        });
    }

    /// The process dies, perhaps with the power; then it starts again.
    fn crash(&mut self) {
        self.count.crashes += 1;
        for shard in &self.shards {
            let usage = shard.spool.usage();
            self.count.writes += usage.groups;
            self.count.write_errors += usage.failures;
        }
        self.shards.clear();
        if !self.dice.once_in(4) {
            self.platter.cut_power();
        }
        let mut flips = std::mem::take(&mut self.excuses);
        if self.character.flips && self.dice.once_in(2) {
            self.platter.settle();
            for _ in 0..1 + self.dice.below(2) {
                let flipped = self.platter.flip_any();
                flips += u64::from(flipped.is_some());
                self.flipped.extend(flipped);
            }
        }
        // The disk is well again when somebody looks.
        self.faults = Faults { delay_max: self.faults.delay_max, ..Faults::default() };
        self.platter.set_faults(self.faults.clone());
        self.now = self.now + Duration::from_secs(self.dice.below(5) as u64);
        // A calendar that jumps.
        self.unix_at_zero = match self.dice.below(8) {
            0 => self.unix_at_zero + 400_000_000,
            1 => self.unix_at_zero - 400_000_000,
            _ => self.unix_at_zero,
        };
        self.start(flips);
    }

    /// The disk is well; all mail goes; nothing is left.
    fn finish(&mut self) {
        self.character.cut = None;
        self.faults = Faults::default();
        self.platter.set_faults(self.faults.clone());
        for _ in 0..2_000 {
            let all: Vec<u64> = self.known.keys().copied().collect();
            for number in all {
                let known = self.known.get_mut(&number).unwrap();
                let Some(mut state) = known.state() else { continue };
                if known.told == Told::Durable && !known.loading && self.dice.once_in(3) {
                    self.load(number);
                } else if known.told == Told::Durable && !known.loading {
                    self.shards[known.shard].spool.done_all(known.entry, self.now);
                    state.remaining = 0;
                    self.now_stands(number, state);
                }
            }
            self.turn();
            self.now = self.now + Duration::from_millis(100);
            self.complete();
            let idle = self.shards.iter().all(|shard| shard.spool.is_settled());
            if idle && self.known.is_empty() {
                break;
            }
        }
        for _ in 0..200 {
            self.turn();
            self.now = self.now + Duration::from_secs(1);
            self.complete();
        }
        let (left, some) = (self.known.len(), self.known.first_key_value());
        let spools: Vec<_> = self.shards.iter().map(|shard| shard.spool.usage()).collect();
        assert!(some.is_none(), "{left} messages do not end: {some:?}, {spools:#?}");
        let mut segments = 0;
        for shard in &mut self.shards {
            let usage = shard.spool.usage();
            self.count.writes += usage.groups;
            self.count.write_errors += usage.failures;
            segments += usage.segments;
            assert_eq!((usage.messages, usage.live_bytes), (0, 0));
            assert_eq!(shard.disk.pool().held(), 0, "buffers are held");
            assert!(usage.segments <= 8, "an empty log keeps {} files", usage.segments);
        }
        let files = self.platter.files();
        let foreign = files.iter().filter(|(file, _)| usize::from(file.log) >= self.shards.len());
        if !self.character.flips {
            assert_eq!(foreign.count(), 0, "logs of nobody's: {files:?}");
            assert_eq!(files.len() as u64, segments, "files nobody knows: {files:?}");
        }
    }
}
