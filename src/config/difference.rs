//! What a reload would change, in lines, and what only a restart can.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;

use super::units::{Size, Span};
use super::{Backend, Config, Delivery, Listener, Machine, Pool, Route};

/// What differs between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// One line each: `+` what is new, `-` what is gone, `~` what is otherwise.
    pub lines: Vec<String>,
    /// Names of settings that differ and cannot change without a restart.
    pub fixed: Vec<&'static str>,
}

/// Compares what is running with what is to run.
pub fn difference(running: &Config, next: &Config, machine: &Machine) -> Difference {
    let (before, after) = (facts(running), facts(next));
    let mut lines = Vec::new();
    for (key, old) in &before {
        match after.get(key) {
            None => lines.push(format!("- {key}{}", suffix(old))),
            Some(new) if new != old => lines.push(format!("~ {key}: {old} → {new}")),
            Some(_) => {}
        }
    }
    let new = after.iter().filter(|(key, _)| !before.contains_key(*key));
    lines.extend(new.map(|(key, new)| format!("+ {key}{}", suffix(new))));
    lines.extend(route_lines(&running.routes, &next.routes));
    let changed = [
        ("hostname", running.hostname != next.hostname),
        ("shards", running.shard_cpus(machine) != next.shard_cpus(machine)),
        ("shard_by", running.shard_by != next.shard_by),
        ("backend", running.backend != next.backend),
        ("backend of a listener's address", is_moved_past_kernel(running, next)),
        ("[xdp]", running.xdp != next.xdp),
        ("memory", running.memory != next.memory),
        ("spool", is_moved(&running.delivery, &next.delivery)),
        ("[admin]", running.admin != next.admin),
    ];
    let fixed = changed.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    Difference { lines, fixed }
}

/// Whether an address stays listened at, but its clients are to come the other way: those that there are would be cut off.
fn is_moved_past_kernel(running: &Config, next: &Config) -> bool {
    let ways = |config: &Config| -> BTreeMap<SocketAddr, Backend> {
        let each = |one: &Listener| -> Vec<_> { one.addresses.iter().map(|at| (*at, one.backend)).collect() };
        config.listeners.iter().flat_map(each).collect()
    };
    let after = ways(next);
    ways(running).iter().any(|(at, way)| after.get(at).is_some_and(|other| other != way))
}

/// Whether there would be a spool where there is none, or another one.
fn is_moved(running: &Delivery, next: &Delivery) -> bool {
    let place = |delivery: &Delivery| {
        delivery.mode.has_spool().then(|| (delivery.spool.clone(), delivery.sync, delivery.spool_max))
    };
    place(next).is_some() && place(running) != place(next)
}

fn suffix(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(": {value}") }
}

/// Every setting by its name.
fn facts(config: &Config) -> BTreeMap<String, String> {
    let mut facts = Facts::default();
    facts.put("", "hostname", &config.hostname);
    facts.put("", "shards", format_args!("{:?}", config.shards));
    facts.put("", "shard_by", format_args!("{:?}", config.shard_by));
    facts.put("", "backend", format_args!("{:?}", config.backend));
    facts.put("", "xdp", format_args!("{:?}", config.xdp));
    facts.put("", "drain_timeout", Span(config.drain_timeout));
    facts.put("", "memory", Size(config.memory));
    facts.put_delivery(&config.delivery);
    facts.put("", "admin", config.admin.as_ref().map_or("none".to_owned(), |admin| admin.listen.to_string()));
    facts.put("", "first pool", config.pools.first().map_or("", |pool| pool.name.as_str()));
    for listener in &config.listeners {
        let name = format!("listener {}", listener.name);
        for address in &listener.addresses {
            facts.put(&name, &format!("address {address}"), "");
        }
        facts.put(&name, "backend", listener.backend.label());
        facts.put(&name, "trusted", join(&listener.trusted));
        facts.put(&name, "max_message", Size(listener.max_message));
        facts.put(&name, "max_recipients", listener.max_recipients);
        facts.put(&name, "max_sessions", listener.max_sessions);
        facts.put(&name, "idle_timeout", Span(listener.idle_timeout));
    }
    config.pools.iter().for_each(|pool| facts.put_pool(pool));
    facts.0
}

#[derive(Default)]
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn put(&mut self, of: &str, key: &str, value: impl Display) {
        let separator = if of.is_empty() { "" } else { ": " };
        self.0.insert(format!("{of}{separator}{key}"), value.to_string());
    }

    fn put_delivery(&mut self, delivery: &Delivery) {
        self.put("", "bounce_from", &delivery.bounce_from);
        self.put("", "mode", delivery.mode.label());
        self.put("", "through_timeout", Span(delivery.through_timeout));
        self.put("", "spool", delivery.spool.display());
        self.put("", "spool_max", Size(delivery.spool_max));
        self.put("", "sync", delivery.sync);
        let retry: Vec<String> = delivery.retry.iter().map(|step| Span(*step).to_string()).collect();
        self.put("", "retry", retry.join(", "));
        self.put("", "max_age", Span(delivery.max_age));
        self.put("", "delay_warning", Span(delivery.delay_warning));
    }

    fn put_pool(&mut self, pool: &Pool) {
        let name = format!("pool {}", pool.name);
        self.put(&name, "balance", pool.balance.label());
        self.put(&name, "links_per_shard", pool.links_per_shard);
        self.put(&name, "idle_links", pool.idle_links);
        self.put(&name, "transactions_per_link", pool.transactions_per_link);
        self.put(&name, "source_addresses", join(&pool.source_addresses));
        self.put(&name, "connect_timeout", Span(pool.connect_timeout));
        self.put(&name, "reply_timeout", Span(pool.reply_timeout));
        self.put(&name, "idle_timeout", Span(pool.idle_timeout));
        self.put(&name, "attempts", pool.attempts);
        self.put(&name, "chunking", pool.chunking);
        self.put(&name, "fallback", pool.fallback.as_deref().unwrap_or("none"));
        let health = &pool.health;
        self.put(&name, "probe", format_args!("{:?}", health.probe));
        if let Some(mail) = &health.probe_mail {
            self.put(&name, "probe_sender", format_args!("<{}>", mail.sender));
            self.put(&name, "probe_recipient", format_args!("<{}>", mail.recipient));
        }
        self.put(&name, "interval", Span(health.interval));
        self.put(&name, "rise", health.rise);
        self.put(&name, "fall", health.fall);
        self.put(&name, "eject_after", health.eject_after);
        self.put(&name, "eject_for", Span(health.eject_for));
        self.put(&name, "slow_start", Span(health.slow_start));
        self.put(&name, "panic_below", f64::from(health.panic_below_permille) / 1000.0);
        for upstream in &pool.upstreams {
            // Another address is another upstream.
            let upstream_name = format!("{name}: upstream {} {}", upstream.name, upstream.address);
            self.put(&upstream_name, "weight", upstream.weight);
        }
    }
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Routes that are new or gone; and, where all are the same, that their order is not.
fn route_lines(before: &[Route], after: &[Route]) -> Vec<String> {
    let counted = |routes: &[Route]| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        routes.iter().for_each(|route| *counts.entry(format!("{route:?}")).or_default() += 1);
        counts
    };
    let (old, new) = (counted(before), counted(after));
    let beyond = |from: &BTreeMap<String, usize>, in_: &BTreeMap<String, usize>| -> usize {
        from.iter().map(|(text, n)| n.saturating_sub(in_.get(text).copied().unwrap_or_default())).sum()
    };
    let (gone, added) = (beyond(&old, &new), beyond(&new, &old));
    match (gone, added) {
        (0, 0) if before != after => vec!["~ routes: in another order".to_owned()],
        (0, 0) => Vec::new(),
        _ => vec![format!("~ routes: {added} added, {gone} removed, {} in all", after.len())],
    }
}
