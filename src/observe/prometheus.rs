//! Prometheus text (exposition format 0.0.4): all shards' counters added up, names and labels bounded by the
//! configuration.

use std::fmt::Write;
use std::sync::Arc;

use super::{
    Counter, FailedAt, Histogram, ListenerStats, Names, Snapshot, Stage, State, Stats, UpstreamName,
    UpstreamStats,
};

/// All metrics. `busy`: each shard's busy share of the last second or so.
pub fn text(names: &Names, shards: &[Arc<Stats>], busy: &[f64]) -> String {
    let mut page = Page { out: String::with_capacity(16 << 10) };
    page.head("postlane_build_info", "gauge", "The running version.");
    page.line("postlane_build_info", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    if let Some(bypass) = &names.bypass {
        let (interface, mode) = (&bypass.interface, &bypass.mode);
        page.head("postlane_bypass_info", "gauge", "The interface that the kernel is bypassed by.");
        page.line("postlane_bypass_info", &format!("interface=\"{interface}\",mode=\"{mode}\""), 1);
        page.head(
            "postlane_bypass_segments_total",
            "counter",
            "TCP segments and frames that bypassed the kernel.",
        );
        let kinds = ["received", "sent", "sent_again", "of_nobody", "handed_over", "astray"];
        page.by_kind("postlane_bypass_segments_total", &kinds, shards, |stats| &stats.segments);
        page.head(
            "postlane_bypass_clients_total",
            "counter",
            "Clients past the kernel: not let in, answered by a cookie, back with it.",
        );
        let kinds = ["turned_away", "cookie_sent", "cookie_returned"];
        page.by_kind("postlane_bypass_clients_total", &kinds, shards, |stats| &stats.bypass_clients);
    }
    page.head("postlane_reloads_total", "counter", "Reloads applied.");
    page.line("postlane_reloads_total", "", names.edition);
    listeners(&mut page, names, shards);
    pools(&mut page, names);
    upstreams(&mut page, names, shards);
    machine(&mut page, shards, busy);
    super::spool::write(&mut page, shards);
    page.out
}

fn listeners(page: &mut Page, names: &Names, shards: &[Arc<Stats>]) {
    let labels: Vec<(usize, String)> =
        names.listeners.iter().map(|l| (l.place, format!("listener=\"{}\"", l.name))).collect();
    let sum = |i: usize, of: fn(&ListenerStats) -> &Counter| -> u64 {
        shards.iter().map(|stats| of(&stats.listeners[i]).get()).sum()
    };
    type OfListener = fn(&ListenerStats) -> &Counter;
    type Part = (&'static str, OfListener);
    let outcomes: [Part; 3] =
        [("accepted", |s| &s.accepted), ("deferred", |s| &s.deferred), ("rejected", |s| &s.rejected)];
    page.head("postlane_messages_total", "counter", "Messages answered after their end of data.");
    for (i, label) in &labels {
        for (outcome, of) in outcomes {
            page.line("postlane_messages_total", &format!("{label},outcome=\"{outcome}\""), sum(*i, of));
        }
    }
    let rest: [(&str, &str, &str, OfListener); 3] = [
        ("postlane_sessions", "gauge", "Sessions open now.", |s| &s.sessions),
        ("postlane_sessions_total", "counter", "Sessions ever accepted.", |s| &s.connections),
        ("postlane_sessions_refused_total", "counter", "Sessions turned away at max_sessions.", |s| {
            &s.turned_away
        }),
    ];
    for (name, kind, help, of) in rest {
        page.head(name, kind, help);
        labels.iter().for_each(|(i, label)| page.line(name, label, sum(*i, of)));
    }
}

fn pools(page: &mut Page, names: &Names) {
    let episodes = |pool: &super::PoolName| [pool.standing.panic, pool.standing.fallback];
    let gauges = [
        ("postlane_pool_panic", "1 while so few upstreams are healthy that marks are ignored."),
        ("postlane_pool_fallback", "1 while the fallback takes the pool's mail."),
    ];
    for (i, (name, help)) in gauges.into_iter().enumerate() {
        page.head(name, "gauge", help);
        for pool in &names.pools {
            page.line(name, &format!("pool=\"{}\"", pool.name), u64::from(episodes(pool)[i].is_on));
        }
    }
    let name = "postlane_pool_transitions_total";
    page.head(name, "counter", "Times panic, or the use of the fallback, began or ended.");
    for pool in &names.pools {
        for (what, episode) in ["panic", "fallback"].iter().zip(episodes(pool)) {
            for (to, times) in [("begun", episode.begun), ("ended", episode.ended)] {
                let label = format!("pool=\"{}\",what=\"{what}\",to=\"{to}\"", pool.name);
                page.line(name, &label, times);
            }
        }
    }
}

fn upstreams(page: &mut Page, names: &Names, shards: &[Arc<Stats>]) {
    let named = named_upstreams(names);
    let fleet: Vec<(usize, usize, String)> =
        named.iter().map(|(p, u, label)| (*p, u.place, label.clone())).collect();
    type Of = fn(&UpstreamStats) -> &Counter;
    let sum = |p: usize, u: usize, of: Of| -> u64 { shards.iter().map(|s| of(&s.pools[p][u]).get()).sum() };
    let outcomes: [(&str, Of); 3] =
        [("delivered", |s| &s.delivered), ("deferred", |s| &s.deferred), ("bounced", |s| &s.bounced)];
    let states: [(&str, Of); 3] = [("idle", |s| &s.idle), ("busy", |s| &s.busy), ("opening", |s| &s.opening)];
    page.head("postlane_deliveries_total", "counter", "Recipients delivered; offers put off or refused.");
    page.by_part("postlane_deliveries_total", "outcome", &fleet, &outcomes, sum);
    page.head("postlane_upstream_links", "gauge", "Links now, by state.");
    page.by_part("postlane_upstream_links", "state", &fleet, &states, sum);
    let rest: [(&str, &str, &str, Of); 8] = [
        ("postlane_upstream_in_flight", "gauge", "Transactions under way.", |s| &s.in_flight),
        (
            "postlane_upstream_links_limit",
            "gauge",
            "Links that may be in use at once: what the upstream does best with, at most links_per_shard for each shard.",
            |s| &s.limit,
        ),
        ("postlane_upstream_links_opened_total", "counter", "Links ever opened.", |s| &s.opened),
        ("postlane_upstream_connect_failures_total", "counter", "Links that could not be opened.", |s| {
            &s.connect_failures
        }),
        ("postlane_upstream_links_lost_total", "counter", "Links lost in a transaction.", |s| &s.lost_links),
        ("postlane_upstream_ejections_total", "counter", "Times an upstream was ejected.", |s| &s.ejections),
        ("postlane_upstream_pressure_total", "counter", "Times it asked for fewer links.", |s| &s.pressures),
        ("postlane_upstream_overdue_total", "counter", "Deliveries taken away because it was silent.", |s| {
            &s.overdue
        }),
    ];
    for (name, kind, help, of) in rest {
        page.head(name, kind, help);
        fleet.iter().for_each(|(p, u, label)| page.line(name, label, sum(*p, *u, of)));
    }
    let failures = FailedAt::ALL.map(|at| (at.label(), at));
    page.head("postlane_upstream_failures_total", "counter", "Failed transactions by how far they had come.");
    page.by_part("postlane_upstream_failures_total", "stage", &fleet, &failures, |p, u, at| {
        shards.iter().map(|s| s.pools[p][u].failures(at).get()).sum()
    });
    standings(page, &named);
    page.head("postlane_upstream_response_seconds", "histogram", "Response times by stage of the dialogue.");
    for (p, u, label) in &fleet {
        for stage in Stage::ALL {
            let label = format!("{label},stage=\"{}\"", stage.label());
            let histograms = shards.iter().map(|s| s.pools[*p][*u].stage(stage));
            page.histogram("postlane_upstream_response_seconds", &label, histograms);
        }
    }
}

/// Upstreams with their pool's place and their labels. Those leaving are not shown: their names may be others' now.
fn named_upstreams(names: &Names) -> Vec<(usize, &UpstreamName, String)> {
    let of_pool = |pool: &super::PoolName, upstream: &UpstreamName| {
        format!("pool=\"{}\",upstream=\"{}\"", pool.name, upstream.name)
    };
    let mut named = Vec::new();
    for pool in &names.pools {
        let staying = pool.upstreams.iter().filter(|upstream| upstream.standing.state != State::Leaving);
        named.extend(staying.map(|upstream| (pool.place, upstream, of_pool(pool, upstream))));
    }
    named
}

fn standings(page: &mut Page, named: &[(usize, &UpstreamName, String)]) {
    page.head(
        "postlane_upstream_healthy",
        "gauge",
        "1 if it is up: neither down, ejected, drained nor disabled.",
    );
    for (_, upstream, label) in named {
        page.line("postlane_upstream_healthy", label, u64::from(upstream.standing.state == State::Up));
    }
    page.head("postlane_upstream_weight", "gauge", "Its share, as in force.");
    named
        .iter()
        .for_each(|(_, upstream, label)| page.line("postlane_upstream_weight", label, upstream.weight));
    page.head("postlane_upstream_state_changes_total", "counter", "Times its state changed.");
    for (_, upstream, label) in named {
        page.line("postlane_upstream_state_changes_total", label, upstream.standing.changes());
    }
    page.head("postlane_upstream_transitions_total", "counter", "Times it came into a state.");
    for (_, upstream, label) in named {
        for (state, times) in State::ALL.iter().zip(upstream.standing.entered) {
            let label = format!("{label},to=\"{}\"", state.label());
            page.line("postlane_upstream_transitions_total", &label, times);
        }
    }
    page.head("postlane_upstream_probes_total", "counter", "Probes by how they went.");
    for (_, upstream, label) in named {
        let standing = &upstream.standing;
        for (result, probes) in [("good", standing.probes_good), ("bad", standing.probes_bad)] {
            page.line("postlane_upstream_probes_total", &format!("{label},result=\"{result}\""), probes);
        }
    }
}

fn machine(page: &mut Page, shards: &[Arc<Stats>], busy: &[f64]) {
    type Total = fn(&Stats) -> &Counter;
    type Times = fn(&Stats) -> &Histogram;
    let totals: &[(&str, &str, Total)] = &[
        ("postlane_in_doubt_total", "Transactions repeated although an upstream may have taken them.", |s| {
            &s.in_doubt
        }),
        ("postlane_bounces_total", "Bounces made: notices of refusal or expiry.", |s| &s.bounces),
        ("postlane_relay_notices_total", "Notices that tell of no failure: relayed, delayed.", |s| {
            &s.relay_notices
        }),
        ("postlane_bounces_dropped_total", "Bounces nobody was to be told or would take.", |s| {
            &s.bounces_dropped
        }),
        ("postlane_fallbacks_total", "Deliveries that went on to a pool's fallback.", |s| &s.fallbacks),
        ("postlane_letters_total", "Letters between shards.", |s| &s.letters),
        ("postlane_wake_ups_total", "Shards woken by others, for letters.", |s| &s.wake_ups),
        ("postlane_out_of_buffers_total", "Messages refused for want of memory.", |s| &s.out_of_buffers),
        ("postlane_streamed_total", "Messages that left while they were still arriving.", |s| &s.streamed),
        (
            "postlane_connections_turned_away_total",
            "Connections closed at once, as many being open as a shard can have.",
            |s| &s.connections_turned_away,
        ),
        ("postlane_turns_total", "Turns of the shards' loops.", |s| &s.turns),
    ];
    for &(name, help, of) in totals {
        page.head(name, "counter", help);
        page.line(name, "", shards.iter().map(|stats| of(stats).get()).sum::<u64>());
    }
    page.head("postlane_shard_busy_ratio", "gauge", "Share of the last second that the shard did not wait.");
    for (shard, ratio) in busy.iter().enumerate() {
        page.line("postlane_shard_busy_ratio", &format!("shard=\"{shard}\""), format!("{ratio:.4}"));
    }
    page.head("postlane_message_seconds", "histogram", "A message's time by stage.");
    let stages: [(&str, Times); 3] =
        [("receive", |s| &s.receive), ("dispatch", |s| &s.dispatch), ("total", |s| &s.total)];
    for (stage, of) in stages {
        page.histogram(
            "postlane_message_seconds",
            &format!("stage=\"{stage}\""),
            shards.iter().map(|s| of(s)),
        );
    }
}

pub(super) struct Page {
    out: String,
}

impl Page {
    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.out, "{name} {value}")
        } else {
            writeln!(self.out, "{name}{{{labels}}} {value}")
        };
    }

    /// Counters of which every shard has one of each kind.
    fn by_kind(&mut self, name: &str, kinds: &[&str], shards: &[Arc<Stats>], of: fn(&Stats) -> &[Counter]) {
        for (shard, stats) in shards.iter().enumerate() {
            for (kind, counter) in kinds.iter().zip(of(stats)) {
                self.line(name, &format!("shard=\"{shard}\",kind=\"{kind}\""), counter.get());
            }
        }
    }

    fn by_part<O: Copy>(
        &mut self,
        name: &str,
        part: &str,
        fleet: &[(usize, usize, String)],
        parts: &[(&str, O)],
        sum: impl Fn(usize, usize, O) -> u64,
    ) {
        for (p, u, label) in fleet {
            for (value, of) in parts {
                self.line(name, &format!("{label},{part}=\"{value}\""), sum(*p, *u, *of));
            }
        }
    }

    pub(super) fn histogram<'a>(
        &mut self,
        name: &str,
        labels: &str,
        shards: impl Iterator<Item = &'a Histogram>,
    ) {
        let mut sum = Snapshot::default();
        shards.for_each(|histogram| histogram.add_to(&mut sum));
        let (bucket, count) = (format!("{name}_bucket"), sum.count());
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, up_to) in sum.cumulative() {
            self.line(&bucket, &format!("{labels}{comma}le=\"{}\"", bound as f64 / 1e9), up_to);
        }
        self.line(&bucket, &format!("{labels}{comma}le=\"+Inf\""), count);
        self.line(&format!("{name}_sum"), labels, sum.sum_nanos as f64 / 1e9);
        self.line(&format!("{name}_count"), labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_shards_and_names_what_the_contract_names() {
        let upstream = |place: usize, state| UpstreamName {
            name: format!("mta{}", place + 1),
            place,
            address: ([10, 0, 0, 1], 25).into(),
            weight: 1,
            standing: super::super::Standing { state, ..Default::default() },
        };
        let names = Names {
            edition: 1,
            bypass: Some(super::super::Bypass {
                interface: "eth1".into(),
                mode: "copy".into(),
                queues: vec![0],
                huge_pages: false,
                nodes: vec![0],
            }),
            listeners: vec![super::super::ListenerName { name: "apps".into(), place: 0 }],
            pools: vec![super::super::PoolName {
                name: "farm".into(),
                place: 0,
                standing: Default::default(),
                upstreams: vec![upstream(0, State::Up), upstream(1, State::Ejected)],
            }],
        };
        let shards: Vec<Arc<Stats>> = (0..2).map(|_| Arc::new(Stats::new(1, &[2]))).collect();
        shards[0].listeners[0].accepted.add(2);
        shards[1].listeners[0].accepted.add(3);
        shards[0].pools[0][0].limit.set(8);
        shards[1].pools[0][0].limit.set(3);
        shards[0].pools[0][0].stage(Stage::Eod).record(1_500_000);
        shards[1].bypass_clients[1].set(7);
        let text = text(&names, &shards, &[0.25, 0.5]);
        for line in [
            "postlane_messages_total{listener=\"apps\",outcome=\"accepted\"} 5",
            "postlane_upstream_healthy{pool=\"farm\",upstream=\"mta1\"} 1",
            "postlane_upstream_healthy{pool=\"farm\",upstream=\"mta2\"} 0",
            "postlane_upstream_response_seconds_count{pool=\"farm\",upstream=\"mta1\",stage=\"eod\"} 1",
            "postlane_upstream_links{pool=\"farm\",upstream=\"mta1\",state=\"idle\"} 0",
            "postlane_upstream_links_limit{pool=\"farm\",upstream=\"mta1\"} 11",
            "postlane_in_doubt_total 0",
            "postlane_upstream_transitions_total{pool=\"farm\",upstream=\"mta2\",to=\"down\"} 0",
            "postlane_pool_panic{pool=\"farm\"} 0",
            "postlane_pool_transitions_total{pool=\"farm\",what=\"fallback\",to=\"begun\"} 0",
            "postlane_shard_busy_ratio{shard=\"1\"} 0.5000",
            "postlane_bypass_info{interface=\"eth1\",mode=\"copy\"} 1",
            "postlane_bypass_segments_total{shard=\"1\",kind=\"sent_again\"} 0",
            "postlane_bypass_clients_total{shard=\"1\",kind=\"cookie_sent\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        assert!(
            text.lines()
                .all(|l| l.starts_with('#')
                    || l.rsplit_once(' ').is_some_and(|(_, v)| v.parse::<f64>().is_ok()))
        );
    }
}
