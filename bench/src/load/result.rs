//! What a load run gives.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::stage::Stage;

/// Width of a throughput bin, in milliseconds.
pub const BIN_MS: u64 = 100;

/// Percentiles that reports name.
pub const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// Latencies in microseconds, kept to three digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3);
        Latency(histogram.expect("the bounds are constants within what the histogram allows"))
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.div_ceil(1_000).max(1));
    }

    /// The histogram itself.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// The latency that this percentage of messages did not exceed, in microseconds. 0 if there were none.
    pub fn percentile_us(&self, percentile: f64) -> u64 {
        self.0.value_at_quantile(percentile / 100.0)
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let percentiles: Vec<(f64, u64)> = PERCENTILES.iter().map(|p| (*p, self.percentile_us(*p))).collect();
        let mut out = serializer.serialize_struct("Latency", 6)?;
        out.serialize_field("count", &self.0.len())?;
        out.serialize_field("min", &if self.0.is_empty() { 0 } else { self.0.min() })?;
        out.serialize_field("mean", &self.0.mean())?;
        out.serialize_field("stdev", &self.0.stdev())?;
        out.serialize_field("max", &self.0.max())?;
        out.serialize_field("percentiles", &percentiles)?;
        out.end()
    }
}

/// What came of a run. Everything but `warmup_acknowledged` is about the messages started after the warm-up.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadResult {
    /// Messages started.
    pub started: u64,
    /// Messages sent to their end.
    pub sent: u64,
    /// Messages answered 2xx after their end.
    pub acknowledged: u64,
    /// Recipients accepted in the messages acknowledged.
    pub recipients: u64,
    /// Bytes of the messages acknowledged, header and body, before dot-stuffing.
    pub bytes: u64,
    /// Messages refused, by the stage and code of the reply that decided it.
    pub refused: BTreeMap<Stage, BTreeMap<u16, u64>>,
    /// Recipients refused in messages that went on without them.
    pub recipients_refused: u64,
    /// Messages whose connection was lost before their end was sent.
    pub interrupted: u64,
    /// Messages whose connection was lost, or timed out, after their end was sent: nobody knows.
    pub in_doubt: u64,
    /// Messages that an open loop's schedule held but that could not be started before its end.
    pub unsent: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections that failed, by cause.
    pub connection_errors: BTreeMap<String, u64>,
    /// From the end of the warm-up to the last answer.
    #[serde(rename = "elapsed_seconds", serialize_with = "as_seconds")]
    pub elapsed: Duration,
    /// Acknowledged messages per second.
    pub rate: f64,
    /// From the intended start (open loop) or the start (closed loop) to the final reply.
    #[serde(rename = "latency_us")]
    pub latency: Latency,
    /// Messages acknowledged in each [`BIN_MS`].
    pub acknowledged_per_100ms: Vec<u64>,
    /// Messages acknowledged that were started during the warm-up.
    pub warmup_acknowledged: u64,
    /// Share of one core that the generator's thread took; near 1 it may be what limits the run.
    pub generator_busy: f64,
    /// Why the run ended early, if it did.
    pub aborted: Option<String>,
    /// Every message, in the order in which they ended; kept only if [`Options::log`](super::Options::log) asks.
    #[serde(skip)]
    pub log: Vec<Logged>,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its number: in its `Message-ID`, its subject and its recipients.
    pub number: u64,
    /// When it was to start (open loop) or did (closed loop): microseconds after the warm-up.
    pub due_us: u64,
    /// From then until its end, in microseconds.
    pub took_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered 2xx after its end.
    Acknowledged,
    /// Answered otherwise.
    Refused,
    /// Its connection was lost before its end was sent.
    Interrupted,
    /// Its connection was lost after that.
    InDoubt,
}

impl Outcome {
    /// Its name in a log.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Acknowledged => "acknowledged",
            Outcome::Refused => "refused",
            Outcome::Interrupted => "interrupted",
            Outcome::InDoubt => "in-doubt",
        }
    }
}

impl LoadResult {
    /// Messages refused, over all stages and codes.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().flat_map(BTreeMap::values).sum()
    }

    /// Messages that were to be sent and were not acknowledged, for whatever reason.
    pub fn not_acknowledged(&self) -> u64 {
        self.started.saturating_sub(self.acknowledged) + self.unsent
    }

    /// The log as CSV, with a heading.
    pub fn log_csv(&self) -> String {
        let mut out = String::with_capacity(32 * self.log.len() + 64);
        out.push_str("number,due_us,took_us,outcome\n");
        for Logged { number, due_us, took_us, outcome } in &self.log {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{number},{due_us},{took_us},{}", outcome.label());
        }
        out
    }

    /// Connections that failed, over all causes.
    pub fn connection_errors_total(&self) -> u64 {
        self.connection_errors.values().sum()
    }
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
