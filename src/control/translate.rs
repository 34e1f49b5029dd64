//! From a checked configuration to the rooms' own options.

use std::sync::Arc;

use crate::balance::health::Rules;
use crate::config::{Config, ShardBy};
use crate::dispatch::options::{self, Options};
use crate::dispatch::owner;
use crate::handle::ShardId;
use crate::protocol::server;
use crate::route::{Routes, Rule};

/// Protocol errors after which a session is closed.
const FAULTS_MAX: u32 = 20;

pub(super) fn shard_options(config: &Config, shard: ShardId, shards: u16, epoch_ms: u64) -> Options {
    let listener = |listener: &crate::config::Listener| options::Listener {
        name: listener.name.clone(),
        trusted: listener.trusted.clone(),
        server: server::Options {
            hostname: config.hostname.clone(),
            size_max: listener.max_message,
            recipients_max: listener.max_recipients,
            faults_max: FAULTS_MAX,
        },
        sessions_max: u64::from(listener.max_sessions),
        idle_timeout: listener.idle_timeout,
    };
    Options {
        shard,
        shards,
        shard_by: match config.shard_by {
            ShardBy::Address => owner::ShardBy::Address,
            ShardBy::Domain => owner::ShardBy::Domain,
        },
        hostname: config.hostname.clone(),
        epoch_ms,
        seed: epoch_ms ^ (u64::from(shard.0) << 48),
        bounce_from: config.delivery.bounce_from.clone(),
        listeners: config.listeners.iter().map(listener).collect(),
        pools: config.pools.iter().map(|pool| pool_options(pool, config)).collect(),
        routes: Arc::new(routes(config)),
    }
}

fn routes(config: &Config) -> Routes {
    let rules = config.routes.iter().map(|route| Rule {
        recipient_domains: route.recipient_domain.clone(),
        sender_domains: route.sender_domain.clone(),
        listeners: route.listener.clone(),
        sources: route.source.clone(),
        header: route.header.clone(),
        pool: pool_number(config, &route.pool).unwrap_or_default() as u16,
    });
    Routes::new(rules.collect(), 0)
}

fn pool_number(config: &Config, name: &str) -> Option<usize> {
    config.pools.iter().position(|pool| pool.name == name)
}

fn pool_options(pool: &crate::config::Pool, config: &Config) -> options::Pool {
    options::Pool {
        policy: pool.balance,
        links_max: usize::from(pool.links_per_shard),
        idle_links: usize::from(pool.idle_links),
        idle_timeout: pool.idle_timeout,
        transactions_per_link: pool.transactions_per_link,
        source_addresses: pool.source_addresses.clone(),
        connect_timeout: pool.connect_timeout,
        reply_timeout: pool.reply_timeout,
        attempts: pool.attempts,
        chunking: pool.chunking,
        fallback: pool.fallback.as_deref().and_then(|name| pool_number(config, name)),
        health: Rules { eject_after: pool.health.eject_after, eject_for: pool.health.eject_for },
        upstreams: pool
            .upstreams
            .iter()
            .map(|upstream| options::Upstream {
                name: upstream.name.clone(),
                address: upstream.address,
                weight: upstream.weight,
            })
            .collect(),
    }
}
