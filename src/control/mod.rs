//! The one slow thread: starts the shards, obeys signals, answers operators, ends it all. Reaches shards by
//! orders and reads their counters; never touches a message.

mod admin;
mod launch;
mod notify;
mod translate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::LocalExecutorBuilder;
use glommio::timer::sleep;

use crate::config::{Config, Machine};
use crate::observe::Stats;
use crate::observe::prometheus::Names;
use crate::observe::status::{Status, status};
use crate::shard::{Order, Orders};
use crate::sys::signals;

pub use launch::{Failure, Running, launch};

/// How often signals are looked for.
const GLANCE: Duration = Duration::from_millis(50);
/// After the order to stop: time for goodbyes to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the control thread's tasks share: read-only, or written by shards.
#[derive(Debug)]
pub struct View {
    /// What things are called.
    pub names: Names,
    /// Every shard's counters.
    pub shards: Arc<[Arc<Stats>]>,
    /// What is wanted of the shards.
    pub orders: Arc<Orders>,
    started: Instant,
}

impl View {
    /// Everything added up.
    pub fn status(&self) -> Status {
        status(&self.names, &self.shards, self.started.elapsed().as_secs_f64())
    }

    fn under_way(&self) -> u64 {
        self.shards.iter().map(|stats| stats.under_way.get()).sum()
    }
}

/// Runs a checked configuration until TERM or INT and the end of what was under way. `each_second` is called
/// with the view once a second.
///
/// # Errors
/// What kept it from starting, with the remedy.
pub fn serve(
    config: &Config,
    machine: &Machine,
    announce: impl FnOnce(&Running),
    each_second: impl FnMut(&View) + Send + 'static,
) -> Result<(), Failure> {
    signals::block();
    let running = launch(config, machine)?;
    announce(&running);
    notify::ready(&format!("{} shards", running.view.shards.len()));
    let admin = config.admin.clone();
    let view = running.view.clone();
    let drain_timeout = config.drain_timeout;
    let executor = LocalExecutorBuilder::default()
        .name("control")
        .spawn(move || control(view, admin, drain_timeout, each_second))
        .map_err(|error| Failure::os("the control thread", &error.to_string(), MEMLOCK_REMEDY));
    let ended = match executor {
        Ok(handle) => handle.join().unwrap_or_else(|error| {
            Err(Failure::os("the control thread", &error.to_string(), MEMLOCK_REMEDY))
        }),
        Err(failure) => Err(failure),
    };
    running.view.orders.give(Order::Stop);
    notify::stopping();
    let shards = running.join();
    ended.and(shards)
}

const MEMLOCK_REMEDY: &str =
    "it needs 512 KiB of locked memory: raise `ulimit -l` (LimitMEMLOCK= in a systemd unit)";

async fn control(
    view: Arc<View>,
    admin: Option<crate::config::Admin>,
    drain_timeout: Duration,
    mut each_second: impl FnMut(&View) + Send + 'static,
) -> Result<(), Failure> {
    let _admin = match admin {
        Some(admin) => Some(admin::serve(view.clone(), admin)?),
        None => None,
    };
    let mut next_second = Instant::now() + Duration::from_secs(1);
    while !signals::pending() {
        sleep(GLANCE).await;
        if Instant::now() >= next_second {
            next_second += Duration::from_secs(1);
            each_second(&view);
        }
        if view.orders.get() != Order::Run {
            break;
        }
    }
    view.orders.give(Order::Drain);
    notify::stopping();
    let deadline = Instant::now() + drain_timeout;
    // A shard publishes at least every tenth of a second; two looks apart from each other see every letter.
    let mut quiet = 0;
    while quiet < 3 && Instant::now() < deadline {
        sleep(Duration::from_millis(120)).await;
        quiet = if view.under_way() == 0 { quiet + 1 } else { 0 };
        if signals::pending() {
            eprintln!("postlane: a second signal: not waiting for what is under way");
            break;
        }
    }
    let left = view.under_way();
    if left > 0 {
        eprintln!(
            "postlane: drain_timeout is over with {left} messages under way; their clients have no answer yet"
        );
    }
    Ok(())
}

/// A bound listener, for announcements.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The listener's name.
    pub name: String,
    /// Where it really listens.
    pub address: SocketAddr,
}
