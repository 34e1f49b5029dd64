//! What others say about a packet of ours: ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443) errors, read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Core;
use super::frame::header_bytes;
use super::tcp::Narrow;
use crate::sys::xdp::errors::Errors;
use crate::time::Instant;

/// Looked at in a turn; the rest in the next ones.
const NOTICES_PER_TURN: usize = 64;
const TCP: u8 = 6;
const ICMP_BYTES: usize = 8;
const IPV6_BYTES: usize = 40;

/// What is said of a segment of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Complaint {
    /// The packet did not fit: the next link carries packets of so many bytes; 0: that is not said (RFC 1191 section 5).
    TooBig(u32),
    /// It cannot be delivered: errno.
    Unreachable(i32),
}

/// A complaint and the segment that it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Notice {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) seq: u32,
    pub(super) what: Complaint,
}

/// Where errors are heard, in each family there is, and what `watch` calls that.
pub(super) fn listen(mut watch: impl FnMut(&Errors) -> u32) -> io::Result<Vec<(Errors, u32)>> {
    let mut all = Vec::new();
    for is_ipv4 in [true, false] {
        match Errors::new(is_ipv4) {
            Ok(errors) => {
                let place = watch(&errors);
                all.push((errors, place));
            }
            // Then there are no packets of it either.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

impl Core {
    /// Takes in what others say of packets of ours.
    pub(super) fn hear_errors(&mut self, now: Instant) {
        for at in 0..self.errors.len() {
            let place = self.errors[at].1;
            if !self.uring.take_readable(place) {
                continue;
            }
            let mut buffer = Errors::buffer();
            for _ in 0..NOTICES_PER_TURN {
                let errors = &self.errors[at].0;
                let Some(bytes) = errors.receive(&mut buffer) else { break };
                if let Some(notice) = parse(bytes, errors.is_ipv4()) {
                    self.handle_notice(&notice, now);
                }
            }
        }
    }

    fn handle_notice(&mut self, notice: &Notice, now: Instant) {
        // Every shard hears of every packet.
        let Some(slot) = self.stream_between(notice.from, notice.to) else { return };
        let connection = &mut self.streams.at(slot).connection;
        match notice.what {
            Complaint::TooBig(packet) => {
                if let Some(narrow) = connection.handle_too_big(notice.seq, packet, now) {
                    self.follow_narrow(notice.to.ip(), narrow, now);
                }
            }
            Complaint::Unreachable(errno) => {
                connection.handle_refusal(notice.seq, errno);
                self.touch(slot);
            }
        }
    }

    /// The path to that address carries less: all streams there follow, and those to come.
    fn follow_narrow(&mut self, to: IpAddr, narrow: Narrow, now: Instant) {
        self.paths.remember_narrow(to, narrow);
        for slot in self.streams.slots() {
            let one = self.streams.at(slot);
            if one.head.is_some_and(|head| head.remote().ip() == to) {
                one.connection.follow_path(header_bytes(to.is_ipv4()), Some(narrow), now);
                self.touch(slot);
            }
        }
    }
}

/// Reads an error as a raw socket has it: of IPv4 from the IP header on, of IPv6 from the ICMPv6 header on. `None`: it is
/// of no interest, or about something else than TCP.
pub(super) fn parse(bytes: &[u8], is_ipv4: bool) -> Option<Notice> {
    let icmp = if is_ipv4 { bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)? } else { bytes };
    let (head, quoted) = icmp.split_at_checked(ICMP_BYTES)?;
    let what = match (is_ipv4, head[0], head[1]) {
        (true, 3, 4) => Complaint::TooBig(u16::from_be_bytes([head[6], head[7]]).into()),
        (true, 3, 0 | 6) => Complaint::Unreachable(libc::ENETUNREACH),
        (true, 3, 2 | 3) | (false, 1, 4) => Complaint::Unreachable(libc::ECONNREFUSED),
        (true, 3, _) | (false, 1, 3) => Complaint::Unreachable(libc::EHOSTUNREACH),
        (false, 1, 0) => Complaint::Unreachable(libc::ENETUNREACH),
        (false, 1, _) => Complaint::Unreachable(libc::EACCES),
        (false, 2, _) => Complaint::TooBig(u32::from_be_bytes([head[4], head[5], head[6], head[7]])),
        _ => return None,
    };
    let (from, to, segment) = if is_ipv4 { quoted_ipv4(quoted)? } else { quoted_ipv6(quoted)? };
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let seq = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
    Some(Notice { from: SocketAddr::new(from, port(0)), to: SocketAddr::new(to, port(2)), seq, what })
}

/// Addresses and the first bytes of the segment: only eight of them need be quoted.
fn quoted_ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let segment = packet.get(header_len..header_len + 8).filter(|_| header_len >= 20)?;
    let address =
        |at: usize| IpAddr::from(Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]));
    (packet[0] >> 4 == 4 && packet[9] == TCP).then(|| (address(12), address(16), segment))
}

fn quoted_ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let segment = packet.get(IPV6_BYTES..IPV6_BYTES + 8)?;
    let address = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    (packet[0] >> 4 == 6 && packet[6] == TCP).then_some(())?;
    Some((address(8)?, address(24)?, segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error that quotes a segment from port 61000 to port 25, with sequence number 0x01020304.
    fn error(is_ipv4: bool, kind: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
        let segment = [0xee, 0x48, 0, 25, 1, 2, 3, 4];
        let icmp = [&[kind, code, 0, 0][..], &rest].concat();
        if is_ipv4 {
            let mut outer = vec![0; 24];
            outer[0] = 0x46;
            let mut inner = vec![0; 20];
            (inner[0], inner[9]) = (0x45, TCP);
            inner[12..20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 7]);
            return [outer, icmp, inner, segment.to_vec()].concat();
        }
        let mut inner = vec![0; IPV6_BYTES];
        (inner[0], inner[6], inner[23], inner[39]) = (0x60, TCP, 1, 7);
        [icmp, inner, segment.to_vec()].concat()
    }

    #[test]
    fn complaints_name_the_segment_they_are_about() {
        let all = [
            (true, 3, 4, [0, 0, 0x05, 0x78], Complaint::TooBig(1_400)),
            (true, 3, 4, [0; 4], Complaint::TooBig(0)),
            (true, 3, 1, [0; 4], Complaint::Unreachable(libc::EHOSTUNREACH)),
            (true, 3, 13, [0; 4], Complaint::Unreachable(libc::EHOSTUNREACH)),
            (true, 3, 3, [0; 4], Complaint::Unreachable(libc::ECONNREFUSED)),
            (false, 2, 0, [0, 0, 0x05, 0x78], Complaint::TooBig(1_400)),
            (false, 1, 0, [0; 4], Complaint::Unreachable(libc::ENETUNREACH)),
            (false, 1, 4, [0; 4], Complaint::Unreachable(libc::ECONNREFUSED)),
        ];
        for (is_ipv4, kind, code, rest, what) in all {
            let notice = parse(&error(is_ipv4, kind, code, rest), is_ipv4).expect("a complaint");
            assert_eq!((notice.what, notice.seq), (what, 0x0102_0304));
            let (from, to) = if is_ipv4 { ("192.0.2.1", "198.51.100.7") } else { ("::1", "::7") };
            let address = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
            assert_eq!((notice.from, notice.to), (address(from, 61_000), address(to, 25)));
        }
    }

    #[test]
    fn what_is_short_or_about_something_else_is_nothing() {
        for (is_ipv4, kind, protocol_at) in [(true, 3, 24 + ICMP_BYTES + 9), (false, 2, ICMP_BYTES + 6)] {
            let whole = error(is_ipv4, kind, 4, [0; 4]);
            (0..whole.len()).for_each(|len| assert_eq!(parse(&whole[..len], is_ipv4), None, "{len}"));
            let mut udp = whole.clone();
            udp[protocol_at] = 17;
            assert_eq!(parse(&udp, is_ipv4), None);
            assert_eq!(parse(&error(is_ipv4, 11, 0, [0; 4]), is_ipv4), None, "it came too far");
        }
    }
}
