//! A body in another form than it came in, without copying the rest of it: what came dot-stuffed by DATA and
//! leaves by BDAT, and the other way round.

use super::message::Message;
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
        let shape = self.shape;
        let (left, tail): (u64, &[u8]) = match (shape.form, shape.ends_line) {
            (Form::Stuffed, _) => (self.size.saturating_sub(b".\r\n".len() as u64), b""),
            (Form::Plain, true) => (self.size, b".\r\n"),
            (Form::Plain, false) => (self.size, b"\r\n.\r\n"),
        };
        Pieces { body: &self.body, at: 0, left, shape, at_line_start: true, tail }
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
                memchr::memmem::find(bytes, b"\n.").map_or(len, |lf| lf + 1)
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
