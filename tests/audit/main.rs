//! What a message costs on a warm shard, counted and not timed: allocations, and enters into the kernel.
//!
//! A whole shard on its real ring, on this thread; the generator and the sinks of `postlane bench` around it, over
//! the loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod allocator;
mod ground;

use ground::Ground;
use postlane_bench::load::Exchange;

/// Messages before anything counts: lists have their size then, and spare messages and batches are there.
const WARM_UP: u64 = 8_000;
/// Messages that count.
const COUNTED: u64 = 4_000;
/// A list may still grow now and then; what is allocated for each message shows twenty times as clearly.
const ALLOCATIONS_MAX: u64 = COUNTED / 20;

fn audit(name: &str, exchange: Exchange, size: &str, recipients: usize) {
    let mut ground = Ground::new(exchange, size, recipients);
    ground.take(WARM_UP);
    let enters = ground.enters();
    let mut taken = 0;
    let allocations = allocator::count(|| taken = ground.take(COUNTED));
    println!(
        "{name}: {:.2} enters and {:.3} allocations a message",
        (ground.enters() - enters) as f64 / taken as f64,
        allocations as f64 / taken as f64
    );
    if allocations > ALLOCATIONS_MAX {
        let places = allocator::trace(|| {
            ground.take(500);
        });
        panic!("{name}: {allocations} allocations in {taken} messages:\n{places}");
    }
    ground.end();
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
