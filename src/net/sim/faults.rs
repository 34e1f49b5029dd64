//! How the network behaves and misbehaves.

use std::time::Duration;

/// The character of a path. The default is a quick and faithful one. Probabilities are from 0 to 1.
#[derive(Clone, PartialEq, Debug)]
pub struct Faults {
    /// Least time one way.
    pub delay_min: Duration,
    /// Most time one way; each packet's is drawn anew, but none overtakes another of its stream.
    pub delay_max: Duration,
    /// That a write arrives in pieces of random sizes.
    pub split: f64,
    /// That a piece arrives at the same instant as the one before it, so that they are received together.
    pub merge: f64,
    /// That a receive takes less than what has arrived.
    pub short_receive: f64,
    /// Per packet of data: that it is lost for good and both ends see a reset.
    pub reset: f64,
    /// Per connection attempt: that it is refused.
    pub refuse: f64,
    /// Most bytes sent and not yet taken by the receiver, at least 1: both kernels' socket buffers together.
    pub window_bytes: usize,
    /// After this a connect that nobody answers fails with `ETIMEDOUT`.
    pub connect_timeout: Duration,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(50),
            split: 0.0,
            merge: 0.0,
            short_receive: 0.0,
            reset: 0.0,
            refuse: 0.0,
            window_bytes: 256 * 1024,
            // Six SYNs at Linux's defaults (tcp_syn_retries = 6).
            connect_timeout: Duration::from_secs(127),
        }
    }
}

impl Faults {
    /// Everything that must not matter: delays that vary, bytes cut and joined at random, small windows. No
    /// connection is refused or lost.
    pub fn choppy() -> Faults {
        Faults {
            delay_max: Duration::from_millis(5),
            split: 0.5,
            merge: 0.3,
            short_receive: 0.3,
            window_bytes: 6_000,
            ..Faults::default()
        }
    }
}
