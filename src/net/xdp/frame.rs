//! Frames: Ethernet, IPv4 or IPv6, and TCP, read and written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tcp::{HEADER_BYTES, Outgoing, Segment};
use crate::sys::xdp::netlink::{Mac, Tag};

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const TYPE_TAGGED: u16 = 0x8100;
const TYPE_TAGGED_OUTSIDE: u16 = 0x88a8;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP: u8 = 6;
/// Hops that a packet may go.
const TIME_TO_LIVE: u8 = 64;

/// Bytes of a packet that are not a segment's payload, without options.
pub(super) fn header_bytes(is_ipv4: bool) -> u32 {
    (HEADER_BYTES + if is_ipv4 { IPV4_BYTES } else { IPV6_BYTES }) as u32
}

/// A segment that arrived, and between whom.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub(super) from_mac: Mac,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) segment: Segment<'a>,
}

/// From whom to whom a frame goes on its own wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ethernet {
    pub(super) from: Mac,
    pub(super) to: Mac,
    /// The VLAN's.
    pub(super) tag: Option<Tag>,
}

impl Ethernet {
    /// Writes the frame's header; its length.
    fn write(&self, kind: u16, frame: &mut [u8]) -> usize {
        frame[0..6].copy_from_slice(&self.to);
        frame[6..12].copy_from_slice(&self.from);
        let mut at = 12;
        if let Some(Tag { protocol, id }) = self.tag {
            frame[12..14].copy_from_slice(&protocol.to_be_bytes());
            frame[14..16].copy_from_slice(&id.to_be_bytes());
            at += TAG_BYTES;
        }
        frame[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        at + 2
    }
}

/// The one's complement sum of the bytes as 16-bit words, as this machine has them: its order of bytes does not matter.
fn sum(bytes: &[u8]) -> u64 {
    // Sums beside each other, so that a processor adds several at a time.
    const LANES: usize = 8;
    let (mut low, mut high) = ([0; LANES], [0; LANES]);
    let mut pieces = bytes.chunks_exact(8 * LANES);
    for piece in pieces.by_ref() {
        for (lane, word) in piece.as_chunks().0.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            low[lane] += word & 0xffff_ffff;
            high[lane] += word >> 32;
        }
    }
    let (words, rest) = pieces.remainder().as_chunks();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let rest: u64 = words.iter().chain([&last]).map(|&word| u64::from(u32::from_ne_bytes(word))).sum();
    low.iter().chain(&high).sum::<u64>() + rest
}

fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The sum of what TCP's checksum covers of the IP header.
fn pseudo_sum(from: IpAddr, to: IpAddr, len: usize) -> u64 {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
        _ => 0,
    };
    addresses + sum(&(len as u32).to_be_bytes()) + sum(&[0, TCP])
}

/// Reads a frame. `partial`: a checksum over the pseudo-header alone is right too, as a frame has it that was never on
/// a wire (veth, virtio): its sender leaves the rest to hardware that there is not.
pub(super) fn parse(frame: &[u8], partial: bool) -> Option<Packet<'_>> {
    let from_mac = frame.get(6..12)?.try_into().ok()?;
    let kind_at = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (kind, begin) = match kind_at(12)? {
        // Whose VLAN it is the program has seen to.
        TYPE_TAGGED | TYPE_TAGGED_OUTSIDE => (kind_at(12 + TAG_BYTES)?, ETHERNET_BYTES + TAG_BYTES),
        kind => (kind, ETHERNET_BYTES),
    };
    let packet = &frame[begin..];
    let (from, to, bytes) = match kind {
        TYPE_IPV4 => parse_ipv4(packet)?,
        TYPE_IPV6 => parse_ipv6(packet)?,
        _ => return None,
    };
    let pseudo = pseudo_sum(from, to, bytes.len());
    let told = u16::from_ne_bytes([*bytes.get(16)?, *bytes.get(17)?]);
    // The whole is summed up only where it must be.
    if !(partial && told == fold(pseudo)) && fold(pseudo + sum(bytes)) != 0xffff {
        return None;
    }
    let segment = Segment::parse(bytes)?;
    let (from, to) = (SocketAddr::new(from, segment.source), SocketAddr::new(to, segment.destination));
    Some(Packet { from_mac, from, to, segment })
}

fn parse_ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = packet.get(..IPV4_BYTES)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if header[0] >> 4 != 4 || header[9] != TCP || is_fragment || header_len < IPV4_BYTES {
        return None;
    }
    if fold(sum(packet.get(..header_len)?)) != 0xffff {
        return None;
    }
    let address =
        |at: usize| IpAddr::from(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    Some((address(12), address(16), packet.get(header_len..len)?))
}

fn parse_ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = packet.get(..IPV6_BYTES)?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || header[6] != TCP {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    Some((address(8)?, address(24)?, packet.get(IPV6_BYTES..IPV6_BYTES + len)?))
}

/// The part of a connection's frames that is the same in all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    local: SocketAddr,
    remote: SocketAddr,
    /// IP header with what does not change.
    ip: [u8; IPV6_BYTES],
    /// The sum over the IPv4 header so far, and over the addresses of the pseudo-header.
    ip_sum: u64,
    pseudo: u64,
}

impl Head {
    /// From `local` to `remote`, of one family.
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Head {
        let mut ip = [0; IPV6_BYTES];
        match (local.ip(), remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ip[0] = 0x45;
                // Do not fragment.
                ip[6] = 0x40;
                ip[8] = TIME_TO_LIVE;
                ip[9] = TCP;
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..20].copy_from_slice(&to.octets());
            }
            (from, to) => {
                let octets = |address| match address {
                    IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4).octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                ip[0] = 0x60;
                ip[6] = TCP;
                ip[7] = TIME_TO_LIVE;
                ip[8..24].copy_from_slice(&octets(from));
                ip[24..40].copy_from_slice(&octets(to));
            }
        }
        let ip_sum = sum(&ip[..IPV4_BYTES]);
        Head { local, remote, ip, ip_sum, pseudo: pseudo_sum(local.ip(), remote.ip(), 0) }
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Writes a frame; `fill` writes the segment's bytes. Returns its length.
    pub(super) fn write(
        &self,
        outgoing: &Outgoing,
        ethernet: Ethernet,
        frame: &mut [u8],
        fill: impl FnOnce(&mut [u8]),
    ) -> usize {
        let is_ipv4 = self.remote.is_ipv4();
        let (kind, ip_len) = if is_ipv4 { (TYPE_IPV4, IPV4_BYTES) } else { (TYPE_IPV6, IPV6_BYTES) };
        let begin = ethernet.write(kind, frame);
        let (ip, tcp) = frame[begin..].split_at_mut(ip_len);
        let header = outgoing.write_header(self.local.port(), self.remote.port(), tcp);
        let segment = &mut tcp[..header + outgoing.len];
        fill(&mut segment[header..]);
        // Read as it was written, in large pieces from its beginning: what was only just written in smaller ones has to be
        // waited for.
        let content = sum(&segment[header..]) + outgoing.header_sum(self.local.port(), self.remote.port());
        ip.copy_from_slice(&self.ip[..ip_len]);
        if is_ipv4 {
            let len = ((ip_len + segment.len()) as u16).to_be_bytes();
            ip[2..4].copy_from_slice(&len);
            ip[10..12].copy_from_slice(&(!fold(self.ip_sum + sum(&[0, 0, len[0], len[1]]))).to_ne_bytes());
        } else {
            ip[4..6].copy_from_slice(&(segment.len() as u16).to_be_bytes());
        }
        let pseudo = self.pseudo + sum(&(segment.len() as u32).to_be_bytes());
        let checksum = !fold(pseudo + content);
        segment[16..18].copy_from_slice(&checksum.to_ne_bytes());
        begin + ip_len + segment.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tcp::reset_for;
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    const PLAIN: Ethernet = Ethernet { from: [1; 6], to: [2; 6], tag: None };

    fn written(local: &str, remote: &str, payload: &[u8]) -> Vec<u8> {
        written_to(PLAIN, local, remote, payload)
    }

    fn written_to(ethernet: Ethernet, local: &str, remote: &str, payload: &[u8]) -> Vec<u8> {
        let head = Head::new(address(local), address(remote));
        let some = Segment {
            source: 25,
            destination: 61_000,
            seq: 1,
            ack: 0x1234_5678,
            flags: 0x10,
            window: 0,
            options: Default::default(),
            payload: &[],
        };
        let reset = reset_for(&some).expect("it is none itself");
        let outgoing = Outgoing { len: payload.len(), ..reset };
        let mut frame = vec![0xaa; 2_048];
        let len = head.write(&outgoing, ethernet, &mut frame, |to| to.copy_from_slice(payload));
        frame.truncate(len);
        frame
    }

    #[test]
    fn what_is_written_is_read_and_any_flipped_bit_is_found() {
        for (local, remote) in
            [("192.0.2.1:61000", "198.51.100.7:25"), ("[2001:db8::1]:61000", "[2001:db8:1::7]:25")]
        {
            for len in [0, 1, 2, 3, 7, 1_400] {
                let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let mut frame = written(local, remote, &payload);
                let packet = parse(&frame, false).expect("it is right");
                assert_eq!((packet.from, packet.to), (address(local), address(remote)));
                assert_eq!((packet.segment.seq, packet.segment.payload), (0x1234_5678, &payload[..]));
                for at in ETHERNET_BYTES..frame.len() {
                    frame[at] ^= 0x10;
                    let is_checked = parse(&frame, false).is_none();
                    // Not covered: type of service and the like of IPv6.
                    assert!(is_checked || local.starts_with('[') && at < ETHERNET_BYTES + 8, "byte {at}");
                    frame[at] ^= 0x10;
                }
            }
        }
    }

    #[test]
    fn a_tag_stands_before_the_type_and_nothing_else_differs() {
        for (local, remote) in
            [("192.0.2.1:61000", "198.51.100.7:25"), ("[2001:db8::1]:61000", "[2001:db8:1::7]:25")]
        {
            let plain = written(local, remote, b"hello");
            for protocol in [TYPE_TAGGED, TYPE_TAGGED_OUTSIDE] {
                let tag = Some(Tag { protocol, id: 0x123 });
                let tagged = written_to(Ethernet { tag, ..PLAIN }, local, remote, b"hello");
                assert_eq!(tagged[12..16], [protocol.to_be_bytes(), [0x01, 0x23]].concat());
                assert_eq!([&tagged[..12], &tagged[16..]].concat(), plain);
                let packet = parse(&tagged, false).expect("it is right");
                assert_eq!((packet.from, packet.segment.payload), (address(local), &b"hello"[..]));
                for len in 0..tagged.len() {
                    assert!(parse(&tagged[..len], true).is_none(), "{len}");
                }
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_right_only_where_it_may_be() {
        let mut frame = written("192.0.2.1:61000", "198.51.100.7:25", b"hello");
        let (from, to) = (address("192.0.2.1:0").ip(), address("198.51.100.7:0").ip());
        let partial = fold(pseudo_sum(from, to, HEADER_BYTES + 5));
        frame[ETHERNET_BYTES + IPV4_BYTES + 16..][..2].copy_from_slice(&partial.to_ne_bytes());
        assert!(parse(&frame, true).is_some() && parse(&frame, false).is_none());
        frame[ETHERNET_BYTES + IPV4_BYTES + 16] ^= 1;
        assert!(parse(&frame, true).is_none());
    }

    #[test]
    fn short_frames_are_nothing() {
        let frame = written("192.0.2.1:61000", "198.51.100.7:25", b"hello");
        for len in 0..frame.len() {
            assert!(parse(&frame[..len], true).is_none(), "{len}");
        }
        // An Ethernet frame is padded.
        assert_eq!(parse(&[&frame[..], &[0; 6]].concat(), false).expect("padded").segment.payload, b"hello");
    }
}
