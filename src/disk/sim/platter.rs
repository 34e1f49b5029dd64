//! What is on the disk, and what only seems to be.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::random::Random;
use crate::handle::FileId;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// How the disk behaves. The default is quick and faithful. Probabilities, from 0 to 1, are per request.
#[derive(Clone, PartialEq, Debug)]
pub struct Faults {
    /// Least time a request takes.
    pub delay_min: Duration,
    /// Most time; each one's is drawn anew, so they overtake one another.
    pub delay_max: Duration,
    /// A write fails with `EIO`; parts of it may be on the platter.
    pub write_error: f64,
    /// A write's sync fails with `EIO`; what it wrote can be read until the next start.
    pub sync_error: f64,
    /// A read fails with `EIO`.
    pub read_error: f64,
    /// Making or removing a file fails with `EIO`.
    pub file_error: f64,
    /// Octets that all files may take together; beyond, making one fails with `ENOSPC`.
    pub capacity: u64,
    /// Whatever is asked for fails with this errno.
    pub broken: Option<i32>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(100),
            write_error: 0.0,
            sync_error: 0.0,
            read_error: 0.0,
            file_error: 0.0,
            capacity: u64::MAX,
            broken: None,
        }
    }
}

/// A sector that is in the cache alone.
#[derive(Clone, Debug)]
struct Cached {
    bytes: [u8; SECTOR],
    /// It would be written by a sync; else one has failed, and it is forgotten at the next start.
    dirty: bool,
}

#[derive(Debug, Default)]
pub(super) struct File {
    durable: Vec<u8>,
    cached: BTreeMap<usize, Cached>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) files: BTreeMap<FileId, File>,
    pub(super) faults: Faults,
    pub(super) random: Random,
}

/// A simulated disk. A handle: clones are the same disk.
#[derive(Clone, Debug)]
pub struct Platter(Rc<RefCell<Inner>>);

impl Platter {
    /// An empty one.
    pub fn new(seed: u64, faults: Faults) -> Platter {
        Platter(Rc::new(RefCell::new(Inner { files: BTreeMap::new(), faults, random: Random::new(seed) })))
    }

    pub(super) fn inner(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// How it behaves now.
    pub fn faults(&self) -> Faults {
        self.inner().faults.clone()
    }

    /// From now on.
    pub fn set_faults(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    /// All files and their sizes.
    pub fn files(&self) -> Vec<(FileId, u64)> {
        self.0.borrow().files.iter().map(|(&file, content)| (file, content.durable.len() as u64)).collect()
    }

    /// Power fails: of what was written and not synced any part is there, the rest is not.
    pub fn cut_power(&self) {
        let mut inner = self.inner();
        let Inner { files, random, .. } = &mut *inner;
        for file in files.values_mut() {
            for (sector, cached) in std::mem::take(&mut file.cached) {
                if cached.dirty && random.chance(0.5) {
                    file.put(sector * SECTOR, &cached.bytes);
                }
            }
        }
    }

    /// What a start does before it reads: what is in the cache is synced, and what cannot be is forgotten.
    pub fn settle(&self) {
        for file in self.inner().files.values_mut() {
            for (sector, cached) in std::mem::take(&mut file.cached) {
                if cached.dirty {
                    file.put(sector * SECTOR, &cached.bytes);
                }
            }
        }
    }

    /// Reads, at once. `EIO` and the like as the faults have it.
    ///
    /// # Errors
    /// The errno.
    pub fn read(&self, file: FileId, at: u64, into: &mut [u8]) -> Result<(), i32> {
        let mut inner = self.inner();
        let chance = inner.faults.read_error;
        if inner.random.chance(chance) {
            return Err(libc::EIO);
        }
        let file = inner.files.get(&file).ok_or(libc::ENOENT)?;
        file.read(at as usize, into).ok_or(libc::EIO)
    }

    /// Flips a bit of what is durable.
    pub fn flip(&self, file: FileId, at: u64, bit: u8) {
        if let Some(file) = self.inner().files.get_mut(&file)
            && let Some(byte) = file.durable.get_mut(at as usize)
        {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Flips a random bit of a random file; which octet it was.
    pub fn flip_any(&self) -> Option<(FileId, u64)> {
        let files = self.files();
        let (file, at, bit) = {
            let mut inner = self.inner();
            let candidates: Vec<_> = files.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
            if candidates.is_empty() {
                return None;
            }
            let (file, bytes) = candidates[inner.random.index(candidates.len())];
            (file, inner.random.within(0..=bytes - 1), inner.random.within(0..=7) as u8)
        };
        self.flip(file, at, bit);
        Some((file, at))
    }
}

impl File {
    pub(super) fn zeroed(bytes: u64) -> File {
        File { durable: vec![0; bytes as usize], cached: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.durable.len() as u64
    }

    /// What a reader sees.
    pub(super) fn read(&self, at: usize, into: &mut [u8]) -> Option<()> {
        into.copy_from_slice(self.durable.get(at..at + into.len())?);
        let sectors = at / SECTOR..(at + into.len()).div_ceil(SECTOR);
        for (&sector, cached) in self.cached.range(sectors) {
            let start = sector * SECTOR;
            let (from, to) = (start.max(at), (start + SECTOR).min(at + into.len()));
            into[from - at..to - at].copy_from_slice(&cached.bytes[from - start..to - start]);
        }
        Some(())
    }

    /// Puts octets on the platter.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        if !self.cached.is_empty() {
            let sectors: Vec<usize> = self
                .cached
                .range(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR))
                .map(|(&s, _)| s)
                .collect();
            for sector in sectors {
                self.cached.remove(&sector);
            }
        }
        let end = (at + bytes.len()).min(self.durable.len());
        if at < end {
            self.durable[at..end].copy_from_slice(&bytes[..end - at]);
        }
    }

    /// Puts one sector into the cache alone.
    pub(super) fn cache(&mut self, at: usize, bytes: &[u8], dirty: bool) {
        debug_assert!(at.is_multiple_of(SECTOR));
        let mut whole = [0; SECTOR];
        if self.read(at, &mut whole).is_some() {
            whole[..bytes.len()].copy_from_slice(bytes);
            self.cached.insert(at / SECTOR, Cached { bytes: whole, dirty });
        }
    }
}
