//! Probing: a task for each upstream that there is, off the shards' paths.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::sleep;

use super::View;
use super::probe::{self, Errand};
use super::reload::Reloader;
use crate::balance::board::Order;
use crate::config::Probe;
use crate::sys::clock;

/// How often it is looked whether an upstream that is not to be probed is to be probed now.
const IDLE: Duration = Duration::from_secs(1);

/// What is to be done about one upstream now.
enum Plan {
    Probe {
        errand: Errand,
        rise: u32,
        fall: u32,
    },
    Wait,
    /// It is not there any more.
    End,
}

/// Begins to probe; looks after newcomers from then on.
pub(super) fn begin(reloader: Rc<Reloader>) {
    glommio::spawn_local(async move {
        let mut known: HashSet<u64> = HashSet::new();
        loop {
            let serials = serials(&reloader.view);
            known.retain(|serial| serials.contains(serial));
            for serial in serials {
                if known.insert(serial) {
                    let reloader = reloader.clone();
                    glommio::spawn_local(async move { attend(&reloader, serial).await }).detach();
                }
            }
            sleep(IDLE / 4).await;
        }
    })
    .detach();
}

fn serials(view: &Arc<View>) -> Vec<u64> {
    let shared = view.lock();
    let live = shared.layout.pools.iter().flat_map(|pool| &pool.upstreams).filter(|seat| seat.is_live);
    live.map(|seat| seat.serial).collect()
}

/// Probes one upstream for as long as it is there.
async fn attend(reloader: &Reloader, serial: u64) {
    let mut jitter = clock::now().as_nanos() ^ serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    loop {
        let Some(interval) = interval(reloader, serial) else { return };
        jitter ^= jitter << 13;
        jitter ^= jitter >> 7;
        jitter ^= jitter << 17;
        // Between four and six fifths of it.
        sleep(interval.mul_f64(0.8 + 0.4 * (jitter % 1024) as f64 / 1024.0)).await;
        match plan(reloader, serial) {
            Plan::End => return,
            Plan::Wait => {}
            Plan::Probe { errand, rise, fall } => {
                let result = probe::run(&errand).await;
                // It may have gone, or been told off, in the meantime.
                if matches!(plan(reloader, serial), Plan::Probe { .. }) {
                    let mut shared = reloader.view.lock();
                    // While links to it stand, 421 is no sign that it is not there.
                    let is_only_full = result.as_ref().is_err_and(|trouble| trouble.may_be_full);
                    if !(is_only_full && shared.has_links(serial)) {
                        shared.probed(serial, result.map_err(|trouble| trouble.why), rise, fall);
                    }
                }
            }
        }
    }
}

fn interval(reloader: &Reloader, serial: u64) -> Option<Duration> {
    with_upstream(reloader, serial, |health, _| match health.probe {
        Probe::Off => IDLE,
        _ => health.interval,
    })
}

fn with_upstream<T>(
    reloader: &Reloader,
    serial: u64,
    f: impl FnOnce(&crate::config::Health, (&crate::config::Pool, Order, std::net::SocketAddr)) -> T,
) -> Option<T> {
    let shared = reloader.view.lock();
    let seats =
        shared.layout.pools.iter().flat_map(|pool| pool.upstreams.iter().map(move |seat| (pool, seat)));
    let (pool, seat) = seats.into_iter().find(|(_, seat)| seat.serial == serial && seat.is_live)?;
    let config = reloader.config();
    let pool = config.pools.iter().find(|candidate| candidate.name == pool.options.name)?;
    Some(f(&pool.health, (pool, seat.mark.get().order, seat.address)))
}

fn plan(reloader: &Reloader, serial: u64) -> Plan {
    let hostname = reloader.config().hostname.clone();
    let plan = with_upstream(reloader, serial, |health, (pool, order, address)| {
        if health.probe == Probe::Off || order == Order::Disable {
            return Plan::Wait;
        }
        let source = pool.source_addresses.iter().find(|source| source.is_ipv4() == address.is_ipv4());
        let timeout = pool.connect_timeout;
        let (probe, mail, source) = (health.probe, health.probe_mail.clone(), source.copied());
        let errand = Errand { probe, mail, address, source, hostname, timeout };
        Plan::Probe { errand, rise: health.rise, fall: health.fall }
    });
    if matches!(plan, Some(Plan::Wait)) {
        reloader.view.lock().unprobed(serial);
    }
    plan.unwrap_or(Plan::End)
}
