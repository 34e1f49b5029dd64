//! A session alone.

use std::sync::Arc;
use std::time::Duration;

use crate::dispatch::options::{Listener, Options};
use crate::dispatch::owner::ShardBy;
use crate::dispatch::{Command, Dispatch, KeepOptions};
use crate::handle::{BufferId, Buffers, Extent, ListenerId, ShardId, StreamId};
use crate::limits::REPLIES_BYTES_MAX;
use crate::observe::Stats;
use crate::protocol::server;
use crate::time::Instant;

/// All that a client says, in one buffer.
struct Memory {
    bytes: Vec<u8>,
    free: usize,
}

impl Buffers for Memory {
    fn bytes(&self, extent: Extent) -> &[u8] {
        &self.bytes[extent.start as usize..][..extent.len as usize]
    }
    fn retain(&mut self, _: BufferId) {}
    fn release(&mut self, _: BufferId) {}
    fn append(&mut self, _: Extent, _: Extent) -> Option<Extent> {
        None
    }
    fn free(&self) -> usize {
        self.free
    }
    fn take(&mut self) -> Option<Extent> {
        None
    }
}

fn options() -> Options {
    Options {
        shard: ShardId(0),
        shards: 1,
        shard_by: ShardBy::Address,
        hostname: "lane.example".into(),
        epoch_ms: 1_700_000_000_000,
        seed: 1,
        bounce_from: "lane.example".into(),
        keep: KeepOptions::default(),
        buffers: 100,
        listeners: vec![Listener {
            name: "lane".into(),
            trusted: Vec::new(),
            server: server::Options::default(),
            sessions_max: 1,
            idle_timeout: Duration::from_secs(300),
        }],
        pools: Vec::new(),
        routes: Arc::default(),
        board: Arc::default(),
    }
}

/// What it is told, and whether it is left.
fn told(dispatch: &mut Dispatch) -> (String, bool) {
    let (mut text, mut is_left) = (String::new(), false);
    while let Some(command) = dispatch.poll_command() {
        match command {
            Command::Write { bytes, .. } => text.push_str(&String::from_utf8_lossy(bytes)),
            Command::Close(_) => is_left = true,
            _ => {}
        }
    }
    (text, is_left)
}

/// It reads nothing, and some of what it says meanwhile had to be thrown away: what follows that is not looked at.
#[test]
fn nothing_is_taken_behind_a_gap() {
    let now = Instant::from_nanos(1);
    let stream = StreamId { slot: 0, generation: 1 };
    let mut dispatch = Dispatch::new(options(), Arc::new(Stats::new(1, &[])), 0);
    dispatch.handle_accepted(ListenerId(0), stream, ([127, 0, 0, 1], 25).into(), 0, now);
    let commands = b"EHLO client.example\r\n".repeat(REPLIES_BYTES_MAX / 100);
    let mut memory = Memory { bytes: commands, free: 100 };
    let len = memory.bytes.len() as u32;
    let extent = |start, len| Extent { buffer: BufferId { arena: ShardId(0), index: 0 }, start, len };
    dispatch.handle_received(stream, extent(0, len - 30), now, &mut memory);
    assert!(!told(&mut dispatch).1);
    memory.free = 0;
    dispatch.handle_received(stream, extent(len - 30, 30), now, &mut memory);
    memory.free = 100;
    (0..2).for_each(|_| dispatch.handle_sent(stream, 1, now, now, &mut memory));
    let (text, is_left) = told(&mut dispatch);
    assert!(is_left && text.starts_with("421 4.3.1 "), "{text}");
}
