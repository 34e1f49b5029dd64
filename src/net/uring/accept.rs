//! Listening, and streams that others open to us.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Uring;
use super::error::Error;
use super::stream::Phase;
use super::tag::{Op, Tag};
use crate::handle::ListenerId;
use crate::net::{Cause, Event};
use crate::sys::clock;
use crate::sys::ring::Completion;
use crate::sys::socket;

/// One-shot accepts under way per listener, where the multishot one cannot be used.
const ONES: u32 = 8;
/// When there are no more files or streams, accepting is tried again after this.
const RETRY: Duration = Duration::from_millis(50);

pub(super) struct Listener {
    id: ListenerId,
    fd: OwnedFd,
    is_ipv4: bool,
    /// Requests whose last completion is still to come, as bits: which of the [`ONES`], or the multishot one.
    armed: u32,
    leaving: bool,
}

impl Listener {
    pub(super) fn id(&self) -> ListenerId {
        self.id
    }
}

impl Uring {
    pub(super) fn start_listening(&mut self, id: ListenerId, address: SocketAddr) -> io::Result<SocketAddr> {
        let taken = |slot: &Option<Listener>| slot.is_some();
        let place = self.listeners.iter().position(|slot| !taken(slot)).unwrap_or(self.listeners.len());
        let made = socket::listener(address, self.options.cpu);
        let (fd, bound) = made.map_err(|error| Error::of_listen(address, error))?;
        let listener = Some(Listener { id, fd, is_ipv4: address.is_ipv4(), armed: 0, leaving: false });
        if place == self.listeners.len() {
            self.listeners.push(listener);
        } else {
            self.listeners[place] = listener;
        }
        self.accept_more(place as u32);
        Ok(bound)
    }

    pub(super) fn stop_listening(&mut self, id: ListenerId) {
        for place in 0..self.listeners.len() as u32 {
            let Some(listener) = self.listeners[place as usize].as_mut() else {
                continue;
            };
            if listener.id != id || std::mem::replace(&mut listener.leaving, true) {
                continue;
            }
            let armed = listener.armed;
            if armed == 0 {
                self.listeners[place as usize] = None;
            }
            let op = self.accept_op();
            for nth in (0..u32::BITS).filter(|nth| armed & (1 << nth) != 0) {
                self.ring.cancel(Tag { op, slot: place, generation: nth }.pack());
            }
        }
    }

    fn accept_op(&self) -> Op {
        if self.ring.features.peer_name { Op::Accept } else { Op::AcceptOne }
    }

    /// Has what can be accepted at that place accepted.
    fn accept_more(&mut self, place: u32) {
        let Some(listener) = self.listeners[place as usize].as_mut().filter(|listener| !listener.leaving)
        else {
            return;
        };
        if self.ring.features.peer_name {
            if listener.armed == 0 {
                listener.armed = 1;
                self.ring.accept_all(&listener.fd, Tag { op: Op::Accept, slot: place, generation: 0 }.pack());
            }
            return;
        }
        for nth in (0..ONES).filter(|nth| listener.armed & (1 << nth) == 0) {
            let name = self.caller_names.at((place * ONES + nth) as usize);
            let tag = Tag { op: Op::AcceptOne, slot: place, generation: nth };
            self.ring.accept_one(&listener.fd, name, tag.pack());
        }
        listener.armed = (1 << ONES) - 1;
    }

    /// Listeners that had to stop try again.
    pub(super) fn retry_accepting(&mut self) {
        (0..self.listeners.len() as u32).for_each(|place| self.accept_more(place));
    }

    pub(super) fn on_accept(&mut self, tag: Tag, completion: Completion) -> Option<Event> {
        let (place, nth) = (tag.slot, tag.generation);
        let listener = self.listeners[place as usize].as_mut()?;
        if !completion.more {
            listener.armed &= !(1 << nth);
        }
        let (id, is_ipv4, over) = (listener.id, listener.is_ipv4, listener.leaving && listener.armed == 0);
        let event = if completion.result < 0 {
            self.on_accept_failed(place, -completion.result);
            None
        } else {
            self.take_in(place, nth, id, is_ipv4, completion.result as u32)
        };
        if over {
            self.listeners[place as usize] = None;
        } else if !completion.more && completion.result >= 0 {
            self.accept_more(place);
        }
        event
    }

    fn on_accept_failed(&mut self, place: u32, errno: i32) {
        match errno {
            libc::ECANCELED => {}
            // Connections that were gone before we took them.
            libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO => self.accept_more(place),
            errno => {
                // The table is full: the connection was closed by the kernel.
                self.turned_away += u64::from(errno == libc::ENFILE);
                self.retry_at = self.retry_at.min(clock::now() + RETRY);
            }
        }
    }

    fn take_in(&mut self, place: u32, nth: u32, id: ListenerId, is_ipv4: bool, direct: u32) -> Option<Event> {
        let slot = self.streams.add(Phase::Naming { listener: id }, direct);
        if self.ring.features.peer_name {
            let tag = self.streams.tag(Op::PeerName, slot);
            self.streams.at(slot).outstanding += 1;
            self.ring.peer_name(direct, self.names.at(slot as usize), is_ipv4, tag);
            return None;
        }
        let name = *self.caller_names.at((place * ONES + nth) as usize);
        self.introduce(slot, id, name.address())
    }

    pub(super) fn on_peer_name(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        self.streams.at(slot).outstanding -= 1;
        let Phase::Naming { listener } = self.streams.at(slot).phase else {
            return self.finish_if_over(slot);
        };
        let name = self.names.at(slot as usize).address().filter(|_| completion.result >= 0);
        self.introduce(slot, listener, name)
    }

    /// The stream is there, with or without a name.
    fn introduce(&mut self, slot: u32, listener: ListenerId, peer: Option<SocketAddr>) -> Option<Event> {
        self.streams.at(slot).phase = Phase::Open;
        let Some(peer) = peer else {
            // It was reset before we could ask. Nobody has heard of it, so nobody is told of its end.
            self.begin_close(slot, Cause::Failed(libc::ECONNRESET));
            self.streams.at(slot).unheard = true;
            return None;
        };
        self.receive_if_wanted(slot);
        Some(Event::Accepted { listener, stream: self.streams.id(slot), peer })
    }
}
