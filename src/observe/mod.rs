//! Counters and histograms. Each shard writes its own and nobody else's, so an increment is a plain load and
//! store (relaxed), never a locked instruction; the control thread reads them whenever it likes.

mod histogram;
mod names;
pub mod prometheus;
mod scoreboard;
mod spool;
pub mod status;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Histogram, Snapshot};
pub use names::{
    Bypass, Episode, ListenerName, Names, PoolName, PoolStanding, Standing, State, UpstreamName,
};
pub use scoreboard::{Figures, LINE_BYTES, Scoreboard};
pub use spool::SpoolStats;

/// Where the scoreboard takes its atomics from; its test under loom has others.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

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
    /// Links that may be in use at once, as found.
    pub limit: Counter,
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
    /// Times it asked for less (421, too many connections) and got fewer links.
    pub pressures: Counter,
    /// Deliveries taken away because it was silent.
    pub overdue: Counter,
    /// Why it is ejected: 0 it is not, 1 failures in a row, 2 more failures than the others, 3 silence.
    pub ejected_for: Counter,
    /// What `estimate_nanos` is made of, and opening a link, by [`Part`].
    estimates: [Counter; 4],
    stages: [Histogram; 5],
    failures: [Counter; 5],
}

impl UpstreamStats {
    /// Those of an upstream nothing is known of.
    pub fn healthy() -> UpstreamStats {
        let stats = UpstreamStats::default();
        stats.healthy.set(1);
        stats
    }

    /// Failed transactions by how far they had come.
    pub fn failures(&self, at: FailedAt) -> &Counter {
        &self.failures[at as usize]
    }

    /// The moving estimate of one part of a transaction, nanoseconds; 0 while nothing is known.
    pub fn estimate(&self, part: Part) -> &Counter {
        &self.estimates[part as usize]
    }

    /// Response times of one stage.
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }
}

/// The parts of a transaction that estimates are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// From opening a link until it is ready.
    Connect,
    /// From the first command until the reply to MAIL.
    Mail,
    /// From there until the go-ahead for the body.
    Data,
    /// From there until the final reply, for an empty message.
    Eod,
}

impl Part {
    /// All of them, in the order of a dialogue.
    pub const ALL: [Part; 4] = [Part::Connect, Part::Mail, Part::Data, Part::Eod];

    /// Its name for people and programs.
    pub const fn label(self) -> &'static str {
        match self {
            Part::Connect => "connect",
            Part::Mail => "mail",
            Part::Data => "data",
            Part::Eod => "eod",
        }
    }
}

/// How far a transaction had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailedAt {
    /// Opening the link, greeting and hello.
    Open,
    /// Until the reply to MAIL.
    Mail,
    /// A reply to RCPT.
    Rcpt,
    /// Until the go-ahead for the body.
    Data,
    /// From the body until the final reply.
    Eod,
}

impl FailedAt {
    /// All of them, in the order of a dialogue.
    pub const ALL: [FailedAt; 5] =
        [FailedAt::Open, FailedAt::Mail, FailedAt::Rcpt, FailedAt::Data, FailedAt::Eod];

    /// The metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            FailedAt::Open => "open",
            FailedAt::Mail => "mail",
            FailedAt::Rcpt => "rcpt",
            FailedAt::Data => "data",
            FailedAt::Eod => "eod",
        }
    }
}

/// What a shard has under way for one pool: while any of it is left the pool's place is not free.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Groups of recipients sent there and not answered yet, of messages that this shard took.
    pub groups: Counter,
    /// Deliveries in it now, of groups that this shard was sent.
    pub deliveries: Counter,
    /// 1 while so few of its upstreams are healthy that marks are ignored.
    pub panics: Counter,
    /// 1 while its fallback takes its mail, for want of a healthy upstream.
    pub falls_back: Counter,
}

/// All that one shard counts. What belongs to a listener or an upstream outlives a reload with it; the rest is in
/// the [`Totals`].
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// By a listener's place; the addresses of one listener share theirs.
    pub listeners: Vec<Arc<ListenerStats>>,
    /// By place of pool and upstream.
    pub pools: Vec<Vec<Arc<UpstreamStats>>>,
    /// By place of pool.
    pub pool_stats: Vec<Arc<PoolStats>>,
    /// The rest.
    pub totals: Arc<Totals>,
}

impl Deref for Stats {
    type Target = Totals;

    fn deref(&self) -> &Totals {
        &self.totals
    }
}

/// What one shard counts of nothing in particular.
#[derive(Debug, Default)]
pub struct Totals {
    /// Transactions repeated although an upstream may have taken them.
    pub in_doubt: Counter,
    /// Bounces made: notices of refusal or expiry.
    pub bounces: Counter,
    /// Notices that tell of no failure: relayed, delayed.
    pub relay_notices: Counter,
    /// Bounces that could not be handed over or had nobody to go to.
    pub bounces_dropped: Counter,
    /// Deliveries that went on to a pool's fallback.
    pub fallbacks: Counter,
    /// Letters to other shards.
    pub letters: Counter,
    /// Other shards woken because there were letters for them.
    pub wake_ups: Counter,
    /// Buffers holding message data now.
    pub buffers_held: Counter,
    /// Messages turned away because buffers ran out.
    pub out_of_buffers: Counter,
    /// Messages that left while they were still arriving.
    pub streamed: Counter,
    /// TCP segments that bypassed the kernel: received, sent, sent again; of nobody's; passed on to their shard; and
    /// the first answers that came by another queue than the interface's hash says.
    pub segments: [Counter; 6],
    /// Clients that came past the kernel: turned away; answered by a cookie, as there were too many SYNs to remember;
    /// and back with that.
    pub bypass_clients: [Counter; 3],
    /// Connections closed at once because as many were open as the shard can have.
    pub connections_turned_away: Counter,
    /// Turns of the loop.
    pub turns: Counter,
    /// Nanoseconds not spent waiting.
    pub busy_nanos: Counter,
    /// Transactions and deliveries under way now; zero lets a drain end.
    pub under_way: Counter,
    /// The messages that it keeps.
    pub spool: SpoolStats,
    /// First octet of MAIL until the final dot has come.
    pub receive: Histogram,
    /// The final dot until the verdict.
    pub dispatch: Histogram,
    /// MAIL until the verdict.
    pub total: Histogram,
}

impl Stats {
    /// Streams of which the first answer came by another queue than the interface's hash says.
    pub fn astray(&self) -> u64 {
        self.segments[5].get()
    }

    /// For so many listeners, and pools of so many upstreams.
    pub fn new(listeners: usize, pools: &[usize]) -> Self {
        let upstreams = |n: &usize| (0..*n).map(|_| Arc::new(UpstreamStats::healthy())).collect();
        Stats {
            listeners: (0..listeners).map(|_| Arc::default()).collect(),
            pools: pools.iter().map(upstreams).collect(),
            pool_stats: pools.iter().map(|_| Arc::default()).collect(),
            totals: Arc::default(),
        }
    }
}
