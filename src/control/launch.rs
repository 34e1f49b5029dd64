//! From a checked configuration to running shards.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::bypass::{self, Bypass};
use super::layout::Layout;
use super::ports::try_port;
use super::{Bound, GOODBYE, View};
use super::{spool, translate};
use crate::config::{Config, Machine};
use crate::disk::Disk;
use crate::disk::store::Store;
use crate::dispatch::options::Options;
use crate::dispatch::{Dispatch, Letter};
use crate::handle::{ListenerId, ShardId};
use crate::net::uring::{self, Uring, UringOptions};
use crate::net::xdp::Xdp;
use crate::net::{Inlet, Net};
use crate::observe::{Scoreboard, Stats};
use crate::shard::mailbox::{Mailbox, mailboxes};
use crate::shard::{Desks, Order, Orders, Shard};
use crate::spool::Spool;
use crate::sys::arena::Arenas;
use crate::sys::ring_table::RingTable;
use crate::sys::{files, numa};

/// How often the wall clock is compared with the shards' own.
const WALL_CLOCK_EVERY: Duration = Duration::from_secs(5);
/// Links of a shard that there is room for, however few the first configuration needs.
const LINKS_ROOM_MIN: u64 = 1024;

/// The exit code of a configuration that will not do.
pub(super) const BAD_CONFIGURATION: u8 = 78;

/// What kept it from starting or going on.
#[derive(Debug)]
pub struct Failure {
    /// The exit code, as in sysexits(3).
    pub exit: u8,
    /// What, where, and what to do.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    pub(super) fn os(what: &str, why: &str, remedy: &str) -> Failure {
        Failure { exit: 71, message: format!("{what} cannot be started: {why}; {remedy}") }
    }

    pub(super) fn internal(why: &str) -> Failure {
        Failure { exit: 70, message: format!("internal error: {why}") }
    }

    pub(super) fn listen(what: &str, address: SocketAddr, error: &std::io::Error) -> Failure {
        let remedy = match error.raw_os_error() {
            // In words already, with the remedy.
            None => return Failure { exit: 71, message: format!("{what} cannot listen: {error}") },
            Some(libc::EADDRINUSE) => {
                "another program listens there: `ss -ltnp` names it; stop it or choose another port"
            }
            Some(libc::EADDRNOTAVAIL) => "this machine has no such address: `ip addr` lists those it has",
            Some(libc::EACCES | libc::EPERM) => {
                "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in a systemd unit)"
            }
            Some(_) => "see the error for what to change",
        };
        Failure { exit: 71, message: format!("{what} cannot listen on {address}: {error}; {remedy}") }
    }
}

/// Shards at work.
#[derive(Debug)]
pub struct Running {
    /// What the control thread sees of them.
    pub view: Arc<View>,
    /// Where they listen.
    pub bound: Vec<Bound>,
    /// What the kernel lets them do, in words.
    pub features: String,
    /// How upstream bytes travel, in words, where not by the kernel.
    pub bypass: Option<String>,
    /// The CPU of each.
    pub cpus: Vec<u32>,
    pub(super) desks: Vec<Arc<Desks>>,
    pub(super) epoch_ms: u64,
    pub(super) room: Room,
    threads: Vec<JoinHandle<Result<(), Failure>>>,
    /// Nobody else may have the spool meanwhile.
    _store: Option<Store>,
}

impl Running {
    /// Waits for the end of all shards.
    ///
    /// # Errors
    /// A shard that ended otherwise than by order.
    pub fn join(self) -> Result<(), Failure> {
        let ends = self.threads.into_iter().map(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => Err(Failure::internal("a shard's thread panicked")),
        });
        ends.fold(Ok(()), Result::and)
    }
}

/// All that one shard's thread is given.
struct Seat {
    id: ShardId,
    cpu: u32,
    options: Options,
    uring: UringOptions,
    arenas: Arc<Arenas>,
    rings: Arc<RingTable>,
    mailbox: Mailbox<Letter>,
    orders: Arc<Orders>,
    stats: Arc<[Arc<Stats>]>,
    scoreboard: Arc<Scoreboard>,
    desks: Arc<Desks>,
    /// By listener, where to listen.
    listen: Vec<Option<Inlet>>,
    bypass: Option<Bypass>,
    /// Its part of the spool, where that is, and whether its writes are waited for.
    spool: Option<(Spool, PathBuf, bool)>,
}

/// What a shard says once it listens.
struct Ready {
    features: String,
}

/// Starts a shard on each of its CPUs, listening.
///
/// # Errors
/// Whatever the kernel refused, with the remedy; nothing runs then.
pub fn launch(config: &Config, machine: &Machine) -> Result<Running, Failure> {
    let files_max = files::raise_limit()
        .map_err(|e| Failure::os("postlane", &e.to_string(), "see RLIMIT_NOFILE in getrlimit(2)"))?;
    for address in config.listeners.iter().flat_map(|listener| &listener.addresses) {
        // The shards share their ports (SO_REUSEPORT), and would share them with another instance too.
        try_port(*address).map_err(|error| Failure::listen("postlane", *address, &error))?;
    }
    let cpus = config.shard_cpus(machine);
    let shards =
        u16::try_from(cpus.len()).map_err(|_| Failure::internal("more shards than can be numbered"))?;
    let arenas = Arenas::new(usize::from(shards), translate::buffers(config, shards)).map_err(|e| {
        Failure::os("postlane", &e.to_string(), "lower `memory`, the bytes for message bodies")
    })?;
    let rings = RingTable::new(usize::from(shards));
    let layout = Layout::new(config, shards);
    let epoch_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let base = translate::base(config, shards, epoch_ms);
    let (stats, scoreboard) = (layout.stats(), layout.scoreboard());
    let orders = Arc::new(Orders::default());
    let room = Room::new(config, files_max);
    let (store, spools) = match spool::open(config, shards)? {
        Some(opened) => {
            let (root, sync) = (opened.store.root().to_owned(), opened.sync);
            let parts = opened.spools.into_iter().map(|spool| Some((spool, root.clone(), sync))).collect();
            (Some(opened.store), parts)
        }
        None => (None, (0..shards).map(|_| None).collect::<Vec<_>>()),
    };
    let bypasses = bypass::all(config, &cpus)?;
    let interface = bypasses.iter().flatten().next().map(|bypass| bypass.interface.clone());
    let shown = interface.as_deref().map(bypass::shown);
    let mut running = Running {
        view: Arc::new(View::new(layout.clone(), stats.clone(), orders.clone(), shown)),
        bound: Vec::new(),
        features: String::new(),
        bypass: interface.as_deref().map(|interface| bypass::words(interface, config)),
        cpus,
        desks: (0..shards).map(|_| Arc::default()).collect(),
        epoch_ms,
        room,
        threads: Vec::new(),
        _store: store,
    };
    let seats = mailboxes::<Letter>(shards).into_iter().zip(bypasses).zip(spools);
    for (index, ((mailbox, bypass), spool)) in seats.enumerate() {
        let id = ShardId(index as u16);
        let cpu = running.cpus[index];
        let seat = Seat {
            id,
            cpu,
            options: layout.options(&base, id),
            uring: room.ring(id, cpu),
            desks: running.desks[index].clone(),
            arenas: arenas.clone(),
            rings: rings.clone(),
            mailbox,
            orders: orders.clone(),
            stats: stats.clone(),
            scoreboard: scoreboard.clone(),
            listen: layout.listen(),
            bypass,
            spool,
        };
        match start(seat) {
            Ok((thread, ready)) => {
                running.threads.push(thread);
                running.features = ready.features;
            }
            Err(failure) => {
                orders.give(Order::Stop);
                let _ = running.join();
                return Err(failure);
            }
        }
    }
    running.bound = bound(config);
    Ok(running)
}

fn bound(config: &Config) -> Vec<Bound> {
    let each = |listener: &crate::config::Listener| {
        let name = listener.name.clone();
        let one = move |address: &SocketAddr| Bound { name: name.clone(), address: *address };
        listener.addresses.iter().map(one).collect::<Vec<_>>()
    };
    config.listeners.iter().flat_map(each).collect()
}

/// Starts one shard's thread and waits until it listens.
fn start(seat: Seat) -> Result<(JoinHandle<Result<(), Failure>>, Ready), Failure> {
    let (tell, told) = mpsc::channel();
    let name = format!("shard-{}", seat.id.0);
    let thread = Builder::new()
        .name(name)
        .spawn(move || {
            if let Err(failure) = seat.live(&tell) {
                let _ = tell.send(Err(failure));
            }
            Ok(())
        })
        .map_err(|e| {
            Failure::os("a shard's thread", &e.to_string(), "raise the limit of processes (ulimit -u)")
        })?;
    match told.recv() {
        Ok(Ok(ready)) => Ok((thread, ready)),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::internal("a shard ended before it began")),
    }
}

impl Seat {
    /// On the shard's own thread: the ring must be made by whoever uses it. Says when it listens, and ends with the shard.
    fn live(mut self, tell: &mpsc::Sender<Result<Ready, Failure>>) -> Result<(), Failure> {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu as usize }) {
            eprintln!(
                "postlane: shard {} could not be pinned to CPU {}; it runs unpinned",
                self.id.0, self.cpu
            );
        }
        // Where there is but one node, or no say in it, memory lies where it lies.
        if numa::has_several_nodes()
            && let Err(error) = self.arenas.settle(self.id)
        {
            eprintln!("postlane: shard {}'s memory may lie on another node than its CPU: {error}", self.id.0);
        }
        let opened_max = self.uring.opened_max;
        let mut ring = Uring::new(self.uring.clone(), self.arenas.clone(), self.rings.clone())
            .map_err(|error: uring::Error| Failure { exit: 71, message: error.to_string() })?;
        let ready = Ready { features: ring.features().to_string() };
        if let Some((_, root, sync)) = &self.spool {
            ring.use_spool(root.clone(), *sync);
        }
        let Some(bypass) = self.bypass.take() else { return self.work(ring, ready, tell) };
        let Bypass { interface, queues, handover } = bypass;
        let net = Xdp::new(ring, self.id, interface, queues, handover, opened_max).map_err(|error| {
            Failure::os("kernel bypass", &error.to_string(), "see netlink(7) for what may be refused")
        })?;
        self.work(net, ready, tell)
    }

    fn work<N: Net + Disk>(
        self,
        net: N,
        ready: Ready,
        tell: &mpsc::Sender<Result<Ready, Failure>>,
    ) -> Result<(), Failure> {
        let mut dispatch =
            Dispatch::new(self.options, self.stats[self.id.index()].clone(), unix_at_zero_ms());
        dispatch.set_scoreboard(self.scoreboard);
        if let Some((spool, ..)) = self.spool {
            dispatch.set_spool(spool);
        }
        let mut shard = Shard::new(self.id, net, dispatch, self.mailbox, self.orders.clone(), self.stats);
        shard.attend(self.desks);
        for (place, inlet) in self.listen.iter().enumerate() {
            let Some(inlet) = *inlet else { continue };
            shard
                .listen_at(ListenerId(place as u16), inlet)
                .map_err(|error| Failure::listen(&format!("shard {}", self.id.0), inlet.address, &error))?;
        }
        let _ = tell.send(Ok(ready));
        work(shard, &self.orders);
        Ok(())
    }
}

/// A shard's life.
fn work<N: Net + Disk>(mut shard: Shard<N>, orders: &Orders) {
    let mut look_at = shard.now();
    let mut stopped_at = None;
    loop {
        shard.turn();
        if shard.has_ended() {
            // What the last turn wrote leaves with another: the acknowledgement of an upstream's end.
            return shard.turn();
        }
        if orders.get() == Order::Stop {
            let stopped_at = *stopped_at.get_or_insert_with(Instant::now);
            if stopped_at.elapsed() > GOODBYE {
                return;
            }
        }
        // The wall clock may be set; dates follow within seconds.
        if shard.now() >= look_at {
            look_at = shard.now() + WALL_CLOCK_EVERY;
            shard.set_unix_at_zero_ms(unix_at_zero_ms());
        }
    }
}

fn unix_at_zero_ms() -> i64 {
    super::spool::unix_at_zero_ms() as i64
}

/// How many streams each shard has room for: made at the start, so a reload has to fit into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) sessions: u32,
    pub(super) links: u32,
}

impl Room {
    /// For this configuration and some more, within the limit of open files.
    fn new(config: &Config, files_max: u64) -> Room {
        let (sessions, links) = wanted(config);
        // Those that a reload adds stand beside those that it takes away; and there may be many more of them.
        let links_max = (2 * links).max(LINKS_ROOM_MIN.min(files_max / 4)).min(files_max / 2).min(1 << 18);
        let sessions_max = sessions.min(files_max - links_max);
        if sessions_max < sessions {
            eprintln!(
                "postlane: room for {sessions_max} sessions on each shard, not {sessions}: raise the limit of open files \
                 to {} (`ulimit -n`, LimitNOFILE= in a systemd unit) or lower max_sessions",
                sessions + links_max
            );
        }
        Room { sessions: sessions_max.min(1 << 19) as u32, links: links_max as u32 }
    }

    /// The ring of one shard.
    fn ring(self, shard: ShardId, cpu: u32) -> UringOptions {
        let Room { sessions: accepted_max, links: opened_max } = self;
        UringOptions { shard, cpu: Some(cpu), accepted_max, opened_max, ..UringOptions::default() }
    }

    /// What there is no room for in another configuration, in words: links, without which it cannot do; and sessions,
    /// of which it then has fewer.
    pub(super) fn lacks(&self, running: &Config, next: &Config) -> (Option<String>, Option<String>) {
        let ((sessions_now, links_now), (sessions, links)) = (wanted(running), wanted(next));
        let lack = |now: u64, wanted: u64, room: u32, what: &str| {
            (wanted > now && wanted > u64::from(room)).then(|| {
                format!("{what}: {wanted} on each shard, but since its start this process has room for {room}; only a restart makes more")
            })
        };
        (
            lack(links_now, links, self.links, "links (`links_per_shard` for each upstream)"),
            lack(sessions_now, sessions, self.sessions, "sessions (`max_sessions` of all listeners)"),
        )
    }
}

/// Open files that a shard's ring has room for, where the limit allows it: its streams are not the process's
/// descriptors, but the kernel holds each ring's table to the same limit.
pub(super) fn files_of_ring(config: &Config) -> u64 {
    let (sessions, links) = wanted(config);
    sessions + (2 * links).max(LINKS_ROOM_MIN)
}

/// Sessions and links that a shard may have, some sessions more for those that are told that there are too many.
fn wanted(config: &Config) -> (u64, u64) {
    let sessions: u64 = config.listeners.iter().map(|listener| u64::from(listener.max_sessions)).sum();
    let links = |pool: &crate::config::Pool| u64::from(pool.links_per_shard) * pool.upstreams.len() as u64;
    (sessions + sessions / 16 + 64, config.pools.iter().map(links).sum::<u64>() + 1)
}
