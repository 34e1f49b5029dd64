//! What a case needs of its surroundings: one `Net` under test and ordinary sockets on the far side.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use postlane::handle::{Buffers, Extent, ListenerId, StreamId};
use postlane::net::{Cause, Event, Net};

/// The far end of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Far(pub(crate) usize);

/// How a far end stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FarState {
    Open,
    Finished,
    Failed,
}

/// A backend with something to talk to.
pub(crate) trait Ground: Sized {
    type Net: Net;
    /// Its streams are only ever opened: what a case wants to accept, is opened instead.
    const OPENS: bool = false;
    /// Its streams go past the ring, which keeps the buffers that it has lent.
    const BYPASSES: bool = false;
    /// Has the net listen, at any port if it is given none.
    fn listen_near(&mut self, listener: ListenerId, port: u16) -> SocketAddr {
        self.net().listen(listener, SocketAddr::from(([127, 0, 0, 1], port))).unwrap()
    }
    /// Whether that is where far ends call from.
    fn is_far(&self, ip: IpAddr) -> bool {
        ip.is_loopback()
    }
    /// Why there is no such ground here, if there is none.
    fn absent() -> Option<String> {
        None
    }
    /// One shard with that many buffers, of which the kernel may have `lent_max` at a time.
    fn with_buffers(buffers: usize, lent_max: u16) -> Self;
    fn net(&mut self) -> &mut Self::Net;
    /// Lets a little time pass: far ends move bytes, the net takes one turn.
    fn step(&mut self, events_max: usize, events: &mut Vec<Event>);
    /// How many steps without any event are enough to say that nothing more will come.
    fn quiet_steps(&self) -> usize;
    fn streams(&mut self) -> usize;
    fn buffers_held(&mut self) -> usize;
    fn connect(&mut self, to: SocketAddr) -> Far;
    fn listen(&mut self) -> SocketAddr;
    /// Refuses from now on.
    fn unlisten(&mut self, at: SocketAddr);
    fn accept(&mut self, at: SocketAddr) -> Option<Far>;
    fn send(&mut self, far: Far, bytes: &[u8]);
    fn take_received(&mut self, far: Far, into: &mut Vec<u8>);
    fn state(&mut self, far: Far) -> FarState;
    fn close(&mut self, far: Far);
    /// Ends only the far end's sending.
    fn shutdown(&mut self, far: Far);
    fn reset(&mut self, far: Far);
    fn pause(&mut self, far: Far);
    fn resume(&mut self, far: Far);
}

/// A ground, and what its net has told so far.
pub(crate) struct Stage<G: Ground> {
    pub(crate) ground: G,
    pub(crate) accepted: Vec<StreamId>,
    pub(crate) opened: Vec<StreamId>,
    pub(crate) received: HashMap<StreamId, Vec<u8>>,
    pub(crate) sent: HashMap<StreamId, usize>,
    pub(crate) closed: HashMap<StreamId, Cause>,
    /// Received extents are kept here (with their reference) while `keep`; else looked at and released.
    pub(crate) kept: Vec<Extent>,
    pub(crate) keep: bool,
    /// Kept extents are joined where they can be.
    pub(crate) join: bool,
    /// Events in all.
    pub(crate) told: usize,
    pub(crate) listener: SocketAddr,
}

const STEPS_MAX: usize = 2_000_000;

impl<G: Ground> Stage<G> {
    pub(crate) fn new() -> Self {
        Self::with_buffers(256, 16)
    }

    pub(crate) fn with_buffers(buffers: usize, lent_max: u16) -> Self {
        Self::on(G::with_buffers(buffers, lent_max))
    }

    pub(crate) fn on(mut ground: G) -> Self {
        let listener = ground.listen_near(ListenerId(3), 0);
        assert_ne!(listener.port(), 0);
        Stage {
            ground,
            accepted: Vec::new(),
            opened: Vec::new(),
            received: HashMap::new(),
            sent: HashMap::new(),
            closed: HashMap::new(),
            kept: Vec::new(),
            keep: false,
            join: false,
            told: 0,
            listener,
        }
    }

    pub(crate) fn net(&mut self) -> &mut G::Net {
        self.ground.net()
    }

    pub(crate) fn step(&mut self) {
        let mut events = Vec::new();
        self.ground.step(64, &mut events);
        self.note(&events);
    }

    /// Writes events down, and checks what holds for each in any case.
    pub(crate) fn note(&mut self, events: &[Event]) {
        for &event in events {
            self.told += 1;
            let (Event::Accepted { stream, .. }
            | Event::Opened { stream }
            | Event::Received { stream, .. }
            | Event::Sent { stream, .. }
            | Event::Closed { stream, .. }) = event
            else {
                panic!("nobody asked the disk: {event:?}");
            };
            assert!(!self.closed.contains_key(&stream), "{event:?} after the stream's last event");
            match event {
                Event::Accepted { listener, stream, peer } => {
                    assert_eq!(listener, ListenerId(3));
                    assert!(self.ground.is_far(peer.ip()) && peer.port() != 0, "{peer}");
                    self.accepted.push(stream);
                }
                Event::Opened { stream } => self.opened.push(stream),
                Event::Received { stream, extent } => {
                    assert!(extent.len > 0);
                    let bytes = self.ground.net().bytes(extent).to_vec();
                    self.received.entry(stream).or_default().extend(bytes);
                    if self.keep {
                        self.keep(extent);
                    } else {
                        self.ground.net().release(extent.buffer);
                    }
                }
                Event::Sent { stream, marks, .. } => {
                    assert!(marks > 0);
                    *self.sent.entry(stream).or_default() += marks as usize;
                }
                Event::Disk { .. } => {}
                Event::Closed { stream, cause } => {
                    self.closed.insert(stream, cause);
                }
            }
        }
    }

    /// Keeps an extent, behind the last one's bytes if that has room and `join` is set.
    fn keep(&mut self, extent: Extent) {
        if let Some(tail) = self.kept.last_mut().filter(|_| self.join)
            && let Some(grown) = self.ground.net().append(*tail, extent)
        {
            *tail = grown;
            self.ground.net().release(extent.buffer);
        } else {
            self.kept.push(extent);
        }
    }

    /// Steps until `condition` holds.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if condition(self) {
                return;
            }
            self.step();
        }
        panic!("it never came to this: {what}");
    }

    /// Steps until nothing has happened for long enough.
    pub(crate) fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < self.ground.quiet_steps() {
            let before = self.told;
            self.step();
            quiet = if self.told == before { quiet + 1 } else { 0 };
        }
    }

    /// A far client, accepted.
    pub(crate) fn accept_one(&mut self) -> (StreamId, Far) {
        if G::OPENS {
            let at = self.ground.listen();
            let (stream, far) = self.open_one(at);
            self.accepted.push(stream);
            self.ground.unlisten(at);
            return (stream, far);
        }
        let before = self.accepted.len();
        let far = self.ground.connect(self.listener);
        self.until("accepted", |stage| stage.accepted.len() > before);
        (self.accepted[before], far)
    }

    /// One that was accepted goes, and another is taken in its place.
    pub(crate) fn make_way(&mut self, (stream, far): (StreamId, Far)) {
        self.ground.close(far);
        self.until_closed(stream);
        let (stream, far) = self.accept_one();
        self.ground.send(far, b"there is room again");
        self.until_received(stream, b"there is room again");
    }

    /// A stream opened to a far listener, at which it was accepted.
    pub(crate) fn open_one(&mut self, at: SocketAddr) -> (StreamId, Far) {
        let stream = self.net().open(at, None);
        let mut far = None;
        self.until("opened and accepted", |stage| {
            far = far.or_else(|| stage.ground.accept(at));
            far.is_some() && stage.opened.contains(&stream)
        });
        (stream, far.unwrap())
    }

    pub(crate) fn received(&self, stream: StreamId) -> &[u8] {
        self.received.get(&stream).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn until_received(&mut self, stream: StreamId, bytes: &[u8]) {
        self.until("received", |stage| stage.received(stream).len() >= bytes.len());
        assert_eq!(self.received(stream), bytes);
    }

    pub(crate) fn until_closed(&mut self, stream: StreamId) -> Cause {
        self.until("closed", |stage| stage.closed.contains_key(&stream));
        self.closed[&stream]
    }

    /// Waits until the far end has read exactly these bytes and nothing behind them so far.
    pub(crate) fn until_far_received(&mut self, far: Far, bytes: &[u8]) {
        let mut all = Vec::new();
        self.until("received by the far end", |stage| {
            stage.ground.take_received(far, &mut all);
            all.len() >= bytes.len()
        });
        assert!(
            all == bytes,
            "{} bytes came, of {} the first differing is {:?}",
            all.len(),
            bytes.len(),
            all.iter().zip(bytes).position(|(a, b)| a != b)
        );
    }

    pub(crate) fn until_far(&mut self, far: Far, state: FarState) {
        self.until("the far end's state", |stage| stage.ground.state(far) == state);
    }

    /// Brings bytes into this shard's buffers, to have extents to write: sends them from a far client.
    pub(crate) fn extents_of(&mut self, bytes: &[u8]) -> Vec<Extent> {
        let (stream, far) = self.accept_one();
        assert!(self.kept.is_empty());
        (self.keep, self.join) = (true, true);
        self.ground.send(far, bytes);
        self.until("received", |stage| stage.received(stream).len() >= bytes.len());
        (self.keep, self.join) = (false, false);
        self.ground.close(far);
        self.until_closed(stream);
        std::mem::take(&mut self.kept)
    }

    pub(crate) fn release_all(&mut self, extents: &[Extent]) {
        extents.iter().for_each(|extent| self.net().release(extent.buffer));
    }
}

/// Bytes that tell their place.
pub(crate) fn pattern(len: usize, salt: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt) >> 29) as u8)
        .collect()
}

/// A ground that differs from another only in how it is made.
macro_rules! like {
    ($name:ident, $inner:ty, |$buffers:ident, $lent_max:ident| $new:expr) => {
        impl $crate::ground::Ground for $name {
            type Net = <$inner as $crate::ground::Ground>::Net;
            fn with_buffers($buffers: usize, $lent_max: u16) -> Self {
                $name($new)
            }
            $crate::ground::delegate! {
                fn net() -> &mut Self::Net;
                fn step(events_max: usize, events: &mut Vec<postlane::net::Event>) -> ();
                fn streams() -> usize;
                fn buffers_held() -> usize;
                fn connect(to: std::net::SocketAddr) -> $crate::ground::Far;
                fn listen() -> std::net::SocketAddr;
                fn unlisten(at: std::net::SocketAddr) -> ();
                fn accept(at: std::net::SocketAddr) -> Option<$crate::ground::Far>;
                fn send(far: $crate::ground::Far, bytes: &[u8]) -> ();
                fn take_received(far: $crate::ground::Far, into: &mut Vec<u8>) -> ();
                fn state(far: $crate::ground::Far) -> $crate::ground::FarState;
                fn close(far: $crate::ground::Far) -> ();
                fn shutdown(far: $crate::ground::Far) -> ();
                fn reset(far: $crate::ground::Far) -> ();
                fn pause(far: $crate::ground::Far) -> ();
                fn resume(far: $crate::ground::Far) -> ();
            }
            fn quiet_steps(&self) -> usize {
                self.0.quiet_steps()
            }
        }
    };
}

macro_rules! delegate {
    ($(fn $method:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $method(&mut self, $($arg: $type),*) -> $result {
            self.0.$method($($arg),*)
        })*
    };
}

pub(crate) use {delegate, like};
