//! Receive-side scaling: which queue an interface puts a packet into, by the Toeplitz hash of its addresses and ports.

use std::net::{IpAddr, SocketAddr};

/// An interface's key and its table of queues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rss {
    key: Vec<u8>,
    table: Vec<u32>,
}

impl Rss {
    /// With that key, and a table whose entry at the hash's low bits is the queue. `None`: they make no sense.
    pub fn new(key: Vec<u8>, table: Vec<u32>) -> Option<Rss> {
        // A hash over an IPv6 packet's addresses and ports reads so much of the key.
        let is_long_enough = key.len() >= 40;
        (is_long_enough && !table.is_empty()).then_some(Rss { key, table })
    }

    /// The hash of a packet from `from` to `to`, over addresses and ports.
    ///
    /// # Panics
    /// If one is of IPv4 and the other of IPv6.
    pub fn hash(&self, from: SocketAddr, to: SocketAddr) -> u32 {
        let mut input = [0; 36];
        let len = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                input[..4].copy_from_slice(&from.octets());
                input[4..8].copy_from_slice(&to.octets());
                12
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                input[..16].copy_from_slice(&from.octets());
                input[16..32].copy_from_slice(&to.octets());
                36
            }
            _ => panic!("a packet has addresses of one family"),
        };
        input[len - 4..len - 2].copy_from_slice(&from.port().to_be_bytes());
        input[len - 2..len].copy_from_slice(&to.port().to_be_bytes());
        toeplitz(&self.key, &input[..len])
    }

    /// The queue that a packet from `from` to `to` arrives by.
    pub fn queue(&self, from: SocketAddr, to: SocketAddr) -> u32 {
        self.table[self.hash(from, to) as usize % self.table.len()]
    }
}

/// For each bit of the input that is set, the 32 bits of the key that begin there, added without carry.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut window = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    let mut hash = 0;
    for (at, byte) in input.iter().enumerate() {
        let next = key.get(at + 4).copied().unwrap_or(0);
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microsoft's key and vectors ("Verifying the RSS Hash Calculation"), which all makers of interfaces go by.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn hashes_as_published() {
        let rss = Rss::new(KEY.to_vec(), (0..128).map(|n| n % 4).collect()).expect("a key and a table");
        for (from, to, hash) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
            ("24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b_394a),
            ("38.27.205.30:48228", "209.142.163.6:2217", 0xafc7_327f),
            ("153.39.163.191:44251", "202.188.127.2:1303", 0x10e8_28a2),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
            ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde5_1bbf),
            ("[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x02d1_feef),
        ] {
            let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
            assert_eq!(rss.hash(from, to), hash, "{from} → {to}");
            assert_eq!(rss.queue(from, to), hash % 128 % 4);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Rss::new(vec![0; 39], vec![0]), None);
        assert_eq!(Rss::new(vec![0; 40], Vec::new()), None);
    }
}
