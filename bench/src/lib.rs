//! Load generator, sink, measurement and report. Knows nothing of the dispatcher; speaks SMTP to anything.
//!
//! * [`sink`]: a test MTA that accepts, delays, refuses, drops by rule, stores, and counts.
//! * [`load`]: a client that sends as fast as it goes (closed loop) or by schedule (open loop).
//! * [`measure`]: what a process spent meanwhile, seen from outside.
//! * [`report`]: what came of it, as text, JSON, HdrHistogram percentiles and one HTML page.
//! * [`progress`]: how a run goes, on a terminal.
//!
//! Generator and sink are single-threaded epoll loops that must cost much less per message than what they
//! measure: one send per step of the dialogue, bodies prepared once, replies gathered per read.

pub mod load;
pub mod measure;
pub mod progress;
pub mod report;
pub mod sink;
mod stage;
mod sys;
mod text;

pub use stage::Stage;
