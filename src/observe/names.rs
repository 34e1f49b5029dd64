//! What listeners, pools and upstreams are called, where their counters lie, and how upstreams stand.

use std::net::SocketAddr;

use serde::Serialize;

/// The interface that bytes bypass the kernel by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Bypass {
    /// Its name.
    pub interface: String,
    /// `zero-copy`, `copy` or `generic`: the mode that was to be had.
    pub mode: String,
    /// Its queues that are used.
    pub queues: Vec<u32>,
    /// Whether frames lie on huge pages.
    pub huge_pages: bool,
    /// The NUMA nodes that they lie on.
    pub nodes: Vec<u32>,
}

impl Bypass {
    /// What frames lie on, in words.
    pub(super) fn frames(&self) -> String {
        let pages = if self.huge_pages { "huge pages" } else { "ordinary pages" };
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        match nodes.as_slice() {
            [] => pages.to_owned(),
            nodes => format!("{pages} of node {}", nodes.join(" and ")),
        }
    }
}

/// Everything that has a name, in configuration order.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Reloads applied so far.
    pub edition: u64,
    /// By what the kernel is bypassed, if it is.
    pub bypass: Option<Bypass>,
    /// Listeners.
    pub listeners: Vec<ListenerName>,
    /// Pools.
    pub pools: Vec<PoolName>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerName {
    /// Its name.
    pub name: String,
    /// Its counters' place in a shard's `Stats`.
    pub place: usize,
}

/// A pool.
#[derive(Clone, Debug)]
pub struct PoolName {
    /// Its name.
    pub name: String,
    /// Its counters' place.
    pub place: usize,
    /// How it stands.
    pub standing: PoolStanding,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamName>,
}

/// How a pool stands as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStanding {
    /// So few of its upstreams are healthy that some shard ignores the marks.
    pub panic: Episode,
    /// Some shard sends its mail to its fallback, for want of a healthy upstream.
    pub fallback: Episode,
}

/// Something that comes and goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Episode {
    /// It is so now.
    pub is_on: bool,
    /// Since when it is or is not, in seconds since 1970.
    pub since_unix: f64,
    /// How often it began.
    pub begun: u64,
    /// How often it ended.
    pub ended: u64,
}

impl Episode {
    /// Takes in how it is now; true if that is news.
    pub fn turn(&mut self, is_on: bool, now_unix: f64) -> bool {
        if self.is_on == is_on {
            return false;
        }
        (self.is_on, self.since_unix) = (is_on, now_unix);
        *if is_on { &mut self.begun } else { &mut self.ended } += 1;
        true
    }
}

/// An upstream.
#[derive(Clone, Debug)]
pub struct UpstreamName {
    /// Its name.
    pub name: String,
    /// Its counters' place within the pool's.
    pub place: usize,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, as in force.
    pub weight: u32,
    /// How it stands.
    pub standing: Standing,
}

/// How an upstream stands, as the control thread sees it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// What may go there.
    pub state: State,
    /// Since when, in seconds since 1970.
    pub since_unix: f64,
    /// Why, in words.
    pub why: String,
    /// How often it has come into each state, in the order of [`State::ALL`].
    pub entered: [u64; State::ALL.len()],
    /// Recipients delivered there lately: in the last ten seconds or so.
    pub lately: u64,
    /// Probes that went well.
    pub probes_good: u64,
    /// Probes that did not.
    pub probes_bad: u64,
}

/// What may go to an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Its share.
    #[default]
    Up,
    /// Less than its share: some shard leaves it out because of what live traffic met.
    Ejected,
    /// Nothing: probes find it down.
    Down,
    /// Nothing new, by an operator's order; it is still probed.
    Draining,
    /// Nothing, by an operator's order.
    Disabled,
    /// Nothing new: a reload has taken it out.
    Leaving,
}

impl Standing {
    /// How often its state has changed.
    pub fn changes(&self) -> u64 {
        self.entered.iter().sum()
    }
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] =
        [State::Up, State::Ejected, State::Down, State::Draining, State::Disabled, State::Leaving];

    /// Its name for people and programs.
    pub const fn label(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Ejected => "ejected",
            State::Down => "down",
            State::Draining => "draining",
            State::Disabled => "disabled",
            State::Leaving => "leaving",
        }
    }
}
