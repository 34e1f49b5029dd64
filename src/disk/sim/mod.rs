//! A disk in virtual time, from one seed, with everything that disks do wrong.
//!
//! A [`Platter`] outlives crashes; a [`Drive`] is one shard's requests on it. Until a write is completed any of its
//! 512-octet sectors may be on the platter or not, whatever their order. A write whose sync fails leaves sectors that
//! can be read for a while and are gone after the next start, as Linux has it.

mod drive;
mod hands;
mod platter;
pub(crate) mod random;

pub use drive::Drive;
pub use hands::SimDisk;
pub use platter::{Faults, Platter};
