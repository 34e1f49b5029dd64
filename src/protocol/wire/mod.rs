//! Bytes to values and values to bytes. No state but what a half-received line or message needs.

pub mod address;
pub mod command;
pub mod data;
pub mod later;
pub mod reply;
pub(in crate::protocol) mod text;
