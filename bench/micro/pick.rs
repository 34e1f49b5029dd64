//! What a pick costs: nanoseconds for each policy, for 8 and for 64 upstreams. `cargo bench --bench pick`.
//!
//! *pick* is the selection alone, while time goes on by a microsecond a pick, so that what is looked at every half a
//! millisecond is in it. *message* is all that balance does for a message: pick, begun, links, answers, ended.
//! No allocation in either: that is asserted.

use std::hint::black_box;
use std::time::Duration;

use postlane::balance::{Ask, Fleet, Heard, Pick, Policy, Tried, key};
use postlane::time::Instant;

const ROUNDS: usize = 60;
const PICKS: u64 = 30_000;
/// Most nanoseconds a pick shall cost, for 8 and for 64 upstreams.
const GOALS: [(usize, f64); 2] = [(8, 25.0), (64, 60.0)];

struct Bench {
    fleet: Fleet,
    tried: Tried,
    now: Instant,
    random: u64,
}

impl Bench {
    fn new(policy: Policy, upstreams: usize, weight: impl Fn(usize) -> u32) -> Bench {
        let identity = |i: usize| key(format!("mta{i}").as_bytes());
        let mut fleet = Fleet::new(policy, (0..upstreams).map(|i| (weight(i), identity(i))));
        let now = Instant::from_nanos(1_000_000_000_000);
        for i in 0..upstreams {
            fleet.heard(i, Heard::Done { bytes: 10_000 }, 5_000_000 + 37_000 * i as u64, now);
            (0..i * 7 % 5).for_each(|_| fleet.began(i));
        }
        Bench { fleet, tried: Tried::default(), now, random: 88_172_645_463_325_252 }
    }

    fn pick(&mut self) -> usize {
        self.now = self.now + Duration::from_micros(1);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let random = self.random;
        let ask =
            Ask { tried: &self.tried, recipient: random, source: random, bytes: 10_000, waiting: 0, random };
        match black_box(self.fleet.pick(&ask, self.now)) {
            Pick::Now(i) => i,
            other => panic!("nobody is full: {other:?}"),
        }
    }

    /// One begins where the pick says, and is answered after a while that differs.
    fn message(&mut self) {
        let i = self.pick();
        let (fleet, now) = (&mut self.fleet, self.now);
        fleet.began(i);
        fleet.set_links(i, true, false, (now, 10_000));
        fleet.heard(i, Heard::Mail, 300_000, now);
        fleet.heard(i, Heard::Data, 100_000, now);
        fleet.heard(i, Heard::Done { bytes: 10_000 }, 4_000_000 + self.random % 2_000_000, now);
        fleet.ended(i);
        fleet.set_links(i, true, false, (Instant::NEVER, 0));
    }

    /// The best round's nanoseconds.
    fn measure(&mut self, mut what: impl FnMut(&mut Bench)) -> f64 {
        let mut round = || {
            let begun = std::time::Instant::now();
            (0..PICKS).for_each(|_| what(self));
            begun.elapsed().as_nanos() as f64 / PICKS as f64
        };
        (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
    }
}

fn main() {
    println!("{:<38} {:>9} {:>9} {:>11}", "policy", "upstreams", "pick ns", "message ns");
    let mut beyond = 0;
    let even: fn(usize) -> u32 = |_| 1;
    let uneven: fn(usize) -> u32 = |i| 1 + i as u32 % 4;
    for (upstreams, goal) in GOALS {
        for (policy, weight, note) in
            Policy::ALL.iter().flat_map(|policy| [(*policy, even, ""), (*policy, uneven, " (weights)")])
        {
            let mut bench = Bench::new(policy, upstreams, weight);
            let mut figures = (0.0, 0.0);
            let allocations = allocation_counter::measure(|| {
                figures.0 = bench.measure(|bench| {
                    bench.pick();
                });
                figures.1 = bench.measure(Bench::message);
            });
            assert_eq!(allocations.count_total, 0, "{policy:?} allocates");
            let mark = if figures.0 > goal { "  beyond the goal" } else { "" };
            beyond += usize::from(figures.0 > goal);
            let name = format!("{}{note}", policy.label());
            println!("{name:<38} {upstreams:>9} {:>9.1} {:>11.1}{mark}", figures.0, figures.1);
        }
    }
    println!("goals: {GOALS:?}; {beyond} beyond; no allocation");
}
