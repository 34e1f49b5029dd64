//! Local ports: each shard has a part of the range, so that whoever gets a segment knows whose it is; within it, a port
//! is chosen for which the interface brings the answers to the shard's own queue.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use postlane_hw::rss::Rss;

use super::NOBODY;
use crate::handle::ShardId;

/// Which shard owns which port.
#[derive(Clone, Debug)]
pub(super) struct Division {
    range: RangeInclusive<u16>,
    shards: u16,
    share: u16,
}

impl Division {
    /// The range in equal parts; what is left over is nobody's.
    pub(super) fn new(range: RangeInclusive<u16>, shards: usize) -> Division {
        let share = range.len() / shards.max(1);
        Division { share: share as u16, shards: shards as u16, range }
    }

    /// The shard that owns a port.
    pub(super) fn owner(&self, port: u16) -> Option<ShardId> {
        if !self.range.contains(&port) || self.share == 0 {
            return None;
        }
        Some(ShardId((port - self.range.start()) / self.share)).filter(|shard| shard.0 < self.shards)
    }

    fn first(&self, shard: ShardId) -> u16 {
        self.range.start() + shard.0 * self.share
    }
}

/// One shard's ports: for each the first of the streams that have it.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    heads: Vec<u32>,
    /// Where the search goes on: a port rests as long as can be before it is used again.
    at: usize,
}

impl Ports {
    pub(super) fn new(division: &Division, shard: ShardId) -> Ports {
        Ports { first: division.first(shard), heads: vec![NOBODY; division.share.into()], at: 0 }
    }

    fn index(&self, port: u16) -> Option<usize> {
        let index = usize::from(port.checked_sub(self.first)?);
        (index < self.heads.len()).then_some(index)
    }

    /// The first of the streams with that port; each knows the next.
    pub(super) fn head(&self, port: u16) -> Option<u32> {
        self.index(port).map(|index| self.heads[index]).filter(|&head| head != NOBODY)
    }

    /// Makes `head` the first of the streams with that port; the one that was.
    pub(super) fn set_head(&mut self, port: u16, head: Option<u32>) -> Option<u32> {
        let index = self.index(port)?;
        let before = std::mem::replace(&mut self.heads[index], head.unwrap_or(NOBODY));
        Some(before).filter(|&before| before != NOBODY)
    }

    /// A port to reach `remote` from `local` by, whose answers arrive by a queue that `is_ours`. One that no stream has,
    /// if there is one; else one that `is_free` for that although its first stream is the one given.
    pub(super) fn find(
        &mut self,
        (local, remote): (IpAddr, SocketAddr),
        rss: Option<&Rss>,
        is_ours: impl Fn(u32) -> bool,
        is_free: impl Fn(u32, u16) -> bool,
    ) -> Option<u16> {
        let count = self.heads.len();
        let comes_home =
            |port: u16| rss.is_none_or(|rss| is_ours(rss.queue(remote, SocketAddr::new(local, port))));
        let mut shared = None;
        for step in 0..count {
            let at = (self.at + step) % count;
            let port = self.first + at as u16;
            let is_unused = self.heads[at] == NOBODY;
            if (is_unused || shared.is_none() && is_free(self.heads[at], port)) && comes_home(port) {
                if is_unused {
                    self.at = (at + 1) % count;
                    return Some(port);
                }
                shared = Some(port);
            }
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_one_owner_at_most() {
        let division = Division::new(61_000..=61_099, 3);
        let owners: Vec<_> = (60_998..61_102).map(|port| division.owner(port).map(|shard| shard.0)).collect();
        assert_eq!(owners[..3], [None, None, Some(0)]);
        assert_eq!(owners[34..37], [Some(0), Some(1), Some(1)]);
        assert_eq!(owners[100], Some(2));
        // What is left over would be a fourth shard's.
        assert_eq!(owners[101..103], [None, None]);
    }

    #[test]
    fn ports_rest_as_long_as_can_be_and_come_home() {
        let division = Division::new(61_000..=61_399, 2);
        let key = (0..40).map(|n: u32| (n * 37 + 11) as u8).collect();
        let rss = Rss::new(key, (0..128).map(|n| n % 4).collect()).expect("a key and a table");
        let mut ports = Ports::new(&division, ShardId(1));
        let local: IpAddr = "192.0.2.1".parse().expect("an address");
        let remote: SocketAddr = "198.51.100.7:25".parse().expect("an address");
        let mut seen = Vec::new();
        while let Some(port) = ports.find((local, remote), Some(&rss), |queue| queue == 3, |_, _| false) {
            assert_eq!(division.owner(port), Some(ShardId(1)));
            assert_eq!(rss.queue(remote, SocketAddr::new(local, port)), 3);
            assert!(!seen.contains(&port));
            ports.set_head(port, Some(port.into()));
            seen.push(port);
        }
        assert!(seen.len() > 20, "about a quarter of two hundred: {}", seen.len());
        // One that is released is not the next.
        ports.set_head(seen[0], None);
        ports.set_head(seen[1], None);
        assert_eq!(ports.find((local, remote), Some(&rss), |queue| queue == 3, |_, _| false), Some(seen[0]));
        assert_eq!(ports.find((local, remote), Some(&rss), |queue| queue == 3, |_, _| false), Some(seen[1]));
        // Another destination may share a port.
        assert_eq!(ports.head(seen[2]), Some(seen[2].into()));
        ports.set_head(seen[0], Some(0));
        ports.set_head(seen[1], Some(0));
        let shared = ports.find(
            (local, remote),
            Some(&rss),
            |queue| queue == 3,
            |head, port| head == u32::from(port) && port == seen[5],
        );
        assert_eq!(shared, Some(seen[5]));
    }
}
