//! What the fleet is doing, as plain values: for `/api/v1/status`, `postlane status` and the demo's live line.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Bypass, FailedAt, Names, Part, PoolName, Snapshot, Stage, Stats};

/// The whole instance.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its version.
    pub version: &'static str,
    /// How many shards.
    pub shards: usize,
    /// When this was so, in seconds since 1970.
    pub time: f64,
    /// Reloads applied so far.
    pub edition: u64,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// How upstream bytes travel: `uring` or `xdp`.
    pub backend: &'static str,
    /// By what the kernel is bypassed, if it is.
    pub bypass: Option<BypassStatus>,
    /// By listener.
    pub listeners: Vec<ListenerStatus>,
    /// By pool.
    pub pools: Vec<PoolStatus>,
    /// Repeats of what an upstream may have taken.
    pub in_doubt: u64,
    /// Messages being received, waiting or being sent.
    pub under_way: u64,
}

/// Kernel bypass.
#[derive(Clone, Debug, Serialize)]
pub struct BypassStatus {
    /// The interface.
    #[serde(flatten)]
    pub by: Bypass,
    /// TCP segments received.
    pub segments_received: u64,
    /// TCP segments sent.
    pub segments_sent: u64,
    /// Of these, sent again because they were lost.
    pub segments_sent_again: u64,
    /// Frames of no connection.
    pub frames_of_nobody: u64,
    /// Frames that arrived at a shard they were not for.
    pub frames_handed_over: u64,
    /// Streams of which the first answer came by another queue than the interface's hash says.
    pub answers_astray: u64,
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
    /// So few of its upstreams are healthy that marks are ignored.
    pub panic: bool,
    /// Its fallback takes its mail, for want of a healthy upstream.
    pub fallback: bool,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamStatus>,
}

/// One upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its share, as in force.
    pub weight: u32,
    /// `up`, `ejected` while some shard keeps it out, `down` by its probes, `draining`, `disabled`, `leaving`.
    pub state: &'static str,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// Why, in words.
    pub why: String,
    /// How often its state has changed.
    pub changes: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Offers put off.
    pub deferred: u64,
    /// Offers refused.
    pub bounced: u64,
    /// Its share of all deliveries of the pool, 0 to 1.
    pub share: f64,
    /// The same of the last ten seconds or so.
    pub share_lately: f64,
    /// The estimate of its response time to a message of nothing, the mean of the shards that have one, seconds; 0
    /// while nothing is known.
    pub estimate_seconds: f64,
    /// The same by part: `mail`, `data` and `eod` make it up; `connect` comes before it where a link is to be opened.
    pub estimates_seconds: BTreeMap<&'static str, f64>,
    /// Transactions under way.
    pub in_flight: u64,
    /// Idle links.
    pub links_idle: u64,
    /// Links in a transaction.
    pub links_busy: u64,
    /// Links being opened.
    pub links_opening: u64,
    /// Links that may be in use at once: what the upstream does best with.
    pub links_limit: u64,
    /// Links that could not be opened.
    pub connect_failures: u64,
    /// Links lost in a transaction.
    pub links_lost: u64,
    /// Times it was ejected.
    pub ejections: u64,
    /// Times it asked for fewer links.
    pub pressures: u64,
    /// Deliveries taken away because it was silent.
    pub overdue: u64,
    /// Failed transactions by how far they had come: `open`, `mail`, `rcpt`, `data`, `eod`.
    pub failures: BTreeMap<&'static str, u64>,
    /// Probes that went well.
    pub probes_good: u64,
    /// Probes that did not.
    pub probes_bad: u64,
}

/// Adds the shards up. `time`: now, in seconds since 1970.
pub fn status(names: &Names, shards: &[Arc<Stats>], uptime_seconds: f64, time: f64) -> Status {
    let listeners = names.listeners.iter().map(|listener| {
        let i = listener.place;
        let sum = |of: fn(&super::ListenerStats) -> u64| shards.iter().map(|s| of(&s.listeners[i])).sum();
        ListenerStatus {
            name: listener.name.clone(),
            sessions: sum(|l| l.sessions.get()),
            accepted: sum(|l| l.accepted.get()),
            deferred: sum(|l| l.deferred.get()),
            rejected: sum(|l| l.rejected.get()),
        }
    });
    Status {
        version: env!("CARGO_PKG_VERSION"),
        shards: shards.len(),
        time,
        uptime_seconds,
        edition: names.edition,
        backend: if names.bypass.is_some() { "xdp" } else { "uring" },
        bypass: names.bypass.clone().map(|by| bypass_status(by, shards)),
        listeners: listeners.collect(),
        pools: names.pools.iter().map(|pool| pool_status(pool, shards)).collect(),
        in_doubt: shards.iter().map(|s| s.in_doubt.get()).sum(),
        under_way: shards.iter().map(|s| s.under_way.get()).sum(),
    }
}

fn bypass_status(by: Bypass, shards: &[Arc<Stats>]) -> BypassStatus {
    let sum = |which: usize| shards.iter().map(|stats| stats.segments[which].get()).sum();
    BypassStatus {
        by,
        segments_received: sum(0),
        segments_sent: sum(1),
        segments_sent_again: sum(2),
        frames_of_nobody: sum(3),
        frames_handed_over: sum(4),
        answers_astray: sum(5),
    }
}

fn pool_status(pool: &PoolName, shards: &[Arc<Stats>]) -> PoolStatus {
    let p = pool.place;
    let all: u64 = shards.iter().flat_map(|s| &s.pools[p]).map(|u| u.delivered.get()).sum();
    let lately: u64 = pool.upstreams.iter().map(|upstream| upstream.standing.lately).sum();
    let upstreams = pool.upstreams.iter().map(|upstream| {
        let u = upstream.place;
        let sum =
            |of: fn(&super::UpstreamStats) -> u64| shards.iter().map(|s| of(&s.pools[p][u])).sum::<u64>();
        let failures = FailedAt::ALL
            .map(|at| (at.label(), shards.iter().map(|s| s.pools[p][u].failures(at).get()).sum::<u64>()));
        let mean = |of: &dyn Fn(&super::UpstreamStats) -> u64| {
            let known = shards.iter().map(|s| of(&s.pools[p][u])).filter(|nanos| *nanos > 0);
            let (sum, shards) = known.fold((0, 0), |(sum, shards), nanos| (sum + nanos, shards + 1u32));
            sum as f64 / 1e9 / f64::from(shards.max(1))
        };
        let standing = &upstream.standing;
        let delivered = sum(|u| u.delivered.get());
        UpstreamStatus {
            name: upstream.name.clone(),
            address: upstream.address.to_string(),
            weight: upstream.weight,
            state: standing.state.label(),
            since: standing.since_unix,
            why: standing.why.clone(),
            changes: standing.changes(),
            delivered,
            deferred: sum(|u| u.deferred.get()),
            bounced: sum(|u| u.bounced.get()),
            share: delivered as f64 / all.max(1) as f64,
            share_lately: standing.lately as f64 / lately.max(1) as f64,
            estimate_seconds: mean(&|u| u.estimate_nanos.get()),
            estimates_seconds: Part::ALL.map(|part| (part.label(), mean(&|u| u.estimate(part).get()))).into(),
            in_flight: sum(|u| u.in_flight.get()),
            links_idle: sum(|u| u.idle.get()),
            links_busy: sum(|u| u.busy.get()),
            links_opening: sum(|u| u.opening.get()),
            links_limit: sum(|u| u.limit.get()),
            connect_failures: sum(|u| u.connect_failures.get()),
            links_lost: sum(|u| u.lost_links.get()),
            ejections: sum(|u| u.ejections.get()),
            pressures: sum(|u| u.pressures.get()),
            overdue: sum(|u| u.overdue.get()),
            failures: failures.into_iter().collect(),
            probes_good: standing.probes_good,
            probes_bad: standing.probes_bad,
        }
    });
    PoolStatus {
        name: pool.name.clone(),
        panic: pool.standing.panic.is_on,
        fallback: pool.standing.fallback.is_on,
        upstreams: upstreams.collect(),
    }
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
        if let Some(BypassStatus { by, segments_received, segments_sent, segments_sent_again, .. }) =
            &self.bypass
        {
            writeln!(
                f,
                "bypass {}, {} mode, frames on {}: {segments_received} segments received, {segments_sent} sent, {segments_sent_again} \
                 of them again",
                by.interface,
                by.mode,
                by.frames()
            )?;
        }
        for l in &self.listeners {
            writeln!(
                f,
                "listener {}: {} sessions, {} accepted, {} deferred, {} rejected",
                l.name, l.sessions, l.accepted, l.deferred, l.rejected
            )?;
        }
        for pool in &self.pools {
            self.write_pool(f, pool)?;
        }
        writeln!(f, "{} under way, {} in doubt", self.under_way, self.in_doubt)
    }
}

impl Status {
    fn write_pool(&self, f: &mut std::fmt::Formatter<'_>, pool: &PoolStatus) -> std::fmt::Result {
        let states =
            [(pool.panic, "in panic: marks are ignored"), (pool.fallback, "its fallback takes its mail")];
        let states: Vec<&str> = states.iter().filter(|(is_on, _)| *is_on).map(|(_, words)| *words).collect();
        let colon = if states.is_empty() { "" } else { ": " };
        writeln!(f, "pool {}{colon}{}", pool.name, states.join(", "))?;
        writeln!(
            f,
            "  {:<16} {:<9} {:>8} {:>10} {:>7} {:>7} {:>10} {:>9} {:>29} {:>9} {:>8}",
            "upstream",
            "state",
            "for",
            "delivered",
            "share",
            "lately",
            "estimate",
            "in flight",
            "links idle/busy/opening/limit",
            "put off",
            "bounced"
        )?;
        for u in &pool.upstreams {
            writeln!(
                f,
                "  {:<16} {:<9} {:>8} {:>10} {:>6.1}% {:>6.1}% {:>7.2} ms {:>9} {:>29} {:>9} {:>8}",
                u.name,
                u.state,
                span(self.time - u.since),
                u.delivered,
                u.share * 100.0,
                u.share_lately * 100.0,
                u.estimate_seconds * 1e3,
                u.in_flight,
                format!("{}/{}/{}/{}", u.links_idle, u.links_busy, u.links_opening, u.links_limit),
                u.deferred,
                u.bounced
            )?;
            if u.estimate_seconds > 0.0 {
                let ms =
                    |part: Part| u.estimates_seconds.get(part.label()).map_or(0.0, |seconds| seconds * 1e3);
                let parts = Part::ALL.map(|part| format!("{} {:.2} ms", part.label(), ms(part)));
                writeln!(f, "    estimates: {}", parts.join(", "))?;
            }
            let failures: Vec<String> = FailedAt::ALL
                .iter()
                .filter_map(|at| {
                    u.failures.get(at.label()).filter(|n| **n > 0).map(|n| format!("{n} at {}", at.label()))
                })
                .collect();
            if !failures.is_empty() {
                writeln!(f, "    failures: {}", failures.join(", "))?;
            }
            if u.state != "up" || u.changes > 0 {
                writeln!(f, "    {}: {}", u.state, u.why)?;
            }
        }
        Ok(())
    }
}

/// Seconds as people say them, in one unit.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
