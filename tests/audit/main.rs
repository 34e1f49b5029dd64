//! What a message costs on a warm shard, counted and not timed: allocations, and enters into the kernel.
//!
//! A whole shard on its real ring, on this thread; the generator and the sinks of `postlane bench` around it, over
//! the loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod allocator;
mod ground;

use ground::Ground;
use postlane::dispatch::Mode;
use postlane_bench::load::Exchange;

/// Messages before anything counts: lists have their size then, and spare messages and batches are there.
const WARM_UP: u64 = 8_000;
/// Messages that count.
const COUNTED: u64 = 4_000;
/// A list may still grow now and then; what is allocated for each message shows twenty times as clearly.
const ALLOCATIONS_MAX: u64 = COUNTED / 20;

fn audit(name: &str, exchange: Exchange, size: &str, recipients: usize) {
    audit_mode(Mode::Through, name, exchange, size, recipients, ALLOCATIONS_MAX);
}

/// `most`: allocations.
fn audit_mode(mode: Mode, name: &str, exchange: Exchange, size: &str, recipients: usize, most: u64) {
    let mut ground = Ground::new(mode, exchange, size, recipients);
    ground.take(WARM_UP);
    let enters = ground.enters();
    let mut taken = 0;
    let allocations = allocator::count(|| taken = ground.take(COUNTED));
    println!(
        "{name}: {:.2} enters and {:.3} allocations a message",
        (ground.enters() - enters) as f64 / taken as f64,
        allocations as f64 / taken as f64
    );
    if allocations > most {
        let places = allocator::trace(|| {
            ground.take(500);
        });
        panic!("{name}: {allocations} allocations in {taken} messages:\n{places}");
    }
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
    let (name, exchange) = ("through-then-spool, 10 KiB", Exchange::Pipelining);
    audit_mode(Mode::ThroughThenSpool, name, exchange, "10KiB", 1, ALLOCATIONS_MAX);
}

#[test]
fn a_warm_message_that_is_kept_allocates_its_entry() {
    let (name, exchange) = ("spool, 10 KiB", Exchange::Pipelining);
    audit_mode(Mode::Spool, name, exchange, "10KiB", 1, COUNTED + ALLOCATIONS_MAX);
}

#[test]
fn a_warm_message_allocates_nothing_command_by_command() {
    audit("plain, 10 KiB", Exchange::Plain, "10KiB", 1);
}

#[test]
fn a_warm_message_allocates_nothing_pipelined() {
    audit("pipelined, 10 KiB", Exchange::Pipelining, "10KiB", 1);
}

#[test]
fn a_warm_message_allocates_nothing_by_chunks() {
    audit("chunks, 10 KiB", Exchange::Chunking, "10KiB", 1);
}

#[test]
fn a_warm_message_allocates_nothing_large_and_for_several() {
    audit("pipelined, 100 KiB, 5 recipients", Exchange::Pipelining, "100KiB", 5);
}
