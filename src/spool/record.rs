//! A record's fixed header, and a segment's. Everything little endian, checked by CRC-32.
//!
//! A header says of itself where it lies and in which segment's life, so that nothing left over from an earlier
//! life, misplaced or made up by a sender of mail (the salt is random) is taken for one.

/// What a write begins at a multiple of: an acknowledged block is never written again.
pub(super) const BLOCK: u64 = 4096;
/// Records begin at multiples of this within a write.
pub(super) const ALIGN: u64 = 8;
/// A record header's octets.
pub(super) const HEADER_BYTES: usize = 80;

const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"PlRc");
const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"PlSg");
const VERSION: u8 = 1;

/// The magic's octets, to search for.
pub(super) const MAGIC_BYTES: [u8; 4] = RECORD_MAGIC.to_le_bytes();

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A whole message with how it stands.
    Message = 1,
    /// How a message stands now; all of it, so that a later one replaces an earlier one.
    State = 2,
}

/// A segment's life: what its records have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Life {
    /// The log's number.
    pub(super) log: u16,
    /// Grows with each segment begun.
    pub(super) sequence: u64,
    /// Random, by process.
    pub(super) salt: u64,
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) life: Life,
    /// Where it lies in its file.
    pub(super) position: u64,
    /// The block that its write began at.
    pub(super) group: u32,
    /// Segments of a lower sequence are of no more use.
    pub(super) tail: u64,
    /// The message's number within its log.
    pub(super) number: u64,
    pub(super) meta_len: u32,
    pub(super) head_len: u32,
    pub(super) body_len: u32,
    pub(super) meta_crc: u32,
    /// Of head and body.
    pub(super) data_crc: u32,
}

impl Header {
    /// Octets of the record, as far as the next one.
    pub(super) fn bytes(&self) -> u64 {
        record_bytes(self.meta_len, self.head_len, self.body_len)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&MAGIC_BYTES);
        put.bytes(&[VERSION, self.kind as u8]);
        put.bytes(&self.life.log.to_le_bytes());
        put.bytes(&self.life.sequence.to_le_bytes());
        put.bytes(&self.life.salt.to_le_bytes());
        put.bytes(&self.position.to_le_bytes());
        put.bytes(&self.tail.to_le_bytes());
        put.bytes(&self.number.to_le_bytes());
        let small = [self.group, self.meta_len, self.head_len, self.body_len, self.meta_crc, self.data_crc];
        small.iter().for_each(|word| put.bytes(&word.to_le_bytes()));
        put.seal(HEADER_BYTES);
        out
    }

    /// Reads one; `None` if the octets are not one, or not whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..4] != MAGIC_BYTES || bytes[4] != VERSION || !is_sealed(bytes) {
            return None;
        }
        let kind = match bytes[5] {
            1 => Kind::Message,
            2 => Kind::State,
            _ => return None,
        };
        let small = |n: usize| u32_at(bytes, 48 + 4 * n);
        Some(Header {
            kind,
            life: Life {
                log: u16::from_le_bytes([bytes[6], bytes[7]]),
                sequence: u64_at(bytes, 8),
                salt: u64_at(bytes, 16),
            },
            position: u64_at(bytes, 24),
            tail: u64_at(bytes, 32),
            number: u64_at(bytes, 40),
            group: small(0),
            meta_len: small(1),
            head_len: small(2),
            body_len: small(3),
            meta_crc: small(4),
            data_crc: small(5),
        })
    }
}

/// Might these octets have been a header of that life, at that place, before something happened to it?
pub(super) fn resembles(bytes: &[u8], life: Life, position: u64) -> bool {
    let Some(bytes) = bytes.get(..HEADER_BYTES) else { return false };
    let signs = [
        bytes[..4] == MAGIC_BYTES,
        u64_at(bytes, 8) == life.sequence,
        u64_at(bytes, 16) == life.salt,
        u64_at(bytes, 24) == position,
    ];
    signs.iter().filter(|&&sign| sign).count() >= 3
}

/// A segment's first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) life: Life,
    pub(super) tail: u64,
    /// The segment before it, and as far as that one's writes were completed.
    pub(super) before: u64,
    pub(super) before_end: u64,
    /// No message of a higher number exists yet.
    pub(super) number_next: u64,
}

/// Octets of it that mean something; the block's other ones are zero.
const SEGMENT_HEADER_BYTES: usize = 64;

impl SegmentHeader {
    /// Appends the whole block.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let mut put = Put { out: &mut bytes, at: 0 };
        put.bytes(&SEGMENT_MAGIC.to_le_bytes());
        put.bytes(&[VERSION, 0]);
        put.bytes(&self.life.log.to_le_bytes());
        let words =
            [self.life.sequence, self.life.salt, self.tail, self.before, self.before_end, self.number_next];
        words.iter().for_each(|word| put.bytes(&word.to_le_bytes()));
        put.seal(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&bytes);
        out.resize(out.len() + BLOCK as usize - SEGMENT_HEADER_BYTES, 0);
    }

    pub(super) fn decode(block: &[u8]) -> Option<SegmentHeader> {
        let bytes = block.get(..SEGMENT_HEADER_BYTES)?;
        if bytes[..4] != SEGMENT_MAGIC.to_le_bytes() || bytes[4] != VERSION || !is_sealed(bytes) {
            return None;
        }
        let word = |n: usize| u64_at(bytes, 8 + 8 * n);
        let log = u16::from_le_bytes([bytes[6], bytes[7]]);
        Some(SegmentHeader {
            life: Life { log, sequence: word(0), salt: word(1) },
            tail: word(2),
            before: word(3),
            before_end: word(4),
            number_next: word(5),
        })
    }
}

/// Octets that a record of these parts takes.
pub(super) fn record_bytes(meta_len: u32, head_len: u32, body_len: u32) -> u64 {
    let payload = u64::from(meta_len) + u64::from(head_len) + u64::from(body_len);
    (HEADER_BYTES as u64 + payload).next_multiple_of(ALIGN)
}

struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// The checksum of everything before it goes into the last four octets of `len`.
    fn seal(&mut self, len: usize) {
        let crc = crc32fast::hash(&self.out[..len - 4]);
        self.out[len - 4..len].copy_from_slice(&crc.to_le_bytes());
    }
}

fn is_sealed(bytes: &[u8]) -> bool {
    let end = bytes.len() - 4;
    u32_at(bytes, end) == crc32fast::hash(&bytes[..end])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life() -> impl Strategy<Value = Life> {
        any::<(u16, u64, u64)>().prop_map(|(log, sequence, salt)| Life { log, sequence, salt })
    }

    prop_compose! {
        fn header()(life in life(), words in any::<[u64; 3]>(), small in any::<[u32; 6]>(), message in any::<bool>()) -> Header {
            let [group, meta_len, head_len, body_len, meta_crc, data_crc] = small;
            let [position, tail, number] = words;
            let kind = if message { Kind::Message } else { Kind::State };
            Header { kind, life, position, group, tail, number, meta_len, head_len, body_len, meta_crc, data_crc }
        }
    }

    proptest! {
        #[test]
        fn a_header_survives(header in header()) {
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }

        #[test]
        fn a_flipped_bit_is_seen(header in header(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes), None);
        }

        #[test]
        fn a_segment_header_survives(life in life(), words in any::<[u64; 4]>(), bit in 0..SEGMENT_HEADER_BYTES * 8) {
            let [tail, before, before_end, number_next] = words;
            let header = SegmentHeader { life, tail, before, before_end, number_next };
            let mut block = Vec::new();
            header.encode(&mut block);
            prop_assert_eq!(block.len() as u64, BLOCK);
            prop_assert_eq!(SegmentHeader::decode(&block), Some(header));
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(SegmentHeader::decode(&block), None);
        }
    }

    #[test]
    fn zeroes_are_no_header() {
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), None);
        assert_eq!(SegmentHeader::decode(&[0; BLOCK as usize]), None);
        assert_eq!(Header::decode(&[]), None);
    }
}
