//! What a message costs on a warm shard, counted and not timed: allocations, and enters into the kernel.
//!
//! A whole shard on its real ring, on this thread, and perhaps another that mail goes to and comes from; the generator
//! and the sinks of `postlane bench` around them, over the loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod allocator;
mod ground;

use ground::{Ground, Load};
use postlane::dispatch::Mode;
use postlane_bench::load::Exchange;

/// Messages before anything counts: lists have their size then, and spare messages and batches are there.
const WARM_UP: u64 = 8_000;
/// Messages that count.
const COUNTED: u64 = 4_000;
/// At most so many times, until one is as it should be.
const WINDOWS: usize = 3;
/// A list may still grow now and then; what is allocated for each message shows twenty times as clearly.
const ALLOCATIONS_MAX: u64 = COUNTED / 20;

fn audit(name: &str, load: Load) {
    audit_mode(Mode::Through, 1, name, load, ALLOCATIONS_MAX);
}

fn load(exchange: Exchange, size: &'static str, recipients: usize) -> Load {
    Load { exchange, in_flight: 1, size, recipients }
}

/// `most`: allocations.
fn audit_mode(mode: Mode, shards: u16, name: &str, load: Load, most: u64) {
    let mut ground = Ground::new(mode, shards, load);
    ground.take(WARM_UP);
    // Links that open and lists that grow show in one window; what each message allocates shows in all of them.
    let mut windows = (0..WINDOWS).map(|_| {
        let enters = ground.enters();
        let mut taken = 0;
        let allocations = allocator::count(|| taken = ground.take(COUNTED));
        println!(
            "{name}: {:.2} enters and {:.3} allocations a message",
            (ground.enters() - enters) as f64 / taken as f64,
            allocations as f64 / taken as f64
        );
        (allocations, taken)
    });
    let first = windows.next().expect("there is one");
    let (allocations, taken) =
        if first.0 > most { windows.find(|window| window.0 <= most).unwrap_or(first) } else { first };
    drop(windows);
    if allocations > most {
        let places = allocator::trace(|| {
            ground.take(500);
        });
        panic!("{name}: {allocations} allocations in {taken} messages:\n{places}");
    }
    assert_eq!(shards > 1, ground.letters() > COUNTED / 4, "{} letters", ground.letters());
    if mode == Mode::ThroughThenSpool {
        let usage = ground.usage();
        assert_eq!((usage.groups, usage.messages), (0, 0), "the disk was touched");
    } else if mode == Mode::Spool {
        let usage = ground.usage();
        println!("{name}: {:.1} messages a sync", usage.grouped_messages as f64 / usage.groups as f64);
        assert!(usage.grouped_messages >= WARM_UP + COUNTED);
    }
    ground.end();
}

/// What could not be taken by an upstream would be kept; as long as they take it all, nothing is done for that.
#[test]
fn a_warm_message_that_could_be_kept_allocates_nothing() {
    let load = load(Exchange::Pipelining, "10KiB", 1);
    audit_mode(Mode::ThroughThenSpool, 1, "through-then-spool, 10 KiB", load, ALLOCATIONS_MAX);
}

/// Its facts stay in the index for as long as it is kept; beside them only what a sync costs.
#[test]
fn a_warm_message_that_is_kept_allocates_its_entry() {
    let load = load(Exchange::Pipelining, "10KiB", 1);
    audit_mode(Mode::Spool, 1, "spool, 10 KiB", load, COUNTED + 4 * ALLOCATIONS_MAX);
}

#[test]
fn a_warm_message_allocates_nothing_command_by_command() {
    audit("plain, 10 KiB", load(Exchange::Plain, "10KiB", 1));
}

#[test]
fn a_warm_message_allocates_nothing_pipelined() {
    audit("pipelined, 10 KiB", load(Exchange::Pipelining, "10KiB", 1));
}

#[test]
fn a_warm_message_allocates_nothing_by_chunks() {
    audit("chunks, 10 KiB", load(Exchange::Chunking, "10KiB", 1));
}

#[test]
fn a_warm_message_allocates_nothing_among_several_of_its_session() {
    let load = load(Exchange::Chunking, "10KiB", 1);
    audit("chunks, 8 in flight, 10 KiB", Load { in_flight: 8, ..load });
}

#[test]
fn a_warm_message_allocates_nothing_large_and_for_several() {
    audit("pipelined, 100 KiB, 5 recipients", load(Exchange::Pipelining, "100KiB", 5));
}

/// Half of what this shard takes goes to the other one, and half of what that one takes comes here.
#[test]
fn a_warm_message_allocates_nothing_between_shards() {
    let load = load(Exchange::Pipelining, "10KiB", 1);
    audit_mode(Mode::Through, 2, "pipelined, 10 KiB, two shards", load, ALLOCATIONS_MAX);
}
