//! Which shard a recipient belongs to: a stable keyed hash (SipHash-1-3), the same after a restart.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::handle::ShardId;
use crate::protocol::wire::address;

/// What of a recipient is hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ShardBy {
    /// The whole address.
    #[default]
    Address,
    /// Its domain, so that one domain's mail keeps to one shard.
    Domain,
    /// Nothing: the shard that took a message delivers it, and no letters are written. One recipient's mail then goes by
    /// all shards.
    Session,
}

/// How a recipient is delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// By which shard.
    pub shard: ShardId,
    /// By which pool.
    pub pool: u16,
}

impl Way {
    /// That of a recipient who needs no delivery any more.
    pub const NOWHERE: Way = Way { shard: ShardId(u16::MAX), pool: u16::MAX };
}

/// Recipients to shards.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    shards: u16,
    by: ShardBy,
    key: (u64, u64),
    /// The shard that asks.
    home: ShardId,
}

impl Owners {
    /// For `shards` shards. `key_text` (the host's name) keeps strangers from aiming at one shard by choice of
    /// address alone.
    pub fn new(shards: u16, by: ShardBy, key_text: &str) -> Self {
        let half = |salt: u64| {
            let mut hasher = SipHasher13::new_with_keys(0x706f_7374_6c61_6e65, salt);
            hasher.write(key_text.as_bytes());
            hasher.finish()
        };
        Owners { shards: shards.max(1), by, key: (half(1), half(2)), home: ShardId(0) }
    }

    /// As that shard sees them.
    pub fn at(self, home: ShardId) -> Self {
        Owners { home, ..self }
    }

    /// The shard of one recipient's path.
    pub fn of(&self, path: &[u8]) -> ShardId {
        if self.shards == 1 {
            return ShardId(0);
        }
        let part = match self.by {
            ShardBy::Address => path,
            ShardBy::Domain => address::domain(path),
            ShardBy::Session => return self.home,
        };
        let mut lower = [0u8; 320];
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        for piece in part.chunks(lower.len()) {
            let lower = &mut lower[..piece.len()];
            lower.copy_from_slice(piece);
            lower.make_ascii_lowercase();
            hasher.write(lower);
        }
        ShardId(((u128::from(hasher.finish()) * u128::from(self.shards)) >> 64) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_even_and_blind_to_case() {
        let owners = Owners::new(8, ShardBy::Address, "out1.example.net");
        let mut counts = [0u32; 8];
        for n in 0..8000 {
            let path = format!("User{n}@Example.COM");
            let owner = owners.of(path.as_bytes());
            assert_eq!(owner, owners.of(path.to_lowercase().as_bytes()));
            counts[owner.index()] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        // Fixed for ever: spools and other processes rely on it.
        let fixed: Vec<u16> = ["a@x.example", "b@x.example", "c@x.example", "d@x.example"]
            .map(|p| owners.of(p.as_bytes()).0)
            .into();
        assert_eq!(fixed, [0, 4, 6, 5]);
    }

    #[test]
    fn by_session_everybody_is_at_home() {
        let owners = Owners::new(8, ShardBy::Session, "out1.example.net").at(ShardId(5));
        assert!((0..100).all(|n| owners.of(format!("r{n}@x.example").as_bytes()) == ShardId(5)));
    }

    #[test]
    fn a_domain_keeps_together() {
        let owners = Owners::new(64, ShardBy::Domain, "out1.example.net");
        assert_eq!(owners.of(b"a@example.com"), owners.of(b"b@EXAMPLE.com"));
    }
}
