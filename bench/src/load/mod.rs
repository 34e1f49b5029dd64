//! A load generator: many SMTP sessions on one thread, closed or open loop.

mod dialogue;
mod engine;
mod message;
mod result;
mod schedule;
mod session;
mod size;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use result::{BIN_MS, Latency, LoadResult, Logged, Outcome, PERCENTILES};
pub use size::SizeMix;

/// How a message's commands are put into sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exchange {
    /// Command by command.
    #[default]
    Plain,
    /// MAIL, RCPT and DATA in one send; then header, body and dot, together with what the next message begins with.
    Pipelining,
    /// MAIL, RCPT and the whole message by one BDAT, in one send.
    Chunking,
}

/// What to send, to whom, how fast.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub target: SocketAddr,
    /// Sessions at the same time.
    pub sessions: usize,
    /// Stop after this many messages. With neither this nor `duration`: when told to.
    pub messages: Option<u64>,
    /// Start no message after this time.
    pub duration: Option<Duration>,
    /// Messages per second over all sessions, at fixed times (open loop). None: as fast as it goes (closed loop).
    pub rate: Option<f64>,
    /// Sizes of whole messages.
    pub size: SizeMix,
    /// Recipients of each message.
    pub recipients: usize,
    /// Recipient domains, `d0.example` and on.
    pub domains: usize,
    /// Plain, pipelining or chunking.
    pub exchange: Exchange,
    /// Messages sent on a connection before the first of them is answered. Only for chunking.
    pub in_flight: usize,
    /// Close a connection after this many messages and open another.
    pub per_connection: Option<u64>,
    /// Bounds a connection up to the reply to EHLO, and the time a run goes on without any connection.
    pub connect_timeout: Duration,
    /// Bounds the wait for a reply.
    pub reply_timeout: Duration,
    /// Send for this long before anything counts.
    pub warmup: Duration,
    /// For the mix of sizes.
    pub seed: u64,
    /// Keep what became of every single message.
    pub log: bool,
}

impl Options {
    /// Usual values: 64 sessions, 10 KiB, one recipient, command by command, as fast as it goes, until told to stop.
    pub fn to(target: SocketAddr) -> Self {
        Options {
            target,
            sessions: 64,
            messages: None,
            duration: None,
            rate: None,
            size: SizeMix::one(10 << 10),
            recipients: 1,
            domains: 1,
            exchange: Exchange::Plain,
            in_flight: 1,
            per_connection: None,
            connect_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(60),
            warmup: Duration::ZERO,
            seed: 1,
            log: false,
        }
    }

    fn check(&self) -> io::Result<()> {
        let wrong = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match self {
            Options { sessions: 0, .. } => wrong("sessions must be at least 1"),
            Options { recipients: 0, .. } => wrong("recipients must be at least 1"),
            Options { in_flight: 0, .. } => wrong("in-flight must be at least 1"),
            Options { in_flight: 2.., exchange: Exchange::Plain | Exchange::Pipelining, .. } => {
                wrong("only with chunking can several messages be in flight on a connection")
            }
            Options { domains: 0, .. } => wrong("domains must be at least 1"),
            Options { per_connection: Some(0), .. } => wrong("per-connection must be at least 1"),
            Options { rate: Some(rate), .. } if !(rate.is_finite() && *rate > 0.0) => {
                wrong("rate must be above 0 messages per second")
            }
            _ => Ok(()),
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Since the warm-up, or since the start while it lasts.
    pub elapsed: Duration,
    /// Results do not count yet.
    pub warming_up: bool,
    /// Messages sent to their end.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages refused, interrupted or in doubt.
    pub failed: u64,
    /// Acknowledged per second since the last call.
    pub rate: f64,
    /// Median latency so far, in microseconds.
    pub p50_us: u64,
    /// 99th percentile so far, in microseconds.
    pub p99_us: u64,
}

/// Told how a run goes, on the run's thread. `()` does not care.
pub trait Observer {
    /// The warm-up is over: what comes now counts. The moment to start a [`crate::measure::Sampler`].
    fn measuring(&mut self) {}
    /// The last message that counts is accounted for. The moment to stop it.
    fn measured(&mut self) {}
    /// Every half second.
    fn progress(&mut self, _progress: &Progress) {}
}

impl Observer for () {}

/// Runs a load on the calling thread until it is done, or `stop` is set (then for at most two more seconds,
/// for the answers to what is under way).
///
/// # Errors
/// `InvalidInput` for options that make no sense, `Unsupported` when the server does not offer what they ask for,
/// and the last connection's error when none could be opened within the connect timeout. What goes wrong later
/// is in the result.
pub fn run(options: &Options, stop: &AtomicBool, observer: &mut dyn Observer) -> io::Result<LoadResult> {
    options.check()?;
    engine::run(options, stop, observer)
}
