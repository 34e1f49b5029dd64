//! Worlds with a spool, drawn from a seed.

use std::time::Duration;

use postlane::disk::sim::Faults;
use postlane::dispatch::{Action, KeepOptions, Mode, Order, Selection};

use crate::client::Client;
use crate::dice::Dice;
use crate::disk::Keep;
use crate::message::Message;
use crate::play::{Count, Play, Turn};
use crate::random_world::{draw_habits, draw_manner, draw_setup};
use crate::seeds::Seeds;
use crate::stage::{Setup, Stage, upstream_address};
use crate::upstream::Upstream;
use crate::ways::{Ways, colour};
use crate::{decay, timely};

/// Seeds that every run of the tests plays.
const SEEDS: u64 = 60;
/// And those that have found something before.
const KEPT: [u64; 5] = [1540, 5053, 1561, 1594, 72_073];
/// Trouble begins no later than this.
const SPAN_MS: usize = 20_000;

pub(crate) fn build(seed: u64, trace: bool) -> Play {
    let mut dice = Dice::new(seed ^ 0x5b00_1ed0);
    let fleet = dice.between(1, 4);
    let mut setup = draw_setup(seed, fleet, &mut dice);
    draw_keep(&mut setup, &mut dice);
    timely::offer(&mut setup);
    let ways = Ways::draw(&mut setup, &mut dice);
    let stage = Stage::new(&setup);
    let upstreams = (0..fleet).map(|n| {
        let manner = draw_manner(&mut dice);
        Upstream::new(&stage.world, upstream_address(n), manner, dice.fork(), trace)
    });
    let upstreams = upstreams.collect();
    let start = stage.now();
    let mut play = Play::new(stage, ways, upstreams, trace);
    let most = dice.pick(&[600, 3_000, 3_000, usize::MAX]);
    let each = if most == usize::MAX { 8 } else { 30 };
    for name in 0..dice.between(1, 8) {
        let numbers = play.messages.len()..play.messages.len() + dice.between(1, each);
        for number in numbers.clone() {
            let mut message = Message::draw_within(number, most, &mut dice);
            colour(&mut message.data, &mut dice);
            play.messages.push(message);
        }
        let begin = start + Duration::from_millis(dice.below(SPAN_MS / 2) as u64);
        let habits = draw_habits(&mut dice);
        let client = Client::new(name, play.stage.inlet, habits, numbers, begin, dice.fork(), trace);
        play.clients.push(client);
    }
    let mut turns = draw_turns(fleet, &mut dice);
    turns.sort_by_key(|(at, _)| *at);
    play.turns = turns.into_iter().map(|(at, turn)| (start + at, turn)).collect();
    timely::draw(&mut play, seed);
    decay::draw(&mut play, seed);
    play
}

fn draw_keep(setup: &mut Setup, dice: &mut Dice) {
    let millis = |n: usize| Duration::from_millis(n as u64);
    let seconds = |n: u64| Duration::from_secs(n);
    let segment_bytes = dice.pick(&[256 << 10, 1 << 20]);
    setup.keep = Some(Keep {
        options: KeepOptions {
            mode: dice.pick(&[Mode::Spool, Mode::ThroughThenSpool]),
            through_timeout: millis(dice.pick(&[20, 500, 5_000])),
            delay_warning: seconds(dice.pick(&[2, 60])),
            retry: [1, 3, 9].map(seconds)[..dice.between(1, 3)].to_vec(),
            max_age: seconds(dice.pick(&[10, 60, 3_600, 3_600])),
        },
        segment_bytes,
        bytes_max: segment_bytes * dice.between(6, 20) as u64,
        faults: Faults { delay_max: millis(dice.pick(&[0, 1, 20])), ..Faults::default() },
    });
    setup.pool.reply_timeout = seconds(dice.pick(&[2, 5, 20]));
    setup.buffers = dice.pick(&[48, 64, 256]);
}

/// What goes wrong, and when.
fn draw_turns(fleet: usize, dice: &mut Dice) -> Vec<(Duration, Turn)> {
    let mut turns = Vec::new();
    let millis = |n: usize| Duration::from_millis(n as u64);
    let any = |dice: &mut Dice| millis(dice.below(SPAN_MS));
    for _ in 0..dice.below(4) {
        let (at, which, time) = (any(dice), dice.below(fleet), millis(dice.between(1, 8_000)));
        turns.push((at, Turn::Die(which)));
        turns.push((at + time, Turn::Rise(which)));
    }
    for _ in 0..dice.below(3) {
        let (at, which, time) = (any(dice), dice.below(fleet), millis(dice.between(1, 8_000)));
        turns.push((at, Turn::Sleep(which)));
        turns.push((at + time, Turn::Wake(which)));
    }
    for _ in 0..dice.below(5) {
        let at = any(dice);
        turns.push((at, Turn::Crash { power: dice.chance(0.6) }));
        let shards = dice.between(1, 4) as u16;
        turns.push((at + millis(dice.pick(&[0, 0, 20, 300])), Turn::Start { shards }));
    }
    if dice.chance(0.5) {
        for _ in 0..dice.between(1, 4) {
            let at = any(dice);
            turns.push((at, Turn::Disk(draw_faults(dice))));
            let healthy = Faults { delay_max: millis(dice.pick(&[0, 5])), ..Faults::default() };
            turns.push((at + millis(dice.between(1, 6_000)), Turn::Disk(healthy)));
        }
    }
    for _ in 0..dice.below(5) {
        turns.push((any(dice), Turn::Manage(Box::new(draw_order(dice)))));
    }
    if dice.chance(0.2) {
        turns.push((any(dice), Turn::Leap(dice.pick(&[-90_000, -30, 30, 90_000]))));
    }
    if dice.chance(0.3) {
        let at = any(dice);
        turns.push((at, Turn::Drain));
        turns.push((at + millis(dice.below(3_000)), Turn::Stop));
    }
    turns
}

/// (What becomes of reads is drawn in `decay`.)
fn draw_faults(dice: &mut Dice) -> Faults {
    let some = |dice: &mut Dice| dice.pick(&[0.0, 0.02, 0.3, 1.0]);
    Faults {
        delay_max: Duration::from_millis(dice.pick(&[0, 3, 200])),
        write_error: some(dice),
        sync_error: some(dice),
        file_error: some(dice),
        capacity: if dice.chance(0.3) { (dice.between(1, 8) as u64) << 20 } else { u64::MAX },
        broken: dice.chance(0.2).then(|| dice.pick(&[5, 28, 30])),
        ..Faults::default()
    }
}

fn draw_order(dice: &mut Dice) -> Order {
    let actions = [
        Action::List,
        Action::Flush,
        Action::Flush,
        Action::Suspend,
        Action::Suspend,
        Action::Resume,
        Action::Bounce,
        Action::Delete,
    ];
    let selection = Selection {
        domain: dice.chance(0.5).then(|| format!("d{}.example", dice.below(6))),
        sender: dice.chance(0.1).then(|| "<>".to_owned()),
        pool: dice.chance(0.1).then(|| "pool0".to_owned()),
        older_than: dice.chance(0.3).then_some(3.0),
        ..Selection::default()
    };
    Order { action: dice.pick(&actions), selection, limit: usize::MAX }
}

const WORLDS: Seeds<Count> = Seeds {
    variable: "POSTLANE_KEPT_SEED",
    replay: "--test worlds kept_replay",
    play: |seed, trace| build(seed, trace).finish(),
    add: Count::add,
};

#[test]
fn kept_seeds() {
    let total = WORLDS.all((0..SEEDS).chain(KEPT));
    println!("{SEEDS} seeds: {total:?}");
    assert!(total.accepted > total.messages / 3, "hardly any mail was taken: {total:?}");
    let seen = [
        total.crashes,
        total.kept,
        total.found,
        total.put_off,
        total.expired,
        total.disk_refused,
        total.deleted,
        total.sync_failures,
        total.bounces,
        total.in_doubt,
        total.streamed,
        total.held,
        total.timed,
        total.late,
        total.overdue,
        total.flips,
        total.damaged,
        total.in_parts,
    ];
    assert!(seen.iter().all(|count| *count > 0), "something never happens: {total:?}");
}

#[test]
fn kept_replay() {
    WORLDS.replay();
}

#[test]
fn a_kept_seed_is_a_run() {
    WORLDS.is_a_run(42);
}

#[test]
fn kept_explore() {
    WORLDS.explore("POSTLANE_KEPT_SECONDS", SEEDS);
}
