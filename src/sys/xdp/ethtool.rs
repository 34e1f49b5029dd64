//! What a driver says of its interface: name, queues, and how it spreads what it receives over them
//! (linux/ethtool.h, by ioctl).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRSSH: u32 = 0x46;
/// ETH_RSS_HASH_TOP: the hash is Toeplitz's.
const TOEPLITZ: u8 = 1;
/// Bytes of `struct ethtool_rxfh` before the table (a word each) and the key: cmd, rss_context, indir_size, key_size,
/// hfunc and three bytes, reserved.
const SPREAD_HEAD: usize = 24;

/// How an interface spreads what it receives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spread {
    /// The key of the hash.
    pub key: Vec<u8>,
    /// Queues; the hash's low bits choose one.
    pub table: Vec<u32>,
}

/// A question to the driver of one interface.
fn ask(name: &str, question: &mut [u8]) -> io::Result<()> {
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
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = question.as_mut_ptr().cast();
    // SAFETY: the name ends with zero; the driver writes as much as the question's own head allows it to, which the
    // callers have made room for.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The driver's name.
///
/// # Errors
/// `EOPNOTSUPP` if it does not say.
pub fn driver(name: &str) -> io::Result<String> {
    // struct ethtool_drvinfo: cmd, driver[32], …
    let mut info = [0; 196];
    info[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    ask(name, &mut info)?;
    let text = info[4..36].split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Queues that it receives by now.
///
/// # Errors
/// `EOPNOTSUPP` if the driver does not say.
pub fn queues(name: &str) -> io::Result<u32> {
    // struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
    let mut channels = [0; 36];
    channels[..4].copy_from_slice(&ETHTOOL_GCHANNELS.to_ne_bytes());
    ask(name, &mut channels)?;
    Ok(word(&channels, 20) + word(&channels, 32))
}

/// How it spreads what it receives; `None`: by another hash than Toeplitz's.
///
/// # Errors
/// `EOPNOTSUPP` if the driver does not say.
pub fn spread(name: &str) -> io::Result<Option<Spread>> {
    let mut sizes = [0; SPREAD_HEAD];
    sizes[..4].copy_from_slice(&ETHTOOL_GRSSH.to_ne_bytes());
    ask(name, &mut sizes)?;
    let (entries, key_bytes) = (word(&sizes, 8) as usize, word(&sizes, 12) as usize);
    if entries == 0 || key_bytes == 0 || entries > 1 << 16 || key_bytes > 1 << 10 {
        return Ok(None);
    }
    let mut all = vec![0; SPREAD_HEAD + entries * 4 + key_bytes];
    all[..16].copy_from_slice(&sizes[..16]);
    ask(name, &mut all)?;
    Ok(spread_of(&all))
}

/// What an answer, as long as its head says, tells.
fn spread_of(answer: &[u8]) -> Option<Spread> {
    let is_toeplitz = answer[16] & TOEPLITZ != 0;
    let (table, key) = answer[SPREAD_HEAD..].split_at(word(answer, 8) as usize * 4);
    let table = table.chunks_exact(4).map(|entry| word(entry, 0)).collect();
    is_toeplitz.then(|| Spread { key: key.to_vec(), table })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As virtio_net answered, with a table of four.
    #[test]
    fn table_and_key_begin_where_the_kernel_puts_them() {
        let mut answer = vec![];
        let words = [ETHTOOL_GRSSH, 0, 4, 6, u32::from_ne_bytes([TOEPLITZ, 0, 0, 0]), 0, 0, 1, 0, 1];
        words.iter().for_each(|word| answer.extend(word.to_ne_bytes()));
        answer.extend([1, 2, 3, 4, 5, 6]);
        let spread = spread_of(&answer);
        assert_eq!(spread, Some(Spread { key: vec![1, 2, 3, 4, 5, 6], table: vec![0, 1, 0, 1] }));
        answer[16] = TOEPLITZ << 1;
        assert_eq!(spread_of(&answer), None, "spread by another hash");
    }
}
