//! One shard's requests on a platter.

use std::time::Duration;

use super::platter::{File, Inner, Platter, SECTOR};
use crate::handle::{Extent, FileId, Part, Ticket};
use crate::sys::arena::Arenas;
use crate::time::Instant;

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Extent(Extent),
}

#[derive(Debug)]
enum What {
    Write { file: FileId, at: u64, pieces: Vec<Piece> },
    Read { file: FileId, at: u64, extents: Vec<Extent> },
    Create { file: FileId, bytes: u64 },
    Remove { file: FileId },
}

#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    due: Instant,
    what: What,
}

/// A shard's hand on the platter.
#[derive(Debug)]
pub struct Drive {
    platter: Platter,
    asked: Vec<Asked>,
}

impl Drive {
    /// On that platter.
    pub fn new(platter: Platter) -> Drive {
        Drive { platter, asked: Vec::new() }
    }

    /// The platter.
    pub fn platter(&self) -> &Platter {
        &self.platter
    }

    pub(crate) fn write<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
        now: Instant,
    ) -> Instant {
        let pieces = parts.map(|part| match part {
            Part::Bytes(bytes) => Piece::Bytes(bytes.to_vec()),
            Part::Extent(extent) => Piece::Extent(extent),
        });
        let pieces = pieces.collect();
        self.ask(ticket, What::Write { file, at, pieces }, now)
    }

    pub(crate) fn read(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        extents: &[Extent],
        now: Instant,
    ) -> Instant {
        self.ask(ticket, What::Read { file, at, extents: extents.to_vec() }, now)
    }

    pub(crate) fn create(&mut self, ticket: Ticket, file: FileId, bytes: u64, now: Instant) -> Instant {
        self.ask(ticket, What::Create { file, bytes }, now)
    }

    pub(crate) fn remove(&mut self, ticket: Ticket, file: FileId, now: Instant) -> Instant {
        self.ask(ticket, What::Remove { file }, now)
    }

    /// When it will be completed.
    fn ask(&mut self, ticket: Ticket, what: What, now: Instant) -> Instant {
        let mut inner = self.platter.inner();
        let range = inner.faults.delay_min.as_nanos() as u64..=inner.faults.delay_max.as_nanos() as u64;
        let due = now + Duration::from_nanos(inner.random.within(range));
        drop(inner);
        self.asked.push(Asked { ticket, due, what });
        due
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.asked.len()
    }

    /// When the next request completes.
    pub fn next_due(&self) -> Option<Instant> {
        self.asked.iter().map(|asked| asked.due).min()
    }

    /// Completes the next request that is due.
    pub(crate) fn complete(&mut self, now: Instant, arenas: &Arenas) -> Option<(Ticket, Result<u32, i32>)> {
        let due = self.asked.iter().enumerate().filter(|(_, asked)| asked.due <= now);
        let (next, _) = due.min_by_key(|(_, asked)| asked.due)?;
        let Asked { ticket, what, .. } = self.asked.remove(next);
        Some((ticket, carry_out(&mut self.platter.inner(), what, arenas)))
    }

    /// The process is gone with requests under way. What they did so far is in the cache, if it is anywhere.
    pub(crate) fn abandon(&mut self, arenas: &Arenas) {
        let mut inner = self.platter.inner();
        for asked in self.asked.drain(..) {
            match asked.what {
                What::Write { file, at, pieces } => {
                    let bytes = gather(&pieces, arenas);
                    // The kernel got as far as that.
                    let far = match inner.random.within(0..=3) {
                        0 => 0,
                        1 => bytes.len(),
                        _ => inner.random.within(0..=bytes.len() as u64) as usize / SECTOR * SECTOR,
                    };
                    if let Some(file) = inner.files.get_mut(&file) {
                        for (n, sector) in bytes[..far].chunks(SECTOR).enumerate() {
                            file.cache(at as usize + n * SECTOR, sector, true);
                        }
                    }
                }
                What::Create { file, bytes } => {
                    let far = inner.random.within(0..=bytes);
                    if inner.random.chance(0.5) {
                        inner.files.insert(file, File::zeroed(far));
                    }
                }
                What::Remove { file } => {
                    if inner.random.chance(0.5) {
                        inner.files.remove(&file);
                    }
                }
                What::Read { .. } => {}
            }
        }
    }
}

fn gather(pieces: &[Piece], arenas: &Arenas) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(piece) => bytes.extend_from_slice(piece),
            Piece::Extent(extent) => arenas.copy_out(*extent, &mut bytes),
        }
    }
    bytes
}

fn carry_out(inner: &mut Inner, what: What, arenas: &Arenas) -> Result<u32, i32> {
    if let Some(errno) = inner.faults.broken {
        return Err(errno);
    }
    match what {
        What::Write { file, at, pieces } => write(inner, file, at as usize, &gather(&pieces, arenas)),
        What::Read { file, at, extents } => {
            let chance = inner.faults.read_error;
            if inner.random.chance(chance) {
                return Err(libc::EIO);
            }
            let file = inner.files.get(&file).ok_or(libc::ENOENT)?;
            let len = extents.iter().map(|extent| extent.len).sum::<u32>();
            let mut bytes = vec![0; len as usize];
            file.read(at as usize, &mut bytes).ok_or(libc::EIO)?;
            let mut rest = &bytes[..];
            for extent in extents {
                let (piece, after) = rest.split_at(extent.len as usize);
                arenas.copy_in(extent, piece);
                rest = after;
            }
            Ok(len)
        }
        What::Create { file, bytes } => {
            let chance = inner.faults.file_error;
            if inner.random.chance(chance) {
                return Err(libc::EIO);
            }
            if inner.files.values().map(File::len).sum::<u64>() + bytes > inner.faults.capacity {
                return Err(libc::ENOSPC);
            }
            inner.files.insert(file, File::zeroed(bytes));
            Ok(0)
        }
        What::Remove { file } => {
            let chance = inner.faults.file_error;
            if inner.random.chance(chance) {
                return Err(libc::EIO);
            }
            inner.files.remove(&file).map(|_| 0).ok_or(libc::ENOENT)
        }
    }
}

fn write(inner: &mut Inner, file: FileId, at: usize, bytes: &[u8]) -> Result<u32, i32> {
    let Inner { files, faults, random } = inner;
    let file = files.get_mut(&file).ok_or(libc::ENOENT)?;
    if random.chance(faults.sync_error) {
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            match random.within(0..=2) {
                0 => file.put(at + n * SECTOR, sector),
                _ => file.cache(at + n * SECTOR, sector, false),
            }
        }
        return Err(libc::EIO);
    }
    if random.chance(faults.write_error) {
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            if random.chance(0.5) {
                file.put(at + n * SECTOR, sector);
            }
        }
        return Err(libc::EIO);
    }
    file.put(at, bytes);
    Ok(bytes.len() as u32)
}
