//! A network of its own for a test: this thread in one namespace, the far ends in another, a veth between them. Nothing
//! of it is left when the test ends, however it ends.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns, unshare};

/// The near end's interface.
pub(crate) const INTERFACE: &str = "xdpnear";
#[allow(dead_code, reason = "not every user needs it")]
pub(crate) const FAR_INTERFACE: &str = "xdpfar";

/// Two namespaces. The thread that made it is in the near one.
pub(crate) struct Network {
    near: File,
    far: File,
    /// Behind the far one, which then is a router to it.
    beyond: Option<File>,
}

/// The name of a new namespace: nobody else's.
fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("xdp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("`ip` cannot be run: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", words.trim())) }
}

impl Network {
    /// With so many queues at each end; or why there is none here.
    pub(crate) fn new(queues: u32) -> Result<Network, String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let name = new_name();
        ip(&format!("netns add {name}"))?;
        let made = Self::make(&name, queues);
        // It lives on by what is open in it.
        ip(&format!("netns del {name}"))?;
        made
    }

    fn make(name: &str, queues: u32) -> Result<Network, String> {
        let open = |path: &str| File::open(path).map_err(|error| format!("{path}: {error}"));
        let far = open(&format!("/run/netns/{name}"))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare: {error}"))?;
        let near = open("/proc/thread-self/ns/net")?;
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        ip("link set lo up")?;
        ip(&format!(
            "link add {INTERFACE} {count} type veth peer name {FAR_INTERFACE} {count} netns {name}"
        ))?;
        ip(&format!("addr add 10.66.0.1/24 dev {INTERFACE}"))?;
        ip(&format!("addr add fd66::1/64 dev {INTERFACE} nodad"))?;
        ip(&format!("link set {INTERFACE} up"))?;
        for command in [
            "link set lo up".to_owned(),
            format!("addr add 10.66.0.2/24 dev {FAR_INTERFACE}"),
            format!("addr add fd66::2/64 dev {FAR_INTERFACE} nodad"),
            format!("link set {FAR_INTERFACE} up"),
        ] {
            ip(&format!("-n {name} {command}"))?;
        }
        Ok(Network { near, far, beyond: None })
    }

    /// Makes the far end a router to a third namespace, by a link to which it passes on packets of `mtu` bytes at most;
    /// there is [`beyond_address`](Self::beyond_address), where nobody knows that.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn route_beyond(&mut self, mtu: u32) {
        let name = new_name();
        ip(&format!("netns add {name}")).expect("there is one already");
        let beyond = File::open(format!("/run/netns/{name}"));
        for command in [
            format!("link add xdprouter mtu {mtu} type veth peer name xdpbeyond mtu 1500 netns {name}"),
            "addr add 10.68.0.1/24 dev xdprouter".to_owned(),
            "addr add fd68::1/64 dev xdprouter nodad".to_owned(),
            "link set xdprouter up".to_owned(),
        ] {
            self.run_far("ip", &command).expect("ip(8) can");
        }
        for command in [
            "link set lo up",
            "addr add 10.68.0.2/24 dev xdpbeyond",
            "addr add fd68::2/64 dev xdpbeyond nodad",
            "link set xdpbeyond up",
            "route add default via 10.68.0.1",
            "route add default via fd68::1",
        ] {
            ip(&format!("-n {name} {command}")).expect("ip(8) can");
        }
        ip(&format!("netns del {name}")).expect("it lives on by what is open in it");
        self.far(|| {
            for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{forwarding}"), "1").expect("it is ours");
            }
        });
        self.ip("route add 10.68.0.0/24 via 10.66.0.2");
        self.ip("route add fd68::/64 via fd66::2");
        self.beyond = Some(beyond.expect("it was just made"));
    }

    /// Does something in the last namespace there is.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn last<T>(&self, what: impl FnOnce() -> T) -> T {
        self.within(self.beyond.as_ref().unwrap_or(&self.far), what)
    }

    /// The address behind the router, any port.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn beyond_address(&self, ipv6: bool) -> SocketAddr {
        let at = if ipv6 { "[fd68::2]:0" } else { "10.68.0.2:0" };
        at.parse().expect("an address")
    }

    /// Does something in the far namespace; sockets made there stay there.
    pub(crate) fn far<T>(&self, what: impl FnOnce() -> T) -> T {
        self.within(&self.far, what)
    }

    fn within<T>(&self, namespace: &File, what: impl FnOnce() -> T) -> T {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("it is open");
        let done = what();
        setns(&self.near, CloneFlags::CLONE_NEWNET).expect("it is open");
        done
    }

    /// The far end's address, any port.
    pub(crate) fn far_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 66, 0, 2]), 0)
    }

    /// The same by IPv6.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn far_address_ipv6(&self) -> SocketAddr {
        "[fd66::2]:0".parse().expect("an address")
    }

    /// Runs a command there, for what no system call of ours does.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn run_far(&self, program: &str, arguments: &str) -> Result<(), String> {
        self.far(|| {
            let output = Command::new(program).args(arguments.split(' ')).output();
            let output = output.map_err(|error| format!("`{program}` cannot be run: {error}"))?;
            let words = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                Ok(())
            } else {
                Err(format!("{program} {arguments}: {}", words.trim()))
            }
        })
    }

    /// The same with ip(8) on this side, where it may be that it cannot.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn try_ip(&self, arguments: &str) -> Result<(), String> {
        ip(arguments)
    }

    /// And where it can.
    #[allow(dead_code, reason = "not every user needs it")]
    pub(crate) fn ip(&self, arguments: &str) {
        ip(arguments).expect("ip(8) can");
    }
}
