//! What one send carries: copied bytes and extents in order, as an iovec for the kernel.
#![allow(unsafe_code)]

use std::fmt;

use crate::handle::Extent;
use crate::sys::arena::Arenas;

/// Most pieces the kernel takes at once (UIO_MAXIOV, linux/uio.h).
const IOV_MAX: usize = 1024;
/// A batch that grew beyond this gives its memory back.
const BYTES_KEPT: usize = 64 * 1024;

#[derive(Clone, Copy)]
enum Piece {
    /// Of `bytes`, which may still move.
    Copied { start: usize, len: usize },
    /// Of an arena, which does not.
    Body { from: *const u8, len: usize },
}

/// The pieces to be sent together. Once sealed it must stay where it is (in its box) until it has been sent.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    iovecs: Vec<libc::iovec>,
    /// Bytes in all, and those of them that have left.
    len: usize,
    sent: usize,
    /// How many bytes lie before each mark, and the first mark not yet told of.
    marks: Vec<usize>,
    told: usize,
    /// The first iovec not yet sent, when sealed.
    at: usize,
    header: libc::msghdr,
}

/// What is to be given to the kernel next.
pub(crate) enum Next<'a> {
    One(&'a libc::iovec),
    Many(&'a libc::msghdr),
}

impl Batch {
    pub(crate) fn new() -> Box<Batch> {
        // SAFETY: all zeroes is a valid `msghdr`: no name, no pieces, no control data.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Batch {
            bytes: Vec::new(),
            pieces: Vec::new(),
            iovecs: Vec::new(),
            len: 0,
            sent: 0,
            marks: Vec::new(),
            told: 0,
            at: 0,
            header,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            // Copied bytes always end where the next ones begin.
            Some(Piece::Copied { len, .. }) => *len += bytes.len(),
            _ => self.pieces.push(Piece::Copied { start, len: bytes.len() }),
        }
    }

    pub(crate) fn write_body(&mut self, extent: Extent, arenas: &Arenas) {
        let (start, more) = (arenas.pointer(extent), extent.len as usize);
        self.len += more;
        match self.pieces.last_mut() {
            _ if more == 0 => {}
            Some(Piece::Body { from, len }) if from.wrapping_add(*len) == start => *len += more,
            _ => self.pieces.push(Piece::Body { from: start, len: more }),
        }
    }

    /// Remembers how far it goes now.
    pub(crate) fn mark(&mut self) {
        self.marks.push(self.len);
    }

    /// How many more marks have nothing before them that has not left.
    pub(crate) fn take_passed(&mut self) -> u32 {
        let before = self.told;
        while self.marks.get(self.told).is_some_and(|&mark| mark <= self.sent) {
            self.told += 1;
        }
        (self.told - before) as u32
    }

    /// Whether a mark not yet told of has bytes behind it.
    pub(crate) fn has_marks_within(&self) -> bool {
        self.marks.get(self.told).is_some_and(|&mark| mark < self.len)
    }

    /// Pieces that are left, for a log.
    fn left(&self) -> usize {
        self.iovecs.len() - self.at
    }

    /// Nothing is added any more: makes the iovecs.
    pub(crate) fn seal(&mut self) {
        let bytes = self.bytes.as_ptr();
        self.iovecs.clear();
        self.iovecs.extend(self.pieces.iter().map(|&piece| {
            let (from, iov_len) = match piece {
                Piece::Copied { start, len } => (bytes.wrapping_add(start), len),
                Piece::Body { from, len } => (from, len),
            };
            libc::iovec { iov_base: from.cast_mut().cast(), iov_len }
        }));
        self.at = 0;
    }

    /// What to send now; `None` if all has been.
    pub(crate) fn next(&mut self) -> Option<Next<'_>> {
        let left = &mut self.iovecs[self.at..];
        match left {
            [] => None,
            [one] => Some(Next::One(one)),
            many => {
                self.header.msg_iov = many.as_mut_ptr();
                self.header.msg_iovlen = many.len().min(IOV_MAX) as _;
                Some(Next::Many(&self.header))
            }
        }
    }

    /// Of extents alone: what to fill next from a file, pieces and their number; `None` if all has been.
    pub(crate) fn next_vector(&mut self) -> Option<(*const libc::iovec, u32)> {
        let left = &self.iovecs[self.at..];
        (!left.is_empty()).then(|| (left.as_ptr(), left.len().min(IOV_MAX) as u32))
    }

    /// `sent` bytes have left. True: all have.
    pub(crate) fn advance(&mut self, mut sent: usize) -> bool {
        self.sent += sent;
        while let Some(iovec) = self.iovecs.get_mut(self.at) {
            if sent < iovec.iov_len {
                iovec.iov_base = iovec.iov_base.cast::<u8>().wrapping_add(sent).cast();
                iovec.iov_len -= sent;
                return false;
            }
            sent -= iovec.iov_len;
            self.at += 1;
        }
        true
    }

    /// Empty again, with its memory kept if that is little.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT);
        self.pieces.clear();
        self.pieces.shrink_to(IOV_MAX);
        self.iovecs.clear();
        self.iovecs.shrink_to(IOV_MAX);
        self.marks.clear();
        self.marks.shrink_to(IOV_MAX);
        (self.len, self.sent, self.told, self.at) = (0, 0, 0, 0);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("left", &self.left()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::ShardId;
    use crate::sys::pool::Pool;

    /// The bytes a kernel would read for what is next, at most `len` of them.
    fn read(batch: &mut Batch, len: usize) -> Vec<u8> {
        let iovecs = match batch.next() {
            None => return Vec::new(),
            Some(Next::One(iovec)) => std::slice::from_ref(iovec),
            // SAFETY: the header was made from a slice of that length.
            Some(Next::Many(header)) => unsafe {
                std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen)
            },
        };
        let mut all = Vec::new();
        for iovec in iovecs {
            // SAFETY: the pieces are of the test's own vectors and arena.
            all.extend(unsafe { std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), iovec.iov_len) });
        }
        all.truncate(len);
        all
    }

    #[test]
    fn pieces_leave_in_order_however_little_is_taken() {
        let mut pool = Pool::new(Arenas::new(1, 2).expect("a small mapping"), ShardId(0));
        let buffer = pool.alloc().expect("free");
        let body = pool.fill(buffer, &(0..=255).collect::<Vec<u8>>()).expect("room");
        for taken_max in [1, 2, 7, 100, 10_000] {
            let mut batch = Batch::new();
            let mut expected: Vec<u8> = Vec::new();
            let (mut ends, mut passed) = (Vec::new(), 0);
            for round in 0..3_000_usize {
                let line = format!("line {round}\r\n");
                batch.write(line.as_bytes());
                expected.extend(line.as_bytes());
                let part = body.slice(round % 200..round % 200 + 10);
                batch.write_body(part.slice(0..4), pool.arenas());
                batch.write_body(part.slice(4..10), pool.arenas());
                expected.extend(crate::handle::Buffers::bytes(&pool, part));
                batch.mark();
                ends.push(expected.len());
            }
            assert_eq!(batch.pieces.len(), 6_000, "neighbours are joined");
            batch.seal();
            let mut got: Vec<u8> = Vec::new();
            loop {
                let bytes = read(&mut batch, taken_max);
                got.extend(&bytes);
                let all = batch.advance(bytes.len());
                passed += batch.take_passed() as usize;
                assert_eq!(passed, ends.partition_point(|&end| end <= got.len()));
                if all {
                    break;
                }
            }
            assert!(got == expected && batch.next().is_none());
        }
    }
}
