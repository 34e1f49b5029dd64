//! AF_XDP: frames between a network interface's queue and this process, past the kernel's network stack. One kernel
//! idea per file; what is above (`net::xdp`) sees no pointers.

pub mod attachment;
mod bpf;
#[cfg(test)]
pub(crate) mod emulator;
mod error;
pub mod errors;
pub mod netlink;
mod program;
mod ring;
pub mod socket;
mod umem;

pub use error::Error;
