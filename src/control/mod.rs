//! The one slow thread: starts the shards, obeys signals, answers operators, ends it all. Reaches shards by
//! orders and reads their counters; never touches a message.

mod admin;
mod bypass;
mod launch;
mod layout;
mod notify;
mod ports;
mod probe;
mod queue;
mod reload;
mod scale;
mod spool;
mod translate;
mod view;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::LocalExecutorBuilder;
use glommio::timer::sleep;

use crate::config::{Config, Machine};
use crate::shard::Order;
use crate::sys::signals;

pub use launch::{Failure, Running, launch};
use reload::Reloader;
pub use scale::{Scale, scale};
pub use spool::read_queue;
pub use translate::survey;
pub use view::View;

/// How often signals are looked for.
const GLANCE: Duration = Duration::from_millis(50);
/// After the order to stop: time for goodbyes to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs a checked configuration until TERM or INT and the end of what was under way. `source` is the file it came
/// from, for reloads. `each_second` is called with the view once a second.
///
/// # Errors
/// What kept it from starting, with the remedy.
pub fn serve(
    config: &Config,
    source: Option<&Path>,
    machine: &Machine,
    announce: impl FnOnce(&Running),
    each_second: impl FnMut(&View) + Send + 'static,
) -> Result<(), Failure> {
    signals::block();
    signals::block_hangup();
    let running = launch(config, machine)?;
    announce(&running);
    notify::ready(&format!("{} shards", running.view.shards().len()));
    let reloader = Reloader::new(&running, config.clone(), source.map(Path::to_owned), machine.clone());
    let executor = LocalExecutorBuilder::default()
        .name("control")
        .spawn(move || control(reloader, each_second))
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
    reloader: Reloader,
    mut each_second: impl FnMut(&View) + Send + 'static,
) -> Result<(), Failure> {
    let reloader = Rc::new(reloader);
    let view = reloader.view.clone();
    let admin = reloader.config().admin.clone();
    let _admin = match admin {
        Some(admin) => Some(admin::serve(reloader.clone(), admin)?),
        None => None,
    };
    watch::begin(reloader.clone());
    let mut next_second = Instant::now() + Duration::from_secs(1);
    while !signals::pending() {
        sleep(GLANCE).await;
        view.look();
        if signals::hangup_pending() {
            let reloader = reloader.clone();
            glommio::spawn_local(async move {
                // What came of it is on stderr.
                let _ = reloader.reload().await;
            })
            .detach();
        }
        if Instant::now() >= next_second {
            next_second += Duration::from_secs(1);
            view.note();
            each_second(&view);
        }
        if view.orders.get() != Order::Run {
            break;
        }
    }
    let drain_timeout = reloader.config().drain_timeout;
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
