//! One connection of ours, one of smoltcp's, and the wire between them.

use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::super::segment::{ACK, SYN};
use super::super::{Answer, Backlog, Connection, Outgoing, Pair, RoundTrip, Segment};
use crate::handle::{Extent, ShardId};
use crate::net::xdp::frame::{self, Ethernet, Head};
use crate::sys::arena::{Arenas, BUFFER_BYTES};
use crate::sys::pool::Pool;
use crate::time::Instant;

const ETHERNET_BYTES: usize = 14;
const STEPS_MAX: usize = 3_000_000;

/// What the wire does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    pub(super) round_trip: Duration,
    /// Shares of packets that are lost on the way out, and back.
    pub(super) loss: f64,
    pub(super) loss_back: f64,
    /// Of either direction.
    pub(super) repeats: f64,
    /// Packets are late by up to this.
    pub(super) jitter: Duration,
}

/// Packets of smoltcp's.
#[derive(Default)]
struct Queues {
    inward: VecDeque<Vec<u8>>,
    outward: VecDeque<Vec<u8>>,
}

struct Inward(Vec<u8>);
struct Outward<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Inward {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outward<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Inward;
    type TxToken<'a> = Outward<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Inward, Outward<'_>)> {
        let packet = self.inward.pop_front()?;
        Some((Inward(packet), Outward(&mut self.outward)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outward<'_>> {
        Some(Outward(&mut self.outward))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1_500;
        capabilities
    }
}

/// A packet under way.
struct Flying {
    at: Instant,
    order: u64,
    to_us: bool,
    packet: Vec<u8>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) connection: Connection,
    pool: Pool,
    bodies: Vec<Extent>,
    head: Head,
    wire: Wire,
    dice: u64,
    flying: Vec<Flying>,
    order: u64,
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    answers: VecDeque<u8>,
    /// The peer reads what has come.
    pub(super) peer_reads: bool,
    /// What the peer has read, and what we have taken.
    pub(super) arrived: Vec<u8>,
    pub(super) taken: Vec<u8>,
    /// We take what has come.
    pub(super) we_take: bool,
    pub(super) segments_out: u64,
    /// Larger packets are lost on the way out.
    pub(super) packet_max: usize,
    /// Whoever loses them says so.
    pub(super) complains: bool,
    /// Nothing gets through.
    pub(super) is_cut: bool,
    /// If it is the peer that opens.
    pub(super) backlog: Option<Backlog<()>>,
    is_accepted: bool,
}

fn clock(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((now.as_nanos() / 1_000) as i64)
}

impl World {
    pub(super) fn new(seed: u64, wire: Wire) -> World {
        let now = Instant::from_nanos(1_000_000_000);
        let mut device = Queues::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, clock(now));
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(IpAddress::v4(10, 0, 0, 2), 24);
            addresses.push(address).expect("room for one");
        });
        let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
        let mut socket = tcp::Socket::new(buffer(1 << 20), buffer(1 << 20));
        socket.set_nagle_enabled(false);
        socket.listen(25).expect("a port");
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let head = Head::new(
            "10.0.0.1:61000".parse().expect("an address"),
            "10.0.0.2:25".parse().expect("an address"),
        );
        let mut pool = Pool::new(Arenas::new(1, 8).expect("a small mapping"), ShardId(0));
        let pattern: Vec<u8> =
            (0..BUFFER_BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let bodies = (0..4)
            .map(|_| {
                let buffer = pool.alloc().expect("free");
                pool.fill(buffer, &pattern).expect("room")
            })
            .collect();
        World {
            now,
            connection: Connection::default(),
            pool,
            bodies,
            head,
            wire,
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            flying: Vec::new(),
            order: 0,
            interface,
            device,
            sockets,
            socket,
            answers: VecDeque::new(),
            peer_reads: true,
            arrived: Vec::new(),
            taken: Vec::new(),
            we_take: true,
            segments_out: 0,
            packet_max: usize::MAX,
            complains: false,
            is_cut: false,
            backlog: None,
            is_accepted: false,
        }
    }

    /// Has the peer open, into a backlog for so many.
    pub(super) fn begin_peer(&mut self, backlog_max: usize) {
        self.backlog = Some(Backlog::new(backlog_max, Default::default()));
        let address = |text: &str| text.parse().expect("an address");
        self.head = Head::new(address("10.0.0.1:25"), address("10.0.0.2:40000"));
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        socket.abort();
        let to = (IpAddress::v4(10, 0, 0, 1), 25);
        socket.connect(self.interface.context(), to, 40_000).expect("it can");
    }

    /// From now on so many of the packets to the peer are lost.
    pub(super) fn wire_loss(&mut self, loss: f64) {
        self.wire.loss = loss;
    }

    /// The peer opens, and it is accepted.
    pub(super) fn accept(&mut self, backlog_max: usize) {
        self.begin_peer(backlog_max);
        self.until("it is accepted", |world| world.connection.is_open());
        assert!(self.connection.take_news().opened);
    }

    /// Of the peer, and of no connection yet. True: the connection is to see it.
    fn handle_first(&mut self, segment: &Segment<'_>) -> bool {
        let pair = Pair { local: self.head.local(), remote: self.head.remote() };
        let initial = (self.roll() * f64::from(u32::MAX)) as u32;
        let Some(backlog) = self.backlog.as_mut().filter(|_| !self.is_accepted) else { return true };
        if segment.flags & (SYN | ACK) == SYN {
            let answer = backlog.handle_syn(pair, segment, (), (initial, 1_460), self.now);
            self.send(answer.expect("it has a usual size"));
            return false;
        }
        let Answer::Connected(handshake) = backlog.handle_other(pair, segment, self.now) else {
            return false;
        };
        self.connection.accept(&handshake, 1_460, RoundTrip::default(), self.now);
        self.is_accepted = true;
        true
    }

    fn send(&mut self, outgoing: Outgoing) {
        self.segments_out += 1;
        let mut packet = vec![0; 1_600];
        let ethernet = Ethernet { from: [2; 6], to: [4; 6], tag: None };
        let (head, connection, pool) = (self.head, &self.connection, &self.pool);
        let len = head.write(&outgoing, ethernet, &mut packet, |to| connection.copy(&outgoing, to, pool));
        assert!(len <= ETHERNET_BYTES + 1_500, "beyond the MTU: {len}");
        self.throw(false, packet[ETHERNET_BYTES..len].to_vec());
    }

    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn begin(&mut self) {
        let initial = (self.roll() * f64::from(u32::MAX)) as u32;
        self.connection.open(initial, 1_460, RoundTrip::default(), self.now);
    }

    pub(super) fn connect(&mut self) {
        self.begin();
        self.until("it is open", |world| world.connection.is_open());
        assert!(self.connection.take_news().opened);
    }

    /// Writes so many bytes, as lines and bodies in turn; these bytes.
    pub(super) fn write(&mut self, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let left = len - all.len();
            if self.roll() < 0.3 {
                let line = format!("line {}\r\n", all.len());
                let line = &line.as_bytes()[..line.len().min(left)];
                self.connection.write(line);
                all.extend(line);
            } else {
                let which = (self.roll() * self.bodies.len() as f64) as usize;
                let part = self.bodies[which];
                let start = (self.roll() * 1_000.0) as usize;
                let part = part.slice(start..(start + left).min(part.len as usize));
                self.connection.write_body(part);
                all.extend(crate::handle::Buffers::bytes(&self.pool, part));
            }
        }
        all
    }

    /// Has the peer write.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
    }

    pub(super) fn close_peer(&mut self) {
        self.sockets.get_mut::<tcp::Socket>(self.socket).close();
    }

    pub(super) fn abort_peer(&mut self) {
        self.sockets.get_mut::<tcp::Socket>(self.socket).abort();
    }

    pub(super) fn peer_state(&mut self) -> tcp::State {
        self.sockets.get::<tcp::Socket>(self.socket).state()
    }

    fn throw(&mut self, to_us: bool, packet: Vec<u8>) {
        let too_large = !to_us && packet.len() > self.packet_max;
        if too_large && self.complains {
            let seq = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
            self.connection.handle_too_big(seq, self.packet_max as u32, self.now);
        }
        let loss = if to_us { self.wire.loss_back } else { self.wire.loss };
        if self.is_cut || too_large || self.roll() < loss {
            return;
        }
        let copies = 1 + usize::from(self.roll() < self.wire.repeats);
        for _ in 0..copies {
            let late = self.wire.jitter.mul_f64(self.roll());
            self.order += 1;
            let flying = Flying {
                at: self.now + self.wire.round_trip / 2 + late,
                order: self.order,
                to_us,
                packet: packet.clone(),
            };
            self.flying.push(flying);
        }
    }

    /// Has all act that can act now.
    fn act(&mut self) {
        while self.backlog.is_none() || self.is_accepted {
            let Some(outgoing) = self.connection.poll(self.now) else { break };
            self.send(outgoing);
        }
        self.interface.poll(clock(self.now), &mut self.device, &mut self.sockets);
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        let mut buffer = [0; 65_536];
        while self.peer_reads && socket.can_recv() {
            let len = socket.recv_slice(&mut buffer).expect("it can");
            self.arrived.extend(&buffer[..len]);
        }
        if socket.may_send() && !self.answers.is_empty() {
            let sent = socket.send_slice(self.answers.make_contiguous()).expect("it may");
            self.answers.drain(..sent);
        }
        self.interface.poll(clock(self.now), &mut self.device, &mut self.sockets);
        while let Some(packet) = self.device.outward.pop_front() {
            self.throw(true, packet);
        }
    }

    /// Goes on to when something happens next, and has it happen. False: nothing ever will.
    fn step(&mut self) -> bool {
        self.act();
        let peer = self.interface.poll_at(clock(self.now), &self.sockets);
        let peer = peer.map_or(Instant::NEVER, |at| {
            // It counts in whole microseconds.
            Instant::from_nanos((at.total_micros() as u64 + 1) * 1_000).max(self.now)
        });
        let arrival = self.flying.iter().map(|flying| flying.at).min().unwrap_or(Instant::NEVER);
        let half_open = self.backlog.as_ref().map_or(Instant::NEVER, Backlog::next_deadline);
        let next = peer.min(arrival).min(self.connection.next_deadline()).min(half_open);
        if next == Instant::NEVER {
            return false;
        }
        self.now = self.now.max(next);
        self.connection.handle_deadline(self.now);
        while let Some((.., again)) = self.backlog.as_mut().and_then(|b| b.handle_deadline(self.now)) {
            self.send(again);
        }
        self.flying.sort_by_key(|flying| (flying.at, flying.order));
        let due = self.flying.partition_point(|flying| flying.at <= self.now);
        let due: Vec<Flying> = self.flying.drain(..due).collect();
        for flying in due {
            if flying.to_us {
                let frame = [&[0; 12][..], &[0x08, 0x00], &flying.packet].concat();
                let Some(packet) = frame::parse(&frame, false) else { panic!("smoltcp's own packet") };
                if !self.handle_first(&packet.segment) {
                    continue;
                }
                let (taken, we_take) = (&mut self.taken, self.we_take);
                self.connection.handle_segment(&packet.segment, self.now, &mut |bytes: &[u8]| {
                    let len = if we_take { bytes.len() } else { 0 };
                    taken.extend(&bytes[..len]);
                    len
                });
            } else {
                self.device.inward.push_back(flying.packet);
            }
        }
        true
    }

    /// What waited to be taken is taken from now on.
    pub(super) fn take_again(&mut self) {
        self.we_take = true;
        let taken = &mut self.taken;
        self.connection.take_waiting(&mut |bytes| {
            taken.extend(bytes);
            bytes.len()
        });
    }

    /// Steps until `condition` holds.
    pub(super) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut World) -> bool) {
        for _ in 0..STEPS_MAX {
            if condition(self) {
                return;
            }
            let goes_on = self.step();
            assert!(goes_on || condition(self), "nothing more happens, and not yet: {what}");
        }
        panic!("it never came to this: {what}");
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && self.step() {}
        self.now = self.now.max(end);
        self.act();
    }

    pub(super) fn settle(&mut self) {
        self.pass(Duration::from_secs(1));
    }
}
