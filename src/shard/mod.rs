//! One core's loop and hands: takes what the network and the other shards bring to dispatch, and carries out
//! what dispatch says. Knows nothing of mail.

mod edition;
pub mod mailbox;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::disk::Disk;
use crate::dispatch::{Command, Dispatch, Letter, Piece, Pieces};
use crate::handle::{ListenerId, ShardId, StreamId};
use crate::net::{Event, Inlet, Net};
use crate::observe::Stats;
use crate::spool::Request;
use crate::time::Instant;
pub use edition::{Desks, Edition};
use mailbox::Mailbox;

/// Events taken in one turn: enough to fill the sends, few enough that their bytes stay in the cache.
const EVENTS_PER_TURN: usize = 256;
/// Letters taken in one turn.
const LETTERS_PER_TURN: usize = 256;
/// An idle shard still looks up this often: for orders, and to publish its gauges.
const NAP: Duration = Duration::from_millis(100);

/// What the control thread wants of all shards.
#[derive(Debug, Default)]
pub struct Orders(AtomicU8);

/// The states that orders go through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Order {
    /// Take mail.
    Run,
    /// Finish what is under way, take no more.
    Drain,
    /// Take leave and end.
    Stop,
}

impl Orders {
    /// Gives an order. They only ever go forward.
    pub fn give(&self, order: Order) {
        self.0.fetch_max(order as u8, Ordering::Relaxed);
    }

    /// The order in force.
    pub fn get(&self) -> Order {
        match self.0.load(Ordering::Relaxed) {
            0 => Order::Run,
            1 => Order::Drain,
            _ => Order::Stop,
        }
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard<N> {
    id: ShardId,
    net: N,
    dispatch: Dispatch,
    mailbox: Mailbox<Letter>,
    orders: Arc<Orders>,
    obeyed: Order,
    /// Every shard's counters, its own among them.
    stats: Arc<[Arc<Stats>]>,
    events: Vec<Event>,
    /// For pieces of bodies that are copied.
    copy: Vec<u8>,
    now: Instant,
    publish_at: Instant,
    /// By listener, where this shard listens.
    listening: Vec<Option<SocketAddr>>,
    /// Where new editions of the options and operators' orders lie, and the last ones taken.
    desks: Option<Arc<Desks>>,
    edition: u64,
    order: u64,
}

impl<N: Net + Disk> Shard<N> {
    /// Puts a shard together.
    pub fn new(
        id: ShardId,
        net: N,
        dispatch: Dispatch,
        mailbox: Mailbox<Letter>,
        orders: Arc<Orders>,
        stats: Arc<[Arc<Stats>]>,
    ) -> Self {
        let now = net.now();
        Shard {
            id,
            net,
            dispatch,
            mailbox,
            orders,
            obeyed: Order::Run,
            stats,
            events: Vec::with_capacity(EVENTS_PER_TURN),
            copy: Vec::new(),
            now,
            publish_at: now,
            listening: Vec::new(),
            desks: None,
            edition: 0,
            order: 0,
        }
    }

    /// From here on it looks there for new editions of its options, and for orders.
    pub fn attend(&mut self, desks: Arc<Desks>) {
        self.desks = Some(desks);
    }

    /// Listens; the address with its port.
    pub fn listen(&mut self, listener: ListenerId, address: SocketAddr) -> io::Result<SocketAddr> {
        self.listen_at(listener, Inlet { address, past_kernel: false })
    }

    /// The same, perhaps past the kernel.
    pub fn listen_at(&mut self, listener: ListenerId, inlet: Inlet) -> io::Result<SocketAddr> {
        let bound = match inlet.past_kernel {
            true => self.net.listen_past_kernel(listener, inlet.address)?,
            false => self.net.listen(listener, inlet.address)?,
        };
        let place = usize::from(listener.0);
        self.listening.resize(self.listening.len().max(place + 1), None);
        self.listening[place] = Some(bound);
        Ok(bound)
    }

    /// Takes a new edition, if there is one: all of it or, where a listener cannot be had, nothing. Takes an order, and
    /// answers the last one.
    fn look_at_desks(&mut self) {
        let Some(desks) = self.desks.take() else { return };
        if let Some((number, edition)) = desks.editions.take(self.edition) {
            self.edition = number;
            let result = self.apply(*edition);
            desks.editions.reply(number, result);
        }
        if let Some((number, order)) = desks.orders.take(self.order) {
            self.order = number;
            self.dispatch.handle_order(*order);
        }
        if let Some(answer) = self.dispatch.poll_answer() {
            desks.orders.reply(self.order, answer);
        }
        self.desks = Some(desks);
    }

    fn apply(&mut self, edition: Edition) -> Result<(), String> {
        let Edition { options, stats, scoreboard, listen } = edition;
        let before = std::mem::take(&mut self.listening);
        self.listening = before.clone();
        self.listening.resize(listen.len(), None);
        let had = |place: usize| before.get(place).copied().flatten();
        if self.obeyed == Order::Run {
            for (place, wanted) in listen.iter().enumerate().filter(|(place, _)| had(*place).is_none()) {
                let Some(inlet) = *wanted else { continue };
                if let Err(error) = self.listen_at(ListenerId(place as u16), inlet) {
                    self.close_listeners(|place| had(place).is_none());
                    return Err(format!("shard {} cannot listen on {}: {error}", self.id.0, inlet.address));
                }
            }
        }
        self.stats = stats;
        let own = self.stats[self.id.index()].clone();
        self.dispatch.apply(options, own, scoreboard, self.now, &mut self.net);
        self.close_listeners(|place| listen.get(place).copied().flatten().is_none());
        Ok(())
    }

    fn close_listeners(&mut self, which: impl Fn(usize) -> bool) {
        for (place, listening) in self.listening.iter_mut().enumerate() {
            if listening.is_some() && which(place) {
                self.net.unlisten(ListenerId(place as u16));
                *listening = None;
            }
        }
    }

    /// Waits for something to happen, at most a nap, and deals with it.
    pub fn turn(&mut self) {
        let until = if self.mailbox.sleep() {
            self.now
        } else {
            self.dispatch.next_deadline(self.now).min(self.now + NAP)
        };
        let mut events = std::mem::take(&mut self.events);
        self.now = self.net.turn(until, EVENTS_PER_TURN, &mut events);
        self.mailbox.awake();
        let woke_at = self.now;
        self.look_at_desks();
        self.dispatch.handle_marks(self.now, &mut self.net);
        for event in events.drain(..) {
            self.handle(event);
        }
        self.events = events;
        for _ in 0..LETTERS_PER_TURN {
            let Some(letter) = self.mailbox.take() else { break };
            self.dispatch.handle_letter(letter, self.now, &mut self.net);
        }
        self.obey();
        if self.dispatch.next_deadline(self.now) <= self.now {
            self.dispatch.handle_deadlines(self.now, &mut self.net);
        }
        self.carry_out();
        if self.publish_at <= self.now {
            self.publish_at = self.now + NAP;
            self.dispatch.tend(self.now);
            self.dispatch.publish(self.now);
            self.publish_network();
        }
        let stats = &self.stats[self.id.index()];
        stats.turns.add(1);
        stats.busy_nanos.add(self.net.now().nanos_since(woke_at));
        // From here on whoever posts has to ring.
        self.mailbox.sleep();
    }

    /// Has it obeyed the order to stop, with nothing left open?
    pub fn has_ended(&self) -> bool {
        self.obeyed == Order::Stop && self.dispatch.is_empty()
    }

    /// When it wants a turn at the latest. For drivers that own time.
    pub fn next_deadline(&self) -> Instant {
        self.dispatch.next_deadline(self.now)
    }

    /// The time of the last turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The logic within, to be looked at.
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// The hands, to be looked at.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// The hands, when the shard has ended.
    pub fn into_net(self) -> N {
        self.net
    }

    /// Tells the wall clock: milliseconds since 1970 at this clock's zero.
    pub fn set_unix_at_zero_ms(&mut self, unix_at_zero_ms: i64) {
        self.dispatch.set_unix_at_zero_ms(unix_at_zero_ms);
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Accepted { listener, stream, peer } => {
                let elsewhere = self.sessions_elsewhere(listener);
                self.dispatch.handle_accepted(listener, stream, peer, elsewhere, now);
            }
            Event::Opened { stream } => self.dispatch.handle_opened(stream, now),
            Event::Received { stream, extent } => {
                self.dispatch.handle_received(stream, extent, now, &mut self.net);
            }
            Event::Sent { stream, marks, left_at } => {
                self.dispatch.handle_sent(stream, marks, left_at.unwrap_or(now), now, &mut self.net);
            }
            Event::Disk { ticket, result } => self.dispatch.handle_disk(ticket, result, now, &mut self.net),
            Event::Closed { stream, cause } => {
                self.dispatch.handle_closed(stream, cause, now, &mut self.net);
            }
        }
    }

    fn publish_network(&self) {
        let now = self.net.bypassed();
        let segments = [now.received, now.sent, now.sent_again, now.strangers, now.handed_over, now.astray];
        let clients = [now.turned_away, now.cookies_sent, now.cookies_returned];
        let stats = &self.stats[self.id.index()];
        stats.connections_turned_away.set(self.net.turned_away());
        let counters = stats.segments.iter().chain(&stats.bypass_clients);
        counters.zip(segments.into_iter().chain(clients)).for_each(|(counter, count)| counter.set(count));
    }

    fn sessions_elsewhere(&self, listener: ListenerId) -> u64 {
        let others = self.stats.iter().enumerate().filter(|(shard, _)| *shard != self.id.index());
        others.map(|(_, stats)| stats.listeners[usize::from(listener.0)].sessions.get()).sum()
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.dispatch.poll_command() {
            match command {
                Command::Write { stream, bytes } => self.net.write(stream, bytes),
                Command::WriteBody { stream, message, form } if form == message.shape.form => {
                    self.net.write_body(stream, &message.body);
                    self.net.mark(stream);
                }
                Command::WriteBody { stream, message, .. } => {
                    write_pieces(&mut self.net, stream, message.converted(), &mut self.copy);
                    self.net.mark(stream);
                }
                Command::WritePart { stream, part, form } => {
                    match part.stuffed(form) {
                        None => self.net.write_body(stream, &part.extents),
                        Some(pieces) => write_pieces(&mut self.net, stream, pieces, &mut self.copy),
                    }
                    self.net.mark(stream);
                }
                Command::Mark(stream) => self.net.mark(stream),
                Command::Open { link, address, source } => {
                    let stream = self.net.open(address, source);
                    self.dispatch.handle_opening(link, stream);
                }
                Command::Pause(stream) => self.net.pause(stream),
                Command::Resume(stream) => self.net.resume(stream),
                Command::Hold(stream, held) => self.net.hold(stream, held),
                Command::Close(stream) => self.net.close(stream),
                Command::Abort(stream) => self.net.abort(stream),
                Command::Post { shard, letter } => self.mailbox.post(shard, letter),
            }
        }
        while let Some(request) = self.dispatch.poll_disk(self.now, &mut self.net) {
            match request {
                Request::Write { ticket, file, at, parts } => self.net.write_file(ticket, file, at, parts),
                Request::Read { ticket, file, at, extents } => self.net.read_file(ticket, file, at, extents),
                Request::Create { ticket, file, bytes } => self.net.create_file(ticket, file, bytes),
                Request::Remove { ticket, file } => self.net.remove_file(ticket, file),
            }
        }
        let (net, stats) = (&mut self.net, &self.stats[self.id.index()]);
        self.mailbox.ring(|shard| {
            stats.wake_ups.add(1);
            net.wake(shard);
        });
    }

    fn obey(&mut self) {
        let order = self.orders.get();
        if order == self.obeyed {
            return;
        }
        if self.obeyed < Order::Drain {
            self.dispatch.drain(self.now);
        }
        if order == Order::Stop {
            self.close_listeners(|_| true);
            self.dispatch.stop(self.now);
        }
        self.obeyed = order;
    }
}

/// Writes a body in the form that it did not come in.
fn write_pieces<N: Net>(net: &mut N, stream: StreamId, mut pieces: Pieces<'_>, copy: &mut Vec<u8>) {
    while let Some(piece) = pieces.next(net) {
        match piece {
            Piece::Kept(extent) => net.write_body(stream, &[extent]),
            Piece::Copied(extent) => {
                copy.clear();
                copy.extend_from_slice(net.bytes(extent));
                net.write(stream, copy);
            }
            Piece::Added(bytes) => net.write(stream, bytes),
        }
    }
}
