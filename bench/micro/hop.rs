//! What a letter to another shard costs: two threads on two CPUs, each with its mailbox, and a ring to be woken by.
//!
//!     cargo run --release --example hop
//!
//! *Awake*: both look into their boxes all the time, so only cache lines travel. *Asleep*: each waits in its ring, as an
//! idle shard does, and every letter wakes one (`IORING_OP_MSG_RING`). A busy shard lies between the two.
//!
//! Taken by batches, of which the quickest tenth and the median are told: where others use the CPUs too, the mean says
//! more of them than of a hop.

use std::thread;
use std::time::Instant as Clock;

use postlane::handle::ShardId;
use postlane::net::Net;
use postlane::net::uring::{Uring, UringOptions};
use postlane::shard::mailbox::{Mailbox, mailboxes};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;
use postlane::time::Instant;

/// As large as `dispatch`'s own.
type Letter = [u64; 4];

/// Round trips that are timed together.
const BATCH: u64 = 32;

fn main() {
    for (what, times, sleeps) in [("awake", 200_000, false), ("asleep", 30_000, true)] {
        let mut nanos = hop(times, sleeps);
        nanos.sort_by(f64::total_cmp);
        let (tenth, median) = (nanos[nanos.len() / 10], nanos[nanos.len() / 2]);
        println!("{what}\t{tenth:.0} ns a hop, median {median:.0}");
    }
}

/// Nanoseconds from one shard to the other, by batch, over so many round trips.
fn hop(times: u64, sleeps: bool) -> Vec<f64> {
    let arenas = Arenas::new(2, 256).expect("a small mapping");
    let rings = RingTable::new(2);
    let mut threads = Vec::new();
    for (shard, mailbox) in mailboxes::<Letter>(2).into_iter().enumerate() {
        let (arenas, rings) = (arenas.clone(), rings.clone());
        threads.push(thread::spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: shard });
            let shard = ShardId(shard as u16);
            let options = UringOptions { shard, accepted_max: 8, opened_max: 8, ..UringOptions::default() };
            let net = Uring::new(options, arenas, rings.clone()).expect("a ring of one's own");
            // Whoever has no ring yet cannot be woken.
            while (0..2).any(|shard| !rings.is_there(ShardId(shard))) {
                thread::yield_now();
            }
            play(shard, mailbox, net, times, sleeps)
        }));
    }
    let mut of_shard: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("it ends")).collect();
    of_shard.swap_remove(0)
}

/// The first shard serves, the other returns; what a hop took in each batch.
fn play(
    shard: ShardId,
    mut mailbox: Mailbox<Letter>,
    mut net: impl Net,
    times: u64,
    sleeps: bool,
) -> Vec<f64> {
    let other = ShardId(1 - shard.0);
    let (mut begin, mut batches, mut events) = (Clock::now(), Vec::new(), Vec::new());
    let post = |mailbox: &mut Mailbox<Letter>, net: &mut dyn FnMut(ShardId), letter| {
        mailbox.post(other, letter);
        mailbox.ring(net);
    };
    if shard == ShardId(0) {
        post(&mut mailbox, &mut |shard| net.wake(shard), [0; 4]);
    }
    for turn in 1..=times {
        let mut letter = loop {
            if let Some(letter) = mailbox.take() {
                break letter;
            }
            if sleeps {
                let until = if mailbox.sleep() { Instant::default() } else { Instant::NEVER };
                net.turn(until, 64, &mut events);
                mailbox.awake();
            } else {
                std::hint::spin_loop();
            }
        };
        if turn.is_multiple_of(BATCH) {
            batches.push(begin.elapsed().as_nanos() as f64 / (2 * BATCH) as f64);
            begin = Clock::now();
        }
        letter[0] += 1;
        if shard == ShardId(1) || turn < times {
            post(&mut mailbox, &mut |shard| net.wake(shard), letter);
        }
    }
    // The last letter's wake-up still has to leave.
    net.turn(Instant::default(), 64, &mut events);
    batches
}
