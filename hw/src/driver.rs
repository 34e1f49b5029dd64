//! What a NIC's driver says and lets be set, beyond what sysfs shows: the questions of ethtool(8).

use std::io;

use serde::{Deserialize, Serialize};

/// What asks drivers and tells them: [`Ethtool`](crate::Ethtool) does, [`NoDrivers`] knows nothing.
pub trait Drivers {
    /// All that the interface's driver says.
    fn facts(&self, nic: &str) -> Facts;

    /// Sets one thing.
    ///
    /// # Errors
    /// What the driver answers: `EOPNOTSUPP` what it cannot do, `EINVAL` what is beyond its bounds, `EPERM` without
    /// `CAP_NET_ADMIN`.
    fn set(&self, nic: &str, value: &DriverSetting) -> io::Result<()>;
}

/// What a driver says; `None` and empty where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Its name; sysfs has none for interfaces without a device, like a veth.
    pub driver: Option<String>,
    /// Queues in use.
    pub queues: Option<Queues>,
    /// Most queues.
    pub queues_max: Option<Queues>,
    /// Places in each ring.
    pub rings: Option<Rings>,
    /// Most places.
    pub rings_max: Option<Rings>,
    /// How the device holds interrupts back.
    pub coalescing: Option<Coalescing>,
    /// What the device or the kernel does for a stream of packets.
    pub offloads: Vec<Offload>,
    /// How it spreads what it receives over its queues.
    pub spread: Option<Spread>,
}

/// Numbers of queues. Combined ones receive and transmit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// For both directions.
    pub combined: u32,
    /// To receive only.
    pub rx: u32,
    /// To transmit only.
    pub tx: u32,
}

/// Places for packets in the ring of each queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Of packets received.
    pub rx: u32,
    /// Of packets to send.
    pub tx: u32,
}

/// How long a device waits for more before it interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coalescing {
    /// Microseconds after a packet was received.
    pub rx_usecs: u32,
    /// Packets received that end the wait; 0: time alone does.
    pub rx_frames: u32,
    /// Microseconds after a packet was sent.
    pub tx_usecs: u32,
    /// Packets sent that end the wait.
    pub tx_frames: u32,
    /// The driver chooses by the traffic.
    pub adaptive_rx: bool,
    /// The same for sending.
    pub adaptive_tx: bool,
}

/// One of the kernel's features of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// The kernel's name of it, like `tx-tcp-segmentation`.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// Whether it cannot be changed.
    #[serde(skip_deserializing)]
    pub fixed: bool,
}

/// Receive-side scaling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The key of the hash.
    pub key: Vec<u8>,
    /// Queues; the hash's low bits choose one.
    pub table: Vec<u32>,
    /// Whether the hash is Toeplitz's.
    pub is_toeplitz: bool,
}

/// A thing that a driver can be told, and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverSetting {
    /// Numbers of queues.
    Queues(Queues),
    /// Places in the rings.
    Rings(Rings),
    /// Interrupts held back.
    Coalescing(Coalescing),
    /// A feature.
    Offload {
        /// The kernel's name of it.
        name: String,
        /// Whether it is to be on.
        on: bool,
    },
    /// The table of queues by hash.
    Spread {
        /// The queue of each of the hash's values.
        table: Vec<u32>,
    },
}

impl Facts {
    /// The present value of the thing that `like` is a value of, if the driver says.
    pub fn now(&self, like: &DriverSetting) -> Option<DriverSetting> {
        match like {
            DriverSetting::Queues(_) => self.queues.map(DriverSetting::Queues),
            DriverSetting::Rings(_) => self.rings.map(DriverSetting::Rings),
            DriverSetting::Coalescing(_) => self.coalescing.map(DriverSetting::Coalescing),
            DriverSetting::Offload { name, .. } => {
                let offload = self.offloads.iter().find(|offload| offload.name == *name)?;
                Some(DriverSetting::Offload { name: name.clone(), on: offload.on })
            }
            DriverSetting::Spread { .. } => {
                Some(DriverSetting::Spread { table: self.spread.as_ref()?.table.clone() })
            }
        }
    }

    /// The feature of that name.
    pub fn offload(&self, name: &str) -> Option<&Offload> {
        self.offloads.iter().find(|offload| offload.name == name)
    }
}

/// Drivers that say nothing and take nothing: where there is only a tree of files.
#[derive(Clone, Copy, Debug)]
pub struct NoDrivers;

impl Drivers for NoDrivers {
    fn facts(&self, _: &str) -> Facts {
        Facts::default()
    }

    fn set(&self, _: &str, _: &DriverSetting) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
