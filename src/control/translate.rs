//! From a checked configuration to the rooms' own options.

use std::sync::Arc;

use crate::balance::Care;
use crate::balance::health::Rules;
use crate::config::{self, Config, ShardBy};
use crate::dispatch::options::{self, Options};
use crate::dispatch::owner;
use crate::dispatch::{KeepOptions, Mode};
use crate::handle::ShardId;
use crate::net::uring::UringOptions;
use crate::protocol::server::{self, FutureRelease};
use crate::protocol::wire::data::{self, Seen, Survey};
use crate::route::{Routes, Rule};
use crate::sys::arena::BUFFER_BYTES;
use crate::sys::wide::{Kernel, widest};

/// Protocol errors after which a session is closed.
const FAULTS_MAX: u32 = 20;

/// Fewer buffers than this and a shard could not work.
const BUFFERS_MIN: u64 = 512;

/// Buffers of one shard, those lent to the kernel included.
pub(super) fn buffers(config: &Config, shards: u16) -> usize {
    (config.memory / u64::from(shards) / BUFFER_BYTES as u64).max(BUFFERS_MIN) as usize
}

/// What all shards have in common, without listeners, pools and routes.
pub(super) fn base(config: &Config, shards: u16, epoch_ms: u64) -> Options {
    Options {
        shard: ShardId(0),
        shards,
        shard_by: match config.shard_by {
            ShardBy::Address => owner::ShardBy::Address,
            ShardBy::Domain => owner::ShardBy::Domain,
            ShardBy::Session => owner::ShardBy::Session,
        },
        hostname: config.hostname.clone(),
        epoch_ms,
        seed: epoch_ms,
        bounce_from: config.delivery.bounce_from.clone(),
        keep: keep_options(config),
        buffers: buffers(config, shards) - usize::from(UringOptions::default().receive_buffers),
        listeners: Vec::new(),
        pools: Vec::new(),
        routes: Arc::default(),
        board: Arc::default(),
    }
}

fn keep_options(config: &Config) -> KeepOptions {
    let delivery = &config.delivery;
    KeepOptions {
        mode: match delivery.mode {
            config::Mode::Through => Mode::Through,
            config::Mode::Spool => Mode::Spool,
            config::Mode::ThroughThenSpool => Mode::ThroughThenSpool,
        },
        through_timeout: delivery.through_timeout,
        delay_warning: delivery.delay_warning,
        retry: delivery.retry.clone(),
        max_age: delivery.max_age,
    }
}

pub(super) fn listener_options(listener: &crate::config::Listener, config: &Config) -> options::Listener {
    options::Listener {
        name: listener.name.clone(),
        trusted: listener.trusted.clone(),
        server: server::Options {
            hostname: config.hostname.clone(),
            size_max: listener.max_message,
            recipients_max: listener.max_recipients,
            faults_max: FAULTS_MAX,
            future_release: future_release(&config.delivery),
            deliver_by: true,
            binary: false,
            survey: survey(),
        },
        sessions_max: u64::from(listener.max_sessions),
        idle_timeout: listener.idle_timeout,
    }
}

/// How messages are looked at: as it was built for this processor.
pub fn survey() -> Survey {
    struct Octets;
    impl Kernel for Octets {
        type Output = Seen;

        #[inline(always)]
        fn run(octets: &[u8]) -> Seen {
            data::survey(octets)
        }
    }
    widest::<Octets>()
}

/// Where there is a spool, messages may wait in it before their first attempt, for three quarters of the time that they are
/// tried afterwards.
fn future_release(delivery: &config::Delivery) -> Option<FutureRelease> {
    let seconds_max = (delivery.max_age / 4 * 3).as_secs() as u32;
    let is_kept = delivery.mode != config::Mode::Through && seconds_max > 0;
    is_kept.then_some(FutureRelease { seconds_max, unix_now: 0 })
}

/// `place_of`: a pool's, by its name.
pub(super) fn routes(config: &Config, place_of: impl Fn(&str) -> Option<usize>) -> Routes {
    let place = |name: &str| place_of(name).map_or(0, |place| place as u16);
    let rules = config.routes.iter().map(|route| Rule {
        recipient_domains: route.recipient_domain.clone(),
        sender_domains: route.sender_domain.clone(),
        listeners: route.listener.clone(),
        sources: route.source.clone(),
        header: route.header.clone(),
        pool: place(&route.pool),
    });
    let otherwise = config.pools.first().map_or(0, |pool| place(&pool.name));
    Routes::new(rules.collect(), otherwise)
}

/// A pool without its place, its upstreams and its fallback.
pub(super) fn pool_options(pool: &crate::config::Pool) -> options::Pool {
    options::Pool {
        name: pool.name.clone(),
        serial: 0,
        policy: pool.balance,
        links_max: usize::from(pool.links_per_shard),
        idle_links: usize::from(pool.idle_links),
        idle_timeout: pool.idle_timeout,
        transactions_per_link: pool.transactions_per_link,
        source_addresses: pool.source_addresses.clone(),
        connect_timeout: pool.connect_timeout,
        reply_timeout: pool.reply_timeout,
        attempts: pool.attempts,
        fallback: None,
        chunking: pool.chunking,
        health: Rules { eject_after: pool.health.eject_after, eject_for: pool.health.eject_for },
        care: Care {
            slow_start: pool.health.slow_start,
            panic_below_permille: pool.health.panic_below_permille,
        },
        upstreams: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// Whatever vectors this processor has, and wherever in them an octet lies.
        #[test]
        fn every_build_of_the_survey_sees_the_same(
            line in 0usize..200,
            odd in proptest::collection::vec((0usize..300, prop::sample::select(b"\r\n.\0x".to_vec())), 0..6),
            begin in 0usize..70,
        ) {
            let mut octets = [&b"y".repeat(line)[..], b"\r\n"].concat().repeat(300 / (line + 2) + 1);
            for (at, octet) in odd {
                let at = at % octets.len();
                octets[at] = octet;
            }
            let octets = &octets[begin.min(octets.len())..];
            prop_assert_eq!(survey()(octets), data::survey(octets));
        }
    }
}
