//! A veth spreads what it receives by its peer's whim. For tests this makes the peer spread as an interface would: by
//! the Toeplitz hash of addresses and ports, over two queues.

use std::io;

use super::bpf::{Link, Map, MapType, Program};
use super::program::{
    Assembler, BYTE, EQUAL, GREATER_THAN_REGISTER, HALF, Instruction, MAP_LOOKUP_ELEM, NONE, NOT_EQUAL, R,
    TCP, WORD, in_frame,
};

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;
const EXCLUSIVE_OR: u8 = 0xaf;
/// Addresses and ports of IPv4.
const INPUT_BYTES: usize = 12;
const TABLE_BYTES: usize = INPUT_BYTES * 256 * 4;

/// Its hold on the interface.
pub(crate) struct Spreading {
    _link: Link,
    _table: Map<4, TABLE_BYTES>,
}

/// From now on what leaves by that interface is spread by `hash`, which is linear: the hash of 12 bytes is those of its
/// bytes, each with zeroes around it, added without carry.
pub(crate) fn spread(interface: u32, hash: impl Fn([u8; INPUT_BYTES]) -> u32) -> io::Result<Spreading> {
    let mut bytes = [0; TABLE_BYTES];
    for (entry, at) in bytes.chunks_exact_mut(4).zip(0..) {
        let mut input = [0; INPUT_BYTES];
        input[at / 256] = (at % 256) as u8;
        entry.copy_from_slice(&hash(input).to_ne_bytes());
    }
    let table = Map::new(MapType::Array, 1, "hash")?;
    table.set([0; 4], bytes)?;
    let program = Program::load_as(BPF_PROG_TYPE_SCHED_CLS, &code(table.descriptor()), "spread")?;
    Ok(Spreading { _link: Link::attach_as(BPF_TCX_EGRESS, &program, interface, 0)?, _table: table })
}

fn code(table: i32) -> Vec<Instruction> {
    let (context, frame, hash) = (R(6), R(10), R(7));
    let mut a = Assembler::default();
    a.copy(context, R(1));
    // struct __sk_buff: data, data_end.
    a.load(WORD, R(2), context, 76);
    a.load(WORD, R(3), context, 80);
    a.copy(R(4), R(2));
    a.add(R(4), 38);
    a.jump_if(GREATER_THAN_REGISTER, R(4), R(3), 0, "out");
    a.load(HALF, R(5), R(2), 12);
    a.jump_if(NOT_EQUAL, R(5), NONE, in_frame(0x0800), "out");
    a.load(BYTE, R(5), R(2), 23);
    a.jump_if(NOT_EQUAL, R(5), NONE, TCP, "out");
    for (at, to) in [(26, -16), (30, -12), (34, -8)] {
        a.load(WORD, R(5), R(2), at);
        a.store(WORD, frame, to, R(5));
    }
    a.store_number(WORD, frame, -4, 0);
    a.map(R(1), table);
    a.copy(R(2), frame);
    a.add(R(2), -4);
    a.call(MAP_LOOKUP_ELEM);
    a.jump_if(EQUAL, R(0), NONE, 0, "out");
    a.set(hash, 0);
    for at in 0..INPUT_BYTES as i16 {
        a.load(BYTE, R(1), frame, -16 + at);
        a.shift_left(R(1), 2);
        a.add(R(1), i32::from(at) * 1_024);
        a.copy(R(2), R(0));
        a.add_register(R(2), R(1));
        a.load(WORD, R(3), R(2), 0);
        a.emit(EXCLUSIVE_OR, hash, R(3), 0, 0);
    }
    // queue_mapping, counted from one.
    a.and(hash, 1);
    a.add(hash, 1);
    a.store(WORD, context, 12, hash);
    a.label("out");
    // On to whoever is next.
    a.set(R(0), -1);
    a.exit();
    a.finish()
}
