//! Shards to CPUs.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use crate::{CpuSet, Machine};

/// How many shards are wanted, or where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One for each allowed CPU.
    Auto,
    /// That many; more than there are CPUs go round.
    Count(usize),
    /// One on each of these, in this order.
    Cpus(Vec<u32>),
}

/// Where a shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ShardPlace {
    /// The CPU it is pinned to.
    pub cpu: u32,
    /// That CPU's physical core, as in [`Cpu::core`](crate::Cpu::core).
    pub core: u32,
    /// That CPU's NUMA node.
    pub node: u32,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// No shards were asked for.
    NoShards,
    /// The process may not run on any CPU that is online.
    NoCpus,
    /// CPUs were named that the process may not use.
    NotAllowed {
        /// Those CPUs.
        refused: CpuSet,
        /// Those to choose from.
        usable: CpuSet,
    },
    /// A CPU was named more than once.
    Twice(u32),
    /// There is no interface of that name.
    NoNic(String),
    /// There is no interface that could be bypassed by: it must be named.
    WhichNic,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::NoShards => f.write_str("no shards were asked for: ask for at least one"),
            PlanError::NoCpus => f.write_str("this process may not run on any CPU that is online"),
            PlanError::NotAllowed { refused, usable } => {
                write!(f, "this process may not run on CPU {refused}: choose from {usable}")
            }
            PlanError::NoNic(name) => {
                write!(f, "there is no interface {}: `postlane hw show` names them", name.escape_debug())
            }
            PlanError::WhichNic => f.write_str("name the one interface that upstreams are reached by"),
            PlanError::Twice(cpu) => write!(f, "CPU {cpu} is named twice: name it once"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Allowed CPUs in the order in which shards take them, near to the interfaces that mail may go by.
pub fn order(machine: &Machine) -> Vec<u32> {
    order_near(machine, &[])
}

/// Allowed CPUs in the order in which shards take them: one of each physical core first, those on the nodes of the
/// named interfaces (of all that can be tuned, if none is named) before the others, node by node; and only then their
/// siblings, for two shards on one core share its execution units and caches.
pub fn order_near(machine: &Machine, nics: &[String]) -> Vec<u32> {
    let near: Vec<u32> = machine.nics_of(nics).filter_map(|nic| nic.node).collect();
    let mut taken_of_core: HashMap<u32, usize> = HashMap::new();
    let allowed = machine.cpus.iter().filter(|cpu| machine.allowed.contains(cpu.id));
    let mut ranked: Vec<(usize, bool, u32, u32)> = allowed
        .map(|cpu| {
            let taken = taken_of_core.entry(cpu.core).or_default();
            *taken += 1;
            (*taken, !near.contains(&cpu.node), cpu.node, cpu.id)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(.., id)| id).collect()
}

/// Gives each shard its CPU. `Auto` and `Count` use allowed CPUs only, in the order of [`order_near`]; a list may name
/// isolated CPUs too.
///
/// # Errors
///
/// Nothing to place, nowhere to place it, or CPUs named that cannot be used or are named twice.
pub fn plan(machine: &Machine, wanted: &Wanted, nics: &[String]) -> Result<Vec<ShardPlace>, PlanError> {
    let ordered = order_near(machine, nics);
    let chosen = match wanted {
        Wanted::Count(0) => return Err(PlanError::NoShards),
        Wanted::Cpus(cpus) if cpus.is_empty() => return Err(PlanError::NoShards),
        Wanted::Cpus(cpus) => check_named(machine, cpus)?.to_vec(),
        Wanted::Auto | Wanted::Count(_) if ordered.is_empty() => return Err(PlanError::NoCpus),
        Wanted::Auto => ordered,
        Wanted::Count(count) => ordered.into_iter().cycle().take(*count).collect(),
    };
    let place = |id: u32| machine.cpu(id).map(|cpu| ShardPlace { cpu: id, core: cpu.core, node: cpu.node });
    Ok(chosen.into_iter().filter_map(place).collect())
}

fn check_named<'c>(machine: &Machine, cpus: &'c [u32]) -> Result<&'c [u32], PlanError> {
    let usable: CpuSet = machine.allowed.iter().chain(machine.isolated.iter()).collect();
    let refused: CpuSet = cpus.iter().copied().filter(|cpu| !usable.contains(*cpu)).collect();
    if !refused.is_empty() {
        return Err(PlanError::NotAllowed { refused, usable });
    }
    let mut named = HashSet::new();
    match cpus.iter().find(|cpu| !named.insert(**cpu)) {
        Some(cpu) => Err(PlanError::Twice(*cpu)),
        None => Ok(cpus),
    }
}

/// What is worth a look about a plan, in words.
pub fn notes(machine: &Machine, places: &[ShardPlace]) -> Vec<String> {
    let mut notes = Vec::new();
    let cpus: CpuSet = places.iter().map(|place| place.cpu).collect();
    let cores: CpuSet = places.iter().map(|place| place.core).collect();
    let nodes: CpuSet = places.iter().map(|place| place.node).collect();
    if places.len() > cpus.len() {
        notes.push(format!("{} shards share {} CPUs", places.len(), cpus.len()));
    }
    if cpus.len() > cores.len() {
        notes.push(format!("{} CPUs share {} physical cores", cpus.len(), cores.len()));
    }
    if nodes.len() > 1 {
        notes.push(format!(
            "shards lie on NUMA nodes {nodes}: what they pass to each other crosses between them"
        ));
    }
    let unused: CpuSet = machine.isolated.iter().filter(|cpu| !cpus.contains(*cpu)).collect();
    if !unused.is_empty() {
        notes.push(format!("isolated CPUs {unused} have no shard: name them to use them"));
    }
    if let Some(quota) = machine.cpu_quota.filter(|quota| *quota < places.len() as f64) {
        notes.push(format!(
            "the control group grants {quota:.1} CPUs to {} shards: they will be stopped at times",
            places.len()
        ));
    }
    notes
}
