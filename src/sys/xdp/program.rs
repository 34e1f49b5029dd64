//! The program that the kernel runs for every frame an interface takes in, put together instruction by instruction:
//! no compiler is needed.
//!
//! A TCP segment for a port of ours at an address of ours goes to the socket of the queue it came by; if that queue
//! has none the segment is dropped, as the kernel, which knows nothing of our connections, would answer with a reset.
//! One for an *inlet*, an address and port that we listen at, goes there too, but passes if there is no socket: the
//! kernel listens at the same place, and has all of the connections that come by that queue.
//! Everything else passes: ARP, ICMP, ssh. Where our interface is a VLAN it looks behind that VLAN's tag; and, as a NIC
//! may have taken the tag off, at frames without one.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::netlink::Tag;

/// One instruction, as the kernel has it (struct bpf_insn).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register.
#[derive(Clone, Copy)]
pub(super) struct R(pub(super) u8);

/// Instructions with jumps to names that come later.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, &'static str)>,
    labels: HashMap<&'static str, usize>,
}

/// Widths of loads and stores.
pub(super) const BYTE: u8 = 0x10;
pub(super) const HALF: u8 = 0x08;
pub(super) const WORD: u8 = 0x00;
const DOUBLE: u8 = 0x18;

impl Assembler {
    pub(super) fn emit(&mut self, code: u8, to: R, from: R, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: from.0 << 4 | to.0, offset, immediate });
    }

    pub(super) fn load(&mut self, width: u8, to: R, from: R, offset: i16) {
        self.emit(0x61 | width, to, from, offset, 0);
    }

    pub(super) fn store(&mut self, width: u8, to: R, offset: i16, from: R) {
        self.emit(0x63 | width, to, from, offset, 0);
    }

    pub(super) fn store_number(&mut self, width: u8, to: R, offset: i16, number: i32) {
        self.emit(0x62 | width, to, R(0), offset, number);
    }

    pub(super) fn copy(&mut self, to: R, from: R) {
        self.emit(0xbf, to, from, 0, 0);
    }

    pub(super) fn set(&mut self, to: R, number: i32) {
        self.emit(0xb7, to, R(0), 0, number);
    }

    pub(super) fn add(&mut self, to: R, number: i32) {
        self.emit(0x07, to, R(0), 0, number);
    }

    pub(super) fn add_register(&mut self, to: R, from: R) {
        self.emit(0x0f, to, from, 0, 0);
    }

    pub(super) fn and(&mut self, to: R, number: i32) {
        self.emit(0x57, to, R(0), 0, number);
    }

    pub(super) fn shift_left(&mut self, to: R, bits: i32) {
        self.emit(0x67, to, R(0), 0, bits);
    }

    /// From network order.
    pub(super) fn swap_half(&mut self, to: R) {
        self.emit(0xdc, to, R(0), 0, 16);
    }

    pub(super) fn map(&mut self, to: R, descriptor: i32) {
        self.emit(0x18, to, R(1), 0, descriptor);
        self.emit(0, R(0), R(0), 0, 0);
    }

    pub(super) fn call(&mut self, helper: i32) {
        self.emit(0x85, R(0), R(0), 0, helper);
    }

    pub(super) fn exit(&mut self) {
        self.emit(0x95, R(0), R(0), 0, 0);
    }

    pub(super) fn jump(&mut self, label: &'static str) {
        self.jump_if(0x05, R(0), R(0), 0, label);
    }

    pub(super) fn jump_if(&mut self, code: u8, left: R, right: R, number: i32, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.emit(code, left, right, 0, number);
    }

    pub(super) fn label(&mut self, label: &'static str) {
        self.labels.insert(label, self.code.len());
    }

    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let distance = self.labels[label] - at - 1;
            self.code[at].offset = i16::try_from(distance).expect("a short program");
        }
        self.code
    }
}

// Jumps: if equal to, not equal to, any bit of, less than, greater than a number; greater than a register.
pub(super) const EQUAL: u8 = 0x15;
pub(super) const NOT_EQUAL: u8 = 0x55;
const ANY_BIT: u8 = 0x45;
const LESS: u8 = 0xa5;
const GREATER: u8 = 0x25;
pub(super) const GREATER_THAN_REGISTER: u8 = 0x2d;

// Helpers and actions: uapi/linux/bpf.h.
pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

pub(super) const TCP: i32 = libc::IPPROTO_TCP;
pub(super) const NONE: R = R(0);

/// A 16-bit number as it is loaded from a frame on this machine.
pub(super) fn in_frame(number: u16) -> i32 {
    i32::from(number.to_be())
}

/// Descriptors of the maps that the program looks at.
pub(super) struct Maps {
    /// Our addresses, IPv4 as `::ffff:a.b.c.d`.
    pub(super) addresses: i32,
    /// The port in network order, two zeroes, and the address in that form.
    pub(super) inlets: i32,
    /// From queue to socket.
    pub(super) sockets: i32,
}

/// The program. `tag`: what the frames bear that are ours. The parts behind `ports` have an address in their stack's frame
/// at -16, and before it the port.
pub(super) fn steer(maps: &Maps, ports: RangeInclusive<u16>, tag: Option<Tag>) -> Vec<Instruction> {
    let (context, end, header, value, past, frame) = (R(6), R(3), R(7), R(5), R(4), R(10));
    let mut a = Assembler::default();
    a.copy(context, R(1));
    a.load(WORD, header, context, 0);
    a.load(WORD, end, context, 4);
    a.copy(past, header);
    a.add(past, 14);
    a.jump_if(GREATER_THAN_REGISTER, past, end, 0, "pass");
    a.load(HALF, value, header, 12);
    a.add(header, 14);
    if let Some(tag) = tag {
        a.jump_if(NOT_EQUAL, value, NONE, in_frame(tag.protocol), "packet");
        a.copy(past, header);
        a.add(past, 4);
        a.jump_if(GREATER_THAN_REGISTER, past, end, 0, "pass");
        a.load(HALF, value, header, 0);
        a.and(value, in_frame(0x0fff));
        a.jump_if(NOT_EQUAL, value, NONE, in_frame(tag.id), "pass");
        a.load(HALF, value, header, 2);
        a.add(header, 4);
        a.label("packet");
    }
    a.jump_if(EQUAL, value, NONE, in_frame(0x86dd), "ipv6");
    a.jump_if(NOT_EQUAL, value, NONE, in_frame(0x0800), "pass");

    a.copy(past, header);
    a.add(past, 20);
    a.jump_if(GREATER_THAN_REGISTER, past, end, 0, "pass");
    a.load(BYTE, value, header, 9);
    a.jump_if(NOT_EQUAL, value, NONE, TCP, "pass");
    // What follows a first fragment has no ports.
    a.load(HALF, value, header, 6);
    a.jump_if(ANY_BIT, value, NONE, in_frame(0x1fff), "pass");
    a.store_number(DOUBLE, frame, -16, 0);
    a.store_number(WORD, frame, -8, 0x0000_ffff_u32.to_be() as i32);
    a.load(WORD, value, header, 16);
    a.store(WORD, frame, -4, value);
    a.load(BYTE, value, header, 0);
    a.and(value, 0x0f);
    a.shift_left(value, 2);
    a.add_register(header, value);
    a.jump("ports");

    a.label("ipv6");
    a.copy(past, header);
    a.add(past, 40);
    a.jump_if(GREATER_THAN_REGISTER, past, end, 0, "pass");
    a.load(BYTE, value, header, 6);
    a.jump_if(NOT_EQUAL, value, NONE, TCP, "pass");
    a.load(DOUBLE, value, header, 24);
    a.store(DOUBLE, frame, -16, value);
    a.load(DOUBLE, value, header, 32);
    a.store(DOUBLE, frame, -8, value);
    a.add(header, 40);

    a.label("ports");
    a.copy(past, header);
    a.add(past, 4);
    a.jump_if(GREATER_THAN_REGISTER, past, end, 0, "pass");
    a.load(HALF, value, header, 2);
    a.store_number(WORD, frame, -20, 0);
    a.store(HALF, frame, -20, value);
    a.swap_half(value);
    a.jump_if(LESS, value, NONE, i32::from(*ports.start()), "inlets");
    a.jump_if(GREATER, value, NONE, i32::from(*ports.end()), "inlets");
    // What to do when the queue has no socket.
    redirect_known(&mut a, maps.addresses, -16, maps.sockets, XDP_DROP);

    a.label("inlets");
    redirect_known(&mut a, maps.inlets, -20, maps.sockets, XDP_PASS);

    a.label("pass");
    a.set(R(0), XDP_PASS);
    a.exit();
    a.finish()
}

/// To the queue's socket, else `otherwise`, if the map knows what lies at that place; else it passes.
fn redirect_known(a: &mut Assembler, known: i32, at: i32, sockets: i32, otherwise: i32) {
    let (context, frame) = (R(6), R(10));
    a.map(R(1), known);
    a.copy(R(2), frame);
    a.add(R(2), at);
    a.call(MAP_LOOKUP_ELEM);
    a.jump_if(EQUAL, R(0), NONE, 0, "pass");
    a.load(WORD, R(2), context, 16);
    a.map(R(1), sockets);
    a.set(R(3), otherwise);
    a.call(REDIRECT_MAP);
    a.exit();
}

#[cfg(test)]
mod tests {
    use super::super::bpf::{Map, MapType, Program, test_run};
    use super::*;
    use std::net::{IpAddr, Ipv6Addr};

    fn frame(to: IpAddr, port: u16, protocol: u8, options: usize, fragment: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        match to {
            IpAddr::V4(to) => {
                frame.extend(0x0800_u16.to_be_bytes());
                let mut header = vec![0; 20 + options];
                header[0] = 0x40 | (header.len() / 4) as u8;
                header[6..8].copy_from_slice(&fragment.to_be_bytes());
                header[9] = protocol;
                header[16..20].copy_from_slice(&to.octets());
                frame.extend(header);
            }
            IpAddr::V6(to) => {
                frame.extend(0x86dd_u16.to_be_bytes());
                let mut header = vec![0; 40];
                header[6] = protocol;
                header[24..40].copy_from_slice(&to.octets());
                frame.extend(header);
            }
        }
        let mut header = vec![0; 20];
        header[2..4].copy_from_slice(&port.to_be_bytes());
        frame.extend(header);
        frame.resize(frame.len().max(64), 0);
        frame
    }

    /// The kernel's own verifier and interpreter say what it does.
    #[test]
    fn ours_are_dropped_without_a_socket_and_all_else_passes() {
        let made = Map::<16, 4>::new(MapType::Hash, 16, "ours").and_then(|ours| {
            let inlets = Map::<20, 4>::new(MapType::Hash, 16, "inlets")?;
            Ok((ours, inlets, Map::<4, 4>::new(MapType::Sockets, 4, "sockets")?))
        });
        let (ours, inlets, sockets) = match made {
            Ok(maps) => maps,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                eprintln!("skipped: bpf(2) is not permitted here ({error})");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let addresses: [IpAddr; 2] =
            ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
        for address in addresses {
            let key = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            ours.set(Ipv6Addr::octets(&key), [1; 4]).expect("room");
        }
        let maps =
            Maps { addresses: ours.descriptor(), inlets: inlets.descriptor(), sockets: sockets.descriptor() };
        let code = steer(&maps, 61_000..=61_999, None);
        let program = Program::load(&code, "steer").expect("the verifier takes it");
        let run = |frame: &[u8]| test_run(&program, frame).expect("it runs") as i32;
        for to in addresses {
            for port in [61_000, 61_500, 61_999] {
                assert_eq!(run(&frame(to, port, 6, 0, 0)), XDP_DROP, "{to}:{port}");
            }
            for port in [25, 60_999, 62_000] {
                assert_eq!(run(&frame(to, port, 6, 0, 0)), XDP_PASS, "{to}:{port}");
            }
            assert_eq!(run(&frame(to, 61_500, 17, 0, 0)), XDP_PASS, "UDP");
        }
        let [v4, _] = addresses;
        assert_eq!(run(&frame(v4, 61_500, 6, 8, 0)), XDP_DROP, "with options");
        assert_eq!(run(&frame(v4, 61_500, 6, 0, 0x2000)), XDP_DROP, "a first fragment");
        assert_eq!(run(&frame(v4, 61_500, 6, 0, 0x2001)), XDP_PASS, "a later one");
        for other in ["192.0.2.2", "2001:db8::2"] {
            assert_eq!(run(&frame(other.parse().expect("an address"), 61_500, 6, 0, 0)), XDP_PASS, "{other}");
        }
        let mut arp = frame(v4, 61_500, 6, 0, 0);
        arp[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
        assert_eq!(run(&arp), XDP_PASS, "ARP");
        assert_eq!(run(&frame(v4, 61_500, 6, 0, 0)[..14]), XDP_PASS, "nothing in it");
        let tagged = |to: IpAddr, protocol: u16, id: u16| {
            let mut frame = frame(to, 61_500, 6, 0, 0);
            let tag = [protocol.to_be_bytes(), (0x6000 | id).to_be_bytes()].concat();
            frame.splice(12..12, tag);
            frame
        };
        assert_eq!(run(&tagged(v4, 0x8100, 100)), XDP_PASS, "no VLAN of ours");
        let tag = Some(Tag { protocol: 0x8100, id: 100 });
        let code = steer(&maps, 61_000..=61_999, tag);
        let program = Program::load(&code, "steer").expect("the verifier takes it");
        let run = |frame: &[u8]| test_run(&program, frame).expect("it runs") as i32;
        for to in addresses {
            assert_eq!(run(&tagged(to, 0x8100, 100)), XDP_DROP, "{to}: our VLAN, whatever its priority");
            assert_eq!(run(&tagged(to, 0x8100, 101)), XDP_PASS, "{to}: another one");
            assert_eq!(run(&tagged(to, 0x88a8, 100)), XDP_PASS, "{to}: another sort of tag");
            assert_eq!(run(&frame(to, 61_500, 6, 0, 0)), XDP_DROP, "{to}: its tag was taken off");
        }
        assert_eq!(run(&tagged(v4, 0x8100, 100)[..16]), XDP_PASS, "nothing in it");
    }
}
