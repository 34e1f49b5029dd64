//! Network interfaces, their queues and interrupts.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::CpuSet;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its name, like `eth0`.
    pub name: String,
    /// The kernel's driver; `None` for interfaces without a device, like `lo`.
    pub driver: Option<String>,
    /// The NUMA node its device is attached to, if the machine says.
    pub node: Option<u32>,
    /// The kernel's `operstate`: `up`, `down`, `unknown`.
    pub state: String,
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Its interrupts, by number; those that can be read.
    pub irqs: Vec<Irq>,
}

/// An interrupt line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Irq {
    /// Its number in `/proc/interrupts`.
    pub number: u32,
    /// What the driver calls it; empty if it is not in use.
    pub name: String,
    /// CPUs that may serve it.
    pub cpus: CpuSet,
}

/// All interfaces under `root`, by name. What cannot be read is left out: none of it is needed to run.
pub(crate) fn all(root: &Path) -> Vec<Nic> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/class/net")) else {
        return Vec::new();
    };
    let irq_names = irq_names(root);
    // Beside interfaces lie plain files, like `bonding_masters`.
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut nics: Vec<Nic> = folders.map(|entry| one(root, &entry.path(), &irq_names)).collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

fn one(root: &Path, folder: &Path, irq_names: &HashMap<u32, String>) -> Nic {
    let queues = |kind: &str| {
        let entries = std::fs::read_dir(folder.join("queues")).into_iter().flatten().flatten();
        let count = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let text = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap_or_default().trim().to_owned();
    Nic {
        name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        driver: link_name(&folder.join("device/driver")),
        // A device of no particular node says -1.
        node: text("device/numa_node").parse().ok(),
        state: text("operstate"),
        rx_queues: queues("rx-"),
        tx_queues: queues("tx-"),
        irqs: irqs(root, folder, irq_names),
    }
}

/// The last part of what a symbolic link points to.
fn link_name(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The interrupts of an interface's device. A virtio device has none of its own: they are its PCI parent's.
fn irqs(root: &Path, folder: &Path, names: &HashMap<u32, String>) -> Vec<Irq> {
    let device = folder.join("device");
    let is_virtio = link_name(&device.join("subsystem")).is_some_and(|name| name == "virtio");
    let owner = if is_virtio { device.join("..") } else { device };
    let entries = std::fs::read_dir(owner.join("msi_irqs")).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let mut irqs: Vec<Irq> = numbers
        .map(|number| {
            let affinity = root.join(format!("proc/irq/{number}/smp_affinity_list"));
            Irq {
                number,
                name: names.get(&number).cloned().unwrap_or_default(),
                cpus: std::fs::read_to_string(affinity)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or_default(),
            }
        })
        .collect();
    irqs.sort_by_key(|irq| irq.number);
    irqs
}

/// What `/proc/interrupts` calls each line: its last word.
fn irq_names(root: &Path) -> HashMap<u32, String> {
    let text = std::fs::read_to_string(root.join("proc/interrupts")).unwrap_or_default();
    let name = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, rest.split_whitespace().last()?.to_owned()))
    };
    text.lines().filter_map(name).collect()
}
