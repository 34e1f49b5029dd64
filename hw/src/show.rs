//! The machine as text.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::driver::DriverSetting;
use crate::{CpuSet, Machine, Nic, QueuePlace, Setting, ShardTuning, System, Tuning, XdpAbility};

/// Physical cores drawn in one line.
const CORES_PER_LINE: usize = 8;

/// Offloads that are drawn: the kernel's names and the usual ones.
const OFFLOADS: [(&str, &str); 6] = [
    ("tx-tcp-segmentation", "TSO"),
    ("tx-generic-segmentation", "GSO"),
    ("rx-gro", "GRO"),
    ("rx-lro", "LRO"),
    ("rx-checksum", "receive checksums"),
    ("tx-checksum-ip-generic", "transmit checksums"),
];

/// Draws the machine: a bracket is a physical core with its CPUs, node by node; then each network interface.
pub fn show(machine: &Machine) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = draw(&mut text, machine);
    text
}

fn draw(text: &mut String, machine: &Machine) -> std::fmt::Result {
    writeln!(text, "kernel     {}, io_uring {}", machine.kernel, io_uring(machine.io_uring_disabled))?;
    write!(text, "memory     {}", size(machine.memory_bytes))?;
    if let Some(limit) = machine.memory_limit_bytes {
        write!(text, ", of which the control group grants {}", size(limit))?;
    }
    let locked = machine.locked_memory_limit_bytes.map_or("without limit".to_owned(), size);
    writeln!(text, "; may lock {locked}")?;
    writeln!(
        text,
        "CPUs       {} online, allowed to this process: {}",
        machine.cpus.len(),
        some(&machine.allowed)
    )?;
    if !machine.isolated.is_empty() {
        writeln!(text, "           isolated: {}", machine.isolated)?;
    }
    if let Some(quota) = machine.cpu_quota {
        writeln!(text, "           the control group grants the time of {quota:.1}")?;
    }
    let mut places: Vec<(u32, u32)> = machine.cpus.iter().map(|cpu| (cpu.socket, cpu.node)).collect();
    places.sort_unstable();
    places.dedup();
    for (socket, node) in places {
        draw_node(text, machine, socket, node)?;
    }
    if machine.cpus.iter().any(|cpu| !usable(machine, cpu.id)) {
        writeln!(text, "           (n): not for this process")?;
    }
    let governors: BTreeSet<&str> = machine.cpus.iter().filter_map(|cpu| cpu.governor.as_deref()).collect();
    if !governors.is_empty() {
        let names: Vec<&str> = governors.into_iter().collect();
        writeln!(text, "governor   {}", names.join(", "))?;
    }
    draw_system(text, &machine.system)?;
    machine.nics.iter().try_for_each(|nic| draw_nic(text, nic))
}

fn draw_node(text: &mut String, machine: &Machine, socket: u32, node: u32) -> std::fmt::Result {
    let here = || machine.cpus.iter().filter(move |cpu| (cpu.socket, cpu.node) == (socket, node));
    let cores: CpuSet = here().map(|cpu| cpu.core).collect();
    let width = machine.cpus.iter().map(|cpu| cpu.id.to_string().len() + 2).max().unwrap_or(1);
    writeln!(text, "socket {socket}, NUMA node {node}")?;
    let drawn: Vec<String> = cores
        .iter()
        .map(|core| {
            let mark = |id: u32| {
                if usable(machine, id) { format!("{id} ") } else { format!("({id})") }
            };
            let cpus = here().filter(|cpu| cpu.core == core).map(|cpu| format!("{:>width$}", mark(cpu.id)));
            format!("[{}]", cpus.collect::<Vec<_>>().join(""))
        })
        .collect();
    drawn.chunks(CORES_PER_LINE).try_for_each(|line| writeln!(text, "  {}", line.join(" ")))
}

fn draw_system(text: &mut String, system: &System) -> std::fmt::Result {
    if let Some((first, last)) = system.local_ports {
        let reserved = system.reserved_ports.as_deref().filter(|list| !list.is_empty()).unwrap_or("none");
        writeln!(text, "ports      {first}-{last} for whoever asks, of which reserved: {reserved}")?;
    }
    if let Some(somaxconn) = system.somaxconn {
        writeln!(text, "listeners  at most {somaxconn} connections wait to be accepted")?;
    }
    if let Some(who) = &system.transparent_huge_pages {
        write!(text, "huge pages unasked: {who}")?;
        for pages in &system.huge_pages {
            write!(text, "; set aside on node {}: {}, {} free", pages.node, pages.total, pages.free)?;
        }
        writeln!(text)?;
    }
    if system.irqbalance {
        writeln!(text, "irqbalance runs")?;
    }
    Ok(())
}

fn draw_nic(text: &mut String, nic: &Nic) -> std::fmt::Result {
    let driver = nic.driver.as_deref().or(nic.facts.driver.as_deref()).unwrap_or("no device");
    write!(text, "NIC        {} ({driver}, {})", nic.name, nic.state)?;
    if let Some(of) = &nic.vlan_of {
        return writeln!(text, ", VLAN of {of}");
    }
    if let Some(node) = nic.node {
        write!(text, " on node {node}")?;
    }
    writeln!(text, ": {} receive and {} transmit queues", nic.rx_queues, nic.tx_queues)?;
    // Of `lo` and the like there is no more to say.
    if nic.driver.is_none() && nic.facts.queues.is_none() {
        return Ok(());
    }
    let xdp = match nic.xdp {
        XdpAbility::ZeroCopy => "zero-copy",
        XdpAbility::Native => "copy",
        XdpAbility::Generic => "generic",
    };
    writeln!(text, "           AF_XDP: {xdp}, by the driver's name")?;
    let facts = &nic.facts;
    if let Some((now, max)) = facts.queues.zip(facts.queues_max) {
        let [now, max] = [now, max].map(|queues| Setting::driver("", DriverSetting::Queues(queues)).value());
        writeln!(text, "           queues {now}, at most {max}")?;
    }
    if let Some((now, max)) = facts.rings.zip(facts.rings_max) {
        writeln!(text, "           rings rx {} tx {}, at most rx {} tx {}", now.rx, now.tx, max.rx, max.tx)?;
    }
    if let Some(spread) = &facts.spread {
        let table = Setting::driver("", DriverSetting::Spread { table: spread.table.clone() }).value();
        let hash = if spread.is_toeplitz { "Toeplitz" } else { "another hash" };
        writeln!(text, "           RSS by {hash}, {} places: {table}", spread.table.len())?;
    }
    if let Some(coalescing) = facts.coalescing {
        let words = Setting::driver("", DriverSetting::Coalescing(coalescing)).value();
        writeln!(text, "           interrupts held back by the device: {words}")?;
    }
    if let Some(napi) = nic.napi {
        writeln!(
            text,
            "           interrupts held back by the kernel: {} looks, {} µs apart",
            napi.defer_hard_irqs,
            napi.gro_flush_timeout / 1000
        )?;
    }
    let on: Vec<&str> = OFFLOADS
        .iter()
        .filter(|(name, _)| facts.offload(name).is_some_and(|offload| offload.on))
        .map(|(_, word)| *word)
        .collect();
    if !on.is_empty() {
        writeln!(text, "           offloads: {}", on.join(", "))?;
    }
    for irq in nic.irqs.iter().filter(|irq| !irq.name.is_empty()) {
        writeln!(text, "           IRQ {} {} on CPU {}", irq.number, irq.name, some(&irq.cpus))?;
    }
    Ok(())
}

/// Draws what a plan puts where: a line for each shard.
pub fn show_tuning(tuning: &Tuning) -> String {
    let mut text = String::new();
    for (shard, ShardTuning { place, queues }) in tuning.shards.iter().enumerate() {
        let queue = |queue: &QueuePlace| {
            let irqs: Vec<String> = queue.irqs.iter().map(ToString::to_string).collect();
            let irqs = if irqs.is_empty() { String::new() } else { format!(" (IRQ {})", irqs.join(", ")) };
            format!("{} queue {}{irqs}", queue.nic, queue.queue)
        };
        let queues: Vec<String> = queues.iter().map(queue).collect();
        let queues = if queues.is_empty() { "no queue".to_owned() } else { queues.join(", ") };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "shard {shard:<4} CPU {:<4} core {:<4} node {}: {queues}",
            place.cpu, place.core, place.node
        );
    }
    text
}

fn usable(machine: &Machine, cpu: u32) -> bool {
    machine.allowed.contains(cpu) || machine.isolated.contains(cpu)
}

fn some(cpus: &CpuSet) -> String {
    if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
}

fn io_uring(disabled: Option<u8>) -> &'static str {
    match disabled {
        None | Some(0) => "allowed",
        Some(1) => "for privileged processes only (kernel.io_uring_disabled = 1)",
        Some(_) => "refused (kernel.io_uring_disabled = 2)",
    }
}

/// Bytes in the largest unit that keeps a digit before the point.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}
