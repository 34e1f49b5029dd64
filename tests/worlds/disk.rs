//! A stage's disk: how messages are kept on it, and what a start finds there.

use std::time::Duration;

use postlane::disk::sim::Faults;
use postlane::dispatch::{KeepOptions, Mode};
use postlane::handle::ShardId;
use postlane::spool::{Found, Options, Spool};

use crate::stage::Stage;

/// How messages are kept.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    pub(crate) options: KeepOptions,
    pub(crate) segment_bytes: u64,
    pub(crate) bytes_max: u64,
    pub(crate) faults: Faults,
}

impl Keep {
    /// A good disk, and steps of retry that grow.
    pub(crate) fn plain(mode: Mode) -> Keep {
        let seconds = |n: &u64| Duration::from_secs(*n);
        Keep {
            options: KeepOptions {
                mode,
                through_timeout: Duration::from_millis(200),
                delay_warning: seconds(&3_600),
                retry: [1, 5, 60].iter().map(seconds).collect(),
                max_age: seconds(&86_400),
            },
            segment_bytes: 256 << 10,
            bytes_max: 4 << 20,
            faults: Faults::default(),
        }
    }
}

impl Stage {
    /// Each shard's spool, of what is on the disk.
    pub(crate) fn recover(&mut self) -> Vec<Option<Spool>> {
        let shards = self.setup.shards;
        let Some(keep) = self.setup.keep.clone() else {
            return (0..shards).map(|_| None).collect();
        };
        self.platter.settle();
        let files = self.platter.files().into_iter();
        let found: Vec<Found> = files.map(|(file, bytes)| Found { file, bytes }).collect();
        let unix_ms = self.unix_at_zero_ms as u64;
        // (What a start cannot read it leaves alone, or out: no world for that yet.)
        let faults = self.platter.faults();
        self.platter.set_faults(Faults { read_error: 0.0, ..faults.clone() });
        let start = |shard| {
            let options = Options {
                shard: ShardId(shard),
                shards,
                segment_bytes: keep.segment_bytes,
                bytes_max: keep.bytes_max,
                retry: keep.options.retry.clone(),
                max_age: keep.options.max_age,
                salt: self.setup.seed ^ self.setup.run,
                ..Options::default()
            };
            let mut read = |file, at, into: &mut [u8]| self.platter.read(file, at, into);
            let (spool, report) = Spool::recover(options, unix_ms, self.now(), &found, &mut read);
            let damages: Vec<String> = report.damages.iter().map(ToString::to_string).collect();
            assert!(damages.is_empty() || self.decay.flips > 0, "nothing was damaged: {damages:?}");
            (spool, damages.len() as u64 + report.torn)
        };
        let (spools, reports): (Vec<Spool>, Vec<u64>) = (0..shards).map(start).unzip();
        self.platter.set_faults(faults);
        self.decay.reports += reports.into_iter().sum::<u64>();
        self.found += spools.iter().map(|spool| spool.usage().messages).sum::<u64>();
        spools.into_iter().map(Some).collect()
    }
}
