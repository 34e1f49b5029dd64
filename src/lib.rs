//! Postlane: a high-throughput SMTP dispatcher. ARCHITECTURE.md draws the rooms; imports go down only.

pub mod balance;
pub mod config;
pub mod control;
pub mod disk;
pub mod dispatch;
pub mod handle;
pub mod limits;
pub mod net;
pub mod network;
pub mod observe;
pub mod pool;
pub mod protocol;
pub mod route;
pub mod shard;
pub mod spool;
pub mod sys;
pub mod time;
