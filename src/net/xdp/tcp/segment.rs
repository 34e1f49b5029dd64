//! A TCP segment: what its header says, read and written (RFC 9293 section 3.1).

/// Control bits.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// A header without options.
pub(crate) const HEADER_BYTES: usize = 20;
/// The most that options of ours take: three selective acknowledgements.
const OPTIONS_BYTES_MAX: usize = 28;
/// Blocks of a SACK option that are read.
const SACKS_MAX: usize = 4;
/// Largest shift of a window (RFC 7323 section 2.3).
const SCALE_MAX: u8 = 14;

/// A segment that has arrived; its checksum is right.
#[derive(Clone, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Options,
    pub(crate) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads header and options; `None`: it makes no sense.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Segment<'a>> {
        let header = bytes.get(..HEADER_BYTES)?;
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        let begins = usize::from(header[12] >> 4) * 4;
        let options = bytes.get(HEADER_BYTES..begins)?;
        Some(Segment {
            source: half(0),
            destination: half(2),
            seq: word(4),
            ack: word(8),
            flags: header[13],
            window: half(14),
            options: Options::parse(options),
            payload: bytes.get(begins..)?,
        })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// It asks for a connection.
    pub(crate) fn is_opening(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Sequence numbers it takes.
    pub(crate) fn sequence_len(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.has(SYN)) + u64::from(self.has(FIN))
    }
}

/// Options that are understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Options {
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    sacks: [(u32, u32); SACKS_MAX],
    sack_count: u8,
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        while let [kind, rest @ ..] = bytes {
            let (kind, len) = match (kind, rest) {
                (0, _) => break,
                (1, _) => {
                    bytes = rest;
                    continue;
                }
                (kind, [len, ..]) => (*kind, usize::from(*len)),
                (_, []) => break,
            };
            let Some(value) = bytes.get(2..len) else { break };
            options.read(kind, value);
            bytes = &bytes[len..];
        }
        options
    }

    fn read(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (2, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (3, &[scale]) => self.scale = Some(scale.min(SCALE_MAX)),
            (4, []) => self.sack_permitted = true,
            (5, blocks) => {
                for block in blocks.chunks_exact(8).take(SACKS_MAX) {
                    let word = |at: usize| {
                        u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
                    };
                    self.sacks[usize::from(self.sack_count)] = (word(0), word(4));
                    self.sack_count += 1;
                }
            }
            _ => {}
        }
    }

    pub(crate) fn sacks(&self) -> &[(u32, u32)] {
        &self.sacks[..usize::from(self.sack_count)]
    }
}

/// Options to be sent, padded to whole words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OptionBytes {
    bytes: [u8; OPTIONS_BYTES_MAX],
    len: u8,
}

impl OptionBytes {
    pub(crate) const NONE: OptionBytes = OptionBytes { bytes: [0; OPTIONS_BYTES_MAX], len: 0 };

    fn push(&mut self, bytes: &[u8]) {
        let begin = usize::from(self.len);
        self.bytes[begin..begin + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// Those of a SYN: MSS, SACK permitted, window scale.
    pub(crate) fn of_syn(mss: u16, scale: u8) -> OptionBytes {
        let mut options = Self::NONE;
        let [high, low] = mss.to_be_bytes();
        options.push(&[2, 4, high, low, 4, 2, 1, 3, 3, scale, 0, 0]);
        options
    }

    /// Those of the answer to a SYN: of what that offered, what we take.
    pub(crate) fn of_answer(mss: u16, scale: Option<u8>, sack_permitted: bool) -> OptionBytes {
        let mut options = Self::NONE;
        let [high, low] = mss.to_be_bytes();
        options.push(&[2, 4, high, low]);
        if sack_permitted {
            options.push(&[1, 1, 4, 2]);
        }
        if let Some(scale) = scale {
            options.push(&[1, 3, 3, scale]);
        }
        options
    }

    /// Selective acknowledgements, at most three of them.
    pub(crate) fn of_sacks(blocks: &[(u32, u32)]) -> OptionBytes {
        let mut options = Self::NONE;
        let blocks = &blocks[..blocks.len().min(3)];
        if !blocks.is_empty() {
            options.push(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                options.push(&start.to_be_bytes());
                options.push(&end.to_be_bytes());
            }
        }
        options
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A segment to be sent: its header, and which bytes of the stream it carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: OptionBytes,
    /// Where its bytes begin in the stream, and how many there are.
    pub(crate) start: u64,
    pub(crate) len: usize,
}

impl Outgoing {
    /// Writes the header but for the checksum; returns how long it is.
    pub(crate) fn write_header(&self, source: u16, destination: u16, to: &mut [u8]) -> usize {
        let options = self.options.bytes();
        let len = HEADER_BYTES + options.len();
        to[0..2].copy_from_slice(&source.to_be_bytes());
        to[2..4].copy_from_slice(&destination.to_be_bytes());
        to[4..8].copy_from_slice(&self.seq.to_be_bytes());
        to[8..12].copy_from_slice(&self.ack.to_be_bytes());
        to[12] = (len as u8 / 4) << 4;
        to[13] = self.flags;
        to[14..16].copy_from_slice(&self.window.to_be_bytes());
        to[16..20].fill(0);
        to[HEADER_BYTES..len].copy_from_slice(options);
        len
    }
}

impl Outgoing {
    /// The one's complement sum of what `write_header` writes, in this machine's order of bytes.
    pub(crate) fn header_sum(&self, source: u16, destination: u16) -> u64 {
        let half = |value: u16| u64::from(value.to_be());
        let word = |value: u32| u64::from(value.to_be());
        let options = self.options.bytes().chunks_exact(4);
        let options = options.map(|w| u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]])));
        let len = (HEADER_BYTES + self.options.bytes().len()) as u16 / 4;
        half(source)
            + half(destination)
            + word(self.seq)
            + word(self.ack)
            + half(len << 12 | u16::from(self.flags))
            + half(self.window)
            + options.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        for options in [
            OptionBytes::of_syn(1_460, 7),
            OptionBytes::of_sacks(&[(1, 2), (u32::MAX, 5), (9, 10)]),
            OptionBytes::NONE,
        ] {
            let outgoing = Outgoing {
                seq: 0xdead_beef,
                ack: 77,
                flags: ACK | PSH,
                window: 4_711,
                options,
                start: 0,
                len: 5,
            };
            let mut bytes = [0; 100];
            let len = outgoing.write_header(61_000, 25, &mut bytes);
            bytes[len..len + 5].copy_from_slice(b"hello");
            let segment = Segment::parse(&bytes[..len + 5]).expect("a segment");
            assert_eq!((segment.source, segment.destination), (61_000, 25));
            assert_eq!((segment.seq, segment.ack, segment.window), (0xdead_beef, 77, 4_711));
            assert_eq!((segment.flags, segment.payload), (ACK | PSH, &b"hello"[..]));
            assert_eq!(segment.options, Options::parse(options.bytes()));
        }
        let syn = Options::parse(OptionBytes::of_syn(1_460, 7).bytes());
        assert_eq!((syn.mss, syn.scale, syn.sack_permitted), (Some(1_460), Some(7), true));
        for (scale, sack_permitted) in [(Some(3), true), (Some(14), false), (None, true), (None, false)] {
            let answer = Options::parse(OptionBytes::of_answer(8_960, scale, sack_permitted).bytes());
            assert_eq!(
                (answer.mss, answer.scale, answer.sack_permitted),
                (Some(8_960), scale, sack_permitted)
            );
        }
        let sacks = Options::parse(OptionBytes::of_sacks(&[(1, 2), (u32::MAX, 5)]).bytes());
        assert_eq!(sacks.sacks(), [(1, 2), (u32::MAX, 5)]);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(segment) = Segment::parse(&bytes) {
                prop_assert!(segment.payload.len() + HEADER_BYTES <= bytes.len());
                prop_assert!(segment.options.sacks().len() <= SACKS_MAX);
            }
        }
    }
}
