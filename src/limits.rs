//! How much of everything there can be. Rank 0. What the configuration can move is there; these are the rest.

use std::time::Duration;

/// A message that no upstream has taken this long after its final dot is answered 451: RFC 5321 4.5.3.2.6 has
/// clients wait ten minutes.
pub const MESSAGE_TIME_MAX: Duration = Duration::from_secs(9 * 60);
/// Unread input kept for a session that waits for an answer; beyond it the session's stream is paused.
pub const PENDING_BYTES_MAX: usize = 64 << 10;
/// Pieces of that input; each may hold a buffer.
pub const PENDING_EXTENTS_MAX: usize = 4;
/// A piece of a body up to this size is copied behind the one before it if there is room, so that bodies that
/// trickle in do not hold a whole buffer per packet. One Ethernet jumbo frame is left alone.
pub const APPEND_BYTES_MAX: u32 = 4 << 10;
/// The replies to a message's commands that came with all of it are kept for its answer, to leave together: so long at
/// most. The client has nothing left to send that could wait for them.
pub const REPLIES_HELD_MAX: Duration = Duration::from_millis(200);
/// Octets of such replies.
pub const REPLIES_HELD_BYTES_MAX: usize = 512;
/// Messages that a session has sent and that are not answered yet; beyond it nothing more is taken from it.
pub const IN_FLIGHT_MAX: usize = 8;
/// Octets of such messages, from which on nothing more is taken from the session.
pub const IN_FLIGHT_BYTES_MAX: u64 = 256 << 10;
/// Octets of replies that wait for those to such messages, from which on nothing more is taken from the session.
pub const OWED_BYTES_MAX: usize = 8 << 10;
/// Room for such replies that a session keeps while there are none.
pub const OWED_BYTES_KEPT_MAX: usize = 1 << 10;
/// Replies written to a session that it has not yet taken; beyond it the session is not listened to.
pub const REPLIES_BYTES_MAX: usize = 32 << 10;
/// A stream that is closed in order and cannot get rid of its last octets for this long is cut.
pub const LINGER: Duration = Duration::from_secs(10);
/// An upstream that asked for fewer links may have one more so often.
pub const EASE_EVERY: Duration = Duration::from_secs(1);
/// So often links are looked at for what time alone changes: openings that had to wait, trials of fewer in use.
pub const LINKS_EVERY: Duration = Duration::from_millis(2);
/// How often waiting messages look for an upstream again when nothing else makes them.
pub const WAITING_TICK: Duration = Duration::from_millis(10);
/// Waiting repeats that are looked at, one by one, in a pass.
pub const REPEATS_PER_PASS: usize = 16;
/// How often it is looked whether upstreams are overdue with answers.
pub const OVERDUE_LOOK: Duration = Duration::from_millis(50);
/// An upstream is overdue when it is silent for so many times its own response time, and at least for so long. What it
/// has not taken yet then goes to another that answers.
pub const OVERDUE_TIMES: f32 = 10.0;
/// See [`OVERDUE_TIMES`].
pub const OVERDUE_MIN: Duration = Duration::from_millis(250);
/// Links found dead when a message was given to them, before that message counts it as an attempt.
pub const STALE_LINKS_MAX: u8 = 32;
/// A link that has been silent for longer is first given a message by DATA, which finds out whether it is still
/// there: one sent whole by BDAT to a link just closed by its upstream would be in doubt.
pub const CHUNK_SILENCE_MAX: Duration = Duration::from_secs(1);
/// Messages sent by BDAT to one link and not yet answered.
pub const CHUNKS_IN_FLIGHT_MAX: usize = 8;
/// Octets of such messages, after which no other follows.
pub const CHUNK_BYTES_IN_FLIGHT_MAX: u64 = 256 << 10;
/// A message joins another of its turn on a link, though there may be others, where that costs it no more than this.
pub const COMPANY_FREE: Duration = Duration::from_micros(250);
/// Where it costs more, it is tried again on one of so many occasions.
pub const COMPANY_TRY_EVERY: u32 = 32;
/// Most of the original's header that goes into a notice (RFC 6522 leaves it to us).
pub const NOTICE_HEADER_BYTES_MAX: usize = 16 << 10;
/// A message of more octets is not returned whole with the notice of its failure, RET=FULL or not.
pub const NOTICE_RETURNED_BYTES_MAX: usize = 50 << 10;
/// Room for what goes before a body that a message at rest keeps.
pub const HEAD_KEPT_BYTES_MAX: usize = 4 << 10;
/// Most of a message's header that routes look at.
pub const ROUTE_HEADER_BYTES_MAX: usize = 64 << 10;
/// Extents gathered of one streamed message while a part of it is being sent: 16 KiB each.
pub const STREAM_EXTENTS_MAX: usize = 32;
/// At least these, however many flow at a time.
pub const STREAM_EXTENTS_MIN: usize = 2;
/// Buffers kept back for commands and replies: bodies may not take the last ones.
pub const BUFFERS_RESERVED: usize = 8;
/// Kept messages that a shard has under way at the least and at the most, however few or many links it has. Fewer at the
/// least, and a burst from many sessions would be let go of only to be read back.
pub const KEPT_ACTIVE_MIN: usize = 4096;
/// See `KEPT_ACTIVE_MIN`.
pub const KEPT_ACTIVE_MAX: usize = 8192;
/// Kept messages taken up in one pass.
pub const DUE_PER_PASS: usize = 256;
/// How often it is looked whether the pool of kept messages that are due has an upstream again.
pub const STUCK_LOOK: Duration = Duration::from_millis(100);
/// Of these, those that are looked at each time for being too old.
pub const STUCK_STEP: usize = 1024;
/// Kept messages that an operator's order looks at in one turn.
pub const ORDER_STEP: usize = 2048;
