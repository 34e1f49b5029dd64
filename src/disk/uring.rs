//! Files on a shard's ring, which `net::uring` owns and submits: no thread of its own, no system call of its own.
//!
//! A write is one `writev` with RWF_DSYNC into a file that was filled with zeroes before: no metadata has to follow
//! (on ext4 and XFS), and body extents leave from where they lie. Each operation is a small machine that is driven by
//! its completions.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use slab::Slab;

use crate::handle::{Extent, FileId, Part, Ticket};
use crate::sys::arena::Arenas;
use crate::sys::batch::Batch;
use crate::sys::files;
use crate::sys::ring::Ring;

/// What new files are filled with, so much at a time.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

#[derive(Debug)]
enum What {
    Write { at: u64, batch: Box<Batch>, done: u64 },
    Read { at: u64, batch: Box<Batch>, done: u64 },
    Create { bytes: u64, filled: u64, step: Step },
    Remove { step: Step },
}

/// How far making or removing a file is: what is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Content,
    File,
    Directory,
}

#[derive(Debug)]
struct Operation {
    ticket: Ticket,
    file: FileId,
    what: What,
    /// For the kernel, while it opens or removes.
    name: Option<CString>,
    opening: bool,
}

/// A shard's files.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    durable: bool,
    directories: HashMap<u16, File>,
    open: HashMap<FileId, OwnedFd>,
    operations: Slab<Operation>,
    #[allow(clippy::vec_box, reason = "a batch stays where it is while it is being written")]
    batches: Vec<Box<Batch>>,
}

impl Files {
    /// The logs in a spool's directory. Not `durable`: writes are not waited for.
    pub(crate) fn new(root: PathBuf, durable: bool) -> Files {
        Files {
            root,
            durable,
            directories: HashMap::new(),
            open: HashMap::new(),
            operations: Slab::new(),
            batches: Vec::new(),
        }
    }

    /// Operations under way.
    pub(crate) fn under_way(&self) -> usize {
        self.operations.len()
    }

    /// Lets go of all operations without freeing what the kernel may still use of them.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.operations));
    }

    pub(crate) fn write<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
        arenas: &Arenas,
    ) -> usize {
        let mut batch = self.batches.pop().unwrap_or_else(Batch::new);
        for part in parts {
            match part {
                Part::Bytes(bytes) => batch.write(bytes),
                Part::Extent(extent) => batch.write_body(extent, arenas),
            }
        }
        batch.seal();
        self.insert(ticket, file, What::Write { at, batch, done: 0 })
    }

    pub(crate) fn read(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        extents: &[Extent],
        arenas: &Arenas,
    ) -> usize {
        let mut batch = self.batches.pop().unwrap_or_else(Batch::new);
        extents.iter().for_each(|&extent| batch.write_body(extent, arenas));
        batch.seal();
        self.insert(ticket, file, What::Read { at, batch, done: 0 })
    }

    pub(crate) fn create(&mut self, ticket: Ticket, file: FileId, bytes: u64) -> usize {
        self.insert(ticket, file, What::Create { bytes, filled: 0, step: Step::Content })
    }

    pub(crate) fn remove(&mut self, ticket: Ticket, file: FileId) -> usize {
        self.open.remove(&file);
        self.insert(ticket, file, What::Remove { step: Step::File })
    }

    fn insert(&mut self, ticket: Ticket, file: FileId, what: What) -> usize {
        self.operations.insert(Operation { ticket, file, what, name: None, opening: false })
    }

    /// Asks for the operation's next step. Its end, if it has none.
    pub(crate) fn go_on(
        &mut self,
        key: usize,
        ring: &mut Ring,
        tag: u64,
    ) -> Option<(Ticket, Result<u32, i32>)> {
        match self.step(key, ring, tag) {
            Ok(None) => None,
            Ok(Some(octets)) => Some(self.end(key, Ok(octets))),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Some(self.end(key, Err(errno)))
            }
        }
    }

    /// A step has been completed. The operation's end, if that was the last.
    pub(crate) fn completed(
        &mut self,
        key: usize,
        result: i32,
        ring: &mut Ring,
        tag: u64,
    ) -> Option<(Ticket, Result<u32, i32>)> {
        let operation = &mut self.operations[key];
        let opening = std::mem::take(&mut operation.opening);
        if matches!(result, RETRY_INTR | RETRY_AGAIN) {
            return self.go_on(key, ring, tag);
        }
        if result < 0 {
            return Some(self.end(key, Err(-result)));
        }
        if opening {
            self.open.insert(operation.file, files::adopt(result));
            return self.go_on(key, ring, tag);
        }
        match &mut operation.what {
            What::Write { batch, done, .. } | What::Read { batch, done, .. } => {
                *done += result as u64;
                let all = batch.advance(result as usize);
                if result == 0 && !all {
                    // The file is shorter than it should be.
                    return Some(self.end(key, Err(libc::EIO)));
                }
            }
            What::Create { filled, step: Step::Content, .. } if result == 0 => {
                let _ = filled;
                return Some(self.end(key, Err(libc::ENOSPC)));
            }
            What::Create { bytes, filled, step } => match *step {
                Step::Content => {
                    *filled += result as u64;
                    if filled == bytes {
                        *step = Step::File;
                    }
                }
                Step::File => *step = Step::Directory,
                Step::Directory => return Some(self.end(key, Ok(0))),
            },
            What::Remove { step } => match *step {
                Step::Directory => return Some(self.end(key, Ok(0))),
                _ => *step = Step::Directory,
            },
        }
        self.go_on(key, ring, tag)
    }

    /// Asks for what is next; its octets if nothing is.
    fn step(&mut self, key: usize, ring: &mut Ring, tag: u64) -> io::Result<Option<u32>> {
        let file = self.operations[key].file;
        self.directory(file.log)?;
        let directory = self.directories[&file.log].as_fd();
        let operation = &mut self.operations[key];
        let step = match &operation.what {
            What::Create { step, .. } | What::Remove { step } => Some(*step),
            _ => None,
        };
        if step == Some(Step::Directory) {
            ring.sync(directory, tag);
            return Ok(None);
        }
        let name = operation.name.get_or_insert_with(|| name_of(file));
        if matches!(operation.what, What::Remove { .. }) {
            ring.unlink_at(directory, name, tag);
            return Ok(None);
        }
        let Some(descriptor) = self.open.get(&file) else {
            operation.opening = true;
            ring.open_at(directory, name, matches!(operation.what, What::Create { .. }), tag);
            return Ok(None);
        };
        let descriptor = descriptor.as_fd();
        let (asked, octets) = match &mut operation.what {
            What::Write { at, batch, done } => {
                (ring.write_at(descriptor, batch, *at + *done, self.durable, tag), *done)
            }
            What::Read { at, batch, done } => (ring.read_at(descriptor, batch, *at + *done, tag), *done),
            What::Create { bytes, filled, step: Step::Content } => {
                let len = (*bytes - *filled).min(ZEROES.len() as u64) as usize;
                ring.write_static(descriptor, &ZEROES[..len], *filled, tag);
                (true, 0)
            }
            _ => {
                ring.sync(descriptor, tag);
                (true, 0)
            }
        };
        Ok((!asked).then_some(octets as u32))
    }

    fn end(&mut self, key: usize, result: Result<u32, i32>) -> (Ticket, Result<u32, i32>) {
        const BATCHES_KEPT: usize = 16;
        let operation = self.operations.remove(key);
        if let What::Write { mut batch, .. } | What::Read { mut batch, .. } = operation.what
            && self.batches.len() < BATCHES_KEPT
        {
            batch.clear();
            self.batches.push(batch);
        }
        (operation.ticket, result)
    }

    /// Opens a log's directory, making it if need be: once in a log's life.
    fn directory(&mut self, log: u16) -> io::Result<()> {
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.directories.entry(log) {
            vacant.insert(super::store::open_directory(&self.root, log)?);
        }
        Ok(())
    }
}

const RETRY_INTR: i32 = -libc::EINTR;
const RETRY_AGAIN: i32 = -libc::EAGAIN;

fn name_of(file: FileId) -> CString {
    CString::new(super::store::file_name(file)).unwrap_or_default()
}
