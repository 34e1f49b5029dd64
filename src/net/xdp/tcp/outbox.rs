//! What was written to a stream and is not yet acknowledged: copied bytes and extents, in order. An extent's bytes
//! stay in their buffers and are copied once, into the frame that leaves; again only if that is lost.

use std::cell::Cell;
use std::collections::VecDeque;

use crate::handle::{Buffers, Extent};

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// So many of `bytes`.
    Copied(u32),
    Body(Extent),
}

impl Piece {
    fn len(self) -> u64 {
        match self {
            Piece::Copied(len) => len.into(),
            Piece::Body(extent) => extent.len.into(),
        }
    }
}

/// A piece's place: its number, where it begins in the stream, and the copied bytes before it.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    piece: usize,
    start: u64,
    copied: usize,
}

/// Pieces, by their place in the stream.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Piece>,
    /// The copied bytes of all pieces.
    bytes: VecDeque<u8>,
    /// Where the first piece begins.
    start: u64,
    end: u64,
    /// Where was read last: the next reading mostly goes on there.
    last: Cell<Place>,
}

impl Outbox {
    /// Empty, and as if all before `start` had been sent.
    pub(super) fn reset(&mut self, start: u64) {
        self.pieces.clear();
        self.bytes.clear();
        (self.start, self.end) = (start, start);
        self.last.set(Place { start, ..Place::default() });
    }

    /// Where the stream ends by now.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        let Ok(more) = u32::try_from(bytes.len()) else { return };
        if more == 0 {
            return;
        }
        self.bytes.extend(bytes);
        self.end += u64::from(more);
        match self.pieces.back_mut() {
            Some(Piece::Copied(len)) if len.checked_add(more).is_some() => *len += more,
            _ => self.pieces.push_back(Piece::Copied(more)),
        }
    }

    pub(super) fn write_body(&mut self, extent: Extent) {
        if extent.len > 0 {
            self.end += u64::from(extent.len);
            self.pieces.push_back(Piece::Body(extent));
        }
    }

    /// All before `to` has arrived: pieces that lie before it are let go.
    pub(super) fn acknowledge(&mut self, to: u64) {
        let mut copied = 0;
        while let Some(&piece) = self.pieces.front() {
            let end = self.start + piece.len();
            if end > to {
                break;
            }
            if let Piece::Copied(len) = piece {
                copied += len as usize;
            }
            self.start = end;
            self.pieces.pop_front();
            let last = self.last.get();
            self.last.set(match last.piece {
                0 => Place { start: end, ..Place::default() },
                piece => Place { piece: piece - 1, ..last },
            });
        }
        if copied > 0 {
            self.bytes.drain(..copied);
            let last = self.last.get();
            self.last.set(Place { copied: last.copied.saturating_sub(copied), ..last });
        }
    }

    /// Copies the stream's bytes from `start` on into `to`, all of it.
    pub(super) fn copy(&self, start: u64, to: &mut [u8], buffers: &impl Buffers) {
        let mut place = self.last.get();
        if start < place.start {
            place = Place { start: self.start, ..Place::default() };
        }
        debug_assert!(start >= self.start && start + to.len() as u64 <= self.end, "not in the outbox");
        let mut done = 0;
        while done < to.len() {
            let piece = self.pieces[place.piece];
            let skip = start + done as u64 - place.start;
            if skip >= piece.len() {
                place.piece += 1;
                place.start += piece.len();
                if let Piece::Copied(len) = piece {
                    place.copied += len as usize;
                }
                continue;
            }
            let skip = skip as usize;
            let len = (piece.len() as usize - skip).min(to.len() - done);
            let into = &mut to[done..done + len];
            match piece {
                Piece::Copied(_) => copy_from(&self.bytes, place.copied + skip, into),
                Piece::Body(extent) => into.copy_from_slice(buffers.bytes(extent.slice(skip..skip + len))),
            }
            done += len;
        }
        self.last.set(place);
    }
}

fn copy_from(bytes: &VecDeque<u8>, at: usize, into: &mut [u8]) {
    let (first, second) = bytes.as_slices();
    let of_first = first.get(at..).unwrap_or_default();
    let split = of_first.len().min(into.len());
    let (front, back) = into.split_at_mut(split);
    front.copy_from_slice(&of_first[..split]);
    let at = at.saturating_sub(first.len());
    back.copy_from_slice(&second[at..at + back.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::ShardId;
    use crate::sys::arena::Arenas;
    use crate::sys::pool::Pool;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain vector: any part that is there can be read at any time, before and behind what was read last.
        #[test]
        fn same_as_a_plain_vector(
            steps in prop::collection::vec((0_u8..4, 1_usize..400, 0_usize..1_000), 1..200)
        ) {
            let mut pool = Pool::new(Arenas::new(1, 1).expect("a small mapping"), ShardId(0));
            let buffer = pool.alloc().expect("free");
            let pattern: Vec<u8> = (0..1_400_u32).map(|n| ((n * 31) >> 2) as u8).collect();
            let body = pool.fill(buffer, &pattern).expect("room");
            let mut outbox = Outbox::default();
            outbox.reset(1);
            let (mut all, mut acknowledged): (Vec<u8>, usize) = (Vec::new(), 0);
            for (what, len, at) in steps {
                match what {
                    0 => {
                        outbox.write(&pattern[at..at + len]);
                        all.extend(&pattern[at..at + len]);
                    }
                    1 => {
                        outbox.write_body(body.slice(at..at + len));
                        all.extend(&pattern[at..at + len]);
                    }
                    2 => {
                        acknowledged += len.min(all.len() - acknowledged);
                        outbox.acknowledge(1 + acknowledged as u64);
                    }
                    _ => {
                        let there = &all[acknowledged..];
                        let at = at.min(there.len());
                        let len = len.min(there.len() - at);
                        let mut read = vec![0; len];
                        outbox.copy(1 + (acknowledged + at) as u64, &mut read, &pool);
                        prop_assert_eq!(&read, &there[at..at + len]);
                    }
                }
                prop_assert_eq!(outbox.end(), 1 + all.len() as u64);
            }
        }
    }
}
