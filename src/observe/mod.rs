//! Counters and histograms. Each shard writes its own and nobody else's, so an increment is a plain load and
//! store (relaxed), never a locked instruction; the control thread reads them whenever it likes.

mod histogram;
pub mod prometheus;
pub mod status;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Histogram, Snapshot};

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. For the owning shard only.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away. For the owning shard only.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets it. For the owning shard only.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a shard knows of one listener.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Sessions open now.
    pub sessions: Counter,
    /// Sessions ever accepted.
    pub connections: Counter,
    /// Sessions turned away at `max_sessions`.
    pub turned_away: Counter,
    /// Messages answered 2xx after their end of data.
    pub accepted: Counter,
    /// Messages answered 4xx.
    pub deferred: Counter,
    /// Messages answered 5xx.
    pub rejected: Counter,
    /// Octets of message data received.
    pub bytes: Counter,
}

/// The stages of an upstream dialogue whose response times are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// From `open` until the stream is there.
    Connect,
    /// From there until the link is ready (greeting and EHLO).
    Ehlo,
    /// From the envelope's last octet until the reply to MAIL.
    Mail,
    /// Until the reply to DATA.
    Data,
    /// From the final dot until the final reply.
    Eod,
}

impl Stage {
    /// All of them, in the order of a dialogue.
    pub const ALL: [Stage; 5] = [Stage::Connect, Stage::Ehlo, Stage::Mail, Stage::Data, Stage::Eod];

    /// The metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Ehlo => "ehlo",
            Stage::Mail => "mail",
            Stage::Data => "data",
            Stage::Eod => "eod",
        }
    }
}

/// What a shard knows of one upstream.
#[derive(Debug, Default)]
pub struct UpstreamStats {
    /// Recipients' deliveries taken (2xx).
    pub delivered: Counter,
    /// Attempts that ended 4xx, by a lost link or a time-out.
    pub deferred: Counter,
    /// Attempts that ended 5xx.
    pub bounced: Counter,
    /// Links that could not be opened or were refused.
    pub connect_failures: Counter,
    /// Links lost or timed out in a transaction.
    pub lost_links: Counter,
    /// Links idle now.
    pub idle: Counter,
    /// Links in a transaction now.
    pub busy: Counter,
    /// Links being opened now.
    pub opening: Counter,
    /// Links ever opened.
    pub opened: Counter,
    /// Transactions under way now.
    pub in_flight: Counter,
    /// 1 while traffic may go there, 0 while ejected.
    pub healthy: Counter,
    /// Times it was ejected.
    pub ejections: Counter,
    /// The moving estimate of its response time, nanoseconds.
    pub estimate_nanos: Counter,
    stages: [Histogram; 5],
}

impl UpstreamStats {
    /// Response times of one stage.
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }
}

/// All that one shard counts.
#[derive(Debug, Default)]
pub struct Stats {
    /// By listener, as configured.
    pub listeners: Vec<ListenerStats>,
    /// By pool and upstream, as configured.
    pub pools: Vec<Vec<UpstreamStats>>,
    /// Transactions repeated although an upstream may have taken them.
    pub in_doubt: Counter,
    /// Bounces made because a message's groups ended differently.
    pub bounces: Counter,
    /// Bounces that could not be handed over or had nobody to go to.
    pub bounces_dropped: Counter,
    /// Deliveries that went on to a pool's fallback.
    pub fallbacks: Counter,
    /// Letters to other shards.
    pub letters: Counter,
    /// Buffers holding message data now.
    pub buffers_held: Counter,
    /// Messages turned away because buffers ran out.
    pub out_of_buffers: Counter,
    /// Turns of the loop.
    pub turns: Counter,
    /// Nanoseconds not spent waiting.
    pub busy_nanos: Counter,
    /// Transactions and deliveries under way now; zero lets a drain end.
    pub under_way: Counter,
    /// First octet of MAIL until the final dot has come.
    pub receive: Histogram,
    /// The final dot until the verdict.
    pub dispatch: Histogram,
    /// MAIL until the verdict.
    pub total: Histogram,
}

impl Stats {
    /// For so many listeners, and pools of so many upstreams.
    pub fn new(listeners: usize, pools: &[usize]) -> Self {
        let upstreams = |n: &usize| {
            let fleet: Vec<UpstreamStats> = (0..*n).map(|_| UpstreamStats::default()).collect();
            fleet.iter().for_each(|upstream| upstream.healthy.set(1));
            fleet
        };
        Stats {
            listeners: (0..listeners).map(|_| ListenerStats::default()).collect(),
            pools: pools.iter().map(upstreams).collect(),
            ..Stats::default()
        }
    }
}
