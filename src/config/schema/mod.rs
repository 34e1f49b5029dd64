//! What the configuration may say: the top of the file, and what must hold between its sections.

mod delivery;
mod listener;
mod names;
mod pool;
mod route;
mod xdp;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Duration;

use super::error::{Place, Report};
use super::section::{Located, Section};
use super::tree::Table;
use super::{Admin, Backend, Config, CpuList, Errors, Machine, ShardBy, Shards};

/// Most shards: a shard's number takes ten bits in handles.
pub(super) const SHARDS_MAX: usize = 1024;
const LISTENERS_MAX: usize = 64;
const POOLS_MAX: usize = 64;
const ROUTES_MAX: usize = 100_000;

const MIB: u64 = 1 << 20;
/// Least memory for message bodies: below it hardly a message fits.
const MEMORY_MIN: u64 = 16 * MIB;
const MEMORY_MAX: u64 = 1 << 44;

/// The keys of the top, to tell one written too far down from one that does not exist.
const TOP_KEYS: [&str; 6] = ["hostname", "shards", "shard_by", "backend", "drain_timeout", "memory"];

/// The checked values of a tree, or all that is wrong with it.
pub(super) fn check(tree: &Table, mut report: Report, machine: &Machine) -> Result<Config, Errors> {
    let config = top(tree, &mut report, machine);
    match config {
        Some(config) if report.is_clean() => Ok(config),
        _ => Err(report.into_errors()),
    }
}

fn top(tree: &Table, report: &mut Report, machine: &Machine) -> Option<Config> {
    let mut section = Section::new(tree, "at the top of the file", report);
    let mut listened = Taken::default();
    let hostname = hostname(&mut section, machine);
    let shards = shards(&mut section, machine);
    let shard_by = section.choice("shard_by", &ShardBy::ALL.map(|by| (by.label(), by)), &[]);
    let backend = section.choice("backend", &[("uring", Backend::Uring), ("xdp", Backend::Xdp)], &[]);
    let backend = backend.unwrap_or(Backend::Uring);
    let xdp = section.table("xdp").and_then(|table| xdp::read(table, section.report));
    if let Some(at) = section.key_at("backend").filter(|_| backend == Backend::Xdp)
        && section.key_at("xdp").is_none()
    {
        section.report.wrong(at, "`backend = \"xdp\"` needs `[xdp]` with `interface = \"eth1\"`");
    }
    let hour = Duration::from_secs(3600);
    let drain_timeout = section.duration("drain_timeout", Duration::from_secs(30), Duration::ZERO..=hour);
    let memory = memory(&mut section, machine);
    let admin = section.table("admin").and_then(|table| admin(table, section.report, &mut listened));
    let listeners = section.tables("listener", "listener", LISTENERS_MAX);
    if section.key_at("listener").is_none() || section.is_empty_list("listener") {
        section.missing(
            "there is no `[[listener]]`: add one with `name = \"...\"` and `address = \"127.0.0.1:2525\"`",
        );
    }
    let mut listener_names = Taken::default();
    let listeners =
        listener::all(&listeners, section.report, &mut listener_names, &mut listened, (memory, backend));
    let pools = section.tables("pool", "pool", POOLS_MAX);
    if section.key_at("pool").is_none() || section.is_empty_list("pool") {
        section.missing("there is no `[[pool]]`: add one with `name = \"...\"` and a `[[pool.upstream]]`");
    }
    let mut pool_names = Taken::default();
    let pools = pool::all(&pools, section.report, &mut pool_names);
    let routes = section.tables("route", "route", ROUTES_MAX);
    let routes = route::all(&routes, section.report, &listener_names, &pool_names);
    let delivery = delivery::read(&mut section, hostname.as_deref(), machine.cpus.len());
    later(&mut section);
    section.close(&[]);
    Some(Config {
        hostname: hostname?,
        shards: shards?,
        shard_by: shard_by.unwrap_or(ShardBy::Address),
        backend,
        xdp,
        drain_timeout,
        memory,
        admin,
        listeners,
        pools,
        routes,
        delivery,
    })
}

/// Sections of versions to come.
fn later(section: &mut Section<'_, '_>) {
    let remove = "remove it";
    section.later("log", remove);
    section.later("source", "remove it; addresses to send from are a pool's `source_addresses`");
    for key in ["provider", "dkim", "suppression", "feedback"] {
        section.later(key, remove);
    }
}

fn hostname(section: &mut Section<'_, '_>, machine: &Machine) -> Option<String> {
    if section.key_at("hostname").is_some() {
        let written =
            section.parsed("hostname", |text| names::check_hostname(text).map(|()| text.to_owned()));
        return written.map(|hostname| hostname.value);
    }
    section.text("hostname");
    if let Err(why) = names::check_hostname(&machine.hostname) {
        let advice = "set `hostname = \"mail.example.net\"`";
        section.missing(format!(
            "`hostname` is not set, and the machine's own name will not do ({why}): {advice}"
        ));
        return None;
    }
    Some(machine.hostname.clone())
}

fn shards(section: &mut Section<'_, '_>, machine: &Machine) -> Option<Shards> {
    if section.is_number("shards") {
        let most = u32::try_from(SHARDS_MAX).expect("the bound is small");
        let count = section.count("shards", 1, 1..=most);
        return u16::try_from(count).ok().map(Shards::Count);
    }
    let parsed = section.parsed("shards", |text| match text {
        "auto" => Ok(Shards::Auto),
        _ if text.parse::<u32>().is_ok() => Err(format!(
            "write `{text}` without quotes for that many shards, or `\"{text}-{text}\"` for one on CPU {text}"
        )),
        _ => text
            .parse()
            .map(|list: CpuList| Shards::Cpus(list.0))
            .map_err(|why| format!("{why}; or `\"auto\"`, or a number of shards without quotes")),
    });
    let Some(parsed) = parsed else {
        return section.key_at("shards").is_none().then_some(Shards::Auto);
    };
    if let Shards::Cpus(cpus) = &parsed.value {
        check_cpus(cpus, parsed.at, section.report, machine);
    }
    Some(parsed.value)
}

/// Every CPU named must be one that shards can be pinned to.
fn check_cpus(cpus: &[u32], at: Place, report: &mut Report, machine: &Machine) {
    let mut usable = [machine.cpus.as_slice(), &machine.isolated].concat();
    usable.sort_unstable();
    let refused: Vec<u32> = cpus.iter().copied().filter(|cpu| usable.binary_search(cpu).is_err()).collect();
    if !refused.is_empty() {
        let (refused, usable) = (CpuList(refused), CpuList(usable));
        let message = format!("`shards`: this process may not run on CPU {refused}: choose from {usable}");
        report.wrong(at, message);
    } else if cpus.len() > SHARDS_MAX {
        report.wrong(at, format!("`shards` names {} CPUs: at most {SHARDS_MAX}", cpus.len()));
    }
}

fn memory(section: &mut Section<'_, '_>, machine: &Machine) -> u64 {
    let quarter = (machine.memory_bytes / 4).max(MEMORY_MIN);
    let most = if machine.memory_bytes > MEMORY_MIN { machine.memory_bytes } else { MEMORY_MAX };
    section.size("memory", quarter, MEMORY_MIN..=most)
}

fn admin(table: &Table, report: &mut Report, listened: &mut Taken<SocketAddr>) -> Option<Admin> {
    let mut section = Section::new(table, "in `[admin]`", report);
    let listen = section.parsed("listen", |text| names::parse_address(text, 8025));
    let token = section.text("token");
    if section.key_at("listen").is_none() {
        section.missing("`[admin]` has no `listen`: add `listen = \"127.0.0.1:8025\"`");
    }
    if let Some(token) = &token
        && (token.value.is_empty() || !token.value.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        section
            .report
            .wrong(token.at, "`token` must be printable ASCII without spaces, at least one character");
    }
    if let Some(listen) = &listen {
        listened.claim(section.report, listen, |value| format!("`{value}` is already listened on"));
        if !listen.value.ip().to_canonical().is_loopback() && section.key_at("token").is_none() {
            let message = "`[admin]` without `token` may only listen on a loopback address: \
                           add `token = { file = \"...\" }` or write `listen = \"127.0.0.1:8025\"`";
            section.report.wrong(listen.at, message);
        }
    }
    section.close(&TOP_KEYS);
    Some(Admin { listen: listen?.value, token: token.map(|token| token.value) })
}

/// Values that may be there only once, and where the first of each was written.
struct Taken<T> {
    first: HashMap<T, Place>,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Taken { first: HashMap::new() }
    }
}

impl Taken<String> {
    /// Whether something has that name.
    fn has(&self, name: &str) -> bool {
        self.first.contains_key(name)
    }

    /// All of them, in the order in which they were written.
    fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<_> = self.first.iter().collect();
        names.sort_by_key(|(_, at)| **at);
        names.into_iter().map(|(name, _)| name.as_str())
    }
}

impl<T: Hash + Eq + Clone> Taken<T> {
    /// Takes a value, or reports that it was taken; `complaint` says it in words.
    fn claim(&mut self, report: &mut Report, located: &Located<T>, complaint: impl Fn(&T) -> String) {
        match self.first.get(&located.value) {
            Some(first) => {
                let place = report.describe(*first);
                report
                    .wrong(located.at, format!("{}, at {place}: choose another", complaint(&located.value)));
            }
            None => {
                self.first.insert(located.value.clone(), located.at);
            }
        }
    }
}
