//! The receiving half: bytes in order, what came early, and what the peer is told of both.

/// Bytes that a peer may send beyond what was taken.
pub(super) const WINDOW_BYTES: u32 = 256 << 10;
/// By which the window is shifted on the wire.
pub(super) const SCALE: u8 = 3;
/// Pieces that came early; more are dropped, and will come again.
const EARLY_MAX: usize = 256;

/// The peer's stream, places counted from its SYN at 0.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    /// The next byte expected.
    pub(super) next: u64,
    /// Where the peer's FIN is, once it is known.
    fin: Option<u64>,
    has_fin: bool,
    /// In order, and not yet taken.
    waiting: Vec<u8>,
    /// Came early, in order, apart from each other.
    early: Vec<(u64, Vec<u8>)>,
    /// Where the last early bytes went: told first.
    latest: u64,
    /// What came for nothing, to be told once.
    duplicate: Option<(u64, u64)>,
    /// The end of the window as the peer knows it.
    pub(super) edge: u64,
    /// Received since an acknowledgement left.
    pub(super) unacknowledged: u32,
    /// Bytes that may be held; what comes beyond is dropped, and will come again.
    pub(super) held_max: usize,
}

/// What became of a segment's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// Nothing but what was expected.
    InOrder,
    /// Something to be told at once.
    Odd,
}

impl Receiver {
    /// As new, for a peer whose SYN has come.
    pub(super) fn reset(&mut self) {
        let (mut waiting, mut early) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.early));
        waiting.clear();
        early.clear();
        *self = Receiver { next: 1, waiting, early, held_max: usize::MAX, ..Receiver::default() };
    }

    /// Bytes that wait, in order or not.
    pub(super) fn held(&self) -> usize {
        self.waiting.len() + self.early.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// Lets go of what waits.
    pub(super) fn drop_held(&mut self) {
        (self.waiting, self.early) = (Vec::new(), Vec::new());
    }

    /// Bytes of the window that are free.
    pub(super) fn window(&self) -> u32 {
        WINDOW_BYTES.saturating_sub(self.waiting.len() as u32)
    }

    /// The peer has finished, and all it sent was taken.
    pub(super) fn is_over(&self) -> bool {
        self.has_fin && self.waiting.is_empty()
    }

    /// The peer's FIN has come, in order.
    pub(super) fn has_fin(&self) -> bool {
        self.has_fin
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes at `start`, the last of the stream if `fin`. `take` takes what it can, from the front, and says how much.
    pub(super) fn handle(
        &mut self,
        start: u64,
        bytes: &[u8],
        fin: bool,
        take: &mut impl FnMut(&[u8]) -> usize,
    ) -> Arrival {
        let end = start + bytes.len() as u64;
        if fin {
            self.fin = Some(end);
        }
        if start > self.next {
            if !bytes.is_empty() {
                self.keep_early(start, bytes);
            }
            return Arrival::Odd;
        }
        let known = (self.next - start).min(bytes.len() as u64);
        if known > 0 {
            self.duplicate = Some((start, start + known));
        }
        let had_gap = !self.early.is_empty();
        self.accept(&bytes[known as usize..], take);
        self.join_early(take);
        if self.fin == Some(self.next) {
            self.has_fin = true;
            self.fin = None;
            self.next += 1;
        }
        if known > 0 || had_gap { Arrival::Odd } else { Arrival::InOrder }
    }

    fn accept(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8]) -> usize) {
        // Never more than was offered.
        let room = self.window() as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let taken = if self.waiting.is_empty() && !bytes.is_empty() { take(bytes) } else { 0 };
        let kept = (bytes.len() - taken).min(self.held_max.saturating_sub(self.held()));
        self.next += (taken + kept) as u64;
        self.unacknowledged += (taken + kept) as u32;
        self.waiting.extend_from_slice(&bytes[taken..taken + kept]);
    }

    fn join_early(&mut self, take: &mut impl FnMut(&[u8]) -> usize) {
        while self.early.first().is_some_and(|(start, _)| *start <= self.next) {
            let (start, bytes) = self.early.remove(0);
            let known = (self.next - start).min(bytes.len() as u64) as usize;
            self.accept(&bytes[known..], take);
        }
    }

    fn keep_early(&mut self, start: u64, bytes: &[u8]) {
        let limit = self.next + u64::from(self.window());
        let len = limit.saturating_sub(start).min(bytes.len() as u64) as usize;
        let (mut start, mut bytes) = (start, &bytes[..len]);
        self.latest = start;
        let at = self.early.partition_point(|(other, _)| *other <= start);
        if let Some((other, before)) = at.checked_sub(1).map(|before| &self.early[before]) {
            let known = (other + before.len() as u64).saturating_sub(start).min(bytes.len() as u64);
            if known > 0 {
                self.duplicate = Some((start, start + known));
            }
            (start, bytes) = (start + known, &bytes[known as usize..]);
        }
        if let Some((other, _)) = self.early.get(at) {
            bytes = &bytes[..(other - start).min(bytes.len() as u64) as usize];
        }
        bytes = &bytes[..bytes.len().min(self.held_max.saturating_sub(self.held()))];
        if bytes.is_empty() || self.early.len() == EARLY_MAX {
            return;
        }
        self.early.insert(at, (start, bytes.to_vec()));
    }

    /// Has `take` take what waits. True: the window has opened enough for the peer to be told.
    pub(super) fn take_waiting(&mut self, take: &mut impl FnMut(&[u8]) -> usize) -> bool {
        let mut done = 0;
        while done < self.waiting.len() {
            match take(&self.waiting[done..]) {
                0 => break,
                taken => done += taken,
            }
        }
        self.waiting.drain(..done);
        if self.waiting.is_empty() {
            self.waiting.shrink_to(4 << 10);
        }
        let end = self.next + u64::from(self.window());
        end.saturating_sub(self.edge) >= u64::from(WINDOW_BYTES / 4)
    }

    /// What the peer is told to have arrived early, the latest first; before it, once, what came twice.
    pub(super) fn sacks(&mut self, to: &mut Vec<(u64, u64)>) {
        to.clear();
        to.extend(self.duplicate.take());
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        for (start, bytes) in &self.early {
            let end = start + bytes.len() as u64;
            match blocks.last_mut() {
                Some((_, last)) if *last == *start => *last = end,
                _ => blocks.push((*start, end)),
            }
        }
        let latest = blocks.iter().position(|(start, end)| (*start..*end).contains(&self.latest));
        if let Some(latest) = latest {
            to.push(blocks.remove(latest));
        }
        to.extend(blocks);
    }

    pub(super) fn has_sacks(&self) -> bool {
        self.duplicate.is_some() || !self.early.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the pieces come, twice, early, overlapping: what is taken is the stream, and all of it in the end.
        #[test]
        fn the_stream_comes_out_whole(
            pieces in prop::collection::vec((0_usize..3_000, 1_usize..600), 0..60), stingy in any::<bool>()
        ) {
            let stream: Vec<u8> = (0..3_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
            let mut receiver = Receiver::default();
            receiver.reset();
            let mut got: Vec<u8> = Vec::new();
            let mut take = |bytes: &[u8]| {
                let len = if stingy { bytes.len() / 2 } else { bytes.len() };
                got.extend(&bytes[..len]);
                len
            };
            let mut sacks = Vec::new();
            for (at, len) in pieces {
                let end = (at + len).min(stream.len());
                receiver.handle(1 + at as u64, &stream[at..end], end == stream.len(), &mut take);
                receiver.sacks(&mut sacks);
                for pair in receiver.early.windows(2) {
                    prop_assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
                }
            }
            receiver.handle(1, &stream, true, &mut take);
            let mut all = |bytes: &[u8]| {
                got.extend(bytes);
                bytes.len()
            };
            receiver.take_waiting(&mut all);
            prop_assert!(receiver.is_over() && receiver.early.is_empty());
            prop_assert_eq!(got, stream);
        }
    }

    /// Beyond the bound nothing is kept, and nothing of it counts as received.
    #[test]
    fn no_more_is_held_than_may_be() {
        let mut receiver = Receiver::default();
        receiver.reset();
        receiver.held_max = 1_000;
        let mut nothing = |_: &[u8]| 0;
        receiver.handle(1, &[1; 900], false, &mut nothing);
        receiver.handle(2_000, &[2; 500], false, &mut nothing);
        assert_eq!((receiver.next, receiver.held()), (901, 1_000));
        receiver.handle(901, &[1; 400], true, &mut nothing);
        assert_eq!((receiver.next, receiver.held(), receiver.has_fin()), (901, 1_000, false));
        let mut all = |bytes: &[u8]| bytes.len();
        receiver.take_waiting(&mut all);
        receiver.handle(901, &[1; 400], true, &mut all);
        assert!(receiver.has_fin() && receiver.held() == 100);
        receiver.drop_held();
        assert_eq!(receiver.held(), 0);
    }

    #[test]
    fn early_bytes_are_told_the_latest_first_and_twice_ones_once() {
        let mut receiver = Receiver::default();
        receiver.reset();
        let mut take = |bytes: &[u8]| bytes.len();
        for start in [101, 301, 201] {
            assert_eq!(receiver.handle(start, &[0; 50], false, &mut take), Arrival::Odd);
        }
        let mut sacks = Vec::new();
        receiver.sacks(&mut sacks);
        assert_eq!(sacks, [(201, 251), (101, 151), (301, 351)]);
        receiver.handle(201, &[0; 50], false, &mut take);
        receiver.sacks(&mut sacks);
        assert_eq!(sacks[..2], [(201, 251), (201, 251)], "it came twice");
        receiver.sacks(&mut sacks);
        assert_eq!(sacks.len(), 3);
        assert_eq!(receiver.handle(1, &[0; 100], false, &mut take), Arrival::Odd, "fills a gap");
        assert_eq!(receiver.next, 151);
    }
}
