//! A world drawn from a seed.

use std::time::Duration;

use postlane::balance::Policy;
use postlane::dispatch::owner::ShardBy;
use postlane::net::sim::Faults;

use crate::client::{Client, Habits};
use crate::dice::Dice;
use crate::message::Message;
use crate::play::{Play, Turn};
use crate::stage::{Setup, Stage, upstream_address};
use crate::timely;
use crate::upstream::{Deed, Manner, Moment, Upstream};
use crate::ways::{Ways, colour};

const MOMENTS: [Moment; 7] =
    [Moment::Greeting, Moment::Hello, Moment::Mail, Moment::Rcpt, Moment::Data, Moment::Body, Moment::Dot];
const DEEDS: [Deed; 7] =
    [Deed::Refuse, Deed::Defer, Deed::Babble, Deed::Leave, Deed::Hang, Deed::Drop, Deed::Reset];

pub(crate) fn build(seed: u64, trace: bool) -> Play {
    let mut dice = Dice::new(seed);
    let fleet = dice.between(1, 6);
    let mut setup = draw_setup(seed, fleet, &mut dice);
    timely::offer(&mut setup);
    let ways = Ways::draw(&mut setup, &mut dice);
    let stage = Stage::new(&setup);
    let upstreams = (0..fleet)
        .map(|n| {
            let manner = draw_manner(&mut dice);
            Upstream::new(&stage.world, upstream_address(n), manner, dice.fork(), trace)
        })
        .collect();
    let clients = dice.between(1, 8);
    let mut messages = Vec::new();
    let start = stage.now();
    let clients = (0..clients)
        .map(|name| {
            let count = dice.between(1, 8);
            let numbers = messages.len()..messages.len() + count;
            messages.extend(numbers.clone().map(|n| Message::draw(n, &mut dice)));
            messages[numbers.clone()].iter_mut().for_each(|message| colour(&mut message.data, &mut dice));
            let begin = start + Duration::from_millis(dice.below(2_000) as u64);
            let habits = draw_habits(&mut dice);
            Client::new(name, stage.inlet, habits, numbers, begin, dice.fork(), trace)
        })
        .collect();
    let mut turns = Vec::new();
    if dice.chance(0.3) {
        let which = dice.below(fleet);
        let at = start + Duration::from_millis(dice.below(3_000) as u64);
        turns.push((at, Turn::Die(which)));
        turns.push((at + Duration::from_millis(dice.between(1, 20_000) as u64), Turn::Rise(which)));
    }
    if dice.chance(0.2) {
        let which = dice.below(fleet);
        let at = start + Duration::from_millis(dice.below(3_000) as u64);
        turns.push((at, Turn::Sleep(which)));
        turns.push((at + Duration::from_millis(dice.between(1, 20_000) as u64), Turn::Wake(which)));
    }
    if dice.chance(0.1) {
        let at = start + Duration::from_millis(dice.below(3_000) as u64);
        turns.push((at, Turn::Drain));
        if dice.chance(0.5) {
            turns.push((at + Duration::from_millis(dice.below(1_000) as u64), Turn::Stop));
        }
    }
    turns.sort_by_key(|(at, _)| *at);
    let mut play = Play { clients, messages, turns, ..Play::new(stage, ways, upstreams, trace) };
    timely::draw(&mut play, seed);
    play
}

pub(crate) fn draw_setup(seed: u64, fleet: usize, dice: &mut Dice) -> Setup {
    let mut setup = Setup::new(seed, fleet);
    setup.shards = dice.between(1, 4) as u16;
    setup.buffers = dice.pick(&[24, 48, 64, 256]);
    setup.shard_by = dice.pick(&[ShardBy::Address, ShardBy::Domain, ShardBy::Session]);
    setup.faults = Faults {
        delay_max: Duration::from_micros(dice.pick(&[50, 2_000, 20_000])),
        split: dice.pick(&[0.0, 0.3]),
        merge: dice.pick(&[0.0, 0.3]),
        short_receive: dice.pick(&[0.0, 0.2]),
        reset: dice.pick(&[0.0, 0.0, 0.0, 0.002]),
        refuse: dice.pick(&[0.0, 0.0, 0.05]),
        window_bytes: dice.pick(&[256 * 1024, 256 * 1024, 6_000]),
        ..Faults::default()
    };
    let pool = &mut setup.pool;
    pool.chunking = dice.chance(0.8);
    let any = dice.below(Policy::ALL.len());
    pool.policy = dice.pick(&[Policy::ALL[any], Policy::LeastResponseTime]);
    pool.links_max = dice.between(1, 4);
    pool.idle_links = dice.below(2);
    pool.idle_timeout = Duration::from_millis(dice.between(10, 20_000) as u64);
    pool.transactions_per_link = dice.pick(&[0, 0, 1, 2, 5]);
    pool.reply_timeout = Duration::from_secs(dice.between(2, 60) as u64);
    pool.attempts = dice.between(1, 4) as u8;
    pool.health.eject_after = dice.between(2, 5) as u32;
    pool.health.eject_for = Duration::from_millis(dice.between(100, 10_000) as u64);
    setup
}

pub(crate) fn draw_manner(dice: &mut Dice) -> Manner {
    let mut odds = Vec::new();
    if dice.chance(0.7) {
        for _ in 0..dice.between(1, 4) {
            let chance = dice.pick(&[0.02, 0.1, 0.4]);
            odds.push((dice.pick(&MOMENTS), dice.pick(&DEEDS), chance));
        }
    }
    let millis = |n| Duration::from_millis(n as u64);
    Manner {
        delay_min: Duration::ZERO,
        delay_max: millis(dice.pick(&[0, 1, 10, 300])),
        dot_delay: millis(dice.pick(&[0, 1, 5, 50, 1_000])),
        serial: false,
        pipelining: dice.chance(0.75),
        chunking: dice.chance(0.5),
        binary: false,
        eight_bit: dice.chance(0.9),
        utf8: dice.chance(0.8),
        dsn: dice.chance(0.5),
        size: dice.pick(&[None, None, Some(0), Some(30_000)]),
        deliver_by: None,
        only_helo: dice.chance(0.05),
        data_for_nobody: dice.chance(0.3),
        multi_line: dice.chance(0.2),
        idle_timeout: dice.pick(&[None, Some(20), Some(500)]).map(|ms| (millis(ms), ms == 20)),
        refuses: None,
        puts_off: None,
        ponders: None,
        odds,
        taken_silently: dice.pick(&[0.0, 0.5, 1.0]),
    }
}

pub(crate) fn draw_habits(dice: &mut Dice) -> Habits {
    let pipelining = dice.chance(0.6);
    Habits {
        pipelining,
        chunking: dice.chance(0.3),
        chunk_octets: dice.chance(0.3).then(|| 1 + dice.between(1, 20_000)),
        eager: pipelining && dice.chance(0.4),
        messages_per_session: dice.between(1, 6),
        chunk_max: dice.pick(&[usize::MAX, usize::MAX, 20_000, 3_000, 400]),
        pause: Duration::from_micros(dice.pick(&[0, 100, 3_000])),
        vanish: dice.pick(&[0.0, 0.0, 0.0, 0.2]),
        stall: dice.pick(&[0.0, 0.0, 0.0, 0.0, 0.1]),
        reset: dice.pick(&[0.0, 0.0, 0.3]),
        patience: None,
        says_quit: dice.chance(0.8),
        reads: true,
    }
}
