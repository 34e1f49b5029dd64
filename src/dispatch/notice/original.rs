//! What is returned of the original: its header, or all of it.

use super::{Kind, Original, text};
use crate::dispatch::form::{Piece, Pieces};
use crate::handle::Buffers;
use crate::limits::NOTICE_HEADER_BYTES_MAX;
use crate::protocol::wire::command::{BodyKind, Return};
use crate::protocol::wire::data::{Form, Scanner};

/// A copy of the original, plain, or of its header.
pub(super) struct Returned {
    pub(super) text: Vec<u8>,
    /// It is all of it.
    pub(super) is_whole: bool,
    /// Its header is in UTF-8.
    is_global: bool,
}

impl Returned {
    /// RET counts for failures alone (RFC 3461 4.3); without it the header is enough.
    pub(super) fn copy(
        original: &Original<'_>,
        kind: Kind,
        is_ascii: bool,
        bytes_max: usize,
        buffers: &impl Buffers,
    ) -> Returned {
        let is_asked = kind.is_failure() && original.envelope.mail().ret == Some(Return::Full);
        let is_whole = is_asked
            && !is_ascii
            && original.envelope.mail().body != BodyKind::Binary
            && !original.body.is_empty()
            && original.head.len() as u64 + original.size <= bytes_max as u64;
        let bytes_max = if is_whole { usize::MAX } else { NOTICE_HEADER_BYTES_MAX };
        let mut text = Vec::new();
        let end = copy_plain(&mut text, original, bytes_max, is_whole, buffers);
        let is_global = !text[..end].is_ascii() && std::str::from_utf8(&text[..end]).is_ok();
        if !is_whole {
            text.truncate(end);
        }
        if is_bare(&text) {
            // Nobody but a binary message's sender may have lines that end so.
            text.clear();
        }
        if is_ascii {
            text::make_ascii(&mut text);
        }
        Returned { text, is_whole, is_global: is_global && !is_ascii }
    }

    pub(super) fn media_type(&self) -> &'static str {
        match (self.is_whole, self.is_global) {
            (true, false) => "message/rfc822",
            (true, true) => "message/global",
            (false, false) => "text/rfc822-headers",
            (false, true) => "message/global-headers",
        }
    }

    pub(super) fn description(&self) -> &'static str {
        if self.is_whole { "Undelivered message" } else { "Message header" }
    }
}

/// Has it a CR or LF that stands alone, or NUL?
fn is_bare(text: &[u8]) -> bool {
    let mut scanner = Scanner::of(Form::Plain);
    scanner.push(text);
    scanner.is_bare() || scanner.is_after_cr()
}

/// Copies at least the header, if it is no longer than that, without stuffed dots; returns where it ends.
fn copy_plain(
    out: &mut Vec<u8>,
    original: &Original<'_>,
    bytes_max: usize,
    is_whole: bool,
    buffers: &impl Buffers,
) -> usize {
    let Original { head, body, size, shape, .. } = original;
    out.extend_from_slice(head);
    let mut end = None;
    // Stuffed it is converted; plain it is as it lies.
    let mut pieces = Pieces::of(body, *size, *shape);
    let mut extents = body.iter();
    loop {
        let seen = out.len().saturating_sub(3);
        let piece = match shape.form {
            Form::Stuffed => pieces.next(buffers),
            Form::Plain => extents.next().map(|extent| Piece::Kept(*extent)),
        };
        match piece {
            None => break,
            Some(Piece::Kept(extent) | Piece::Copied(extent)) => out.extend_from_slice(buffers.bytes(extent)),
            Some(Piece::Added(bytes)) => out.extend_from_slice(bytes),
        }
        if end.is_none() {
            // The blank line is not the header's.
            end = memchr::memmem::find(&out[seen..], b"\r\n\r\n").map(|at| seen + at + 2);
        }
        if !is_whole && (end.is_some() || out.len() > bytes_max) {
            break;
        }
    }
    // No end in sight: whole lines up to the bound.
    let end = end.unwrap_or(out.len());
    let within = end.min(bytes_max);
    if end <= within { end } else { memchr::memmem::rfind(&out[..within], b"\r\n").map_or(0, |at| at + 2) }
}
