//! From a fleet, what is known of a message, the time and a random number: a pick. Pure; one file per policy.

pub mod board;
pub mod concurrency;
pub mod estimate;
mod fleet;
pub mod health;
mod least_connections;
mod least_response_time;
mod member;
mod power_of_two;
mod random;
mod recipient_hash;
mod rendezvous;
mod round_robin;
mod scan;
mod source_hash;
mod weighted_round_robin;

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

pub use fleet::{Care, Fleet, Heard};
pub use member::Member;

/// How a pool chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Estimate × (in flight + 1) / weight, the least.
    #[default]
    LeastResponseTime,
    /// One after the other, whatever they are like.
    RoundRobin,
    /// One after the other, the heavier more often, evenly spread.
    WeightedRoundRobin,
    /// The fewest in flight.
    LeastConnections,
    /// The fewest in flight for its weight.
    WeightedLeastConnections,
    /// The less busy of two drawn at random.
    PowerOfTwo,
    /// By the recipient, bounded by the load of the others.
    RecipientHash,
    /// By the address the message came from.
    SourceHash,
    /// At random, the heavier more often.
    Random,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 9] = [
        Policy::LeastResponseTime,
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        Policy::WeightedLeastConnections,
        Policy::PowerOfTwo,
        Policy::RecipientHash,
        Policy::SourceHash,
        Policy::Random,
    ];

    /// Its name in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Policy::LeastResponseTime => "least-response-time",
            Policy::RoundRobin => "round-robin",
            Policy::WeightedRoundRobin => "weighted-round-robin",
            Policy::LeastConnections => "least-connections",
            Policy::WeightedLeastConnections => "weighted-least-connections",
            Policy::PowerOfTwo => "power-of-two",
            Policy::RecipientHash => "recipient-hash",
            Policy::SourceHash => "source-hash",
            Policy::Random => "random",
        }
    }
}

/// What a pick is for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where the message has been already.
    pub tried: &'a Tried,
    /// The recipient's [`key`]; only `RecipientHash` looks at it.
    pub recipient: u64,
    /// The [`key`] of the address it came from; only `SourceHash` looks at it.
    pub source: u64,
    /// How long the message is.
    pub bytes: u64,
    /// How many more wait for a place in the pool: they count as in flight where there is no room.
    pub waiting: u32,
    /// Anything: spreads ties, and is the chance in the policies that draw.
    pub random: u64,
}

/// A stable key of a name (an address, an upstream's name), blind to ASCII case: the same in every process and for
/// ever, so that what is hashed by it stays where it is after a restart.
pub fn key(name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x706f_7374_6c61_6e65, 0x6261_6c61_6e63_6521);
    let mut lower = [0u8; 320];
    for piece in name.chunks(lower.len()) {
        let lower = &mut lower[..piece.len()];
        lower.copy_from_slice(piece);
        lower.make_ascii_lowercase();
        hasher.write(lower);
    }
    hasher.finish()
}

/// The upstreams that a message has been to already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    list: [u16; Tried::MAX],
    len: u8,
}

impl Tried {
    /// Most attempts a message can have.
    pub const MAX: usize = 20;

    /// Remembers one; forgets nothing up to [`Tried::MAX`].
    pub fn push(&mut self, upstream: usize) {
        if !self.contains(upstream) && (self.len as usize) < Tried::MAX {
            self.list[self.len as usize] = upstream as u16;
            self.len += 1;
        }
    }

    /// No more can be remembered.
    pub fn is_full(&self) -> bool {
        usize::from(self.len) == Tried::MAX
    }

    /// Was it there?
    pub fn contains(&self, upstream: usize) -> bool {
        self.list[..self.len as usize].contains(&(upstream as u16))
    }

    /// Has it been nowhere yet?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Whether an upstream without a link is left alone for the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rest {
    /// No: it can be called.
    #[default]
    No,
    /// It is just back, and this shard's turn to call it comes in a moment.
    Brief,
    /// It could not be reached again and again, and will be called later.
    Shut,
}

/// What a policy says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pick {
    /// This one, now.
    Now(usize),
    /// The best one has no room: wait for it rather than take a worse one.
    Wait,
    /// There is none that has not been tried.
    Nobody,
}

#[cfg(test)]
mod tests;
