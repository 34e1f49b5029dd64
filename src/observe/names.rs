//! What listeners, pools and upstreams are called, where their counters lie, and how upstreams stand.

use std::net::SocketAddr;

/// Everything that has a name, in configuration order.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Reloads applied so far.
    pub edition: u64,
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
    /// Its upstreams.
    pub upstreams: Vec<UpstreamName>,
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
    /// How often its state has changed.
    pub changes: u64,
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

impl State {
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
