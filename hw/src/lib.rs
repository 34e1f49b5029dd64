//! The machine: which CPUs there are, which of them shards may use, what lies between them and the network; and how
//! it is best set for that.
//!
//! [`discover`] reads the kernel's own account under a given root (`/`, or a made-up tree in tests) and what
//! [`Drivers`] say; [`plan`] puts shards on CPUs, and [`tune`] says which queue and interrupt goes where and how
//! everything should be set; [`Hands`] compare that with the machine, make it so, and undo it; [`show`] draws the
//! machine as text. Only `discover` and `Hands` touch the world.

mod cpu_set;
mod discover;
pub mod driver;
mod ethtool;
mod hands;
mod irq;
mod judge;
mod nic;
mod place;
pub mod rss;
mod setting;
mod show;
mod state;
mod steps;
mod tune;

use serde::Serialize;

pub use cpu_set::{CpuSet, CpuSetError};
pub use discover::discover;
pub use driver::{Drivers, NoDrivers};
pub use ethtool::Ethtool;
pub use hands::{Difference, Done, Failed, Hands};
pub use irq::Irq;
pub use judge::Fault;
pub use nic::{Napi, Nic, XdpAbility};
pub use place::{PlanError, ShardPlace, Wanted, notes, order, order_near, plan};
pub use setting::Setting;
pub use show::{show, show_tuning};
pub use state::State;
pub use steps::Step;
pub use tune::{Backend, Goal, QueuePlace, ShardTuning, Tuning, tune};

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
    /// What is the same for all of it.
    pub system: System,
    /// Network interfaces, by name.
    pub nics: Vec<Nic>,
}

impl Machine {
    /// The CPU of that number, if it is online.
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// The interfaces of these names, for a VLAN's the one that has its device; or, if none is named, all those that mail
    /// may go by and that there is something to tune about: with a device, not down, not by radio.
    pub fn nics_of(&self, names: &[String]) -> impl Iterator<Item = &Nic> {
        self.nics.iter().filter(move |nic| match names {
            [] => nic.driver.is_some() && nic.state != "down" && !nic.wireless,
            names => names.iter().any(|name| self.device_of(name) == nic.name),
        })
    }

    /// The interface whose device carries that one's frames: itself, unless it is a VLAN of another.
    fn device_of<'a>(&'a self, name: &'a str) -> &'a str {
        let vlan_of = self.nics.iter().find(|nic| nic.name == name).and_then(|nic| nic.vlan_of.as_deref());
        vlan_of.unwrap_or(name)
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
    /// What chooses its frequency, if anything does.
    pub governor: Option<String>,
    /// What may choose it.
    pub governors: Vec<String>,
}

/// Settings of the kernel that are of the whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// Most connections that wait for a listener to accept them (`net.core.somaxconn`).
    pub somaxconn: Option<u32>,
    /// Ports that the kernel gives to programs that ask for any (`net.ipv4.ip_local_port_range`).
    pub local_ports: Option<(u16, u16)>,
    /// Ports it does not give to them all the same (`net.ipv4.ip_local_reserved_ports`), like `8080,61000-65535`.
    pub reserved_ports: Option<String>,
    /// Who gets huge pages unasked: `always`, `madvise`, `never`.
    pub transparent_huge_pages: Option<String>,
    /// Huge pages that were set aside, by NUMA node.
    pub huge_pages: Vec<HugePages>,
    /// Whether irqbalance runs, which moves interrupts as it thinks fit.
    pub irqbalance: bool,
}

/// Huge pages of 2 MiB set aside on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// The NUMA node.
    pub node: u32,
    /// Pages in all.
    pub total: u64,
    /// Those that nobody uses.
    pub free: u64,
}
