//! The plan: shard ↔ CPU ↔ queue ↔ interrupt, and how everything between them should be set.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::driver::{Coalescing, DriverSetting, Queues, Rings};
use crate::steps::with_ports;
use crate::{CpuSet, Fault, Machine, Nic, PlanError, Setting, ShardPlace, Step, Wanted, notes, plan};

/// Places in a ring that the replies of a busy turn fit into.
const RING_PLACES: u32 = 1_024;
/// As measured: an interrupt is let through when the second look in a row found nothing.
const DEFER_HARD_IRQS: u32 = 2;
/// And the looks are 0.2 ms apart.
const FLUSH_NANOSECONDS: u64 = 200_000;
/// Where only the device can hold interrupts back: microseconds.
const HELD_BACK_USECS: u32 = 50;
/// Connections that may wait to be accepted: what listeners ask for.
const ACCEPT_BACKLOG: u32 = 4_096;
/// Huge pages for the frames of one queue: 4,096 frames of at most 4 KiB.
pub(crate) const PAGES_PER_QUEUE: u64 = 8;

/// How bytes to upstreams travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// By the kernel's TCP.
    Uring,
    /// By AF_XDP.
    Xdp,
}

/// What the machine is to be tuned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// How bytes to upstreams travel.
    pub backend: Backend,
    /// The interfaces; none: all that mail may go by ([`Machine::nics_of`]). Bypass goes by one.
    pub nics: Vec<String>,
    /// Queues that are used past the kernel; `None`: all there are.
    pub queues: Option<Vec<u32>>,
    /// Shards.
    pub wanted: Wanted,
    /// Local ports of links past the kernel.
    pub ports: RangeInclusive<u16>,
}

/// Where everything goes and how it should be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tuning {
    /// By shard.
    pub shards: Vec<ShardTuning>,
    /// How everything should be set, whatever it is now, in the order to do it.
    pub steps: Vec<Step>,
    /// What stands against it and is not for this to set.
    pub faults: Vec<Fault>,
    /// What is worth a look.
    pub notes: Vec<String>,
}

/// A shard, where it runs and what arrives there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardTuning {
    /// Where it runs.
    #[serde(flatten)]
    pub place: ShardPlace,
    /// The queues whose packets it takes, or whose interrupts its CPU serves.
    pub queues: Vec<QueuePlace>,
}

/// A queue and its interrupts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueuePlace {
    /// The interface.
    pub nic: String,
    /// The queue's number.
    pub queue: u32,
    /// The interrupts' numbers; none if there is no telling.
    pub irqs: Vec<u32>,
}

/// Plans for a machine. The same machine and goal give the same plan, and the machine set as planned does too.
///
/// # Errors
/// Shards that cannot be placed; interfaces that are not there, or not named where bypass needs one.
pub fn tune(machine: &Machine, goal: &Goal) -> Result<Tuning, PlanError> {
    if let Some(name) = goal.nics.iter().find(|name| !machine.nics.iter().any(|nic| nic.name == **name)) {
        return Err(PlanError::NoNic(name.clone()));
    }
    let nics: Vec<&Nic> = machine.nics_of(&goal.nics).collect();
    if goal.backend == Backend::Xdp && nics.len() != 1 {
        return Err(PlanError::WhichNic);
    }
    let places = plan(machine, &goal.wanted, &goal.nics)?;
    let shards = places.iter().map(|place| ShardTuning { place: *place, queues: Vec::new() }).collect();
    let mut tuning = Tuning { shards, steps: Vec::new(), faults: Vec::new(), notes: notes(machine, &places) };
    for nic in &nics {
        tuning.nic(nic, goal);
    }
    tuning.clear_isolated(machine);
    tuning.cpus(machine);
    tuning.system(machine, goal);
    tuning.judge(machine, goal, &nics);
    // Numbers of queues first, for interrupts follow from them.
    tuning.steps.sort_by_key(|step| !step.setting.moves_queues());
    Ok(tuning)
}

impl Tuning {
    fn want(&mut self, setting: Setting, cost: impl Into<String>) {
        self.steps.push(Step::new(setting, cost));
    }

    /// Whose packets go by a queue of this interface: the shards near to it. Past the kernel it is all shards, for
    /// queues are dealt out to them in turn.
    fn takers(&self, nic: &Nic, backend: Backend) -> Vec<usize> {
        let all = 0..self.shards.len();
        let near = all.clone().filter(|shard| nic.node == Some(self.shards[*shard].place.node));
        let near: Vec<usize> = near.collect();
        if near.is_empty() || backend == Backend::Xdp { all.collect() } else { near }
    }

    fn nic(&mut self, nic: &Nic, goal: &Goal) {
        let backend = goal.backend;
        let takers = self.takers(nic, backend);
        let queues = match goal.queues.as_ref().filter(|_| backend == Backend::Xdp) {
            // The others are somebody else's, so how many there are is not for us to say.
            Some(named) => named.iter().copied().filter(|queue| *queue < nic.rx_queues).collect(),
            None => (0..self.queues(nic, takers.len())).collect::<Vec<u32>>(),
        };
        self.interrupts(nic, &takers, &queues);
        self.steering(nic, &takers, &queues, backend);
        self.coalescing(nic);
        self.rings(nic);
        self.offloads(nic, backend);
    }

    /// As many queues as there are takers, if the device can; how many there then are.
    fn queues(&mut self, nic: &Nic, takers: usize) -> u32 {
        let takers = u32::try_from(takers).unwrap_or(u32::MAX);
        let name = &nic.name;
        let mut queues = nic.rx_queues;
        if let (Some(now), Some(max)) = (nic.facts.queues, nic.facts.queues_max) {
            queues = now.combined + now.rx;
            // Those that are only for one direction are left as they are.
            if max.combined > 0 && now.rx == 0 {
                queues = max.combined.min(takers);
                let setting = DriverSetting::Queues(Queues { combined: queues, ..now });
                self.want(
                    Setting::driver(name, setting),
                    "with fewer queues than shards packets change CPUs on their way; with more there are more \
                     interrupts for the same packets",
                );
            }
        }
        if let Some(spread) = nic.facts.spread.as_ref().filter(|_| queues > 0) {
            let table = (0_u32..).map(|n| n % queues).take(spread.table.len()).collect();
            self.want(
                Setting::driver(name, DriverSetting::Spread { table }),
                "some queues get more packets than others, so some shards work while others wait",
            );
        }
        queues
    }

    /// Queues go round the takers, in order.
    fn interrupts(&mut self, nic: &Nic, takers: &[usize], queues: &[u32]) {
        for (place, &queue) in queues.iter().enumerate() {
            let shard = takers[place % takers.len()];
            let irqs = || nic.irqs.iter().filter(|irq| irq.queue == Some(queue));
            let cpu = self.shards[shard].place.cpu;
            for irq in irqs() {
                self.want(
                    Setting::file(format!("proc/irq/{}/smp_affinity_list", irq.number), cpu),
                    "packets of a queue are made ready on one CPU and taken by its shard on another, each through \
                     the other's cache",
                );
            }
            let irqs = irqs().map(|irq| irq.number).collect();
            self.shards[shard].queues.push(QueuePlace { nic: nic.name.clone(), queue, irqs });
        }
    }

    /// Which CPUs use a queue to send (XPS), and whether software spreads further what was received (RPS).
    fn steering(&mut self, nic: &Nic, takers: &[usize], queues: &[u32], backend: Backend) {
        let cpus_of = |tuning: &Tuning, place: usize| -> CpuSet {
            let of_queue = takers.iter().enumerate().filter(|(n, _)| n % queues.len() == place);
            let owner = takers[place % takers.len()];
            let shards = of_queue.map(|(_, shard)| *shard).chain([owner]);
            shards.map(|shard| tuning.shards[shard].place.cpu).collect()
        };
        let folder = format!("sys/class/net/{}/queues", nic.name);
        let few = queues.len() < takers.len() && backend == Backend::Uring;
        for (place, &queue) in
            queues.iter().enumerate().filter(|(_, queue)| (**queue as usize) < nic.rps.len())
        {
            let cpus = if few { cpus_of(self, place) } else { CpuSet::default() };
            let cost = if few {
                "there are fewer queues than shards: the CPU that serves the interrupt does the kernel's TCP for \
                 several of them"
            } else {
                "packets are handed to another CPU in software although the device has a queue for each"
            };
            self.want(Setting::file(format!("{folder}/rx-{queue}/rps_cpus"), cpus.to_mask()), cost);
        }
        for (place, &queue) in
            queues.iter().enumerate().filter(|(_, queue)| (**queue as usize) < nic.xps.len())
        {
            let mask = cpus_of(self, place).to_mask();
            self.want(
                Setting::file(format!("{folder}/tx-{queue}/xps_cpus"), mask),
                "shards send by each other's queues: their locks and completions go from CPU to CPU",
            );
        }
    }

    fn coalescing(&mut self, nic: &Nic) {
        const COST: &str = "an interrupt for every few packets. Held back for at most 0.2 ms they halved what a 1 KiB message \
             costs through the kernel's TCP (13.4 to 7.5 µs) and past it (8.2 to 4.3 µs), where upstreams were the \
             bottleneck";
        let folder = format!("sys/class/net/{}", nic.name);
        if nic.napi.is_some() {
            self.want(Setting::file(format!("{folder}/gro_flush_timeout"), FLUSH_NANOSECONDS), COST);
            self.want(Setting::file(format!("{folder}/napi_defer_hard_irqs"), DEFER_HARD_IRQS), COST);
        } else if let Some(now) = nic.facts.coalescing {
            // What the driver chooses by the traffic is left to it.
            let rx_usecs = if now.adaptive_rx { now.rx_usecs } else { now.rx_usecs.max(HELD_BACK_USECS) };
            let setting = DriverSetting::Coalescing(Coalescing { rx_usecs, ..now });
            self.want(Setting::driver(&nic.name, setting), COST);
        }
    }

    fn rings(&mut self, nic: &Nic) {
        let (Some(now), Some(max)) = (nic.facts.rings, nic.facts.rings_max) else { return };
        let places = |now: u32, max: u32| now.max(RING_PLACES.min(max));
        let rings = Rings { rx: places(now.rx, max.rx), tx: places(now.tx, max.tx) };
        self.want(
            Setting::driver(&nic.name, DriverSetting::Rings(rings)),
            "a burst of replies does not fit: what is dropped is sent again after 0.2 s",
        );
    }

    fn offloads(&mut self, nic: &Nic, backend: Backend) {
        let wanted: &[(&str, bool, &str)] = match backend {
            Backend::Uring => &[
                ("tx-tcp-segmentation", true, "the CPU cuts bodies into packets, which the device could do"),
                ("tx-generic-segmentation", true, "bodies go through the kernel's TCP packet by packet"),
                ("rx-gro", true, "packets of one stream go through the kernel's TCP one by one"),
                ("rx-checksum", true, "the CPU adds up every byte that arrives"),
            ],
            Backend::Xdp => &[(
                "rx-lro",
                false,
                "packets that the device has joined cannot be taken by AF_XDP: the driver refuses its own mode, and \
                 the generic one is slower",
            )],
        };
        for &(name, on, cost) in wanted {
            if nic.facts.offload(name).is_some_and(|offload| !offload.fixed) {
                let setting = DriverSetting::Offload { name: name.to_owned(), on };
                self.want(Setting::driver(&nic.name, setting), cost);
            }
        }
    }

    /// No other interrupt on isolated CPUs that have no shard.
    fn clear_isolated(&mut self, machine: &Machine) {
        let used: CpuSet = self.shards.iter().map(|shard| shard.place.cpu).collect();
        let unused = machine.isolated.without(&used);
        let others: CpuSet =
            machine.cpus.iter().map(|cpu| cpu.id).filter(|cpu| !machine.isolated.contains(*cpu)).collect();
        for irq in machine.nics.iter().flat_map(|nic| &nic.irqs) {
            let path = format!("proc/irq/{}/smp_affinity_list", irq.number);
            let is_planned = self
                .steps
                .iter()
                .any(|step| matches!(&step.setting, Setting::File { path: planned, .. } if *planned == path));
            if is_planned || irq.cpus.intersection(&unused).is_empty() {
                continue;
            }
            let rest = irq.cpus.without(&unused);
            let cpus = if rest.is_empty() { &others } else { &rest };
            self.want(Setting::file(path, cpus), "what was isolated for something else is interrupted");
        }
    }

    fn cpus(&mut self, machine: &Machine) {
        let used: CpuSet = self.shards.iter().map(|shard| shard.place.cpu).collect();
        for cpu in machine.cpus.iter().filter(|cpu| used.contains(cpu.id)) {
            if cpu.governors.iter().any(|governor| governor == "performance") {
                let path = format!("sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", cpu.id);
                self.want(
                    Setting::file(path, "performance"),
                    "after each pause the CPU begins slowly: shards sleep between turns, so that is most of the time \
                     under light load",
                );
            }
        }
    }

    fn system(&mut self, machine: &Machine, goal: &Goal) {
        let system = &machine.system;
        if let Some(now) = system.somaxconn {
            self.want(
                Setting::file("proc/sys/net/core/somaxconn", now.max(ACCEPT_BACKLOG)),
                "clients that connect at the same moment are left to try again after a second",
            );
        }
        if let Some(now) = &system.transparent_huge_pages {
            let to = if now == "never" { "madvise" } else { now };
            self.want(
                Setting::file("sys/kernel/mm/transparent_hugepage/enabled", to),
                "bodies lie on pages of 4 KiB: 512 times as many entries for the CPU to look up",
            );
        }
        if goal.backend == Backend::Uring {
            return;
        }
        let (first, last) = (*goal.ports.start(), *goal.ports.end());
        if let Some(list) = system.reserved_ports.as_deref().and_then(|now| with_ports(now, first, last)) {
            self.want(
                Setting::file("proc/sys/net/ipv4/ip_local_reserved_ports", list),
                "the kernel may give a port of ours to another program, whose connection would then never come up",
            );
        }
        // Last: memory in pieces may not yield as many as are asked for.
        for pages in &system.huge_pages {
            let node = pages.node;
            let here = self.shards.iter().filter(|shard| shard.place.node == node);
            let queues: usize = here.map(|shard| shard.queues.len()).sum();
            if queues > 0 {
                let total = pages.total.max(queues as u64 * PAGES_PER_QUEUE);
                let path =
                    format!("sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages");
                self.want(Setting::file(path, total), "frames lie on pages of 4 KiB");
            }
        }
    }
}
