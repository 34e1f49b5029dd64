//! What dispatch is told at start.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::KeepOptions;
use super::owner::ShardBy;
use crate::balance::board::{Board, Mark};
use crate::balance::health::Rules;
use crate::balance::{Care, Policy};
use crate::handle::ShardId;
use crate::network::Network;
use crate::protocol::server;
use crate::route::Routes;

/// One shard's dispatch.
#[derive(Clone, Debug)]
pub struct Options {
    /// This shard.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// What of a recipient names its shard.
    pub shard_by: ShardBy,
    /// The host's name, in greetings, hellos and `Received:`.
    pub hostname: String,
    /// When the process started, milliseconds since 1970: the first part of every message's id.
    pub epoch_ms: u64,
    /// Spreads ties between upstreams.
    pub seed: u64,
    /// Bounces come from `MAILER-DAEMON` at this address.
    pub bounce_from: String,
    /// Whether and how messages are kept.
    pub keep: KeepOptions,
    /// Buffers that can be free at most: the bound of memory for messages.
    pub buffers: usize,
    /// In configuration order.
    pub listeners: Vec<Listener>,
    /// In configuration order.
    pub pools: Vec<Pool>,
    /// Which of them takes what.
    pub routes: Arc<Routes>,
    /// Says when a mark of an upstream has changed.
    pub board: Arc<Board>,
}

/// One listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name, for routes.
    pub name: String,
    /// Who may relay.
    pub trusted: Vec<Network>,
    /// What the protocol is told: host name, sizes, bounds.
    pub server: server::Options,
    /// Most sessions on the whole machine.
    pub sessions_max: u64,
    /// How long a session may be silent.
    pub idle_timeout: Duration,
}

/// One pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Tells its place's holders apart.
    pub serial: u64,
    /// How it chooses.
    pub policy: Policy,
    /// Most links from this shard to one upstream.
    pub links_max: usize,
    /// Idle links kept for as long as the upstream keeps them.
    pub idle_links: usize,
    /// How long the other idle ones are kept.
    pub idle_timeout: Duration,
    /// Transactions after which a link is closed; 0: no limit.
    pub transactions_per_link: u32,
    /// Local addresses to send from, in turn; empty: the kernel's choice.
    pub source_addresses: Vec<IpAddr>,
    /// How long opening a stream may take.
    pub connect_timeout: Duration,
    /// How long a reply may take.
    pub reply_timeout: Duration,
    /// Most upstreams a message is offered to; 1 to 20.
    pub attempts: u8,
    /// Messages go by BDAT, with their commands in one send, to upstreams that offer CHUNKING.
    pub chunking: bool,
    /// The pool that takes over while none of the upstreams is healthy, and what all of them put off.
    pub fallback: Option<usize>,
    /// When an upstream is ejected.
    pub health: Rules,
    /// How one that comes back is treated, and bad times of the whole.
    pub care: Care,
    /// In configuration order.
    pub upstreams: Vec<Upstream>,
}

/// One upstream.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name, for bounces.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Tells its place's holders apart.
    pub serial: u64,
    /// What the control thread says of it, its weight included.
    pub mark: Arc<Mark>,
    /// It is to get nothing new; when nothing is left of it, its place is free.
    pub is_leaving: bool,
}

impl Upstream {
    /// One that stays.
    pub fn new(name: impl Into<String>, address: SocketAddr, weight: u32) -> Upstream {
        Upstream {
            name: name.into(),
            address,
            serial: 0,
            mark: Arc::new(Mark::new(weight)),
            is_leaving: false,
        }
    }
}

impl Default for Pool {
    /// What a configuration gets that says nothing, and no upstream.
    fn default() -> Pool {
        Pool {
            name: String::new(),
            serial: 0,
            policy: Policy::default(),
            links_max: 8,
            idle_links: 1,
            idle_timeout: Duration::from_secs(30),
            transactions_per_link: 0,
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(300),
            attempts: 3,
            chunking: true,
            fallback: None,
            health: Rules::default(),
            care: Care { slow_start: Duration::from_secs(30), panic_below_permille: 300 },
            upstreams: Vec::new(),
        }
    }
}
