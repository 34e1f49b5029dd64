//! Configuration: TOML text to checked values, every error at once as `file:line:column: message`.
//!
//! [`Config`] is plain data that holds only values the program can act on: whatever reads it need not check
//! again. Nothing below this room names it; `main` and `control` turn it into each room's own options.
//!
//! How a text becomes a [`Config`]: `tree` parses the files and merges them into one tree that remembers where
//! each value was written, `schema` walks the tree by `section` (typed, strict reading of one table) and checks
//! values against each other, `error` turns places into lines and columns. [`plan`] says what a configuration
//! comes to on a given machine.

mod cpu_list;
mod difference;
mod error;
mod plan;
mod schema;
mod secret;
mod section;
mod similar;
mod tree;
mod units;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::network::Network;
pub use crate::route::{Domain, Glob, HeaderRule};
pub use cpu_list::CpuList;
pub use difference::{Difference, difference};
pub use error::{Error, Errors};
pub use plan::{
    Bounds, ListenerPlan, Plan, PoolPlan, SYNC_OFF, ShardPlan, SpoolPlan, UpstreamPlan, XdpPlan, plan,
};
pub use units::{parse_duration, parse_size};

/// A small, complete configuration with comments: what the README shows and a new user starts from.
pub const EXAMPLE: &str = include_str!("example.toml");

/// What a configuration is checked against: facts about the machine, gathered by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The machine's own name, taken for `hostname` when the configuration sets none.
    pub hostname: String,
    /// CPUs this process may run on, in the order in which shards should take them.
    pub cpus: Vec<u32>,
    /// CPUs kept free of ordinary work (`isolcpus=`): shards get them only if `shards` names them.
    pub isolated: Vec<u32>,
    /// Memory of the machine in bytes (or of the control group, if that is less).
    pub memory_bytes: u64,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name said in the banner, in EHLO and in `Received:`. A valid domain name.
    pub hostname: String,
    /// How many shards there are and where they run.
    pub shards: Shards,
    /// What of a recipient is hashed to find its shard.
    pub shard_by: ShardBy,
    /// How bytes travel to upstreams; and from clients may travel, where a listener says so.
    pub backend: Backend,
    /// The interface for kernel bypass; there if `backend` is that.
    pub xdp: Option<Xdp>,
    /// How long transactions under way may take to finish once draining.
    pub drain_timeout: Duration,
    /// Memory for message bodies in bytes, for the whole process. Default: a quarter of the machine's.
    pub memory: u64,
    /// The HTTP endpoint for operators, if there is one.
    pub admin: Option<Admin>,
    /// Where mail is taken; at least one.
    pub listeners: Vec<Listener>,
    /// Where mail is sent; at least one, the first being the one used when no route says otherwise.
    pub pools: Vec<Pool>,
    /// Which pool takes what; the first that matches counts.
    pub routes: Vec<Route>,
    /// When a message is answered for, and by whom.
    pub delivery: Delivery,
}

/// `shards`: how many there are and on which CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One per CPU allowed to the process.
    Auto,
    /// That many, 1 to 1024, on CPUs of the program's choice.
    Count(u16),
    /// One on each of these CPUs; none twice, all allowed to the process.
    Cpus(Vec<u32>),
}

/// `shard_by`: what finds a recipient's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardBy {
    /// The whole address, lower-cased and hashed.
    Address,
    /// The domain, the same.
    Domain,
    /// The session: the shard that took the message.
    Session,
}

impl ShardBy {
    /// All of them.
    pub const ALL: [ShardBy; 3] = [ShardBy::Address, ShardBy::Domain, ShardBy::Session];

    /// Its name in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            ShardBy::Address => "address",
            ShardBy::Domain => "domain",
            ShardBy::Session => "session",
        }
    }
}

/// `backend`: how bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By the kernel's TCP, through io_uring.
    Uring,
    /// Past the kernel, over the interface of `[xdp]`.
    Xdp,
}

impl Backend {
    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            Backend::Uring => "uring",
            Backend::Xdp => "xdp",
        }
    }
}

/// `[xdp]`: kernel bypass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// The interface's name.
    pub interface: String,
    /// Queues to use; `None`: all.
    pub queues: Option<Vec<u32>>,
    /// How frames get to us; `None`: the best there is.
    pub mode: Option<XdpMode>,
    /// Local ports, kept from the kernel.
    pub ports: std::ops::RangeInclusive<u16>,
    /// If it is refused, everything goes by the kernel instead of nothing.
    pub fallback: bool,
}

/// `mode`: how frames get to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// The driver uses our memory.
    ZeroCopy,
    /// The driver runs the program, the kernel copies.
    Copy,
    /// The kernel runs the program and copies.
    Generic,
}

impl XdpMode {
    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            XdpMode::ZeroCopy => "zero-copy",
            XdpMode::Copy => "copy",
            XdpMode::Generic => "generic",
        }
    }
}

/// `[admin]`: the HTTP endpoint for operators.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What callers must present. Always there unless `listen` is a loopback address.
    pub token: Option<String>,
}

impl std::fmt::Debug for Admin {
    /// The token stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "(secret)");
        f.debug_struct("Admin").field("listen", &self.listen).field("token", &token).finish()
    }
}

/// `[[listener]]`: where mail is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique among listeners; a label in metrics.
    pub name: String,
    /// At least one; no address is listened on twice in a configuration.
    pub addresses: Vec<SocketAddr>,
    /// How its clients' bytes travel that come by the interface of `[xdp]`; all others go by the kernel anyway.
    pub backend: Backend,
    /// Who may relay.
    pub trusted: Vec<Network>,
    /// Largest message taken, in bytes (RFC 1870 SIZE).
    pub max_message: u64,
    /// Most recipients of one transaction.
    pub max_recipients: u32,
    /// Most sessions at once, over all shards.
    pub max_sessions: u32,
    /// How long a session may stay silent (RFC 5321 4.5.3.2.7 asks for five minutes).
    pub idle_timeout: Duration,
}

/// `[[pool]]`: upstreams that can stand in for each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique among pools; a label in metrics.
    pub name: String,
    /// How an upstream is picked.
    pub balance: Balance,
    /// Most links from one shard to one upstream; at least one.
    pub links_per_shard: u16,
    /// Links kept open when there is nothing to send; at most `links_per_shard`.
    pub idle_links: u16,
    /// Transactions after which a link is closed; 0: no limit.
    pub transactions_per_link: u32,
    /// Local addresses to send from, of every address family the upstreams have; empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// How long opening a link may take, up to the upstream's answer to EHLO.
    pub connect_timeout: Duration,
    /// How long one reply may take.
    pub reply_timeout: Duration,
    /// How long an idle link beyond `idle_links` is kept.
    pub idle_timeout: Duration,
    /// Most upstreams a message is tried on, the first included; at least one.
    pub attempts: u8,
    /// Messages go by BDAT, with their commands in one send, to upstreams that offer CHUNKING.
    pub chunking: bool,
    /// The name of the pool that takes over while none of the upstreams is healthy.
    pub fallback: Option<String>,
    /// How upstreams are watched.
    pub health: Health,
    /// At least one.
    pub upstreams: Vec<Upstream>,
}

/// `balance`: how an upstream is picked.
pub use crate::balance::Policy as Balance;

/// `[pool.health]`: how upstreams are watched, and when one is left alone for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What a probe does.
    pub probe: Probe,
    /// What it asks for between EHLO and QUIT.
    pub probe_mail: Option<ProbeMail>,
    /// From one probe to the next, give or take a fifth.
    pub interval: Duration,
    /// Good probes in a row that bring an upstream up; at least one.
    pub rise: u32,
    /// Bad probes in a row that take it down; at least one.
    pub fall: u32,
    /// Failures in a row, seen in live traffic, that eject an upstream.
    pub eject_after: u32,
    /// How long the first ejection lasts; grows with each, at most five minutes.
    pub eject_for: Duration,
    /// How long an upstream that comes back takes to its full share.
    pub slow_start: Duration,
    /// With a smaller healthy part of the pool than this, in thousandths, no upstream is left out.
    pub panic_below_permille: u16,
}

/// `probe`: what a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Connects, reads the greeting, says EHLO and QUIT.
    Smtp,
    /// Connects.
    Tcp,
    /// There is none.
    Off,
}

/// `probe_recipient`, `probe_sender`: a probe asks whether mail would be taken, and takes it back by RSET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeMail {
    /// Empty: the null sender, `<>`.
    pub sender: String,
    /// Of whom the upstream is asked.
    pub recipient: String,
}

/// `[[route]]`: which pool takes what. Every condition must hold; of a list, one.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The recipient's domain; empty: any.
    pub recipient_domain: Vec<Domain>,
    /// The sender's domain; empty: any.
    pub sender_domain: Vec<Domain>,
    /// Names of listeners; empty: any.
    pub listener: Vec<String>,
    /// Where the client is; empty: anywhere.
    pub source: Vec<Network>,
    /// A header field and a pattern for its value.
    pub header: Option<HeaderRule>,
    /// The pool's name.
    pub pool: String,
}

/// `[[pool.upstream]]`: one mail server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Unique within its pool; a label in metrics.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share relative to the others', 1 to 65535.
    pub weight: u32,
}

/// `[delivery]`: when a message is answered for, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Who answers for a message.
    pub mode: Mode,
    /// The address in `From:` of bounces.
    pub bounce_from: String,
    /// How long an upstream may take before the spool answers.
    pub through_timeout: Duration,
    /// The spool's directory.
    pub spool: PathBuf,
    /// Most bytes of it on disk.
    pub spool_max: u64,
    /// Whether a message is on disk, not only with the kernel, before it is acknowledged.
    pub sync: bool,
    /// The time to the next attempt after the first, the second, …; the last repeats. Never empty.
    pub retry: Vec<Duration>,
    /// How long a message is tried before it is bounced.
    pub max_age: Duration,
    /// When those who asked for it (NOTIFY=DELAY) are told that their message is late.
    pub delay_warning: Duration,
}

/// `mode`: who answers for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The upstream: the client's final reply comes only after the upstream's.
    Through,
    /// The spool: the client's final reply comes when the message is on disk.
    Spool,
    /// The upstream, and for what none would take in time the spool.
    ThroughThenSpool,
}

impl Mode {
    /// The word in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Through => "through",
            Mode::Spool => "spool",
            Mode::ThroughThenSpool => "through-then-spool",
        }
    }

    /// Whether it needs a spool.
    pub const fn has_spool(self) -> bool {
        !matches!(self, Mode::Through)
    }
}

impl Config {
    /// Reads a configuration file and the `conf.d/*.toml` beside it, in name order.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the files and their lines; also a file that cannot be read or
    /// is not UTF-8.
    pub fn load(path: &Path, machine: &Machine) -> Result<Config, Errors> {
        let (tree, report) = tree::load(path);
        schema::check(&tree, report, machine)
    }

    /// Reads one text. `name` stands for the file in errors, and relative paths in it start where `name` does.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text.
    pub fn parse(name: &str, text: &str, machine: &Machine) -> Result<Config, Errors> {
        let (tree, report) = tree::parse(name, text);
        schema::check(&tree, report, machine)
    }

    /// The CPU of each shard, in the order of the shards: never empty. A count larger than the number of CPUs
    /// goes round.
    pub fn shard_cpus(&self, machine: &Machine) -> Vec<u32> {
        match &self.shards {
            Shards::Auto if machine.cpus.is_empty() => vec![0],
            Shards::Auto => machine.cpus.iter().copied().take(schema::SHARDS_MAX).collect(),
            Shards::Count(count) if machine.cpus.is_empty() => vec![0; usize::from(*count)],
            Shards::Count(count) => machine.cpus.iter().copied().cycle().take(usize::from(*count)).collect(),
            Shards::Cpus(cpus) => cpus.clone(),
        }
    }
}
