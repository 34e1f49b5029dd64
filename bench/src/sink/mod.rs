//! A test MTA: accepts, delays, refuses, drops and hangs by rule, stores or counts.

mod counts;
mod dialogue;
mod rules;
mod store;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use counts::Counts;
use counts::Tally;
use dialogue::{Desk, Dialogue, Step};
pub(crate) use rules::Dice;
pub use rules::{DropRule, FailRule, Offers};
use store::Store;
pub use store::{Dumped, fnv1a};

use crate::sys::{self, Event, Poll};

/// How long a sink may sleep before it looks at its stop flag.
const NAP: Duration = Duration::from_millis(50);
const READ_BYTES: usize = 128 << 10;
/// Tokens of listeners have this bit; all others are a session's slot and generation.
const LISTENER: u64 = 1 << 63;

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

struct Session {
    stream: TcpStream,
    dialogue: Dialogue,
    /// Replies the socket would not take yet.
    unsent: Vec<u8>,
    state: State,
    /// There may be more to read than was read.
    readable: bool,
    /// The peer has ended its side.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Talking,
    /// The final reply is due at some time; nothing is read meanwhile.
    Answering,
    /// What comes is read and ignored.
    Hung,
    /// Closes once everything is sent.
    Closing,
}

/// Sessions by slot; the generation tells a slot's tenants apart.
#[derive(Default)]
struct Slots {
    sessions: Vec<(u32, Option<Box<Session>>)>,
    free: Vec<u32>,
}

impl Slots {
    fn insert(&mut self, session: Session) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push((0, None));
            self.sessions.len() as u32 - 1
        });
        let (generation, place) = &mut self.sessions[slot as usize];
        *place = Some(Box::new(session));
        u64::from(*generation) << 32 | u64::from(slot)
    }

    fn take(&mut self, token: u64) -> Option<Box<Session>> {
        let (generation, place) = self.sessions.get_mut(token as u32 as usize)?;
        if u64::from(*generation) == token >> 32 {
            place.take()
        } else {
            None
        }
    }

    fn put_back(&mut self, token: u64, session: Box<Session>) {
        self.sessions[token as u32 as usize].1 = Some(session);
    }

    /// Frees the slot of a session that was taken and will not come back.
    fn release(&mut self, token: u64) {
        let generation = &mut self.sessions[token as u32 as usize].0;
        *generation = generation.wrapping_add(1) & 0x7FFF_FFFF;
        self.free.push(token as u32);
    }
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
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()?;
        Ok(Sink {
            options,
            listeners,
            addresses,
            store,
            tally: Arc::new(Tally::new()),
            poll,
        })
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
        let Sink {
            options,
            listeners,
            store,
            tally,
            poll,
            ..
        } = self;
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
        let mut server = Server {
            poll,
            listeners,
            accept_again: false,
            desk,
            slots: Slots::default(),
            due: BinaryHeap::new(),
            latency: options.latency,
            jitter: options.jitter,
            started: Instant::now(),
            buffer: vec![0; READ_BYTES],
        };
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

/// The running loop.
struct Server<'a> {
    poll: Poll,
    listeners: Vec<TcpListener>,
    /// Accepting stopped for want of descriptors: try again without being told.
    accept_again: bool,
    desk: Desk<'a>,
    slots: Slots,
    /// Final replies: when (nanoseconds since the start), to whom.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    latency: Duration,
    jitter: bool,
    started: Instant,
    buffer: Vec<u8>,
}

impl Server<'_> {
    fn turn(&mut self) -> io::Result<()> {
        let found = self.poll.wait(self.timeout())?;
        for index in 0..found {
            let event = self.poll.event(index);
            if event.token & LISTENER != 0 {
                self.accept((event.token & !LISTENER) as usize);
            } else {
                self.serve(event.token, Some(event));
            }
        }
        if self.accept_again {
            self.accept_again = false;
            (0..self.listeners.len()).for_each(|index| self.accept(index));
        }
        self.answer_due();
        self.desk.store.flush()
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn timeout(&self) -> Duration {
        match self.due.peek() {
            Some(Reverse((at, _))) => NAP.min(Duration::from_nanos(at.saturating_sub(self.now_ns()))),
            None => NAP,
        }
    }

    fn accept(&mut self, index: usize) {
        loop {
            match sys::accept(&self.listeners[index]) {
                Ok(Some(stream)) => self.welcome(stream),
                Ok(None) => return,
                Err(_) => {
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream) {
        self.desk.tally.connections.add(1);
        let session = Session {
            stream,
            dialogue: Dialogue::new(),
            unsent: Vec::new(),
            state: State::Talking,
            readable: false,
            ended: false,
        };
        let token = self.slots.insert(session);
        let Some(mut session) = self.slots.take(token) else {
            return;
        };
        let step = session.dialogue.greet(&mut self.desk);
        session.enter(step);
        let alive = self.poll.add(&session.stream, token).is_ok() && session.flush(&mut self.desk.out);
        self.settle(token, session, alive);
    }

    /// Gives a session its turn: reads, lets the dialogue answer, sends.
    fn serve(&mut self, token: u64, event: Option<Event>) {
        let Some(mut session) = self.slots.take(token) else {
            return;
        };
        if let Some(event) = event {
            session.readable |= event.readable;
            session.ended |= event.ended;
        }
        let alive = self.advance(token, &mut session);
        self.settle(token, session, alive);
    }

    fn settle(&mut self, token: u64, session: Box<Session>, alive: bool) {
        if alive && !(session.state == State::Closing && session.unsent.is_empty()) {
            self.slots.put_back(token, session);
        } else {
            drop(session);
            self.slots.release(token);
        }
    }

    fn advance(&mut self, token: u64, session: &mut Session) -> bool {
        loop {
            if !session.flush(&mut self.desk.out) {
                return false;
            }
            let wants = matches!(session.state, State::Talking | State::Hung);
            if !wants || !session.readable || !session.unsent.is_empty() {
                return true;
            }
            let length = match session.stream.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    session.readable = false;
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            // A short read has emptied the socket: what comes later makes a new event.
            session.readable = length == self.buffer.len() || session.ended;
            if session.state == State::Talking {
                let step = session.dialogue.take(&self.buffer[..length], &mut self.desk);
                self.follow(token, session, step);
            }
        }
    }

    /// Goes where the dialogue says, answering at once where there is no latency.
    fn follow(&mut self, token: u64, session: &mut Session, mut step: Step) {
        while step == Step::Answer {
            if !self.latency.is_zero() {
                let mean = self.latency.as_nanos() as f64;
                let wait = if self.jitter {
                    self.desk.dice.exponential(mean)
                } else {
                    mean
                };
                self.due.push(Reverse((self.now_ns() + wait as u64, token)));
                break;
            }
            step = self.answer(session);
        }
        session.enter(step);
    }

    fn answer(&mut self, session: &mut Session) -> Step {
        match session.dialogue.answer(&mut self.desk) {
            Step::More => session.dialogue.take(&[], &mut self.desk),
            step => step,
        }
    }

    fn answer_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let now = self.now_ns();
        while let Some(Reverse((at, token))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            let Some(mut session) = self.slots.take(token) else {
                continue;
            };
            session.state = State::Talking;
            let step = self.answer(&mut session);
            self.follow(token, &mut session, step);
            let alive = self.advance(token, &mut session);
            self.settle(token, session, alive);
        }
    }
}

impl Session {
    fn enter(&mut self, step: Step) {
        self.state = match step {
            Step::More => State::Talking,
            Step::Answer => State::Answering,
            Step::Close => State::Closing,
            Step::Hang => State::Hung,
        };
    }

    /// Sends what there is to send, keeps what the socket does not take. False: the connection is gone.
    fn flush(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.unsent.is_empty() {
            self.unsent.append(out);
            std::mem::swap(&mut self.unsent, out);
        }
        let mut sent = 0;
        while sent < out.len() {
            match self.stream.write(&out[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    out.clear();
                    return false;
                }
            }
        }
        self.unsent.clear();
        self.unsent.extend_from_slice(&out[sent..]);
        out.clear();
        true
    }
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
    Ok(Handle {
        addresses,
        tally,
        stop,
        cpu_ns,
        thread: Some(thread),
    })
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
            Some(thread) => thread
                .join()
                .map_err(|_| io::Error::other("the sink's thread panicked"))??,
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
