//! What stands against a plan and is not for us to set; and what is worth a look.

use serde::Serialize;

use crate::tune::PAGES_PER_QUEUE;
use crate::{Backend, Goal, Machine, Nic, Tuning, XdpAbility};

const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What stands against a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What, and what it costs.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Tuning {
    /// What is not for us to set.
    pub(crate) fn judge(&mut self, machine: &Machine, goal: &Goal, nics: &[&Nic]) {
        let mut fault = |what: &str, remedy: &str| {
            self.faults.push(Fault { what: what.to_owned(), remedy: remedy.to_owned() });
        };
        if machine.system.irqbalance {
            fault(
                "irqbalance runs: it moves interrupts away from their shards again",
                "systemctl disable --now irqbalance",
            );
        }
        match machine.io_uring_disabled {
            Some(2) => fault("io_uring is refused to everybody", "sysctl -w kernel.io_uring_disabled=0"),
            Some(1) => self.notes.push(
                "io_uring is only for the privileged and for members of the group of kernel.io_uring_group: \
                 postlane must be one of them"
                    .to_owned(),
            ),
            _ => {}
        }
        if nics.is_empty() {
            self.notes.push("no interface has a device that could be tuned".to_owned());
        }
        for nic in nics {
            let name = &nic.name;
            if goal.backend == Backend::Xdp && nic.xdp == XdpAbility::Generic {
                let driver = nic.driver.as_deref().or(nic.facts.driver.as_deref()).unwrap_or("none");
                self.notes.push(format!(
                    "{name}: its driver ({driver}) is not known for AF_XDP: the generic mode may be all that \
                     is to be had"
                ));
            }
            let near = self.shards.iter().any(|shard| nic.node == Some(shard.place.node));
            if let Some(node) = nic.node.filter(|_| !near) {
                self.notes.push(format!(
                    "{name} is on node {node}, where no shard is: packets cross between nodes"
                ));
            }
            let queues: usize =
                self.shards.iter().flat_map(|s| &s.queues).filter(|queue| queue.nic == *name).count();
            let bytes = queues as u64 * PAGES_PER_QUEUE * HUGE_PAGE_BYTES;
            if let Some(limit) = machine
                .locked_memory_limit_bytes
                .filter(|limit| goal.backend == Backend::Xdp && *limit < bytes)
            {
                self.notes.push(format!(
                    "this process may lock {} MiB of memory; frames for {queues} queues take up to {} MiB: without \
                     CAP_IPC_LOCK write LimitMEMLOCK= in the systemd unit",
                    limit >> 20,
                    bytes >> 20
                ));
            }
            if goal.backend == Backend::Xdp && queues < self.shards.len() {
                self.notes.push(format!(
                    "{name} has {queues} queues for {} shards: those without one reach upstreams by the kernel",
                    self.shards.len()
                ));
            }
        }
    }
}
