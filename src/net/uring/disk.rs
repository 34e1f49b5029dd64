//! The shard's disk on the same ring: its completions come out of the same turn.

use std::path::PathBuf;

use super::Uring;
use super::tag::{Op, Tag};
use crate::disk::Disk;
use crate::disk::uring::Files;
use crate::handle::{Extent, FileId, Part, Ticket};
use crate::net::Event;
use crate::sys::ring::Completion;

impl Uring {
    /// From here on it has a disk: the logs in that directory. Not `durable`: writes are not waited for.
    pub fn use_spool(&mut self, root: PathBuf, durable: bool) {
        self.files = Some(Files::new(root, durable));
    }

    fn begin(&mut self, what: impl FnOnce(&mut Files) -> usize) {
        let files = self.files.as_mut().expect("a shard that asks for a disk was given one");
        let key = what(files);
        let ended = files.go_on(key, &mut self.ring, tag(key));
        self.events.extend(ended.map(|(ticket, result)| Event::Disk { ticket, result }));
    }

    pub(super) fn on_disk(&mut self, key: u32, completion: Completion) -> Option<Event> {
        let files = self.files.as_mut()?;
        let (ticket, result) =
            files.completed(key as usize, completion.result, &mut self.ring, tag(key as usize))?;
        Some(Event::Disk { ticket, result })
    }

    pub(super) fn file_operations(&self) -> usize {
        self.files.as_ref().map_or(0, Files::under_way)
    }
}

fn tag(key: usize) -> u64 {
    Tag { op: Op::Disk, slot: key as u32, generation: 0 }.pack()
}

impl Disk for Uring {
    fn write_file<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
    ) {
        let arenas = self.pool.arenas().clone();
        self.begin(|files| files.write(ticket, file, at, parts, &arenas));
    }

    fn read_file(&mut self, ticket: Ticket, file: FileId, at: u64, extents: &[Extent]) {
        let arenas = self.pool.arenas().clone();
        self.begin(|files| files.read(ticket, file, at, extents, &arenas));
    }

    fn create_file(&mut self, ticket: Ticket, file: FileId, bytes: u64) {
        let arenas = self.pool.arenas().clone();
        self.begin(|files| files.create(ticket, file, bytes, &arenas));
    }

    fn remove_file(&mut self, ticket: Ticket, file: FileId) {
        self.begin(|files| files.remove(ticket, file));
    }
}
