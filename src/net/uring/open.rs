//! Streams that we open.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Uring;
use super::stream::Phase;
use super::tag::Op;
use crate::handle::StreamId;
use crate::net::{Cause, Event};
use crate::sys::name::Name;
use crate::sys::ring::Completion;
use crate::sys::socket;

impl Uring {
    pub(super) fn start_opening(&mut self, to: SocketAddr, source: Option<IpAddr>) -> StreamId {
        match self.place_caller(to, source) {
            Ok(direct) => {
                let slot = self.streams.add(Phase::Opening, direct);
                let tag = self.streams.tag(Op::Connect, slot);
                self.streams.at(slot).outstanding += 1;
                let name = self.names.at(slot as usize);
                *name = Name::of(to);
                self.ring.connect(direct, name, tag);
                self.streams.id(slot)
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let slot = self.streams.add(Phase::Closing(Cause::NotOpened(errno)), 0);
                let stream = self.streams.id(slot);
                self.events.push_back(Event::Closed { stream, cause: Cause::NotOpened(errno) });
                stream
            }
        }
    }

    /// A socket in a place of ours in the file table.
    fn place_caller(&mut self, to: SocketAddr, source: Option<IpAddr>) -> io::Result<u32> {
        let full = || io::Error::from_raw_os_error(libc::EMFILE);
        let direct = *self.places.last().ok_or_else(full)?;
        let socket = socket::caller(to, source)?;
        self.ring.install(direct, &socket)?;
        self.places.pop();
        Ok(direct)
    }

    pub(super) fn on_connect(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        let stream = self.streams.at(slot);
        stream.outstanding -= 1;
        if stream.phase != Phase::Opening {
            return self.finish_if_over(slot);
        }
        if completion.result < 0 {
            self.begin_close(slot, Cause::NotOpened(-completion.result));
            return None;
        }
        stream.phase = Phase::Open;
        self.receive_if_wanted(slot);
        self.look_at(slot);
        Some(Event::Opened { stream: self.streams.id(slot) })
    }
}
