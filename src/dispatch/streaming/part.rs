//! A piece of a body that leaves while the rest is still arriving.

use crate::dispatch::form::Pieces;
use crate::handle::{Buffers, Extent};
use crate::protocol::wire::data::{Form, Shape};

/// A part of a streamed body. Parts follow each other, one at a time.
#[derive(Debug, Default)]
pub struct Part {
    /// Counts from 1.
    pub number: u32,
    /// Where it lies, as it came: in the arena of the shard that took the message.
    pub extents: Vec<Extent>,
    /// Octets.
    pub size: u64,
    /// How they stand; of its dots those in this part.
    pub shape: Shape,
    /// It begins a line.
    pub starts_line: bool,
    /// Nothing follows it.
    pub is_last: bool,
}

impl Part {
    /// Its pieces as DATA has them, where it came otherwise and is to go so. (What came by DATA goes by DATA.)
    pub fn stuffed(&self, form: Form) -> Option<Pieces<'_>> {
        (self.shape.form == Form::Plain && form == Form::Stuffed).then(|| Pieces::of_part(self))
    }

    /// Adds what came behind it; the buffer is retained.
    pub(super) fn push(&mut self, piece: Extent, buffers: &mut impl Buffers) {
        self.size += u64::from(piece.len);
        super::super::message::append(&mut self.extents, piece, buffers);
    }

    /// Lets go of its buffers; it is as new.
    pub(super) fn release(&mut self, buffers: &mut impl Buffers) {
        let mut extents = std::mem::take(&mut self.extents);
        extents.drain(..).for_each(|extent| buffers.release(extent.buffer));
        *self = Part { extents, ..Part::default() };
    }
}
