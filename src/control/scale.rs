//! What a configuration would come to with more shards: what grows with their number, and with its square.

use std::fmt;

use serde::Serialize;

use super::{launch, translate};
use crate::config::{Config, Pool};
use crate::dispatch::Letter;
use crate::observe::{LINE_BYTES, Scoreboard};
use crate::shard::mailbox;
use crate::sys::arena::BUFFER_BYTES;

/// Shards that it is worked out for, besides the configuration's own.
const SHARDS: [u16; 3] = [16, 64, 128];
/// Descriptors of a shard besides its listeners: its ring.
const OF_SHARD: u64 = 1;

/// A column for each number of shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Scale(Vec<Column>);

/// What this configuration comes to with so many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Column {
    /// So many.
    shards: u16,
    /// Rings that letters between shards go by: one for each ordered pair.
    mailbox_rings: u64,
    /// Their bytes, once letters have been all around each.
    mailbox_bytes: u64,
    /// Mapped for message bodies: `memory`, or what shards need at the least.
    arena_bytes: u64,
    /// The scoreboard.
    scoreboard_bytes: u64,
    /// Cache lines of other shards that a look at the largest pool touches; each may have been written since.
    scoreboard_lines: u64,
    /// Words read from them. A shard looks at most every half a millisecond, by the first pick after it.
    scoreboard_reads: u64,
    /// Listening sockets: each shard has one for each address.
    listen_sockets: u64,
    /// Most links to one upstream, of the pool that allows most.
    links_to_upstream: u64,
    /// Of these, links kept while there is no mail.
    idle_links_to_upstream: u64,
    /// Most links to all upstreams.
    links: u64,
    /// Descriptors of the process: rings and listeners.
    descriptors: u64,
    /// Open files that each ring has room for: the limit (RLIMIT_NOFILE) has to be as high, whatever the shards.
    files_of_ring: u64,
}

/// Works it out for the shards there are, and for many.
pub fn scale(config: &Config, shards: usize) -> Scale {
    let mut counts: Vec<u16> = SHARDS.into_iter().chain(u16::try_from(shards)).collect();
    counts.sort_unstable();
    counts.dedup();
    Scale(counts.into_iter().map(|shards| column(config, shards)).collect())
}

fn column(config: &Config, shards: u16) -> Column {
    let n = u64::from(shards);
    let sizes = || config.pools.iter().map(|pool| pool.upstreams.len());
    let (upstreams, largest): (usize, usize) = (sizes().sum(), sizes().max().unwrap_or(0));
    let most = |of: fn(&Pool) -> u16| config.pools.iter().map(of).max().map_or(0, u64::from);
    let links = |pool: &Pool| u64::from(pool.links_per_shard) * pool.upstreams.len() as u64;
    let addresses: usize = config.listeners.iter().map(|listener| listener.addresses.len()).sum();
    let listen_sockets = n * addresses as u64;
    Column {
        shards,
        mailbox_rings: n * (n - 1),
        mailbox_bytes: mailbox::ring_bytes::<Letter>(n),
        arena_bytes: n * translate::buffers(config, shards) as u64 * BUFFER_BYTES as u64,
        scoreboard_bytes: n * (Scoreboard::lines_per_shard(upstreams) * LINE_BYTES) as u64,
        scoreboard_lines: (n - 1) * Scoreboard::lines_per_shard(largest) as u64,
        scoreboard_reads: (n - 1) * largest as u64,
        listen_sockets,
        links_to_upstream: n * most(|pool| pool.links_per_shard),
        idle_links_to_upstream: n * most(|pool| pool.idle_links),
        links: n * config.pools.iter().map(links).sum::<u64>(),
        descriptors: listen_sockets + n * OF_SHARD,
        files_of_ring: launch::files_of_ring(config),
    }
}

type Row = (&'static str, fn(&Column) -> String);

const ROWS: [Row; 11] = [
    ("shards", |c| c.shards.to_string()),
    ("mailbox rings", |c| c.mailbox_rings.to_string()),
    ("their memory, at most", |c| mebibytes(c.mailbox_bytes)),
    ("memory for bodies", |c| mebibytes(c.arena_bytes)),
    ("scoreboard lines a look", |c| c.scoreboard_lines.to_string()),
    ("and words read", |c| c.scoreboard_reads.to_string()),
    ("listening sockets", |c| c.listen_sockets.to_string()),
    ("links to an upstream", |c| c.links_to_upstream.to_string()),
    ("of these kept idle", |c| c.idle_links_to_upstream.to_string()),
    ("descriptors", |c| c.descriptors.to_string()),
    ("open files of a ring", |c| c.files_of_ring.to_string()),
];

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}MiB", bytes as f64 / f64::from(1 << 20))
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (what, of)) in ROWS.iter().enumerate() {
            write!(f, "{:11}{what:24}", if index == 0 { "scale" } else { "" })?;
            self.0.iter().try_for_each(|column| write!(f, "{:>11}", of(column)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    const TEXT: &str = "memory = '1GiB'\n\
        [[listener]]\nname = 'in'\naddress = ['127.0.0.1:2525', '127.0.0.1:2526']\nmax_sessions = 1600\n\
        [[pool]]\nname = 'farm'\nlinks_per_shard = 4\nidle_links = 2\n\
        [[pool.upstream]]\nname = 'a'\naddress = '127.0.0.1:1'\n\
        [[pool.upstream]]\nname = 'b'\naddress = '127.0.0.1:2'\n\
        [[pool]]\nname = 'spare'\nlinks_per_shard = 8\n\
        [[pool.upstream]]\nname = 'c'\naddress = '127.0.0.1:3'\n\
        [[route]]\nrecipient_domain = ['spare.test']\npool = 'spare'\n\
        [delivery]\nmode = 'through'\n";

    fn of(text: &str, shards: usize) -> Scale {
        let machine = Machine {
            hostname: "lane.test".into(),
            cpus: vec![0, 1],
            isolated: vec![],
            memory_bytes: 8 << 30,
        };
        scale(&Config::parse("p.toml", text, &machine).expect("in order"), shards)
    }

    #[test]
    fn every_column_adds_up() {
        let Scale(columns) = of(TEXT, 2);
        assert_eq!(columns.iter().map(|column| column.shards).collect::<Vec<_>>(), [2, 16, 64, 128]);
        let [two, .., most] = columns[..] else { panic!("four columns") };
        assert_eq!((two.mailbox_rings, most.mailbox_rings), (2, 128 * 127));
        // A quarter of the square for half of the shards, but for what each does not send to itself.
        assert!(most.mailbox_bytes > 4 * columns[2].mailbox_bytes);
        assert_eq!((two.arena_bytes, most.arena_bytes), (1 << 30, 1 << 30));
        // Three upstreams are one line of each shard, and a look is at a pool's two.
        assert_eq!((two.scoreboard_bytes, two.scoreboard_lines, two.scoreboard_reads), (256, 1, 2));
        assert_eq!((most.scoreboard_bytes, most.scoreboard_lines, most.scoreboard_reads), (16_384, 127, 254));
        assert_eq!((two.listen_sockets, most.listen_sockets), (4, 256));
        assert_eq!((two.links_to_upstream, most.links_to_upstream), (16, 1024));
        assert_eq!((two.idle_links_to_upstream, most.idle_links_to_upstream), (4, 256));
        assert_eq!((two.links, most.links), (2 * (2 * 4 + 8), 128 * (2 * 4 + 8)));
        assert_eq!((two.descriptors, most.descriptors), (6, 384));
        assert_eq!(two.files_of_ring, 1600 + 100 + 64 + 1024);
    }

    #[test]
    fn shards_need_some_memory_whatever_is_asked_for() {
        let Scale(columns) = of(&TEXT.replace("1GiB", "64MiB"), 1);
        assert_eq!(columns.last().expect("some").arena_bytes, 128 * 512 * 16_384);
    }

    #[test]
    fn it_is_a_table_and_json() {
        let scale = of(TEXT, 64);
        let text = scale.to_string();
        assert!(text.starts_with("scale      shards "), "{text}");
        assert!(text.contains("links to an upstream            128        512       1024\n"), "{text}");
        let json = serde_json::to_value(&scale).expect("plain data");
        assert_eq!((json.as_array().map(Vec::len), &json[1]["mailbox_rings"]), (Some(3), &(64 * 63).into()));
    }
}
