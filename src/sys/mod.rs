//! Every system call and all `unsafe`. Rank 4: the hands' tools, which know nothing of mail.

pub mod arena;
pub(crate) mod batch;
pub(crate) mod buffer_ring;
pub mod clock;
pub mod files;
pub(crate) mod name;
pub mod numa;
pub mod pool;
pub mod ring;
pub mod ring_table;
pub mod signals;
pub mod socket;
pub mod wide;
pub mod xdp;
