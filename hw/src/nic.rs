//! Network interfaces, their queues and interrupts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::CpuSet;
use crate::driver::{Drivers, Facts};
use crate::irq::{self, Irq};

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its name, like `eth0`.
    pub name: String,
    /// The interface that it is a VLAN of, if it is one: that has the device.
    pub vlan_of: Option<String>,
    /// The kernel's driver; `None` for interfaces without a device, like `lo`.
    pub driver: Option<String>,
    /// The NUMA node its device is attached to, if the machine says.
    pub node: Option<u32>,
    /// The kernel's `operstate`: `up`, `down`, `unknown`.
    pub state: String,
    /// Whether it goes by radio.
    pub wireless: bool,
    /// What its driver can do for AF_XDP, by its name.
    pub xdp: XdpAbility,
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
    /// By receive queue the CPUs that its packets are handed on to (RPS); none: they stay where they arrive. Empty if
    /// the kernel does not say.
    pub rps: Vec<CpuSet>,
    /// By transmit queue the CPUs that use it (XPS). Empty if the kernel does not say.
    pub xps: Vec<CpuSet>,
    /// Interrupts held back by the kernel, whatever the device does.
    pub napi: Option<Napi>,
    /// Its interrupts, by number; those that can be read.
    pub irqs: Vec<Irq>,
    /// What its driver says.
    pub facts: Facts,
}

/// How the kernel holds an interface's interrupts back (`Documentation/networking/napi.rst`, "Software IRQ
/// coalescing").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Napi {
    /// Looks at an empty queue before its interrupt is let through again.
    pub defer_hard_irqs: u32,
    /// Nanoseconds between such looks.
    pub gro_flush_timeout: u64,
}

/// What a driver can do for AF_XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpAbility {
    /// Frames reach user space without a copy.
    ZeroCopy,
    /// Frames are copied, before the kernel's network stack sees them.
    Native,
    /// Frames are copied, after the kernel has made packets of them.
    #[default]
    Generic,
}

impl XdpAbility {
    /// By the driver's name, for sysfs does not say: a guess from what Linux 6.18 has. Whether this device does it is
    /// known when a socket is bound.
    pub fn of_driver(driver: &str) -> XdpAbility {
        match driver {
            "gve" | "i40e" | "ice" | "idpf" | "igb" | "igc" | "intel-eth-pci" | "ixgbe" | "mlx5_core"
            | "nfp" | "stmmaceth" | "virtio_net" => XdpAbility::ZeroCopy,
            "bnxt_en" | "ena" | "fsl_dpaa2_eth" | "fsl_enetc" | "hv_netvsc" | "ixgbevf" | "mana"
            | "mlx4_en" | "mvneta" | "mvpp2" | "netsec" | "qede" | "sfc" | "thunder-nicvf" | "tun"
            | "veth" | "vmxnet3" | "xen_netfront" | "vif" => XdpAbility::Native,
            _ => XdpAbility::Generic,
        }
    }
}

/// All interfaces under `root`, by name. What cannot be read is left out: none of it is needed to run.
pub(crate) fn all(root: &Path, drivers: &dyn Drivers) -> Vec<Nic> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/class/net")) else {
        return Vec::new();
    };
    let irq_names = irq::names(root);
    // Beside interfaces lie plain files, like `bonding_masters`.
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut nics: Vec<Nic> = folders.map(|entry| one(root, drivers, &entry.path(), &irq_names)).collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

fn one(root: &Path, drivers: &dyn Drivers, folder: &Path, irq_names: &HashMap<u32, String>) -> Nic {
    let queues = |kind: &str| {
        let entries = std::fs::read_dir(folder.join("queues")).into_iter().flatten().flatten();
        let count = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let text = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap_or_default().trim().to_owned();
    let masks = |kind: &str, count: u32, file: &str| {
        let mask = |n| CpuSet::from_mask(&text(&format!("queues/{kind}-{n}/{file}"))).ok();
        (0..count).map(mask).collect::<Option<Vec<CpuSet>>>().unwrap_or_default()
    };
    let (rx_queues, tx_queues) = (queues("rx-"), queues("tx-"));
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let driver = link_name(&folder.join("device/driver"));
    let device = device(folder);
    let node = std::fs::read_to_string(device.join("numa_node"));
    let facts = drivers.facts(&name);
    let irqs = irq::all(root, &device, &name, irq_names);
    Nic {
        vlan_of: text("uevent").contains("DEVTYPE=vlan").then(|| lower(folder)).flatten(),
        xdp: driver.as_deref().or(facts.driver.as_deref()).map(XdpAbility::of_driver).unwrap_or_default(),
        driver,
        // A device of no particular node says -1.
        node: node.ok().and_then(|node| node.trim().parse().ok()),
        state: text("operstate"),
        wireless: folder.join("wireless").exists() || folder.join("phy80211").exists(),
        rx_queues,
        tx_queues,
        rps: masks("rx", rx_queues, "rps_cpus"),
        xps: masks("tx", tx_queues, "xps_cpus"),
        napi: text("napi_defer_hard_irqs")
            .parse()
            .ok()
            .zip(text("gro_flush_timeout").parse().ok())
            .map(|(defer_hard_irqs, gro_flush_timeout)| Napi { defer_hard_irqs, gro_flush_timeout }),
        irqs,
        facts,
        name,
    }
}

/// The interface that one stands on.
fn lower(folder: &Path) -> Option<String> {
    let mut names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    names.find_map(|name| name.to_str()?.strip_prefix("lower_").map(str::to_owned))
}

/// The last part of what a symbolic link points to.
fn link_name(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The folder of an interface's device on its bus. A virtio device has no node and no interrupts of its own: they are
/// its PCI parent's.
fn device(folder: &Path) -> PathBuf {
    let device = folder.join("device");
    let is_virtio = link_name(&device.join("subsystem")).is_some_and(|name| name == "virtio");
    if is_virtio { device.join("..") } else { device }
}
