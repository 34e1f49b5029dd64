//! The spool's directory: taken possession of at the start and read, before any mail is taken; or only looked at.

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Failure;
use super::launch::BAD_CONFIGURATION;
use crate::config::{Config, SYNC_OFF};
use crate::disk::store::Store;
use crate::dispatch::{Answer, Selection, list_kept};
use crate::handle::ShardId;
use crate::spool::{Found, Options, Report, Spool};
use crate::sys::clock;

/// Octets of a file; a message has to fit into one.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Files that a log needs to work with.
const SEGMENTS_MIN: u64 = 6;
const MIB: u64 = 1 << 20;

/// What the shards are given of the spool.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its directory. Nobody else may have it as long as this is held.
    pub(super) store: Store,
    /// By shard.
    pub(super) spools: Vec<Spool>,
    pub(super) sync: bool,
}

/// Takes possession of the spool and reads what is in it, every shard its own; nothing if there is to be none.
///
/// # Errors
/// The directory cannot be had or read; it is too small.
pub(super) fn open(config: &Config, shards: u16) -> Result<Option<Opened>, Failure> {
    let delivery = &config.delivery;
    if !delivery.mode.has_spool() {
        return Ok(None);
    }
    let options = options(config, shards)?;
    let store = Store::open(&delivery.spool).map_err(|error| refused(&delivery.spool, &error))?;
    if !delivery.sync {
        eprintln!("postlane: {SYNC_OFF}");
    }
    let found = found(&store).map_err(|error| refused(&delivery.spool, &error))?;
    let recover = |shard: u16| {
        let options = Options { shard: ShardId(shard), ..options.clone() };
        let mut reader = store.reader();
        let mut read = |file, at, into: &mut [u8]| reader.read(file, at, into);
        Spool::recover(options, unix_at_zero_ms(), clock::now(), &found, &mut read)
    };
    let started = std::time::Instant::now();
    let recovered: Vec<(Spool, Report)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shards).map(|shard| scope.spawn(move || recover(shard))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.collect::<Result<_, _>>().map_err(|_| Failure::internal("the spool's replay panicked"))
    })?;
    let mut sum = Report::default();
    let mut spools = Vec::new();
    for (spool, report) in recovered {
        sum.messages += report.messages;
        sum.bytes += report.bytes;
        sum.torn += report.torn;
        sum.damages.extend(report.damages);
        spools.push(spool);
    }
    tell(&store, &sum, started.elapsed());
    Ok(Some(Opened { store, spools, sync: delivery.sync }))
}

fn options(config: &Config, shards: u16) -> Result<Options, Failure> {
    let delivery = &config.delivery;
    let largest = config.listeners.iter().map(|listener| listener.max_message).max().unwrap_or(0);
    // Of a message with dots in front of every line twice as much comes as is counted.
    let segment_bytes = SEGMENT_BYTES.max((2 * largest + MIB).next_multiple_of(MIB));
    let bytes_max = delivery.spool_max / u64::from(shards);
    if bytes_max < SEGMENTS_MIN * segment_bytes {
        let least = SEGMENTS_MIN * segment_bytes * u64::from(shards) / MIB;
        let message = format!(
            "`spool_max` is too small for {shards} shards and `max_message`: write at least `{least}MiB`"
        );
        return Err(Failure { exit: BAD_CONFIGURATION, message });
    }
    Ok(Options {
        shards,
        segment_bytes,
        bytes_max,
        index_bytes_max: (config.memory / 2 / u64::from(shards)) as usize,
        retry: delivery.retry.clone(),
        max_age: delivery.max_age,
        salt: RandomState::new().hash_one(std::process::id()),
        ..Options::default()
    })
}

fn found(store: &Store) -> std::io::Result<Vec<Found>> {
    Ok(store.files()?.into_iter().map(|(file, bytes)| Found { file, bytes }).collect())
}

fn refused(path: &Path, error: &std::io::Error) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::WouldBlock => "stop that one first, or give this one another `spool`",
        ErrorKind::PermissionDenied => {
            "give the user that runs it the directory (chown), or choose another `spool`"
        }
        ErrorKind::NotFound => "make the directory, or choose another `spool`",
        _ => "see the error for what to change",
    };
    let exit = if error.kind() == ErrorKind::PermissionDenied { 77 } else { 71 };
    Failure { exit, message: format!("the spool {} cannot be used: {error}; {remedy}", path.display()) }
}

/// Says what was found; what is damaged is copied away before it is written over.
fn tell(store: &Store, sum: &Report, took: Duration) {
    if sum.messages > 0 || sum.torn > 0 || !sum.damages.is_empty() {
        eprintln!(
            "postlane: the spool {} has {} messages ({} MiB read in {:.1} s; {} unfinished writes)",
            store.root().display(),
            sum.messages,
            sum.bytes / MIB,
            took.as_secs_f64(),
            sum.torn
        );
    }
    for damage in &sum.damages {
        let copy = match store.set_aside(damage.file, damage.range.clone()) {
            Ok(path) => format!("a copy is in {}", path.display()),
            Err(error) => format!("it could not be copied: {error}"),
        };
        eprintln!("postlane: the spool is damaged: {damage}; {copy}");
    }
}

/// What a spool has, without an instance that runs, and whether or not one does: nothing is changed.
///
/// # Errors
/// The directory cannot be read.
pub fn read_queue(directory: &Path, selection: &Selection, limit: usize) -> Result<Answer, Failure> {
    let store = Store::look(directory);
    let found = found(&store).map_err(|error| refused(directory, &error))?;
    let shards = 1;
    let mut reader = store.reader();
    let mut read = |file, at, into: &mut [u8]| reader.read(file, at, into);
    let options = Options { shards, ..Options::default() };
    let (spool, report) = Spool::recover(options, unix_at_zero_ms(), clock::now(), &found, &mut read);
    for damage in &report.damages {
        eprintln!("postlane: the spool is damaged: {damage}");
    }
    Ok(list_kept(&spool, selection, limit, clock::now()))
}

pub(super) fn unix_at_zero_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (unix.as_millis() as u64).saturating_sub(clock::now().as_nanos() / 1_000_000)
}
