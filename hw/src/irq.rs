//! Interrupts, and which queue each is of.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::CpuSet;

/// An interrupt line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Irq {
    /// Its number in `/proc/interrupts`.
    pub number: u32,
    /// What the driver calls it; empty if it is not in use.
    pub name: String,
    /// CPUs that may serve it.
    pub cpus: CpuSet,
    /// The queue it is of, if its name says so.
    pub queue: Option<u32>,
}

/// The interrupts of an interface's device.
pub(crate) fn all(root: &Path, device: &Path, nic: &str, names: &HashMap<u32, String>) -> Vec<Irq> {
    let entries = std::fs::read_dir(device.join("msi_irqs")).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let mut irqs: Vec<Irq> = numbers
        .map(|number| {
            let affinity = root.join(format!("proc/irq/{number}/smp_affinity_list"));
            let name = names.get(&number).cloned().unwrap_or_default();
            Irq {
                number,
                queue: queue_of(&name, nic),
                name,
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
pub(crate) fn names(root: &Path) -> HashMap<u32, String> {
    let text = std::fs::read_to_string(root.join("proc/interrupts")).unwrap_or_default();
    let name = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, rest.split_whitespace().last()?.to_owned()))
    };
    text.lines().filter_map(name).collect()
}

/// The queue that an interrupt is of, by what drivers call theirs: `eth1-TxRx-0`, `ice-eth1-TxRx-0`, `ens5-Tx-Rx-0`,
/// `virtio2-input.0`, `mlx5_comp0@pci:…`, `eth1-rx-0`, `eth1-0`. Others (of the link, of mailboxes) are of none.
fn queue_of(name: &str, nic: &str) -> Option<u32> {
    let name = name.split('@').next()?;
    let head = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let queue = name[head.len()..].parse().ok()?;
    let kind = head.trim_end_matches(['-', '.']).to_ascii_lowercase();
    let is_of_queue = kind == nic.to_ascii_lowercase()
        || kind == "mlx5_comp"
        || kind == "mana_q"
        || ["rx", "tx", "txrx", "input", "output"].iter().any(|word| {
            kind.strip_suffix(word)
                .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
        });
    is_of_queue.then_some(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_known_by_the_names_of_their_interrupts() {
        for (name, queue) in [
            ("eth1-TxRx-0", Some(0)),
            ("ice-eth1-TxRx-31", Some(31)),
            ("i40e-eth1-TxRx-7", Some(7)),
            ("eth1-Tx-Rx-3", Some(3)),
            ("eth1-rx-2", Some(2)),
            ("eth1-tx-2", Some(2)),
            ("eth1-5", Some(5)),
            ("virtio2-input.1", Some(1)),
            ("virtio2-output.1", Some(1)),
            ("mlx5_comp12@pci:0000:3b:00.0", Some(12)),
            ("mana_q4@pci:7870:00:00.0", Some(4)),
            ("mlx5_async0@pci:0000:3b:00.0", None),
            ("virtio2-config", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("eth1", None),
            ("eth2-5", None),
            ("iwlwifi:queue_1", None),
            ("", None),
        ] {
            assert_eq!(queue_of(name, "eth1"), queue, "{name}");
        }
    }
}
