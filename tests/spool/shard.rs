//! One shard's spool with its hands.

use std::collections::HashMap;
use std::sync::Arc;

use postlane::disk::Disk;
use postlane::disk::sim::{Platter, SimDisk};
use postlane::handle::{Extent, ShardId};
use postlane::spool::{Event, Found, Options, Report, Request, Spool};
use postlane::sys::arena::Arenas;
use postlane::time::Instant;

/// Buffers of a shard.
pub(crate) const BUFFERS: usize = 96;

pub(crate) struct Shard {
    pub(crate) spool: Spool,
    pub(crate) disk: SimDisk,
    /// Buffers in use by appends (by number) and loads.
    pub(crate) bodies: HashMap<u64, Vec<Extent>>,
    pub(crate) loads: HashMap<u64, Vec<Extent>>,
    /// Requests made.
    pub(crate) requests: u64,
}

impl Shard {
    /// Starts with what is on the platter.
    pub(crate) fn start(
        options: Options,
        platter: &Platter,
        arenas: &Arc<Arenas>,
        now: Instant,
        unix: u64,
    ) -> (Shard, Report) {
        let found: Vec<Found> =
            platter.files().into_iter().map(|(file, bytes)| Found { file, bytes }).collect();
        let shard = options.shard;
        let mut read = |file, at, into: &mut [u8]| platter.read(file, at, into);
        let (spool, report) = Spool::recover(options, unix, now, &found, &mut read);
        let mut disk = SimDisk::new(platter.clone(), arenas.clone(), ShardId(shard.0));
        disk.advance_to(now);
        (Shard { spool, disk, bodies: HashMap::new(), loads: HashMap::new(), requests: 0 }, report)
    }

    /// Hands what the spool asks for to the disk. At most so many requests: a cut may come before the next.
    pub(crate) fn ask(&mut self, now: Instant, most: u64) -> u64 {
        self.disk.advance_to(now);
        let mut asked = 0;
        while asked < most
            && let Some(request) = self.spool.poll_request(now, &mut self.disk)
        {
            asked += 1;
            match request {
                Request::Write { ticket, file, at, parts } => self.disk.write_file(ticket, file, at, parts),
                Request::Read { ticket, file, at, extents } => self.disk.read_file(ticket, file, at, extents),
                Request::Create { ticket, file, bytes } => self.disk.create_file(ticket, file, bytes),
                Request::Remove { ticket, file } => self.disk.remove_file(ticket, file),
            }
        }
        self.requests += asked;
        asked
    }

    /// Takes what has been completed.
    pub(crate) fn complete(&mut self, now: Instant, event: &mut dyn FnMut(&mut Shard, Event)) {
        self.disk.advance_to(now);
        while let Some((ticket, result)) = self.disk.completed() {
            self.spool.handle_completion(ticket, result, now, &mut self.disk);
            self.events(event);
        }
        self.events(event);
    }

    /// Takes what the spool has to say.
    pub(crate) fn events(&mut self, event: &mut dyn FnMut(&mut Shard, Event)) {
        while let Some(next) = self.spool.poll_event() {
            event(self, next);
        }
    }
}
