//! The shard room.
