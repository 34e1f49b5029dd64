//! Reads a segment's octets record by record, and steps over what is damaged.

use std::ops::Range;

use memchr::memmem;

use super::record::{ALIGN, BLOCK, HEADER_BYTES, Header, Kind, Life, MAGIC_BYTES, resembles};

/// What is wrong with a piece of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// No header where one should be.
    NoHeader,
    /// A record's meta is not what was written. Its kind and number.
    Meta(Kind, u64),
    /// A message's octets are not.
    Data(u64),
}

/// A record, sound but perhaps for a message's octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) header: Header,
    pub(super) meta: &'a [u8],
    /// They are not what was written.
    pub(super) is_damaged: bool,
}

/// What a scan came to.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What is damaged, in order.
    pub(super) faults: Vec<(Range<u64>, Fault)>,
    /// Where the last write that left something began.
    pub(super) last_group: u64,
    /// Where the last sound record ends, as a whole block.
    pub(super) end: u64,
}

/// Shows each record of that life in a segment's octets whose header and meta are sound.
pub(super) fn scan<'a>(bytes: &'a [u8], life: Life, mut show: impl FnMut(Record<'a>)) -> Scan {
    let mut scan = Scan { end: BLOCK, ..Scan::default() };
    let mut at = BLOCK;
    while at + (HEADER_BYTES as u64) <= bytes.len() as u64 {
        let Some(header) = header_at(bytes, at, life) else {
            match skip(bytes, at, life) {
                Skip::Padding(next) => at = next,
                Skip::Damage(next) => {
                    scan.faults.push((at..next, Fault::NoHeader));
                    at = next;
                }
                Skip::End => {
                    if resembles(&bytes[at as usize..], life, at) {
                        scan.faults.push((at..at + HEADER_BYTES as u64, Fault::NoHeader));
                    }
                    break;
                }
            }
            continue;
        };
        let next = at + header.bytes();
        scan.last_group = scan.last_group.max(u64::from(header.group) * BLOCK);
        let meta_from = at as usize + HEADER_BYTES;
        let meta = &bytes[meta_from..meta_from + header.meta_len as usize];
        let data_from = meta_from + meta.len();
        let data = &bytes[data_from..data_from + header.head_len as usize + header.body_len as usize];
        if crc32fast::hash(meta) != header.meta_crc {
            scan.faults.push((at..next, Fault::Meta(header.kind, header.number)));
        } else {
            let is_damaged = header.kind == Kind::Message && crc32fast::hash(data) != header.data_crc;
            if is_damaged {
                scan.faults.push((at..next, Fault::Data(header.number)));
            }
            show(Record { header, meta, is_damaged });
        }
        scan.end = next.next_multiple_of(BLOCK);
        at = next;
    }
    scan
}

/// A header of that life that says it lies there, with all of its record within the segment.
fn header_at(bytes: &[u8], at: u64, life: Life) -> Option<Header> {
    let header = Header::decode(bytes.get(at as usize..)?)?;
    let whole = at + header.bytes() <= bytes.len() as u64;
    (header.life == life && header.position == at && whole).then_some(header)
}

enum Skip {
    /// The group ended; the next one may begin there.
    Padding(u64),
    /// Something is gone; there it goes on.
    Damage(u64),
    /// Nothing of this life follows.
    End,
}

fn skip(bytes: &[u8], at: u64, life: Life) -> Skip {
    let block_end = at.next_multiple_of(BLOCK);
    if block_end > at && is_zero(&bytes[at as usize..(block_end as usize).min(bytes.len())]) {
        return Skip::Padding(block_end);
    }
    match find(bytes, at + ALIGN, |header| header.life == life) {
        Some(next) => Skip::Damage(next),
        None => Skip::End,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// The next place at or after `from` that holds a header as wanted.
fn find(bytes: &[u8], from: u64, wanted: impl Fn(&Header) -> bool) -> Option<u64> {
    let finder = memmem::Finder::new(&MAGIC_BYTES);
    let mut at = from as usize;
    while let Some(found) = bytes.get(at..).and_then(|rest| finder.find(rest)) {
        at += found;
        if (at as u64).is_multiple_of(ALIGN)
            && let Some(header) = Header::decode(&bytes[at..])
            && header.position == at as u64
            && at as u64 + header.bytes() <= bytes.len() as u64
        {
            if wanted(&header) {
                return Some(at as u64);
            }
            // A whole record of another life is passed over with all that is in it.
            at += header.bytes() as usize;
        } else {
            at += 1;
        }
    }
    None
}

/// The latest life of that log's whose records lie in a segment that has lost its header.
pub(super) fn life_of(bytes: &[u8], log: u16) -> Option<Life> {
    let (mut latest, mut at): (Option<Life>, u64) = (None, BLOCK);
    while let Some(found) = find(bytes, at, |header| header.life.log == log) {
        let life = Header::decode(&bytes[found as usize..])?.life;
        if latest.is_none_or(|latest| latest.sequence < life.sequence) {
            latest = Some(life);
        }
        at = found + ALIGN;
    }
    latest
}
