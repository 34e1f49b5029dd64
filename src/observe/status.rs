//! What the fleet is doing, as plain values: for `/api/v1/status`, `postlane status` and the demo's live line.

use std::sync::Arc;

use serde::Serialize;

use super::prometheus::Names;
use super::{Snapshot, Stage, Stats};

/// The whole instance.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its version.
    pub version: &'static str,
    /// How many shards.
    pub shards: usize,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// By listener.
    pub listeners: Vec<ListenerStatus>,
    /// By pool.
    pub pools: Vec<PoolStatus>,
    /// Repeats of what an upstream may have taken.
    pub in_doubt: u64,
    /// Messages being received, waiting or being sent.
    pub under_way: u64,
}

/// One listener.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Sessions open now.
    pub sessions: u64,
    /// Messages answered 2xx.
    pub accepted: u64,
    /// Messages answered 4xx.
    pub deferred: u64,
    /// Messages answered 5xx.
    pub rejected: u64,
}

/// One pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamStatus>,
}

/// One upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// `up`, or `ejected` while some shard keeps it out.
    pub state: &'static str,
    /// Recipients delivered.
    pub delivered: u64,
    /// Offers put off.
    pub deferred: u64,
    /// Offers refused.
    pub bounced: u64,
    /// Its share of all deliveries of the pool, 0 to 1.
    pub share: f64,
    /// The estimate of its response time, the mean of the shards', seconds.
    pub estimate_seconds: f64,
    /// Transactions under way.
    pub in_flight: u64,
    /// Idle links.
    pub links_idle: u64,
    /// Links in a transaction.
    pub links_busy: u64,
    /// Links being opened.
    pub links_opening: u64,
    /// Links that could not be opened.
    pub connect_failures: u64,
    /// Links lost in a transaction.
    pub links_lost: u64,
    /// Times it was ejected.
    pub ejections: u64,
}

/// Adds the shards up.
pub fn status(names: &Names, shards: &[Arc<Stats>], uptime_seconds: f64) -> Status {
    let listeners = names.listeners.iter().enumerate().map(|(i, name)| {
        let sum = |of: fn(&super::ListenerStats) -> u64| shards.iter().map(|s| of(&s.listeners[i])).sum();
        ListenerStatus {
            name: name.clone(),
            sessions: sum(|l| l.sessions.get()),
            accepted: sum(|l| l.accepted.get()),
            deferred: sum(|l| l.deferred.get()),
            rejected: sum(|l| l.rejected.get()),
        }
    });
    Status {
        version: env!("CARGO_PKG_VERSION"),
        shards: shards.len(),
        uptime_seconds,
        listeners: listeners.collect(),
        pools: names.pools.iter().enumerate().map(|(p, pool)| pool_status(p, pool, shards)).collect(),
        in_doubt: shards.iter().map(|s| s.in_doubt.get()).sum(),
        under_way: shards.iter().map(|s| s.under_way.get()).sum(),
    }
}

fn pool_status(p: usize, (name, upstreams): &(String, Vec<String>), shards: &[Arc<Stats>]) -> PoolStatus {
    let all: u64 = shards.iter().flat_map(|s| &s.pools[p]).map(|u| u.delivered.get()).sum();
    let upstreams = upstreams.iter().enumerate().map(|(u, name)| {
        let sum =
            |of: fn(&super::UpstreamStats) -> u64| shards.iter().map(|s| of(&s.pools[p][u])).sum::<u64>();
        let up = shards.iter().all(|s| s.pools[p][u].healthy.get() == 1);
        let delivered = sum(|u| u.delivered.get());
        UpstreamStatus {
            name: name.clone(),
            state: if up { "up" } else { "ejected" },
            delivered,
            deferred: sum(|u| u.deferred.get()),
            bounced: sum(|u| u.bounced.get()),
            share: delivered as f64 / all.max(1) as f64,
            estimate_seconds: sum(|u| u.estimate_nanos.get()) as f64 / 1e9 / shards.len().max(1) as f64,
            in_flight: sum(|u| u.in_flight.get()),
            links_idle: sum(|u| u.idle.get()),
            links_busy: sum(|u| u.busy.get()),
            links_opening: sum(|u| u.opening.get()),
            connect_failures: sum(|u| u.connect_failures.get()),
            links_lost: sum(|u| u.lost_links.get()),
            ejections: sum(|u| u.ejections.get()),
        }
    });
    PoolStatus { name: name.clone(), upstreams: upstreams.collect() }
}

/// One upstream's final replies over all shards, so far.
pub fn final_replies(shards: &[Arc<Stats>], pool: usize, upstream: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    shards.iter().for_each(|s| s.pools[pool][upstream].stage(Stage::Eod).add_to(&mut snapshot));
    snapshot
}

/// A human's view.
impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "postlane {}, {} shards, up {:.0} s", self.version, self.shards, self.uptime_seconds)?;
        for l in &self.listeners {
            writeln!(
                f,
                "listener {}: {} sessions, {} accepted, {} deferred, {} rejected",
                l.name, l.sessions, l.accepted, l.deferred, l.rejected
            )?;
        }
        for pool in &self.pools {
            writeln!(f, "pool {}", pool.name)?;
            writeln!(
                f,
                "  {:<16} {:<8} {:>10} {:>7} {:>10} {:>9} {:>16} {:>9} {:>8} {:>6}",
                "upstream",
                "state",
                "delivered",
                "share",
                "estimate",
                "in flight",
                "links idle/busy",
                "deferred",
                "bounced",
                "lost"
            )?;
            for u in &pool.upstreams {
                writeln!(
                    f,
                    "  {:<16} {:<8} {:>10} {:>6.1}% {:>7.2} ms {:>9} {:>16} {:>9} {:>8} {:>6}",
                    u.name,
                    u.state,
                    u.delivered,
                    u.share * 100.0,
                    u.estimate_seconds * 1e3,
                    u.in_flight,
                    format!("{}/{}", u.links_idle, u.links_busy),
                    u.deferred,
                    u.bounced,
                    u.links_lost
                )?;
            }
        }
        writeln!(f, "{} under way, {} in doubt", self.under_way, self.in_doubt)
    }
}
