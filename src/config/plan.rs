//! What a configuration comes to on a machine: the effective plan that `check` prints.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::units::{Size, Span};
use super::{Backend, Config, CpuList, Listener, Machine, Mode, Pool, Probe, Shards, Xdp, XdpMode};

/// What is said at every start while `sync` is off.
pub const SYNC_OFF: &str =
    "`sync = false`: messages are acknowledged before they are on disk; a power cut loses them";

/// The effective plan. Displays as text for people; the JSON is the contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The name said in the banner, in EHLO and in `Received:`.
    pub hostname: String,
    /// `address` or `domain`.
    pub shard_by: &'static str,
    /// `through`, `spool` or `through-then-spool`.
    pub mode: &'static str,
    /// Where and how messages are kept, unless only through.
    pub spool: Option<SpoolPlan>,
    /// The address in `From:` of bounces.
    pub bounce_from: String,
    /// How bytes travel to upstreams, and where a listener says so from clients: `uring` or `xdp`.
    pub backend: &'static str,
    /// The interface that bytes bypass the kernel by.
    pub xdp: Option<XdpPlan>,
    /// Seconds that transactions under way may take to finish once draining.
    pub drain_timeout: f64,
    /// Where the admin endpoint listens.
    pub admin: Option<SocketAddr>,
    /// Each shard and its CPU.
    pub shards: Vec<ShardPlan>,
    /// Where mail is taken.
    pub listeners: Vec<ListenerPlan>,
    /// Where mail is sent.
    pub pools: Vec<PoolPlan>,
    /// How many routes there are.
    pub routes: usize,
    /// The most there can be of everything.
    pub bounds: Bounds,
    /// What is allowed but worth a look.
    pub notes: Vec<String>,
}

/// The spool, of which each shard has its part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpoolPlan {
    /// Its directory.
    pub path: PathBuf,
    /// Messages are on disk before they are acknowledged.
    pub sync: bool,
    /// Most bytes on disk.
    pub max: u64,
    /// One shard's part of them.
    pub max_per_shard: u64,
    /// Seconds until the next attempt after the first, the second, …; the last repeats.
    pub retry: Vec<f64>,
    /// Seconds after which a message is bounced.
    pub max_age: f64,
    /// Seconds that an upstream may take before the spool answers; in `spool` mode it answers at once.
    pub through_timeout: Option<f64>,
}

/// Kernel bypass, as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct XdpPlan {
    /// The interface's name.
    pub interface: String,
    /// Queues that are named; none: all there are.
    pub queues: Vec<u32>,
    /// `auto`, `zero-copy`, `copy` or `generic`.
    pub mode: &'static str,
    /// The first and the last local port.
    pub ports: [u16; 2],
    /// Whether all goes by the kernel if it is refused.
    pub fallback: bool,
}

/// A shard and the CPU it is pinned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardPlan {
    /// Its number, from 0.
    pub shard: usize,
    /// The CPU's number in the kernel.
    pub cpu: u32,
}

/// A listener with its bounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListenerPlan {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// How what comes by the interface of `[xdp]` travels: `uring` or `xdp`.
    pub backend: &'static str,
    /// Networks that may relay.
    pub trusted: Vec<String>,
    /// Largest message in bytes.
    pub max_message: u64,
    /// Most recipients of one transaction.
    pub max_recipients: u32,
    /// Most sessions at once.
    pub max_sessions: u32,
    /// Seconds a session may stay silent.
    pub idle_timeout: f64,
}

/// A pool with its upstreams.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// The policy's name in the configuration.
    pub balance: &'static str,
    /// Most links from one shard to one upstream.
    pub links_per_shard: u16,
    /// Links kept open when there is nothing to send.
    pub idle_links: u16,
    /// Most links of the pool: shards × upstreams × links per shard.
    pub links: u64,
    /// Most upstreams a message is tried on.
    pub attempts: u8,
    /// BDAT is used where it is offered.
    pub chunking: bool,
    /// Local addresses to send from; empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// The pool that takes over while no upstream is healthy.
    pub fallback: Option<String>,
    /// `smtp`, `tcp` or `off`.
    pub probe: &'static str,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamPlan>,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamPlan {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share relative to the others'.
    pub weight: u32,
}

/// The most there can be of everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// Sessions over all listeners.
    pub sessions: u64,
    /// Links over all pools.
    pub links: u64,
    /// Memory for message bodies in bytes.
    pub memory: u64,
    /// One shard's part of it.
    pub memory_per_shard: u64,
}

/// Works out what `config` comes to on `machine`.
pub fn plan(config: &Config, machine: &Machine) -> Plan {
    let cpus = config.shard_cpus(machine);
    let shard_count = cpus.len() as u64;
    let pools: Vec<PoolPlan> = config.pools.iter().map(|pool| pool_plan(pool, shard_count)).collect();
    let bounds = Bounds {
        sessions: config.listeners.iter().map(|listener| u64::from(listener.max_sessions)).sum(),
        links: pools.iter().map(|pool| pool.links).sum(),
        memory: config.memory,
        memory_per_shard: config.memory / shard_count.max(1),
    };
    Plan {
        hostname: config.hostname.clone(),
        shard_by: config.shard_by.label(),
        mode: config.delivery.mode.label(),
        spool: config.delivery.mode.has_spool().then(|| spool_plan(config, shard_count)),
        bounce_from: config.delivery.bounce_from.clone(),
        backend: config.backend.label(),
        xdp: config.xdp.as_ref().filter(|_| config.backend == Backend::Xdp).map(xdp_plan),
        drain_timeout: config.drain_timeout.as_secs_f64(),
        admin: config.admin.as_ref().map(|admin| admin.listen),
        notes: notes(config, machine, &cpus, &bounds),
        shards: cpus.iter().enumerate().map(|(shard, &cpu)| ShardPlan { shard, cpu }).collect(),
        listeners: config.listeners.iter().map(listener_plan).collect(),
        pools,
        routes: config.routes.len(),
        bounds,
    }
}

fn spool_plan(config: &Config, shard_count: u64) -> SpoolPlan {
    let delivery = &config.delivery;
    SpoolPlan {
        path: delivery.spool.clone(),
        sync: delivery.sync,
        max: delivery.spool_max,
        max_per_shard: delivery.spool_max / shard_count.max(1),
        retry: delivery.retry.iter().map(Duration::as_secs_f64).collect(),
        max_age: delivery.max_age.as_secs_f64(),
        through_timeout: (delivery.mode == Mode::ThroughThenSpool)
            .then_some(delivery.through_timeout.as_secs_f64()),
    }
}

fn xdp_plan(xdp: &Xdp) -> XdpPlan {
    XdpPlan {
        interface: xdp.interface.clone(),
        queues: xdp.queues.clone().unwrap_or_default(),
        mode: xdp.mode.map_or("auto", XdpMode::label),
        ports: [*xdp.ports.start(), *xdp.ports.end()],
        fallback: xdp.fallback,
    }
}

fn listener_plan(listener: &Listener) -> ListenerPlan {
    ListenerPlan {
        name: listener.name.clone(),
        addresses: listener.addresses.clone(),
        backend: listener.backend.label(),
        trusted: listener.trusted.iter().map(ToString::to_string).collect(),
        max_message: listener.max_message,
        max_recipients: listener.max_recipients,
        max_sessions: listener.max_sessions,
        idle_timeout: listener.idle_timeout.as_secs_f64(),
    }
}

fn pool_plan(pool: &Pool, shard_count: u64) -> PoolPlan {
    let upstream = |upstream: &super::Upstream| UpstreamPlan {
        name: upstream.name.clone(),
        address: upstream.address,
        weight: upstream.weight,
    };
    PoolPlan {
        name: pool.name.clone(),
        balance: pool.balance.label(),
        links_per_shard: pool.links_per_shard,
        idle_links: pool.idle_links,
        links: shard_count * pool.upstreams.len() as u64 * u64::from(pool.links_per_shard),
        attempts: pool.attempts,
        chunking: pool.chunking,
        source_addresses: pool.source_addresses.clone(),
        fallback: pool.fallback.clone(),
        probe: match pool.health.probe {
            Probe::Smtp => "smtp",
            Probe::Tcp => "tcp",
            Probe::Off => "off",
        },
        upstreams: pool.upstreams.iter().map(upstream).collect(),
    }
}

fn notes(config: &Config, machine: &Machine, cpus: &[u32], bounds: &Bounds) -> Vec<String> {
    let mut notes = Vec::new();
    let mut distinct = cpus.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if matches!(config.shards, Shards::Count(_)) && cpus.len() > distinct.len() {
        let (shards, cpus) = (cpus.len(), distinct.len());
        notes.push(format!(
            "{shards} shards share {cpus} CPUs: more shards than CPUs cost time and gain nothing"
        ));
    }
    if machine.memory_bytes > 0 && config.memory > machine.memory_bytes / 2 {
        let (part, whole) = (Size(config.memory), Size(machine.memory_bytes));
        notes.push(format!("`memory` is {part}, more than half of the machine's {whole}"));
    }
    if config.delivery.mode.has_spool() && !config.delivery.sync {
        notes.push(SYNC_OFF.to_owned());
    }
    for listener in &config.listeners {
        let name = &listener.name;
        if listener.max_message > bounds.memory_per_shard {
            let (message, part) = (Size(listener.max_message), Size(bounds.memory_per_shard));
            notes.push(format!(
                "listener {name}: `max_message` is {message}, but a shard has {part} for bodies"
            ));
        }
        if listener.max_recipients < 100 {
            notes.push(format!("listener {name}: RFC 5321 asks for `max_recipients` of at least 100"));
        }
        if listener.trusted.iter().any(|network| network.prefix() == 0) {
            notes.push(format!("listener {name}: `trusted` holds every address: it is an open relay"));
        }
    }
    for pool in config.pools.iter().skip(1) {
        let is_named = config.routes.iter().any(|route| route.pool == pool.name)
            || config.pools.iter().any(|other| other.fallback.as_ref() == Some(&pool.name));
        if !is_named {
            let name = &pool.name;
            notes.push(format!("pool {name}: receives nothing: no route names it, nor is it a fallback"));
        }
    }
    for pool in &config.pools {
        for (index, upstream) in pool.upstreams.iter().enumerate() {
            if let Some(first) =
                pool.upstreams[..index].iter().find(|first| first.address == upstream.address)
            {
                let (pool, name, first) = (&pool.name, &upstream.name, &first.name);
                notes.push(format!("pool {pool}: upstream {name} has the same address as {first}"));
            }
        }
    }
    notes
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = CpuList(self.shards.iter().map(|shard| shard.cpu).collect());
        writeln!(f, "hostname   {}", self.hostname)?;
        writeln!(f, "shards     {} on CPU {cpus}, recipients by {}", self.shards.len(), self.shard_by)?;
        writeln!(f, "delivery   {}, bounces from {}", self.mode, self.bounce_from)?;
        if let Some(spool) = &self.spool {
            write_spool(f, spool)?;
        }
        if let Some(xdp) = &self.xdp {
            let queues = match xdp.queues.as_slice() {
                [] => "all queues".to_owned(),
                some => format!("queues {}", CpuList(some.to_vec())),
            };
            let [first, last] = xdp.ports;
            let fallback = if xdp.fallback { "; by the kernel if that is refused" } else { "" };
            writeln!(
                f,
                "bypass     {}, {queues}, mode {}, local ports {first}-{last}{fallback}",
                xdp.interface, xdp.mode
            )?;
        }
        match self.admin {
            Some(listen) => writeln!(f, "admin      http://{listen}/")?,
            None => writeln!(f, "admin      none")?,
        }
        let bounds = &self.bounds;
        writeln!(
            f,
            "bounds     {} sessions, {} links, {} for bodies ({} a shard)",
            bounds.sessions,
            bounds.links,
            Size(bounds.memory),
            Size(bounds.memory_per_shard)
        )?;
        for listener in &self.listeners {
            write_listener(f, listener)?;
        }
        for pool in &self.pools {
            write_pool(f, pool)?;
        }
        if self.routes > 0 {
            writeln!(f, "routes     {}; what none of them matches goes to the first pool", self.routes)?;
        }
        for note in &self.notes {
            writeln!(f, "note       {note}")?;
        }
        Ok(())
    }
}

fn write_spool(f: &mut fmt::Formatter<'_>, spool: &SpoolPlan) -> fmt::Result {
    let span = |seconds: f64| Span(Duration::from_secs_f64(seconds)).to_string();
    let retry: Vec<String> = spool.retry.iter().map(|seconds| span(*seconds)).collect();
    writeln!(
        f,
        "spool      {}, at most {} ({} a shard)",
        spool.path.display(),
        Size(spool.max),
        Size(spool.max_per_shard)
    )?;
    if let Some(timeout) = spool.through_timeout {
        writeln!(f, "           takes over after {} without an answer", span(timeout))?;
    }
    writeln!(f, "           tries again after {}, bounces after {}", retry.join(", "), span(spool.max_age))
}

fn write_listener(f: &mut fmt::Formatter<'_>, listener: &ListenerPlan) -> fmt::Result {
    let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
    let by = if listener.backend == "xdp" { ", past the kernel by the interface" } else { "" };
    writeln!(f, "listener   {} on {}{by}", listener.name, addresses.join(", "))?;
    let trusted = match listener.trusted.as_slice() {
        [] => "nobody".to_owned(),
        few if few.len() <= 4 => few.join(", "),
        many => format!("{} networks", many.len()),
    };
    writeln!(f, "           relays for {trusted}")?;
    writeln!(
        f,
        "           at most {} sessions, {} a message, {} recipients, {} of silence",
        listener.max_sessions,
        Size(listener.max_message),
        listener.max_recipients,
        Span(Duration::from_secs_f64(listener.idle_timeout))
    )
}

fn write_pool(f: &mut fmt::Formatter<'_>, pool: &PoolPlan) -> fmt::Result {
    writeln!(f, "pool       {} by {}, {} attempts", pool.name, pool.balance, pool.attempts)?;
    writeln!(
        f,
        "           at most {} links ({} a shard and upstream, {} kept idle)",
        pool.links, pool.links_per_shard, pool.idle_links
    )?;
    let fallback = pool.fallback.as_ref().map(|name| format!(", fallback {name}")).unwrap_or_default();
    writeln!(f, "           probes: {}{fallback}", pool.probe)?;
    if !pool.source_addresses.is_empty() {
        let sources: Vec<String> = pool.source_addresses.iter().map(ToString::to_string).collect();
        writeln!(f, "           sends from {}", sources.join(", "))?;
    }
    let width = pool.upstreams.iter().map(|upstream| upstream.name.len()).max().unwrap_or(0);
    for upstream in &pool.upstreams {
        writeln!(f, "  upstream {:width$}  {}  weight {}", upstream.name, upstream.address, upstream.weight)?;
    }
    Ok(())
}
