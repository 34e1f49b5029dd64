//! The largest packet that a path carries: what the interface can, until a router says less (RFC 1191, RFC 8201), or whole
//! segments vanish where smaller ones do not (a black hole: RFC 4821, RFC 8899). After a while the whole is tried again.

use std::time::Duration;

use crate::time::Instant;

/// What a router has said holds for so long (RFC 1191 section 6.3, RFC 8201 section 4).
const TOLD: Duration = Duration::from_secs(600);
/// What was only guessed may have been an outage: it is tried again after this, the next time after twice as long…
const GUESSED: Duration = Duration::from_secs(60);
/// …and so on, so many times.
const DOUBLINGS: u32 = 4;
/// Packets that paths commonly carry, the largest first: Ethernet's, what every path of IPv6 carries and most tunnels
/// do, what every host takes.
const SIZES: [u32; 3] = [1_500, 1_280, 576];
/// Less than this no router is believed (Linux: `ip_rt_min_pmtu`); with IPv6 no path carries less than this.
const PACKET_MIN: u32 = 552;
const PACKET_MIN_IPV6: u32 = 1_280;
/// Of IP and TCP, without options.
const HEADERS_IPV4: u32 = 40;

/// A path that carries less than the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Narrow {
    /// Bytes of the largest packet.
    packet: u32,
    /// More is tried again then.
    until: Instant,
    /// So often it was guessed.
    guesses: u32,
}

/// What a connection knows of its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Width {
    headers: u32,
    /// The last that was known, perhaps long ago.
    narrow: Option<Narrow>,
    /// Most bytes of a segment that the path carries.
    pub(super) limit: u32,
}

impl Default for Width {
    fn default() -> Self {
        Width { headers: HEADERS_IPV4, narrow: None, limit: u32::MAX }
    }
}

impl Width {
    /// Of packets with so many bytes before a segment's own, on a path of which that much is known.
    pub(super) fn new(headers: u32, known: Option<Narrow>, now: Instant) -> Width {
        let limit = known.filter(|narrow| narrow.until > now).map(|narrow| narrow.packet - headers);
        Width { headers, narrow: known, limit: limit.unwrap_or(u32::MAX) }
    }

    fn packet_min(&self) -> u32 {
        if self.headers > HEADERS_IPV4 { PACKET_MIN_IPV6 } else { PACKET_MIN }
    }

    fn narrow(&mut self, packet: u32, until: Instant, guesses: u32) -> Narrow {
        let narrow = Narrow { packet, until, guesses };
        self.narrow = Some(narrow);
        self.limit = packet - self.headers;
        narrow
    }

    /// A router says that the path carries packets of `packet` bytes, of one with `len` bytes of the stream. `None`: that
    /// is no news.
    pub(super) fn told(&mut self, packet: u32, len: u32, now: Instant) -> Option<Narrow> {
        let sent = len + self.headers;
        let packet = match packet {
            // Routers before RFC 1191 do not say.
            0 => SIZES.into_iter().find(|&size| size < sent)?,
            packet => packet,
        };
        let packet = packet.max(self.packet_min());
        let guesses = self.narrow.map_or(0, |narrow| narrow.guesses);
        (packet < sent && packet - self.headers < self.limit)
            .then(|| self.narrow(packet, now + TOLD, guesses))
    }

    /// Segments of `len` bytes vanish. `None`: no path carries less.
    pub(super) fn guess(&mut self, len: u32, now: Instant) -> Option<Narrow> {
        let sent = len + self.headers;
        let known = self.narrow.filter(|narrow| narrow.packet < sent);
        let common = || SIZES.into_iter().find(|&size| size < sent && size >= self.packet_min());
        let packet = known.map(|narrow| narrow.packet).or_else(common)?;
        let guesses = self.narrow.map_or(0, |narrow| narrow.guesses);
        let until = now + GUESSED * (1 << guesses.min(DOUBLINGS));
        Some(self.narrow(packet, until, guesses + 1))
    }

    /// It is time to try again what the interface carries.
    pub(super) fn widen(&mut self, now: Instant) {
        if self.limit != u32::MAX && self.narrow.is_none_or(|narrow| narrow.until <= now) {
            self.limit = u32::MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1);

    fn wide(headers: u32) -> Width {
        Width::new(headers, None, START)
    }

    #[test]
    fn a_router_is_believed_where_it_can_be_right_and_for_ten_minutes() {
        let mut width = wide(40);
        let narrow = width.told(1_400, 1_460, START).expect("news");
        assert_eq!(width.limit, 1_360);
        assert_eq!(width.told(1_400, 1_360, START), None, "such a packet fits");
        assert_eq!(width.told(1_450, 1_460, START), None, "less is known already");
        width.told(1_300, 1_360, START).expect("a narrower place further on");
        width.told(68, 1_260, START).expect("news");
        assert_eq!(width.limit, 512, "nobody is believed that says less than 552");
        width.widen(START + (TOLD - Duration::from_secs(1)));
        assert_eq!(width.limit, 512);
        width.widen(START + TOLD);
        assert_eq!(width.limit, u32::MAX);
        assert_eq!(Width::new(40, Some(narrow), START).limit, 1_360, "others know it from the beginning");
        assert_eq!(Width::new(40, Some(narrow), START + TOLD).limit, u32::MAX);
        let mut ipv6 = wide(60);
        ipv6.told(600, 1_440, START).expect("news");
        assert_eq!(ipv6.limit, 1_220, "every path of IPv6 carries 1280");
        let mut old = wide(40);
        old.told(0, 1_460, START).expect("news");
        assert_eq!(old.limit, 1_240, "a router that does not say how much");
    }

    #[test]
    fn a_guess_goes_down_by_common_sizes_and_straight_there_the_next_time() {
        let mut width = wide(40);
        let mut sizes = Vec::new();
        let mut len = 8_960;
        while width.guess(len, START).is_some() {
            len = width.limit;
            sizes.push(len + 40);
        }
        assert_eq!(sizes, SIZES);
        let mut width = wide(40);
        width.guess(1_460, START).expect("a smaller one");
        width.widen(START + GUESSED);
        assert_eq!(width.limit, u32::MAX, "it may have been an outage");
        let again = width.guess(1_460, START).expect("the same");
        assert_eq!((width.limit, again.guesses), (1_240, 2));
        width.widen(START + GUESSED);
        assert_eq!(width.limit, 1_240, "not so soon again");
        width.widen(START + 2 * GUESSED);
        assert_eq!(width.limit, u32::MAX);
        let mut ipv6 = wide(60);
        ipv6.guess(1_440, START).expect("a smaller one");
        assert_eq!(ipv6.guess(ipv6.limit, START), None);
    }
}
