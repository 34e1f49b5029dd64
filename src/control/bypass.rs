//! The interface by which upstreams are reached, and clients may come, past the kernel: set up before the shards are,
//! shared out among them.

use std::net::SocketAddr;
use std::sync::Arc;

use super::launch::Failure;
use crate::config::{self, Backend, Config};
use crate::net::xdp::{self, Handover, Interface, Queue, XdpOptions};
use crate::observe;
use crate::sys::numa;
use crate::sys::xdp::netlink::Netlink;
use crate::sys::xdp::socket::Mode;

/// A shard's share of the interface.
pub(super) struct Bypass {
    pub(super) interface: Arc<Interface>,
    pub(super) queues: Vec<Queue>,
    pub(super) handover: Handover,
}

/// Sets the interface up, if the configuration wants it: the share of each shard, which are on those CPUs.
pub(super) fn all(config: &Config, cpus: &[u32]) -> Result<Vec<Option<Bypass>>, Failure> {
    let shards = cpus.len();
    let none = || (0..shards).map(|_| None).collect();
    let Some(xdp) = config.xdp.as_ref().filter(|_| config.backend == Backend::Xdp) else {
        return Ok(none());
    };
    let options = XdpOptions {
        interface: xdp.interface.clone(),
        queues: xdp.queues.clone(),
        mode: xdp.mode.map(|mode| match mode {
            config::XdpMode::ZeroCopy => Mode::ZeroCopy,
            config::XdpMode::Copy => Mode::Copy,
            config::XdpMode::Generic => Mode::Generic,
        }),
        ports: xdp.ports.clone(),
    };
    // Frames lie where the shard is that reads and writes them; the plan puts it where the device is.
    let nodes: Vec<Option<u32>> = cpus.iter().map(|&cpu| numa::node_of_cpu(cpu)).collect();
    match Interface::open_near(&options, &nodes) {
        Ok((interface, shares)) => {
            let interface = Arc::new(interface);
            let all = shares.into_iter().zip(xdp::handovers(shards));
            Ok(all
                .map(|(queues, handover)| Some(Bypass { interface: interface.clone(), queues, handover }))
                .collect())
        }
        Err(error) if xdp.fallback => {
            eprintln!("postlane: kernel bypass is refused, so everything goes by the kernel: {error}");
            Ok(none())
        }
        Err(error) => Err(Failure { exit: 71, message: format!("kernel bypass cannot be started: {error}") }),
    }
}

/// An interface as status and metrics show it.
pub(super) fn shown(interface: &Interface) -> observe::Bypass {
    observe::Bypass {
        interface: interface.name().to_owned(),
        mode: interface.mode().to_string(),
        queues: interface.queues().to_vec(),
        huge_pages: interface.has_huge_pages(),
        nodes: interface.nodes().to_vec(),
    }
}

/// How bytes travel, in words: what is bypassed, which upstreams are not reached so, and which listeners' clients are.
pub(super) fn words(interface: &Interface, config: &Config) -> String {
    let mut words = interface.to_string();
    let Ok(mut netlink) = Netlink::new() else { return words };
    let mut by_kernel = Vec::new();
    for (pool, upstream) in config.pools.iter().flat_map(|pool| pool.upstreams.iter().map(move |u| (pool, u)))
    {
        let source =
            pool.source_addresses.iter().find(|ip| ip.is_ipv4() == upstream.address.is_ipv4()).copied();
        let route = netlink.route(upstream.address.ip(), source);
        if route.is_ok_and(|route| route.is_local || route.interface != interface.index()) {
            by_kernel.push(format!("{}/{}", pool.name, upstream.name));
        }
    }
    if !by_kernel.is_empty() {
        words += &format!("; by the kernel, as their routes go elsewhere: {}", by_kernel.join(", "));
    }
    let local = netlink.addresses().unwrap_or_default();
    let is_local = |at: &SocketAddr| {
        at.ip().is_unspecified() || !at.ip().is_loopback() && local.iter().any(|(_, ip)| *ip == at.ip())
    };
    let past_kernel: Vec<String> = config
        .listeners
        .iter()
        .filter(|listener| listener.backend == Backend::Xdp)
        .flat_map(|listener| listener.addresses.iter().map(move |at| (listener, at)))
        .filter(|(_, at)| is_local(at))
        .map(|(listener, at)| format!("{} ({at})", listener.name))
        .collect();
    if !past_kernel.is_empty() {
        words += &format!("; by it too what comes by it for {}", past_kernel.join(", "));
    }
    words
}
