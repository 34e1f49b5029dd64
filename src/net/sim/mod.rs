//! A network in virtual time, all of it in one thread and from one seed.
//!
//! A [`World`] joins the shards' [`SimNet`]s with *peers*: clients and upstreams that a test plays itself. The
//! test drives time: let the shards turn while [`World::runnable_shards`] names any, then
//! [`World::advance_to`] the next thing due. The same seed and the same calls give the same run.
//!
//! The rules are a kernel's TCP as seen through sockets: bytes in order, bounded windows, FIN behind the
//! data, a reset for whoever writes to a closed socket or closes with bytes unread. What can go wrong, and how
//! often, is [`Faults`].

mod arrival;
mod attention;
mod fabric;
mod faults;
mod shard_net;
mod shard_turn;
mod socket;
mod world;

pub use faults::Faults;
pub use shard_net::SimNet;
pub use world::{PeerId, PeerState, World};
