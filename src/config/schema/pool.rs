//! `[[pool]]` and its upstreams.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{TOP_KEYS, Taken, names};
use crate::config::error::Report;
use crate::config::section::{Located, Section};
use crate::config::tree::{Node, Table, Value};
use crate::config::{Balance, Health, Pool, Probe, ProbeMail, Upstream};

const UPSTREAMS_MAX: usize = 1024;
const SOURCES_MAX: usize = 256;
/// Unless it is said otherwise.
const CHUNKING: bool = true;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// All pools that are right; what is wrong with the others is reported.
pub(super) fn all(tables: &[&Table], report: &mut Report, named: &mut Taken<String>) -> Vec<Pool> {
    let pools: Vec<Pool> = tables.iter().filter_map(|table| one(table, report, named)).collect();
    for table in tables {
        check_fallback(table, report, &pools, named);
    }
    pools
}

/// A fallback must be another pool, and the line of fallbacks must have an end.
fn check_fallback(table: &Table, report: &mut Report, pools: &[Pool], named: &Taken<String>) {
    let text = |key: &str| match table.get(key).map(|entry| &entry.node) {
        Some(Node { at, value: Value::Text(text) }) => Some((*at, text.as_str())),
        _ => None,
    };
    let (Some((at, fallback)), Some((_, name))) = (text("fallback"), text("name")) else { return };
    if !named.has(fallback) {
        let message = names::unknown("pool", fallback, named.names());
        return report.wrong(at, format!("`fallback`: {message}"));
    }
    let fallback_of =
        |name: &&str| pools.iter().find(|pool| pool.name == *name).and_then(|pool| pool.fallback.as_deref());
    let mut line = std::iter::successors(Some(fallback), fallback_of).take(pools.len());
    if line.any(|pool| pool == name) {
        let message = format!(
            "`fallback`: from `{name}` by `{fallback}` it comes back to `{name}`: let the line end somewhere"
        );
        report.wrong(at, message);
    }
}

fn one(table: &Table, report: &mut Report, named: &mut Taken<String>) -> Option<Pool> {
    let least = Duration::from_millis(10);
    let mut section = Section::new(table, "in `[[pool]]`", report);
    let name = names::name(&mut section, "[[pool]]", named);
    let balance = section.choice("balance", &Balance::ALL.map(|balance| (balance.label(), balance)), &[]);
    let (links_per_shard, idle_links) = links(&mut section);
    let transactions_per_link = section.count("transactions_per_link", 0, 0..=1_000_000_000);
    let connect_timeout = section.duration("connect_timeout", seconds(5), least..=seconds(300));
    let reply_timeout = section.duration("reply_timeout", seconds(300), least..=seconds(3600));
    let idle_timeout = section.duration("idle_timeout", seconds(30), least..=seconds(3600));
    let attempts = section.count("attempts", 3, 1..=20);
    let chunking = section.flag("chunking", CHUNKING);
    let sources = sources(&mut section);
    let health = section.table("health").map_or_else(default_health, |table| health(table, section.report));
    let upstream_tables = section.tables("upstream", "pool.upstream", UPSTREAMS_MAX);
    if section.key_at("upstream").is_none() || section.is_empty_list("upstream") {
        section.missing("`[[pool]]` has no upstream: add `[[pool.upstream]]` with `name = \"...\"` and `address = \"10.1.0.11:25\"`");
    }
    let mut upstream_names = Taken::default();
    let upstreams: Vec<_> = upstream_tables
        .iter()
        .filter_map(|table| upstream(table, section.report, &mut upstream_names))
        .collect();
    check_families(section.report, &sources, &upstreams);
    section.choice("tls", &[("off", ())], &["optional", "required", "verify"]);
    section.later("auth", "remove it; upstreams must take mail from this machine without it");
    let fallback = section.text("fallback");
    section.close(&TOP_KEYS);
    Some(Pool {
        name: name?.value,
        balance: balance.unwrap_or(Balance::LeastResponseTime),
        links_per_shard,
        idle_links,
        transactions_per_link,
        source_addresses: sources.into_iter().map(|source| source.value).collect(),
        connect_timeout,
        reply_timeout,
        idle_timeout,
        attempts: u8::try_from(attempts).ok()?,
        chunking,
        fallback: fallback.as_ref().map(|fallback| fallback.value.clone()),
        health,
        upstreams: upstreams.into_iter().map(|upstream| upstream.value).collect(),
    })
}

fn links(section: &mut Section<'_, '_>) -> (u16, u16) {
    let most = 1024;
    let links_per_shard = section.count("links_per_shard", 8, 1..=most);
    let idle_links = section.count("idle_links", 1, 0..=most);
    if idle_links > links_per_shard {
        let at = section.key_at("idle_links").unwrap_or(section.at());
        let message = format!(
            "`idle_links` is {idle_links}, but `links_per_shard` is {links_per_shard}: lower it, or raise `links_per_shard`"
        );
        section.report.wrong(at, message);
    }
    let narrow = |count: u32| u16::try_from(count).expect("within bounds");
    (narrow(links_per_shard), narrow(idle_links))
}

fn sources(section: &mut Section<'_, '_>) -> Vec<Located<IpAddr>> {
    let parse = |text: &str| match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
            Err(format!("`{text}` cannot be sent from: write an address of this machine"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!(
            "`{}` is not an IP address: write it without a port, like `192.0.2.10`",
            text.escape_debug()
        )),
    };
    let sources = section.parsed_list("source_addresses", parse).unwrap_or_default();
    if let Some(beyond) = sources.get(SOURCES_MAX) {
        section
            .report
            .wrong(beyond.at, format!("`source_addresses` lists {}: at most {SOURCES_MAX}", sources.len()));
    }
    let mut named = Taken::default();
    for source in &sources {
        named.claim(section.report, source, |value| format!("`{value}` is already in `source_addresses`"));
    }
    sources
}

/// An upstream's address must be of a family that can be sent from.
fn check_families(report: &mut Report, sources: &[Located<IpAddr>], upstreams: &[Located<Upstream>]) {
    if sources.is_empty() {
        return;
    }
    for upstream in upstreams {
        let address = upstream.value.address;
        if !sources.iter().any(|source| source.value.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!(
                "`{address}` cannot be reached from `source_addresses`: add an {family} address to them"
            );
            report.wrong(upstream.at, message);
        }
    }
}

fn default_health() -> Health {
    Health {
        probe: Probe::Smtp,
        probe_mail: None,
        interval: seconds(5),
        rise: 2,
        fall: 3,
        eject_after: 5,
        eject_for: seconds(10),
        slow_start: seconds(30),
        panic_below_permille: 300,
    }
}

fn health(table: &Table, report: &mut Report) -> Health {
    let default = default_health();
    let least = Duration::from_millis(10);
    let mut section = Section::new(table, "in `[pool.health]`", report);
    let probes = [("smtp", Probe::Smtp), ("tcp", Probe::Tcp), ("off", Probe::Off)];
    let probe = section.choice("probe", &probes, &[]).unwrap_or(default.probe);
    let health = Health {
        probe,
        probe_mail: probe_mail(&mut section, probe),
        interval: section.duration("interval", default.interval, Duration::from_millis(100)..=seconds(3600)),
        rise: section.count("rise", default.rise, 1..=100),
        fall: section.count("fall", default.fall, 1..=100),
        eject_after: section.count("eject_after", default.eject_after, 1..=10_000),
        eject_for: section.duration("eject_for", default.eject_for, least..=seconds(300)),
        slow_start: section.duration("slow_start", default.slow_start, Duration::ZERO..=seconds(3600)),
        panic_below_permille: section.share("panic_below", default.panic_below_permille),
    };
    section.close(&TOP_KEYS);
    health
}

fn probe_mail(section: &mut Section<'_, '_>, probe: Probe) -> Option<ProbeMail> {
    let mailbox = |text: &str| names::check_mailbox(text).map(|()| text.to_owned());
    let recipient = section.parsed("probe_recipient", mailbox);
    let sender = section.parsed("probe_sender", |text| match text {
        // The null sender (RFC 5321 section 4.5.5): nobody is told when it is refused.
        "" => Ok(String::new()),
        _ => mailbox(text),
    });
    for key in ["probe_recipient", "probe_sender"] {
        if let Some(at) = section.key_at(key).filter(|_| probe != Probe::Smtp) {
            let message =
                format!("`{key}` is only asked about by `probe = \"smtp\"`: write that, or remove it");
            section.report.wrong(at, message);
        }
    }
    if let Some(at) = section.key_at("probe_sender").filter(|_| section.key_at("probe_recipient").is_none()) {
        let message = "`probe_sender` needs a `probe_recipient`: without one a probe ends after EHLO";
        section.report.wrong(at, message.to_owned());
    }
    let sender = sender.map(|sender| sender.value).unwrap_or_default();
    Some(ProbeMail { sender, recipient: recipient?.value })
}

/// An upstream, located at its address.
fn upstream(table: &Table, report: &mut Report, named: &mut Taken<String>) -> Option<Located<Upstream>> {
    let mut section = Section::new(table, "in `[[pool.upstream]]`", report);
    let name = names::name(&mut section, "[[pool.upstream]]", named);
    let address = section.parsed("address", parse_upstream_address);
    if section.key_at("address").is_none() {
        section.missing("`[[pool.upstream]]` has no `address`: add `address = \"10.1.0.11:25\"`");
    }
    let weight = section.count("weight", 1, 1..=65_535);
    section.close(&TOP_KEYS);
    let Located { value: address, at } = address?;
    Some(Located { value: Upstream { name: name?.value, address, weight }, at })
}

fn parse_upstream_address(text: &str) -> Result<SocketAddr, String> {
    let address = names::parse_address(text, 25)?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(format!("`{text}` cannot be sent to: write the upstream's own address"));
    }
    Ok(address)
}
