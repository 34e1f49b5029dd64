//! A test MTA: accepts, delays, refuses, drops and hangs by rule, stores or counts.

mod counts;
mod desk;
mod dialogue;
mod rules;
mod server;
mod store;
mod wire;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use counts::Counts;
use counts::Tally;
use desk::Desk;
pub(crate) use rules::Dice;
pub use rules::{DropRule, FailRule, Offers};
use server::{LISTENER, Server};
use store::Store;
pub use store::{Dumped, fnv1a};

use crate::sys::{self, Poll};

/// How a sink behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Addresses to listen on; port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// From the end of the data to the final reply.
    pub latency: Duration,
    /// Latencies exponentially distributed around `latency` instead of constant.
    pub jitter: bool,
    /// Refusals.
    pub fail: Vec<FailRule>,
    /// Connections closed instead of a reply.
    pub drop: Vec<DropRule>,
    /// Connections never answered again.
    pub hang: Vec<DropRule>,
    /// Service extensions.
    pub offers: Offers,
    /// Store each message here, byte for byte, dot-stuffing removed.
    pub maildir: Option<PathBuf>,
    /// Append one [`Dumped`] line per message here.
    pub dump: Option<PathBuf>,
    /// Write the [`Counts`] here as JSON when stopping.
    pub count_file: Option<PathBuf>,
    /// For the rules' dice and the jitter.
    pub seed: u64,
}

/// A sink that listens; [`Sink::run`] serves.
pub struct Sink {
    options: Options,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    store: Store,
    tally: Arc<Tally>,
    poll: Poll,
}

impl Sink {
    /// Opens the listeners and whatever the messages are stored in.
    ///
    /// # Errors
    /// What the system says, with the address or path it is about.
    pub fn bind(options: Options) -> io::Result<Self> {
        sys::raise_open_files();
        let store = Store::open(options.maildir.as_deref(), options.dump.as_deref())?;
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (index, address) in options.listen.iter().enumerate() {
            let listener = sys::listen(*address)
                .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))?;
            poll.add(&listener, LISTENER | index as u64)?;
            listeners.push(listener);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        Ok(Sink { options, listeners, addresses, store, tally: Arc::new(Tally::new()), poll })
    }

    /// Where it listens, in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves on the calling thread until `stop` is set, then closes everything and says what was counted.
    ///
    /// # Errors
    /// When epoll fails, or the dump or count file cannot be written.
    pub fn run(self, stop: &AtomicBool) -> io::Result<Counts> {
        let Sink { options, listeners, store, tally, poll, .. } = self;
        let desk = Desk {
            offers: options.offers,
            fail: &options.fail,
            drop: &options.drop,
            hang: &options.hang,
            dice: Dice::new(options.seed),
            tally: &tally,
            store,
            out: Vec::with_capacity(4096),
            run: unlike_any_other(),
            sequence: 0,
        };
        let mut server = Server::new(poll, listeners, desk, options.latency, options.jitter);
        while !stop.load(Relaxed) {
            server.turn()?;
        }
        let counts = tally.snapshot();
        if let Some(path) = &options.count_file {
            let json = serde_json::to_vec_pretty(&counts)?;
            fs::write(path, json)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        Ok(counts)
    }
}

fn unlike_any_other() -> u64 {
    static SINKS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_micros() as u64 ^ u64::from(std::process::id()) << 24).wrapping_add(SINKS.fetch_add(1, Relaxed))
}

/// A sink on a thread of its own; dropped, it stops.
pub struct Handle {
    addresses: Vec<SocketAddr>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    cpu_ns: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<Counts>>>,
}

/// Binds a sink and serves on a new thread.
///
/// # Errors
/// As [`Sink::bind`], or when no thread can be had.
pub fn spawn(options: Options) -> io::Result<Handle> {
    let sink = Sink::bind(options)?;
    let addresses = sink.addresses.clone();
    let tally = Arc::clone(&sink.tally);
    let stop = Arc::new(AtomicBool::new(false));
    let cpu_ns = Arc::new(AtomicU64::new(0));
    let (flag, spent) = (Arc::clone(&stop), Arc::clone(&cpu_ns));
    let thread = thread::Builder::new().name("sink".into()).spawn(move || {
        let counts = sink.run(&flag);
        spent.store(sys::thread_cpu_time_ns(), Relaxed);
        counts
    })?;
    Ok(Handle { addresses, tally, stop, cpu_ns, thread: Some(thread) })
}

impl Handle {
    /// Where it listens, in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.tally.snapshot()
    }

    /// Stops, and gives the last counts and the CPU time the sink's thread has taken.
    ///
    /// # Errors
    /// As [`Sink::run`].
    pub fn stop(mut self) -> io::Result<(Counts, Duration)> {
        self.stop.store(true, Relaxed);
        let counts = match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| io::Error::other("the sink's thread panicked"))??,
            None => self.counts(),
        };
        Ok((counts, Duration::from_nanos(self.cpu_ns.load(Relaxed))))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
