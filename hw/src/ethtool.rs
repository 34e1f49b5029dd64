//! Drivers asked by ioctl (linux/ethtool.h, linux/sockios.h), and all `unsafe` of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::driver::{Coalescing, DriverSetting, Drivers, Facts, Offload, Queues, Rings, Spread};

const GET_DRIVER: u32 = 0x03;
const GET_COALESCE: u32 = 0x0e;
const SET_COALESCE: u32 = 0x0f;
const GET_RINGS: u32 = 0x10;
const SET_RINGS: u32 = 0x11;
const GET_STRINGS: u32 = 0x1b;
const GET_STRING_COUNT: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;
const GET_SPREAD: u32 = 0x46;
const SET_SPREAD: u32 = 0x47;

/// ETH_SS_FEATURES: the set of features' names.
const FEATURE_NAMES: u32 = 4;
/// ETH_GSTRING_LEN.
const NAME_BYTES: usize = 32;
/// Features there may be: the kernel has fewer than 100.
const FEATURES_MAX: usize = 1024;
/// ETH_RSS_HASH_TOP.
const TOEPLITZ: u8 = 1;
/// Words of `struct ethtool_rxfh` before the table and the key.
const SPREAD_HEAD: usize = 6;

/// The kernel's drivers, of the network namespace this runs in.
#[derive(Clone, Copy, Debug)]
pub struct Ethtool;

/// A question or an order, of 32-bit words as all of these structures are; the driver answers in place. How much it
/// writes is set by the command and by the lengths in the structure's head: `words` must have room for it.
fn call(nic: &str, words: &mut [u32]) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor returned is new and owned by nobody else.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if nic.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(nic.as_bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the name ends with zero; `words` is as large as its head says, by the rule above.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The structure of a command that takes nothing but its number, as answered.
fn asked<const WORDS: usize>(nic: &str, command: u32) -> io::Result<[u32; WORDS]> {
    let mut words = [0; WORDS];
    words[0] = command;
    call(nic, &mut words)?;
    Ok(words)
}

/// struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
fn channels(nic: &str) -> io::Result<[u32; 9]> {
    asked(nic, GET_CHANNELS)
}

/// struct ethtool_ringparam: cmd, {rx,rx_mini,rx_jumbo,tx}_max_pending, {rx,rx_mini,rx_jumbo,tx}_pending.
fn rings(nic: &str) -> io::Result<[u32; 9]> {
    asked(nic, GET_RINGS)
}

/// struct ethtool_coalesce: cmd, rx_usecs, rx_frames, two for interrupts, tx_usecs, tx_frames, two, statistics,
/// adaptive_rx, adaptive_tx, and eleven more.
fn coalesce(nic: &str) -> io::Result<[u32; 23]> {
    asked(nic, GET_COALESCE)
}

/// struct ethtool_drvinfo: cmd, driver[32], and more names.
fn driver(nic: &str) -> io::Result<String> {
    let words: [u32; 49] = asked(nic, GET_DRIVER)?;
    Ok(text(&words[1..1 + NAME_BYTES / 4]))
}

/// What is written there, up to the zero that ends it.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// The features' names, in the order of their bits.
fn feature_names(nic: &str) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: cmd, reserved, mask (u64), the count.
    // (The mask's low word comes first: Postlane is for little-endian machines.)
    let mut count = [GET_STRING_COUNT, 0, 1 << FEATURE_NAMES, 0, 0];
    call(nic, &mut count)?;
    let names = count[4] as usize;
    if names > FEATURES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // struct ethtool_gstrings: cmd, string_set, len, then the names.
    let mut words = vec![0; 3 + names * NAME_BYTES / 4];
    words[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, names as u32]);
    call(nic, &mut words)?;
    Ok(words[3..].chunks(NAME_BYTES / 4).map(text).collect())
}

fn offloads(nic: &str) -> io::Result<Vec<Offload>> {
    let names = feature_names(nic)?;
    let blocks = names.len().div_ceil(32);
    // struct ethtool_gfeatures: cmd, size, then blocks of available, requested, active, never_changed.
    let mut words = vec![0; 2 + 4 * blocks];
    words[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
    call(nic, &mut words)?;
    let bit = |at: usize, word: usize| words[2 + at / 32 * 4 + word] >> (at % 32) & 1 == 1;
    let offload =
        |(at, name): (usize, String)| Offload { name, on: bit(at, 2), fixed: !bit(at, 0) || bit(at, 3) };
    Ok(names.into_iter().enumerate().map(offload).filter(|offload| !offload.name.is_empty()).collect())
}

fn set_offload(nic: &str, name: &str, on: bool) -> io::Result<()> {
    let names = feature_names(nic)?;
    let at = names.iter().position(|other| other == name).ok_or(io::ErrorKind::Unsupported)?;
    let blocks = names.len().div_ceil(32);
    // struct ethtool_sfeatures: cmd, size, then blocks of valid, requested.
    let mut words = vec![0; 2 + 2 * blocks];
    words[..2].copy_from_slice(&[SET_FEATURES, blocks as u32]);
    words[2 + at / 32 * 2] = 1 << (at % 32);
    words[3 + at / 32 * 2] = u32::from(on) << (at % 32);
    call(nic, &mut words)
}

/// struct ethtool_rxfh: cmd, rss_context, indir_size, key_size, hfunc and three bytes, reserved, then the table (a word
/// each) and the key's bytes.
fn spread(nic: &str) -> io::Result<Spread> {
    let sizes: [u32; SPREAD_HEAD] = asked(nic, GET_SPREAD)?;
    let (entries, key_bytes) = (sizes[2] as usize, sizes[3] as usize);
    if entries == 0 || entries > 1 << 16 || key_bytes > 1 << 10 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut words = vec![0; SPREAD_HEAD + entries + key_bytes.div_ceil(4)];
    words[..SPREAD_HEAD].copy_from_slice(&sizes);
    call(nic, &mut words)?;
    Ok(spread_of(&words))
}

/// What `words`, as long as their head says, tell.
fn spread_of(words: &[u32]) -> Spread {
    let (head, rest) = words.split_at(SPREAD_HEAD);
    let (table, key) = rest.split_at(head[2] as usize);
    let key = key.iter().flat_map(|word| word.to_ne_bytes());
    Spread {
        key: key.take(head[3] as usize).collect(),
        table: table.to_vec(),
        is_toeplitz: head[4].to_ne_bytes()[0] & TOEPLITZ != 0,
    }
}

fn set_spread(nic: &str, table: &[u32]) -> io::Result<()> {
    let channels = channels(nic)?;
    let queues = channels[5] + channels[8];
    // The kernel's own default is asked for as such, so that it goes on following the number of queues.
    let is_default = (0..).zip(table).all(|(n, queue): (u32, _)| n.checked_rem(queues) == Some(*queue));
    let table = if is_default { &[] } else { table };
    let now: [u32; SPREAD_HEAD] = asked(nic, GET_SPREAD)?;
    let mut words = vec![0; SPREAD_HEAD + table.len()];
    words[0] = SET_SPREAD;
    words[2] = table.len() as u32;
    // No other function (0); how the hash's input is transformed stays.
    let [_, others @ ..] = now[4].to_ne_bytes();
    words[4] = u32::from_ne_bytes([0, others[0], others[1], others[2]]);
    words[SPREAD_HEAD..].copy_from_slice(table);
    call(nic, &mut words)
}

impl Drivers for Ethtool {
    fn facts(&self, nic: &str) -> Facts {
        let (channels, rings) = (channels(nic).ok(), rings(nic).ok());
        Facts {
            driver: driver(nic).ok(),
            queues: channels.map(|c| Queues { rx: c[5], tx: c[6], combined: c[8] }),
            queues_max: channels.map(|c| Queues { rx: c[1], tx: c[2], combined: c[4] }),
            rings: rings.map(|r| Rings { rx: r[5], tx: r[8] }),
            rings_max: rings.map(|r| Rings { rx: r[1], tx: r[4] }),
            coalescing: coalesce(nic).ok().map(|c| Coalescing {
                rx_usecs: c[1],
                rx_frames: c[2],
                tx_usecs: c[5],
                tx_frames: c[6],
                adaptive_rx: c[10] != 0,
                adaptive_tx: c[11] != 0,
            }),
            offloads: offloads(nic).unwrap_or_default(),
            spread: spread(nic).ok(),
        }
    }

    /// What the structure has beside the thing to set stays as the driver says it is.
    fn set(&self, nic: &str, value: &DriverSetting) -> io::Result<()> {
        match value {
            DriverSetting::Queues(queues) => {
                let mut words = channels(nic)?;
                (words[0], words[5], words[6], words[8]) =
                    (SET_CHANNELS, queues.rx, queues.tx, queues.combined);
                call(nic, &mut words)
            }
            DriverSetting::Rings(to) => {
                let mut words = rings(nic)?;
                (words[0], words[5], words[8]) = (SET_RINGS, to.rx, to.tx);
                call(nic, &mut words)
            }
            DriverSetting::Coalescing(to) => {
                let mut words = coalesce(nic)?;
                words[0] = SET_COALESCE;
                (words[1], words[2], words[5], words[6]) =
                    (to.rx_usecs, to.rx_frames, to.tx_usecs, to.tx_frames);
                (words[10], words[11]) = (to.adaptive_rx.into(), to.adaptive_tx.into());
                call(nic, &mut words)
            }
            DriverSetting::Offload { name, on } => set_offload(nic, name, *on),
            DriverSetting::Spread { table } => set_spread(nic, table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As virtio_net answered, with a table of four: byte for byte what comes after the head is the table, then the key.
    #[test]
    fn table_and_key_begin_where_the_kernel_puts_them() {
        let mut words = vec![GET_SPREAD, 0, 4, 6, u32::from_ne_bytes([TOEPLITZ, 0, 0, 0]), 0];
        words.extend([0, 1, 0, 1]);
        words.extend([u32::from_ne_bytes([1, 2, 3, 4]), u32::from_ne_bytes([5, 6, 0, 0])]);
        let spread = spread_of(&words);
        assert_eq!(spread.table, [0, 1, 0, 1]);
        assert_eq!(spread.key, [1, 2, 3, 4, 5, 6]);
        assert!(spread.is_toeplitz);
    }
}
