//! Every system call and all `unsafe`. Rank 4: the hands' tools, which know nothing of mail.

pub mod arena;
pub mod host;
pub mod pool;
pub mod signals;
