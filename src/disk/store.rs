//! A spool's directory, waiting for the disk: what is done before a shard's loop starts, or without one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use crate::handle::FileId;
use crate::sys::files;

/// A spool's directory: `<root>/<log>/<number>.seg`, `<root>/lock`, `<root>/damaged/`.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Held as long as this is; none if it is only looked at.
    _lock: Option<File>,
}

impl Store {
    /// Makes the directory if it is not there, and takes possession of it.
    ///
    /// # Errors
    /// What making it says; `WouldBlock` if another process has it.
    pub fn open(root: &Path) -> io::Result<Store> {
        make_directory(root)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(root.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, "another process uses this spool")
            }
            TryLockError::Error(error) => error,
        })?;
        Ok(Store { root: root.to_owned(), _lock: Some(lock) })
    }

    /// Only looks at it, whoever has it.
    pub fn look(root: &Path) -> Store {
        Store { root: root.to_owned(), _lock: None }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All segments and their sizes. What is named otherwise is nobody's.
    ///
    /// # Errors
    /// What reading the directories says.
    pub fn files(&self) -> io::Result<Vec<(FileId, u64)>> {
        let mut found = Vec::new();
        for directory in fs::read_dir(&self.root)? {
            let directory = directory?;
            let Some(log) = directory.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            for entry in fs::read_dir(directory.path())? {
                let entry = entry?;
                let name = entry.file_name();
                let number = name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse().ok());
                if let Some(number) = number {
                    found.push((FileId { log, number }, entry.metadata()?.len()));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// For reading what is on the disk. If the spool is ours, each file is synced before it is read and what is in
    /// the cache alone is forgotten: what a replay counts on must be there after the next crash as well.
    pub fn reader(&self) -> Reader {
        Reader { root: self.root.clone(), settle: self._lock.is_some(), open: None }
    }

    /// Copies a damaged part of a segment to where nothing overwrites it; to which file.
    ///
    /// # Errors
    /// What reading and writing say.
    pub fn set_aside(&self, file: FileId, range: Range<u64>) -> io::Result<PathBuf> {
        let directory = self.root.join("damaged");
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let to = directory.join(format!("{:02}-{:08}-{}.bin", file.log, file.number, range.start));
        let mut copy = File::create(&to)?;
        let from = File::open(path(&self.root, file))?;
        let mut buffer = vec![0; 1 << 20];
        let mut at = range.start;
        while at < range.end {
            let most = (range.end - at).min(buffer.len() as u64) as usize;
            let read = from.read_at(&mut buffer[..most], at)?;
            if read == 0 {
                break;
            }
            copy.write_all(&buffer[..read])?;
            at += read as u64;
        }
        copy.sync_all()?;
        Ok(to)
    }
}

/// Reads segments, one after the other.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    settle: bool,
    open: Option<(FileId, File)>,
}

impl Reader {
    /// Fills `into` from octet `at` of the file.
    ///
    /// # Errors
    /// The errno.
    pub fn read(&mut self, file: FileId, at: u64, into: &mut [u8]) -> Result<(), i32> {
        self.try_read(file, at, into).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    fn try_read(&mut self, file: FileId, at: u64, into: &mut [u8]) -> io::Result<()> {
        let open = match self.open.take() {
            Some((which, open)) if which == file => open,
            _ => {
                let open = OpenOptions::new().read(true).write(self.settle).open(path(&self.root, file))?;
                if self.settle {
                    open.sync_data()?;
                    files::forget_cached(&open)?;
                }
                open
            }
        };
        let (_, open) = self.open.insert((file, open));
        open.read_exact_at(into, at)
    }
}

fn path(root: &Path, file: FileId) -> PathBuf {
    directory(root, file.log).join(file_name(file))
}

fn directory(root: &Path, log: u16) -> PathBuf {
    root.join(format!("{log:02}"))
}

/// A segment's name in its log's directory.
pub(super) fn file_name(file: FileId) -> String {
    format!("{:08}.seg", file.number)
}

/// Opens a log's directory, made if it is not there.
pub(super) fn open_directory(root: &Path, log: u16) -> io::Result<File> {
    let path = directory(root, log);
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    // Also if it was there: who made it may have been killed before.
    File::open(root)?.sync_all()?;
    File::open(path)
}

/// Makes a directory, and sees to it that it is there after a power cut. What is above it need not be readable.
fn make_directory(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let made: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    let above = made.iter().filter_map(|path| path.parent());
    above.filter_map(|path| File::open(path).ok()).try_for_each(|directory| directory.sync_all())
}
