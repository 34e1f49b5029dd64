//! Where shards listen at the interface: what of it the kernel's program has to know.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crate::handle::ListenerId;
use crate::sys::xdp::attachment::Attachment;

/// All shards' inlets: an address and port, and how many shards listen there or still have sessions there. Only
/// listeners and addresses that come and go take the lock.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<SocketAddr, usize>>);

impl Shared {
    /// One more shard. The first one has segments for it brought to us.
    pub(super) fn join(&self, inlet: SocketAddr, attachment: &Attachment) -> io::Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.entry(inlet) {
            Entry::Occupied(mut known) => *known.get_mut() += 1,
            Entry::Vacant(new) => {
                attachment.add_inlet(inlet)?;
                new.insert(1);
            }
        }
        Ok(())
    }

    /// One less. With the last one the kernel has its segments again.
    pub(super) fn leave(&self, inlet: SocketAddr, attachment: &Attachment) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shards) = all.get_mut(&inlet) {
            *shards -= 1;
            if *shards == 0 {
                all.remove(&inlet);
                attachment.remove_inlet(inlet);
            }
        }
    }
}

/// Somebody listens, here or only in the kernel.
#[derive(Debug)]
struct Listener {
    id: ListenerId,
    at: SocketAddr,
    may_bypass: bool,
}

/// One of this shard's inlets.
#[derive(Debug, Default)]
struct Inlet {
    /// `None`: nobody listens any more, but sessions are left.
    listener: Option<ListenerId>,
    sessions: usize,
}

/// This shard's inlets.
#[derive(Debug, Default)]
pub(super) struct Inlets {
    listeners: Vec<Listener>,
    all: HashMap<SocketAddr, Inlet>,
}

/// Where a listener takes connections on a machine with that address.
fn is_at(listener: SocketAddr, address: IpAddr) -> bool {
    let ip = listener.ip();
    // The kernel's IPv6 listeners take IPv4 as well.
    ip == address || ip.is_unspecified() && (ip.is_ipv4() == address.is_ipv4() || ip.is_ipv6())
}

impl Inlets {
    pub(super) fn add_listener(&mut self, id: ListenerId, at: SocketAddr, may_bypass: bool) {
        self.listeners.push(Listener { id, at, may_bypass });
        // Who listens at one address comes before who listens at any, as in the kernel.
        self.listeners.sort_by_key(|listener| listener.at.ip().is_unspecified());
    }

    pub(super) fn remove_listener(&mut self, listener: ListenerId) {
        self.listeners.retain(|one| one.id != listener);
    }

    /// Who has what comes for that address.
    fn listener_for(&self, inlet: SocketAddr) -> Option<ListenerId> {
        let is_there = |one: &&Listener| one.at.port() == inlet.port() && is_at(one.at, inlet.ip());
        self.listeners.iter().find(is_there).filter(|one| one.may_bypass).map(|one| one.id)
    }

    /// What listeners and the machine's addresses come to now: inlets that are new, and those that nobody needs any more.
    /// What cannot be made known of the new ones stays the kernel's.
    pub(super) fn settle(
        &mut self,
        addresses: &[IpAddr],
        mut join: impl FnMut(SocketAddr) -> io::Result<()>,
        leave: impl FnMut(SocketAddr),
    ) -> io::Result<()> {
        self.all.values_mut().for_each(|inlet| inlet.listener = None);
        let mut result = Ok(());
        let mut ports: Vec<u16> = self.listeners.iter().map(|listener| listener.at.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        for inlet in ports.iter().flat_map(|&port| addresses.iter().map(move |&ip| SocketAddr::new(ip, port)))
        {
            let Some(listener) = self.listener_for(inlet) else { continue };
            if !self.all.contains_key(&inlet)
                && let Err(error) = join(inlet)
            {
                result = Err(error);
                continue;
            }
            self.all.entry(inlet).or_default().listener = Some(listener);
        }
        self.sweep(leave);
        result
    }

    fn sweep(&mut self, mut leave: impl FnMut(SocketAddr)) {
        self.all.retain(|&at, inlet| {
            let is_needed = inlet.listener.is_some() || inlet.sessions > 0;
            if !is_needed {
                leave(at);
            }
            is_needed
        });
    }

    /// Who listens there.
    pub(super) fn listener_at(&self, at: SocketAddr) -> Option<ListenerId> {
        self.all.get(&at)?.listener
    }

    /// A session has begun there.
    pub(super) fn begin_session(&mut self, at: SocketAddr) {
        self.all.entry(at).or_default().sessions += 1;
    }

    /// One has ended. True: it was the last one of an inlet that nobody listens at, which is none any more.
    pub(super) fn end_session(&mut self, at: SocketAddr) -> bool {
        let Entry::Occupied(mut inlet) = self.all.entry(at) else { return false };
        inlet.get_mut().sessions -= 1;
        let is_over = inlet.get().listener.is_none() && inlet.get().sessions == 0;
        if is_over {
            inlet.remove();
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    #[test]
    fn inlets_follow_listeners_addresses_and_sessions() {
        let steered = RefCell::new(BTreeSet::new());
        let join = |at: SocketAddr| {
            assert!(steered.borrow_mut().insert(at.to_string()));
            Ok(())
        };
        let leave = |at: SocketAddr| assert!(steered.borrow_mut().remove(&at.to_string()));
        let shown = || steered.borrow().iter().cloned().collect::<Vec<_>>().join(" ");
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let mut inlets = Inlets::default();
        let both = [address("10.0.0.1"), address("fd00::1")];
        inlets.add_listener(ListenerId(1), at("10.0.0.1:25"), true);
        inlets.add_listener(ListenerId(2), at("127.0.0.1:25"), true);
        inlets.add_listener(ListenerId(3), at("[::]:587"), true);
        inlets.add_listener(ListenerId(4), at("0.0.0.0:465"), true);
        inlets.settle(&both, join, leave).expect("room");
        assert_eq!(shown(), "10.0.0.1:25 10.0.0.1:465 10.0.0.1:587 [fd00::1]:587");
        assert_eq!(inlets.listener_at(at("[fd00::1]:587")), Some(ListenerId(3)));
        // An address goes, with sessions and without.
        inlets.begin_session(at("10.0.0.1:25"));
        inlets.settle(&both[1..], join, leave).expect("room");
        assert_eq!(shown(), "10.0.0.1:25 [fd00::1]:587");
        assert_eq!(inlets.listener_at(at("10.0.0.1:25")), None);
        assert!(inlets.end_session(at("10.0.0.1:25")));
        leave(at("10.0.0.1:25"));
        // It comes back, and a listener goes while it has sessions.
        inlets.settle(&both, join, leave).expect("room");
        inlets.begin_session(at("10.0.0.1:465"));
        inlets.begin_session(at("10.0.0.1:465"));
        inlets.remove_listener(ListenerId(4));
        inlets.settle(&both, join, leave).expect("room");
        assert_eq!(shown(), "10.0.0.1:25 10.0.0.1:465 10.0.0.1:587 [fd00::1]:587");
        assert!(!inlets.end_session(at("10.0.0.1:465")));
        assert!(inlets.end_session(at("10.0.0.1:465")));
        // One that there is no room for is the kernel's; the others are served.
        inlets.add_listener(ListenerId(5), at("10.0.0.1:26"), true);
        let full = |_| Err(io::Error::from_raw_os_error(libc::E2BIG));
        assert!(inlets.settle(&both, full, leave).is_err());
        assert_eq!(inlets.listener_at(at("10.0.0.1:26")), None);
        assert_eq!(inlets.listener_at(at("10.0.0.1:25")), Some(ListenerId(1)));
        inlets.remove_listener(ListenerId(5));
        // One of the kernel's at one address takes that from one of ours at any.
        inlets.add_listener(ListenerId(6), at("[::]:2525"), true);
        inlets.add_listener(ListenerId(7), at("10.0.0.1:2525"), false);
        inlets.settle(&both, join, leave).expect("room");
        assert_eq!(inlets.listener_at(at("10.0.0.1:2525")), None);
        assert_eq!(inlets.listener_at(at("[fd00::1]:2525")), Some(ListenerId(6)));
    }
}
