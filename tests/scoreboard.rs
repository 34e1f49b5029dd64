//! The scoreboard under loom: every interleaving of shards that publish and a shard that reads, and every value the
//! model of memory lets the reader see.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]
#![allow(unreachable_pub, dead_code, reason = "a room's file, compiled here with other atomics")]

/// What the room takes its atomics from, here.
mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../src/observe/scoreboard.rs"]
mod scoreboard;

use loom::sync::Arc;
use loom::thread;
use scoreboard::{Figures, Scoreboard};

const NONE: Figures = Figures { in_flight: 0, estimate_nanos: 0.0 };
const FIRST: Figures = Figures { in_flight: 7, estimate_nanos: 1.5e6 };
const SECOND: Figures = Figures { in_flight: 8, estimate_nanos: 9e9 };

#[test]
fn a_reader_sees_only_what_was_published_and_never_goes_back() {
    loom::model(|| {
        let board = Arc::new(Scoreboard::new(2, &[1, 1]));
        let writer = board.clone();
        let shard = thread::spawn(move || {
            writer.publish(0, 1, 0, FIRST);
            writer.publish(0, 1, 0, SECOND);
        });
        let order = [NONE, FIRST, SECOND];
        let place = |figures: Figures| order.iter().position(|known| *known == figures);
        let (earlier, later) = (place(board.read(0, 1, 0)), place(board.read(0, 1, 0)));
        assert!(earlier.is_some() && later.is_some(), "no mixture of two");
        assert!(earlier <= later);
        assert_eq!(board.read(0, 0, 0), NONE, "the other pool's is untouched");
        shard.join().unwrap();
        assert_eq!(board.read(0, 1, 0), SECOND);
    });
}

#[test]
fn two_shards_do_not_disturb_each_other() {
    loom::model(|| {
        let board = Arc::new(Scoreboard::new(3, &[2]));
        let shards: Vec<_> = [(0, FIRST), (1, SECOND)]
            .map(|(shard, figures)| {
                let board = board.clone();
                thread::spawn(move || board.publish(shard, 0, 1, figures))
            })
            .into_iter()
            .collect();
        let sum = board.read(0, 0, 1).in_flight + board.read(1, 0, 1).in_flight;
        assert!([0, 7, 8, 15].contains(&sum), "{sum}");
        shards.into_iter().for_each(|shard| shard.join().unwrap());
        assert_eq!((board.read(0, 0, 1), board.read(1, 0, 1), board.read(2, 0, 1)), (FIRST, SECOND, NONE));
    });
}

/// Many upstreams: each has a word of its own, and no line is two shards'.
#[test]
fn words_are_apart() {
    loom::model(|| {
        let board = Scoreboard::new(2, &[20, 3, 17]);
        let all = || {
            [(0, 20), (1, 3), (2, 17)]
                .into_iter()
                .flat_map(|(pool, n)| (0..n).map(move |upstream| (pool, upstream)))
        };
        for shard in 0..2 {
            for (pool, upstream) in all() {
                let in_flight = (shard * 1000 + pool * 100 + upstream) as u32;
                board.publish(shard, pool, upstream, Figures { in_flight, estimate_nanos: 1.0 });
            }
        }
        for shard in 0..2 {
            for (pool, upstream) in all() {
                let expected = (shard * 1000 + pool * 100 + upstream) as u32;
                assert_eq!(board.read(shard, pool, upstream).in_flight, expected);
            }
        }
    });
}
