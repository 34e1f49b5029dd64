//! SMTP as conversation, without I/O: bytes in, values out, and back.
//!
//! [`wire`] turns bytes into values and values into bytes. [`server`] is where we are spoken to (downstream
//! sessions), [`client`] where we speak (upstream links); their names mirror each other. An [`Envelope`] is
//! what travels between the two. Nothing here knows of clocks, sockets or files, and nothing allocates per
//! message once its buffers are warm.

pub mod client;
pub mod envelope;
pub mod server;
pub mod wire;

pub use client::Client;
pub use envelope::Envelope;
pub use server::Server;
pub use wire::address;
pub use wire::command::{BodyKind, Mail, MailParameters, Notify, Recipient, Return};
pub use wire::reply::{Enhanced, Reply, ReplyBuf};

#[cfg(test)]
mod tests;
