//! The machine: which CPUs there are, which of them shards may use, and what lies between them and the network.
//!
//! [`discover`] reads the kernel's own account under a given root (`/`, or a made-up tree in tests); [`plan`] puts
//! shards on CPUs and [`notes`] says what is worth a look about it; [`show`] draws the machine as text. Only
//! `discover` touches the world.

mod cpu_set;
mod discover;
mod nic;
mod place;
pub mod rss;
mod show;

use serde::Serialize;

pub use cpu_set::{CpuSet, CpuSetError};
pub use discover::discover;
pub use nic::{Irq, Nic};
pub use place::{PlanError, ShardPlace, Wanted, notes, order, plan};
pub use show::show;

/// What the kernel says about the machine and about what this process may use of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The machine's name (`/proc/sys/kernel/hostname`); empty if the kernel does not say.
    pub hostname: String,
    /// The kernel's release, like `6.18.0`.
    pub kernel: String,
    /// CPUs that are online, by number.
    pub cpus: Vec<Cpu>,
    /// CPUs this process may run on and that are online.
    pub allowed: CpuSet,
    /// CPUs online but kept free of ordinary work (`isolcpus=`) that this process may be pinned to. They are seldom
    /// among `allowed`: the kernel puts a process there only if asked to by number.
    pub isolated: CpuSet,
    /// Processor time granted by the control group, in CPUs; `None` if all there is.
    pub cpu_quota: Option<f64>,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// Memory granted by the control group in bytes; `None` if all there is.
    pub memory_limit_bytes: Option<u64>,
    /// Bytes this process may lock in memory (`RLIMIT_MEMLOCK`); `None` if there is no limit.
    pub locked_memory_limit_bytes: Option<u64>,
    /// The sysctl `kernel.io_uring_disabled`: 0 allowed, 1 for privileged processes or members of a group only, 2
    /// refused; `None` on kernels before 6.6, which do not have it.
    pub io_uring_disabled: Option<u8>,
    /// Network interfaces, by name.
    pub nics: Vec<Nic>,
}

impl Machine {
    /// The CPU of that number, if it is online.
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// Memory this process can count on, in bytes: the machine's, or what the control group grants if that is less.
    pub fn usable_memory_bytes(&self) -> u64 {
        self.memory_bytes.min(self.memory_limit_bytes.unwrap_or(u64::MAX))
    }
}

/// A logical CPU and where it sits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its number in the kernel.
    pub id: u32,
    /// Its physical core, named by the core's lowest online CPU: unique over the machine, unlike the kernel's `core_id`.
    pub core: u32,
    /// Its physical package.
    pub socket: u32,
    /// Its NUMA node.
    pub node: u32,
}
