//! What a benchmark run found, in four forms: text, JSON, HdrHistogram percentiles, one HTML page.

mod hgrm;
mod html;
mod plot;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::load::{Exchange, LoadResult, Options, PERCENTILES};
use crate::measure::Usage;
use crate::text::{grouped, micros};

/// A generator busier than this share of its core may be what limits a run.
const GENERATOR_BUSY_MAX: f64 = 0.9;

/// The machine a run was made on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// CPUs this process may use.
    pub cpus: usize,
    /// The CPU's name, where the kernel tells it.
    pub cpu_model: String,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This machine, as far as it tells.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            cpus: std::thread::available_parallelism().map_or(0, Into::into),
            cpu_model: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// A run and what it found. The field names are the JSON's, and stay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it ended, RFC 3339 in UTC.
    pub when: String,
    /// What was measured.
    pub label: String,
    /// Where.
    pub machine: Machine,
    /// How: options by name.
    pub options: BTreeMap<String, String>,
    /// What the generator saw.
    pub load: LoadResult,
    /// Messages that arrived at the sinks, where that is known (those of the warm-up included).
    pub arrived: Option<u64>,
    /// What the process measured spent, and nobody else.
    pub process: Option<Usage>,
    /// CPU microseconds of that process per acknowledged message.
    pub cpu_us_per_message: Option<f64>,
    /// Its system calls per acknowledged message, where they could be counted.
    pub syscalls_per_message: Option<f64>,
    /// What a reader has to know to judge the numbers.
    pub notes: Vec<String>,
}

impl Report {
    /// Puts together what is known. `process` is the usage of the process that was measured.
    pub fn new(
        label: &str,
        options: &Options,
        load: LoadResult,
        process: Option<Usage>,
        arrived: Option<u64>,
    ) -> Self {
        let each = load.acknowledged as f64;
        let per_message = |number: f64| (each > 0.0).then(|| number / each);
        let cpu_us_per_message = process.as_ref().and_then(|usage| per_message(usage.cpu_us));
        let syscalls = process.as_ref().and_then(|usage| usage.syscalls);
        let syscalls_per_message = syscalls.and_then(|number| per_message(number as f64));
        let notes = notes(options, &load, process.as_ref(), arrived);
        Report {
            when: rfc3339(SystemTime::now()),
            label: label.to_owned(),
            machine: Machine::this(),
            options: describe(options),
            load,
            arrived,
            process,
            cpu_us_per_message,
            syscalls_per_message,
            notes,
        }
    }

    /// Adds an option that the generator does not know of, such as how many upstreams there were.
    #[must_use]
    pub fn with_option(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.options.insert(name.to_owned(), value.to_string());
        self
    }

    /// JSON, indented. The names of its fields are a contract.
    ///
    /// # Errors
    /// None that this data can cause; serde's are passed on.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The latencies as HdrHistogram's percentile distribution, in milliseconds: what its plotters read.
    pub fn hgrm(&self) -> String {
        hgrm::percentiles(self.load.latency.histogram())
    }

    /// One HTML page with the plots, the numbers and the options, which needs nothing else.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Name and value of what the run did, in reading order; shared by text and page.
    fn outcome(&self) -> Vec<(String, String)> {
        let load = &self.load;
        let mut rows = vec![
            ("started".to_owned(), grouped(load.started)),
            ("acknowledged".to_owned(), grouped(load.acknowledged)),
        ];
        if let Some(arrived) = self.arrived {
            rows.push(("arrived at the sinks".into(), grouped(arrived)));
        }
        if load.warmup_acknowledged > 0 {
            rows.push(("acknowledged in the warm-up".into(), grouped(load.warmup_acknowledged)));
        }
        for (stage, codes) in &load.refused {
            for (code, count) in codes {
                rows.push((format!("refused {code} at {stage}"), grouped(*count)));
            }
        }
        let rest = [
            ("recipients refused", load.recipients_refused),
            ("interrupted", load.interrupted),
            ("in doubt", load.in_doubt),
            ("scheduled but not sent", load.unsent),
        ];
        rows.extend(rest.iter().filter(|row| row.1 > 0).map(|row| (row.0.to_owned(), grouped(row.1))));
        rows.push(("connections".into(), grouped(load.connections)));
        for (cause, count) in &load.connection_errors {
            rows.push((format!("connection error: {cause}"), grouped(*count)));
        }
        let elapsed = load.elapsed.as_secs_f64();
        rows.push(("elapsed".into(), format!("{elapsed:.2} s")));
        rows.push(("messages per second".into(), grouped(load.rate.round() as u64)));
        let busy = format!("{:.0} %", load.generator_busy * 100.0);
        rows.push(("generator busy".into(), busy));
        if elapsed > 0.0 {
            let mib = load.bytes as f64 / elapsed / (1 << 20) as f64;
            rows.push(("content per second".into(), format!("{mib:.1} MiB")));
        }
        rows
    }

    fn cost(&self) -> Vec<(String, String)> {
        let Some(usage) = &self.process else {
            return Vec::new();
        };
        let or_none = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        vec![
            ("CPU per message".into(), format!("{} µs", or_none(self.cpu_us_per_message))),
            ("CPU in use".into(), format!("{:.2}", usage.cpu_us / 1e6 / usage.wall_seconds.max(1e-9))),
            ("system calls per message".into(), or_none(self.syscalls_per_message)),
            ("switches (voluntary, forced)".into(), {
                format!("{}, {}", grouped(usage.voluntary_switches), grouped(usage.involuntary_switches))
            }),
            ("resident memory (peak)".into(), {
                format!("{} KiB ({} KiB)", grouped(usage.rss_kib), grouped(usage.peak_rss_kib))
            }),
        ]
    }

    fn latencies(&self) -> Vec<(String, String)> {
        let latency = &self.load.latency;
        let named = PERCENTILES.iter().map(|percentile| {
            let name = if *percentile == 100.0 { "max".to_owned() } else { format!("p{percentile}") };
            (name, micros(latency.percentile_us(*percentile) as f64))
        });
        std::iter::once(("mean".to_owned(), micros(latency.histogram().mean()))).chain(named).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}  ({}, {} CPUs, Linux {})",
            self.label, self.when, self.machine.cpus, self.machine.kernel
        )?;
        let options = self.options.iter().map(|(name, value)| format!("{name} {value}"));
        writeln!(f, "{}\n", options.collect::<Vec<_>>().join(", "))?;
        let latencies = self.latencies().into_iter().map(|(name, value)| (format!("latency {name}"), value));
        for (name, value) in self.outcome().into_iter().chain(latencies).chain(self.cost()) {
            writeln!(f, "{name:<30} {value:>16}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

/// Options by the names of the command line.
fn describe(options: &Options) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::new();
    let mut add = |name: &str, value: String| shown.insert(name.to_owned(), value);
    add("target", options.target.to_string());
    add("sessions", options.sessions.to_string());
    add("size", options.size.to_string());
    add("recipients", options.recipients.to_string());
    add("domains", options.domains.to_string());
    add("exchange", exchange_name(options.exchange).to_owned());
    if options.in_flight > 1 {
        add("in-flight", options.in_flight.to_string());
    }
    let rate = options.rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate}/s"));
    add("rate", rate);
    for (name, value) in [("messages", options.messages), ("per-connection", options.per_connection)] {
        if let Some(value) = value {
            add(name, value.to_string());
        }
    }
    if let Some(duration) = options.duration {
        add("duration", format!("{}s", duration.as_secs_f64()));
    }
    if !options.warmup.is_zero() {
        add("warmup", format!("{}s", options.warmup.as_secs_f64()));
    }
    shown
}

fn exchange_name(exchange: Exchange) -> &'static str {
    match exchange {
        Exchange::Plain => "plain",
        Exchange::Pipelining => "pipelining",
        Exchange::Chunking => "chunking",
    }
}

fn notes(options: &Options, load: &LoadResult, process: Option<&Usage>, arrived: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(aborted) = &load.aborted {
        notes.push(format!("the run ended early: {aborted}"));
    }
    notes.push(match options.rate {
        Some(_) => {
            "latency from the time a message was meant to start, so waiting for a session is in it".into()
        }
        None => "closed loop: a slow answer delays the next message, so high latencies are understated; \
                 use a rate for honest ones"
            .to_owned(),
    });
    if load.unsent > 0 {
        let unsent = grouped(load.unsent);
        notes.push(format!("{unsent} scheduled messages were never started, and are in no percentile"));
    }
    let acknowledged = load.acknowledged + load.warmup_acknowledged;
    if let Some(arrived) = arrived.filter(|arrived| *arrived != acknowledged) {
        notes.push(format!(
            "{} messages were acknowledged (warm-up included) but {} arrived",
            grouped(acknowledged),
            grouped(arrived)
        ));
    }
    if load.generator_busy > GENERATOR_BUSY_MAX {
        let busy = load.generator_busy * 100.0;
        notes.push(format!(
            "the generator's core was {busy:.0} % busy: what was measured may be able to do more"
        ));
    }
    if let Some(missing) = process.and_then(|usage| usage.syscalls_missing.as_ref()) {
        notes.push(format!("system calls were not counted: {missing}"));
    }
    notes
}

/// RFC 3339, UTC, to the second.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = crate::text::civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Several reports side by side: one line each.
pub struct Comparison<'a>(pub &'a [Report]);

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|report| report.label.chars().count()).max().unwrap_or(0).max(8);
        writeln!(
            f,
            "{:<width$} {:>10} {:>12} {:>12} {:>12} {:>10} {:>8}",
            "", "messages/s", "p50", "p99", "CPU µs/msg", "calls/msg", "failed"
        )?;
        for report in self.0 {
            let load = &report.load;
            let or_none = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            writeln!(
                f,
                "{:<width$} {:>10.0} {:>12} {:>12} {:>12} {:>10} {:>8}",
                report.label,
                load.rate,
                micros(load.latency.percentile_us(50.0) as f64),
                micros(load.latency.percentile_us(99.0) as f64),
                or_none(report.cpu_us_per_message),
                or_none(report.syscalls_per_message),
                grouped(load.not_acknowledged()),
            )?;
        }
        Ok(())
    }
}
