//! A body in another form than it came in, without copying the rest of it: what came dot-stuffed by DATA and
//! leaves by BDAT, and the other way round.

use super::message::Message;
use super::streaming::Part;
use crate::handle::{Buffers, Extent};
use crate::protocol::wire::data::{Form, Shape};

/// Between two dots less than this is copied: shorter pieces would cost more than their octets, and a body of
/// nothing but dots would become a list larger than itself.
const COPIED_BYTES_MAX: u32 = 256;

/// A piece of the body as it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Of the body, to be sent from where it lies.
    Kept(Extent),
    /// Of the body, to be copied.
    Copied(Extent),
    /// In between.
    Added(&'static [u8]),
}

/// The body's pieces in another form, one after another.
#[derive(Debug)]
pub struct Pieces<'a> {
    body: &'a [Extent],
    /// Octets of the first extent that are dealt with.
    at: u32,
    /// Octets of the body still to be dealt with.
    left: u64,
    shape: Shape,
    /// The next octet is a line's first.
    at_line_start: bool,
    /// What still goes behind it.
    tail: &'static [u8],
}

impl Message {
    /// The body's pieces, in the form that it does not have. What goes before the body ends a line.
    pub fn converted(&self) -> Pieces<'_> {
        Pieces::of(&self.body, self.size, self.shape)
    }
}

impl<'a> Pieces<'a> {
    /// Those of a body of `size` octets, in the form that it does not have.
    pub(super) fn of(body: &'a [Extent], size: u64, shape: Shape) -> Self {
        let (left, tail): (u64, &[u8]) = match (shape.form, shape.ends_line) {
            (Form::Stuffed, _) => (size.saturating_sub(b".\r\n".len() as u64), b""),
            (Form::Plain, true) => (size, b".\r\n"),
            (Form::Plain, false) => (size, b"\r\n.\r\n"),
        };
        Pieces { body, at: 0, left, shape, at_line_start: true, tail }
    }
}

impl<'a> Pieces<'a> {
    /// Of a streamed body's part that came plain: as DATA has it.
    pub(super) fn of_part(part: &'a Part) -> Pieces<'a> {
        let tail: &[u8] = match (part.is_last, part.shape.ends_line) {
            (false, _) => b"",
            (true, true) => b".\r\n",
            (true, false) => b"\r\n.\r\n",
        };
        Pieces {
            body: &part.extents,
            at: 0,
            left: part.size,
            shape: part.shape,
            at_line_start: part.starts_line,
            tail,
        }
    }
}

impl Pieces<'_> {
    /// The next piece.
    pub fn next(&mut self, buffers: &impl Buffers) -> Option<Piece> {
        loop {
            let Some((first, rest)) = self.body.split_first().filter(|_| self.left > 0) else {
                let tail = std::mem::take(&mut self.tail);
                return (!tail.is_empty()).then_some(Piece::Added(tail));
            };
            if self.at == first.len {
                (self.body, self.at) = (rest, 0);
                continue;
            }
            let len = u64::from(first.len - self.at).min(self.left) as usize;
            let extent = first.slice(self.at as usize..self.at as usize + len);
            if self.shape.dots == 0 {
                self.pass(len);
                return Some(Piece::Kept(extent));
            }
            let bytes = buffers.bytes(extent);
            let dot = if self.at_line_start && bytes[0] == b'.' {
                0
            } else {
                // Of a checked message every LF ends a line.
                let mut dots = memchr::memchr_iter(b'.', bytes);
                dots.find(|&dot| bytes[..dot].ends_with(b"\n")).unwrap_or(len)
            };
            if dot > 0 {
                self.at_line_start = bytes[dot - 1] == b'\n';
                self.pass(dot);
                let part = extent.slice(0..dot);
                let is_short = part.len <= COPIED_BYTES_MAX;
                return Some(if is_short { Piece::Copied(part) } else { Piece::Kept(part) });
            }
            self.at_line_start = false;
            match self.shape.form {
                Form::Stuffed => self.pass(1),
                Form::Plain => return Some(Piece::Added(b".")),
            }
        }
    }

    fn pass(&mut self, octets: usize) {
        self.at += octets as u32;
        self.left -= octets as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handle::{BufferId, ShardId};
    use crate::protocol::wire::data::Scanner;

    /// One buffer per piece of a body.
    struct Memory(Vec<Vec<u8>>);

    impl Buffers for Memory {
        fn bytes(&self, extent: Extent) -> &[u8] {
            &self.0[extent.buffer.index as usize][extent.start as usize..][..extent.len as usize]
        }
        fn retain(&mut self, _: BufferId) {}
        fn release(&mut self, _: BufferId) {}
        fn append(&mut self, _: Extent, _: Extent) -> Option<Extent> {
            None
        }
        fn free(&self) -> usize {
            0
        }
        fn take(&mut self) -> Option<Extent> {
            None
        }
    }

    /// Converts a body of that form that lies in pieces; octets copied, and the result.
    fn convert(form: Form, body: &[u8], cuts: &[usize]) -> (usize, Vec<u8>) {
        let mut scanner = Scanner::of(form);
        assert_eq!(scanner.push(body), body.len());
        let mut memory = Memory(Vec::new());
        let mut message = Message { size: body.len() as u64, shape: scanner.shape(), ..Message::default() };
        let (mut rest, mut cuts) = (body, cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap_or(&usize::MAX)));
            let buffer = BufferId { arena: ShardId(0), index: memory.0.len() as u32 };
            // Something that is not of the body lies before it.
            memory.0.push([b"\n.", piece].concat());
            message.body.push(Extent { buffer, start: 2, len: piece.len() as u32 });
            rest = after;
        }
        let (mut copied, mut all) = (0, Vec::new());
        let mut pieces = message.converted();
        while let Some(piece) = pieces.next(&memory) {
            match piece {
                Piece::Kept(extent) => all.extend_from_slice(memory.bytes(extent)),
                Piece::Copied(extent) => {
                    copied += extent.len as usize;
                    all.extend_from_slice(memory.bytes(extent));
                }
                Piece::Added(bytes) => all.extend_from_slice(bytes),
            }
        }
        if form == Form::Stuffed {
            assert_eq!(all.len() as u64, message.plain_size(), "what BDAT announces is what is sent");
        }
        (copied, all)
    }

    /// Line by line.
    fn stuffed(plain: &[u8]) -> Vec<u8> {
        let mut lines: Vec<&[u8]> = plain.split(|&b| b == b'\n').collect();
        let last = lines.pop().unwrap_or_default();
        let mut all = Vec::new();
        for line in lines {
            all.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
            all.extend_from_slice(line);
            all.push(b'\n');
        }
        if !last.is_empty() {
            all.extend_from_slice(if last.starts_with(b".") { b"." } else { b"" });
            all.extend_from_slice(last);
            all.extend_from_slice(b"\r\n");
        }
        all.extend_from_slice(b".\r\n");
        all
    }

    proptest! {
        #[test]
        fn there_and_back(
            fragments in prop::collection::vec(
                prop_oneof![
                    4 => Just(b"\r\n".to_vec()),
                    4 => Just(b"\r\n.\r\n".to_vec()),
                    2 => Just(b".".to_vec()),
                    4 => prop::collection::vec(b'a'..=b'e', 0..400),
                ],
                0..40,
            ),
            cuts in prop::collection::vec(1usize..700, 0..6),
        ) {
            let plain = fragments.concat();
            let (_, forth) = convert(Form::Plain, &plain, &cuts);
            prop_assert_eq!(&forth, &stuffed(&plain));
            let (_, back) = convert(Form::Stuffed, &forth, &cuts);
            let ended = if plain.is_empty() || plain.ends_with(b"\n") { plain } else { [&plain[..], b"\r\n"].concat() };
            prop_assert_eq!(back, ended);
        }
    }

    #[test]
    fn without_dots_nothing_is_copied_or_split() {
        let plain = b"Subject: x\r\n\r\nno dots.\r\n".repeat(50);
        assert_eq!(convert(Form::Plain, &plain, &[100]), (0, [&plain[..], b".\r\n"].concat()));
        let wire = [&plain[..], b".\r\n"].concat();
        assert_eq!(convert(Form::Stuffed, &wire, &[100]), (0, plain));
        // Of lines apart by more than is copied neither.
        let far = [&b".a"[..], &b"x".repeat(300), b"\r\n"].concat().repeat(3);
        let (copied, all) = convert(Form::Plain, &far, &[]);
        assert_eq!((copied, all), (0, stuffed(&far)));
    }
}
