//! One thing of the machine that can be set, with a value: read, written and undone alike.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CpuSet;
use crate::driver::DriverSetting;

/// A thing and its value. Displays as the shell command that gives it that value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Setting {
    /// A file of the kernel's, and what is written to it.
    File {
        /// From the root, without the slash that it begins with.
        path: String,
        /// Without the end of the line.
        text: String,
    },
    /// Something that only the driver of an interface can be told.
    Driver {
        /// The interface.
        nic: String,
        /// What, and to what.
        value: DriverSetting,
    },
}

impl Setting {
    /// A file that is to hold this.
    pub fn file(path: impl Into<String>, value: impl fmt::Display) -> Setting {
        Setting::File { path: path.into(), text: value.to_string() }
    }

    /// A driver that is to be told this.
    pub fn driver(nic: &str, value: DriverSetting) -> Setting {
        Setting::Driver { nic: nic.to_owned(), value }
    }

    /// Whether both are values of the same thing.
    pub fn is_of_same(&self, other: &Setting) -> bool {
        match (self, other) {
            (Setting::File { path, .. }, Setting::File { path: other, .. }) => path == other,
            (Setting::Driver { nic, value }, Setting::Driver { nic: other_nic, value: other }) => {
                let is_same = match (value, other) {
                    (DriverSetting::Offload { name, .. }, DriverSetting::Offload { name: other, .. }) => {
                        name == other
                    }
                    _ => std::mem::discriminant(value) == std::mem::discriminant(other),
                };
                nic == other_nic && is_same
            }
            _ => false,
        }
    }

    /// Whether both mean the same: the kernel writes masks and lists in a form of its own.
    pub fn means(&self, other: &Setting) -> bool {
        match (self, other) {
            (Setting::File { path, text }, Setting::File { path: other_path, text: other }) => {
                path == other_path && canonical(path, text) == canonical(path, other)
            }
            _ => self == other,
        }
    }

    /// Only the value, in words.
    pub fn value(&self) -> String {
        match self {
            Setting::File { text, .. } if text.is_empty() => "nothing".to_owned(),
            Setting::File { text, .. } => text.clone(),
            Setting::Driver { value, .. } => words(value),
        }
    }

    /// Whether interrupts and queues may be others once it is set.
    pub(crate) fn moves_queues(&self) -> bool {
        matches!(self, Setting::Driver { value: DriverSetting::Queues(_) | DriverSetting::Spread { .. }, .. })
    }
}

/// What a file of choices like `always [madvise] never` has chosen; of others, what they hold.
pub(crate) fn chosen(text: &str) -> &str {
    let within = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    within.map_or(text.trim(), |(chosen, _)| chosen)
}

fn canonical(path: &str, text: &str) -> String {
    let text = chosen(text);
    let cpus = if path.ends_with("_cpus") {
        CpuSet::from_mask(text).ok()
    } else if path.ends_with("_list") {
        text.parse().ok()
    } else {
        None
    };
    cpus.map_or_else(|| text.to_owned(), |cpus| cpus.to_string())
}

/// A driver's value, as ethtool(8) takes it.
fn words(value: &DriverSetting) -> String {
    let on_off = |on: &bool| if *on { "on" } else { "off" };
    match value {
        DriverSetting::Queues(queues) => {
            [("combined", queues.combined), ("rx", queues.rx), ("tx", queues.tx)]
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| format!("{kind} {count}"))
                .collect::<Vec<_>>()
                .join(" ")
        }
        DriverSetting::Rings(rings) => format!("rx {} tx {}", rings.rx, rings.tx),
        DriverSetting::Coalescing(c) => format!(
            "adaptive-rx {} adaptive-tx {} rx-usecs {} rx-frames {} tx-usecs {} tx-frames {}",
            on_off(&c.adaptive_rx),
            on_off(&c.adaptive_tx),
            c.rx_usecs,
            c.rx_frames,
            c.tx_usecs,
            c.tx_frames
        ),
        DriverSetting::Offload { name, on } => format!("{name} {}", on_off(on)),
        DriverSetting::Spread { table } => {
            let queues = table.iter().max().map_or(1, |highest| highest + 1);
            let is_equal = (0_u32..).zip(table).all(|(n, queue)| n % queues == *queue);
            if is_equal { format!("equal {queues}") } else { format!("table {table:?}") }
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nic, value) = match self {
            Setting::File { path, text } if text.is_empty() => return write!(f, "echo > /{path}"),
            Setting::File { path, text } => return write!(f, "echo {text} > /{path}"),
            Setting::Driver { nic, value } => (nic, value),
        };
        let option = match value {
            DriverSetting::Queues(_) => 'L',
            DriverSetting::Rings(_) => 'G',
            DriverSetting::Coalescing(_) => 'C',
            DriverSetting::Offload { .. } => 'K',
            DriverSetting::Spread { .. } => 'X',
        };
        write!(f, "ethtool -{option} {nic} {}", words(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Queues, Rings};

    #[test]
    fn they_are_printed_as_commands() {
        let driver = |value| Setting::driver("eth1", value).to_string();
        assert_eq!(
            Setting::file("proc/irq/33/smp_affinity_list", 4).to_string(),
            "echo 4 > /proc/irq/33/smp_affinity_list"
        );
        let queues = Queues { combined: 8, ..Queues::default() };
        assert_eq!(driver(DriverSetting::Queues(queues)), "ethtool -L eth1 combined 8");
        assert_eq!(
            driver(DriverSetting::Rings(Rings { rx: 1024, tx: 512 })),
            "ethtool -G eth1 rx 1024 tx 512"
        );
        let off = DriverSetting::Offload { name: "rx-lro".to_owned(), on: false };
        assert_eq!(driver(off), "ethtool -K eth1 rx-lro off");
        assert_eq!(driver(DriverSetting::Spread { table: vec![0, 1, 2, 0] }), "ethtool -X eth1 equal 3");
        assert_eq!(driver(DriverSetting::Spread { table: vec![1, 1] }), "ethtool -X eth1 table [1, 1]");
    }

    #[test]
    fn the_kernels_forms_mean_the_same() {
        let same = |path: &str, a: &str, b: &str| Setting::file(path, a).means(&Setting::file(path, b));
        assert!(same("sys/class/net/eth1/queues/tx-0/xps_cpus", "f", "00000000,0000000f"));
        assert!(!same("sys/class/net/eth1/queues/tx-0/xps_cpus", "10", "00000000,0000000f"));
        assert!(same("proc/irq/1/smp_affinity_list", "0,1,2", "0-2"));
        assert!(same("sys/kernel/mm/transparent_hugepage/enabled", "madvise", "always [madvise] never"));
        assert!(!same("proc/sys/net/core/somaxconn", "10", "a"));
        assert!(!Setting::file("a", 1).means(&Setting::file("b", 1)));
    }

    #[test]
    fn they_outlive_a_file_of_them() {
        for setting in [
            Setting::file("a", "b c"),
            Setting::driver("eth1", DriverSetting::Rings(Rings { rx: 1, tx: 2 })),
            Setting::driver("eth1", DriverSetting::Offload { name: "rx-gro".to_owned(), on: true }),
        ] {
            let text = serde_json::to_string(&setting).expect("plain data");
            assert_eq!(serde_json::from_str::<Setting>(&text).expect("as written"), setting);
        }
    }
}
