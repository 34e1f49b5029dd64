//! The machine as text.

use std::fmt::Write;

use crate::{CpuSet, Machine, Nic};

/// Physical cores drawn in one line.
const CORES_PER_LINE: usize = 8;

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

fn draw_nic(text: &mut String, nic: &Nic) -> std::fmt::Result {
    let driver = nic.driver.as_deref().unwrap_or("no device");
    write!(text, "NIC        {} ({driver}, {})", nic.name, nic.state)?;
    if let Some(node) = nic.node {
        write!(text, " on node {node}")?;
    }
    writeln!(text, ": {} receive and {} transmit queues", nic.rx_queues, nic.tx_queues)?;
    for irq in nic.irqs.iter().filter(|irq| !irq.name.is_empty()) {
        writeln!(text, "           IRQ {} {} on CPU {}", irq.number, irq.name, some(&irq.cpus))?;
    }
    Ok(())
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
