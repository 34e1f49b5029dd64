//! Another configuration for what is running: read and checked beside it, applied by every shard, or not at all.

use std::cell::{Cell, Ref, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::timer::sleep;

use super::launch::{Failure, Room, Running};
use super::layout::Layout;
use super::{View, notify, translate};
use crate::config::{Config, Machine, difference};
use crate::handle::ShardId;
use crate::shard::{Desks, Edition, Order};
use crate::sys::socket;

/// How often it is looked whether the shards have answered.
const GLANCE: Duration = Duration::from_millis(5);
/// A shard looks up ten times a second at the least.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why nothing was changed.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The exit code, as in sysexits(3).
    pub(super) exit: u8,
    /// In lines; of a file that is wrong, `file:line:column: message`.
    pub(super) why: String,
}

/// All that a reload needs.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) view: Arc<View>,
    config: RefCell<Config>,
    source: Option<PathBuf>,
    machine: Machine,
    pub(super) desks: Vec<Arc<Desks>>,
    epoch_ms: u64,
    room: Room,
    edition: Cell<u64>,
    under_way: Cell<bool>,
    /// The number of the last order about kept messages, and whether it is being carried out.
    pub(super) order: Cell<u64>,
    pub(super) ordering: Cell<bool>,
}

impl Reloader {
    pub(super) fn new(
        running: &Running,
        config: Config,
        source: Option<PathBuf>,
        machine: Machine,
    ) -> Reloader {
        Reloader {
            view: running.view.clone(),
            config: RefCell::new(config),
            source,
            machine,
            desks: running.desks.clone(),
            epoch_ms: running.epoch_ms,
            room: running.room,
            edition: Cell::new(0),
            under_way: Cell::new(false),
            order: Cell::new(0),
            ordering: Cell::new(false),
        }
    }

    /// What is in force.
    pub(super) fn config(&self) -> Ref<'_, Config> {
        self.config.borrow()
    }

    /// Reads the file anew and applies it; what has changed, in lines. One at a time: another waits for its turn. What
    /// comes of it is told on stderr and to systemd too.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub(super) async fn reload(&self) -> Result<Vec<String>, Refusal> {
        while self.under_way.replace(true) {
            sleep(GLANCE).await;
        }
        notify::reloading();
        let result = self.reload_now().await;
        match &result {
            Ok(lines) if lines.is_empty() => eprintln!("postlane: reload: nothing has changed"),
            Ok(lines) => {
                lines.iter().for_each(|line| eprintln!("postlane: reload: {line}"));
                eprintln!("postlane: reloaded");
            }
            Err(refusal) => {
                eprintln!("{}", refusal.why);
                eprintln!("postlane: not reloaded; what was in force is still in force");
            }
        }
        let said = if result.is_ok() { "reloaded" } else { "the last reload was refused" };
        notify::ready(&format!("{} shards, {said}", self.desks.len()));
        self.under_way.set(false);
        result
    }

    async fn reload_now(&self) -> Result<Vec<String>, Refusal> {
        let refuse = |exit, why: String| Refusal { exit, why };
        if self.view.orders.get() != Order::Run {
            return Err(refuse(75, "it is draining: nothing is reloaded any more".to_owned()));
        }
        let Some(source) = &self.source else {
            return Err(refuse(
                78,
                "it runs from an embedded configuration: there is no file to reload".to_owned(),
            ));
        };
        let next = Config::load(source, &self.machine).map_err(|errors| refuse(78, errors.to_string()))?;
        let running = self.config().clone();
        let difference = difference(&running, &next, &self.machine);
        if !difference.fixed.is_empty() {
            let names = difference.fixed.join(", ");
            let why = format!(
                "{}: only a restart can change {names}; nothing else was changed either",
                source.display()
            );
            return Err(refuse(78, why));
        }
        let (lacks_links, lacks_sessions) = self.room.lacks(&running, &next);
        if let Some(lack) = lacks_links {
            return Err(refuse(78, format!("{}: {lack}", source.display())));
        }
        if difference.lines.is_empty() {
            return Ok(difference.lines);
        }
        let before = self.view.lock().layout.clone();
        let layout = before.next(&next);
        let _held = reserve(&before, &layout)?;
        if let Err(why) = self.hand_out(&layout, &next).await {
            // Some shards may have it: all go back to what was, in the places that there are now.
            let back = layout.next(&running);
            if let Err(worse) = self.hand_out(&back, &running).await {
                eprintln!("postlane: and going back failed: {worse}");
            }
            self.view.replace(back.clone(), back.stats());
            return Err(refuse(71, why));
        }
        let stats = layout.stats();
        self.view.replace(layout, stats);
        self.config.replace(next);
        Ok(difference.lines.into_iter().chain(lacks_sessions.map(|lack| format!("! {lack}"))).collect())
    }

    /// Lays an edition on every desk and waits until all have taken it.
    async fn hand_out(&self, layout: &Layout, config: &Config) -> Result<(), String> {
        let number = self.edition.get() + 1;
        self.edition.set(number);
        let base = translate::base(config, self.desks.len() as u16, self.epoch_ms);
        let (stats, scoreboard) = (layout.stats(), layout.scoreboard());
        for (shard, desk) in self.desks.iter().enumerate() {
            let edition = Edition {
                options: layout.options(&base, ShardId(shard as u16)),
                stats: stats.clone(),
                scoreboard: scoreboard.clone(),
                listen: layout.listen(),
            };
            desk.editions.offer(number, edition);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut result = Ok(());
        for (shard, desk) in self.desks.iter().enumerate() {
            loop {
                if let Some(answer) = desk.editions.answer(number) {
                    result = result.and(answer);
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("shard {shard} does not answer"));
                }
                sleep(GLANCE).await;
            }
        }
        result
    }
}

/// Holds the addresses that are to be listened on anew, so that every shard will get them or none is asked to.
fn reserve(before: &Layout, next: &Layout) -> Result<Vec<OwnedFd>, Refusal> {
    let addresses = |layout: &Layout| layout.listen().into_iter().flatten().map(|inlet| inlet.address);
    let had: Vec<SocketAddr> = addresses(before).collect();
    addresses(next)
        .filter(|address| !had.contains(address))
        .map(|address| {
            socket::reserve(address).map_err(|error| {
                let failure = Failure::listen("a new listener", address, &error);
                Refusal { exit: failure.exit, why: failure.message }
            })
        })
        .collect()
}
