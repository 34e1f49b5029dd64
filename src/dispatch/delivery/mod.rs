//! The shard that owns recipients: which upstream gets them, and what a fault leads to.

mod ended;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::message::{GroupId, Message, Place, Slip, Withdrawal, Word};
use super::owner::Way;
use super::streaming::Part;
use super::verdict::{Fault, Retry, ours, too_late};
use super::{Dispatch, PoolState, Queued};
use crate::balance::{Ask, Pick, Policy, Tried, key};
use crate::handle::LinkId;
use crate::limits::{MESSAGE_TIME_MAX, REPEATS_PER_PASS, WAITING_TICK};
use crate::observe::FailedAt;
use crate::pool::Lease;
use crate::protocol::wire::reply::ReplyBuf;
use crate::time::Instant;

/// A delivery's place in its shard's table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeliveryId(pub u32);

/// A group of a message's recipients on its way to an upstream.
#[derive(Debug)]
pub(in crate::dispatch) struct Delivery {
    pub(in crate::dispatch) message: Arc<Message>,
    /// Which it is, and the pool that it was sent to.
    pub(in crate::dispatch) group: GroupId,
    /// Of another shard's message: where its outcome goes.
    slip: Option<Slip>,
    /// The pool it is in.
    pub(in crate::dispatch) pool: usize,
    /// These are all the recipients there are: then a refusal of one, known before the body is sent, is the
    /// refusal of the message, and nothing has been delivered that the client does not know of.
    pub(in crate::dispatch) whole: bool,
    /// Those still to be delivered, as indexes into the envelope.
    pub(in crate::dispatch) recipients: Vec<u16>,
    /// Given up on.
    refused: Vec<Word>,
    /// Taken, and it falls to us to tell the sender.
    relayed: Vec<Word>,
    /// An upstream has taken it for those no longer in `recipients`.
    taken: Option<(ReplyBuf, Place)>,
    /// Upstreams of the pool it is in.
    pub(in crate::dispatch) tried: Tried,
    attempts: u8,
    stale_links: u8,
    /// What the last upstream said, for the client if no other takes it.
    last: Option<(ReplyBuf, Option<Place>)>,
    pub(in crate::dispatch) deadline: Instant,
    /// Of a streamed message: the part that is being sent.
    pub(in crate::dispatch) part: Option<Arc<Part>>,
    /// Octets of its last part.
    pub(in crate::dispatch) last_part_bytes: u64,
    /// Some of its body has been let go of: it cannot be offered again.
    pub(in crate::dispatch) is_gone: bool,
    /// Nobody is to get it any more.
    pub(in crate::dispatch) withdrawn: Option<Withdrawal>,
    /// While it is in its pool's queues: tells its place there from earlier ones. 0: it is in neither.
    pub(in crate::dispatch) ticket: u32,
    pub(in crate::dispatch) attempt: Attempt,
}

impl Delivery {
    /// May the message be sent together with its commands, before it is known who is accepted? Not where the refusal
    /// of one recipient has to keep it from the others, nor a notice, which is kept in the form for DATA.
    pub(in crate::dispatch) fn may_go_whole(&self) -> bool {
        (self.recipients.len() == 1 || !self.whole) && !self.message.internal && !self.message.streamed
    }

    /// The octets that its last reply was waited for.
    pub(in crate::dispatch) fn timed_bytes(&self) -> u64 {
        if self.message.streamed { self.last_part_bytes } else { self.message.plain_size() }
    }
}

/// One offer to one upstream.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Attempt {
    pub(in crate::dispatch) upstream: usize,
    /// Unique: tells this offer from earlier and later ones of the same delivery.
    stamp: u32,
    /// The link that it is on.
    pub(in crate::dispatch) on: Option<LinkId>,
    /// The link that waits for the parts of a streamed body.
    pub(in crate::dispatch) flows_on: Option<LinkId>,
    /// When its commands were written.
    pub(in crate::dispatch) begun_at: Instant,
    /// How long the reply to its MAIL took.
    pub(in crate::dispatch) mail_nanos: u64,
    /// When its body began to leave.
    pub(in crate::dispatch) body_at: Instant,
    /// Some reply to it has come.
    pub(in crate::dispatch) heard: bool,
    /// Its body and final dot have been written.
    pub(in crate::dispatch) dotted: bool,
    /// All of it goes at once, by BDAT.
    pub(in crate::dispatch) chunked: bool,
    pub(in crate::dispatch) accepted: u16,
    /// Recipients refused at RCPT, and how.
    pub(in crate::dispatch) refused: Vec<(u16, Fault)>,
    /// It has failed, and only the replies still due are waited for.
    pub(in crate::dispatch) failed: Option<Fault>,
}

impl Attempt {
    fn restart(&mut self, upstream: usize, stamp: u32) {
        self.refused.clear();
        let refused = std::mem::take(&mut self.refused);
        *self = Attempt { upstream, stamp, refused, ..Attempt::default() };
    }

    pub(in crate::dispatch) fn stamp(&self) -> u32 {
        self.stamp
    }

    /// How far it had come. (In chunks the body goes with the commands, so having been sent says nothing.)
    fn failed_at(&self) -> FailedAt {
        match (self.accepted, self.refused.is_empty()) {
            _ if self.begun_at == Instant::default() => FailedAt::Open,
            (0, true) => FailedAt::Mail,
            (0, false) => FailedAt::Rcpt,
            _ if self.dotted => FailedAt::Eod,
            (_, false) => FailedAt::Rcpt,
            (_, true) => FailedAt::Data,
        }
    }

    /// From when on its body is what is being waited for: when it left with its commands, the reply to MAIL.
    pub(in crate::dispatch) fn body_since(&self) -> Instant {
        self.body_at.max(self.begun_at + Duration::from_nanos(self.mail_nanos))
    }

    /// The worst refusal of a recipient: a final one before one worth repeating.
    pub(in crate::dispatch) fn worst_refusal(&self) -> Option<&Fault> {
        self.refused.iter().map(|(_, fault)| fault).max_by_key(|fault| fault.retry == Retry::Never)
    }
}

/// What became of trying to place a waiting delivery.
enum Placed {
    Yes,
    NotNow,
}

impl Dispatch {
    /// A group for this shard; `slip`: of another one's message.
    pub(in crate::dispatch) fn new_delivery(
        &mut self,
        message: Arc<Message>,
        group: GroupId,
        whole: bool,
        slip: Option<Slip>,
        now: Instant,
    ) {
        let pool = group.pool;
        let mut recipients = self.spare_lists.pop().unwrap_or_default();
        let way = Way { shard: self.options.shard, pool };
        recipients.extend((0..message.ways.len() as u16).filter(|i| message.ways[usize::from(*i)] == way));
        // A binary message goes with its commands in any case: then the refusal of one cannot keep it from the others.
        let whole = whole && (recipients.len() == 1 || !message.is_binary());
        let id = self.deliveries.insert(Delivery {
            message,
            group,
            slip,
            pool: usize::from(pool),
            whole,
            recipients,
            refused: Vec::new(),
            relayed: Vec::new(),
            taken: None,
            tried: Tried::default(),
            attempts: 0,
            stale_links: 0,
            last: None,
            deadline: now + MESSAGE_TIME_MAX,
            part: None,
            last_part_bytes: 0,
            is_gone: false,
            withdrawn: None,
            ticket: 0,
            attempt: Attempt::default(),
        });
        let (id, message) = (DeliveryId(id as u32), &self.deliveries[id].message);
        if message.streamed || message.returns_at().is_some() {
            self.withdrawable.insert(group, id);
        }
        self.pools[usize::from(pool)].deliveries += 1;
        self.wait_in(pool.into(), id, false);
    }

    /// Puts it into the pool's queue.
    pub(in crate::dispatch) fn wait_in(&mut self, pool: usize, id: DeliveryId, is_repeat: bool) {
        let ticket = self.next_generation().max(1);
        self.deliveries[id.0 as usize].ticket = ticket;
        let PoolState { waiting, repeats, .. } = &mut self.pools[pool];
        if is_repeat { repeats } else { waiting }.push_back((id, ticket));
        self.stir(pool);
    }

    /// Is it still there for which that ticket was drawn?
    fn is_waiting(&self, (id, ticket): (DeliveryId, u32)) -> bool {
        self.deliveries.get(id.0 as usize).is_some_and(|delivery| delivery.ticket == ticket)
    }

    /// Gives waiting deliveries to upstreams as long as there is room.
    pub(in crate::dispatch) fn serve_waiting(&mut self, pool: usize, now: Instant) {
        // Each repeat has been elsewhere: what one has to wait for need not hold up the next.
        for _ in 0..self.pools[pool].repeats.len().min(REPEATS_PER_PASS) {
            let Some(next) = self.pools[pool].repeats.pop_front() else {
                break;
            };
            if self.is_waiting(next)
                && let Placed::NotNow = self.place(pool, next.0, now)
            {
                self.pools[pool].repeats.push_back(next);
            }
        }
        // New ones are all alike: if one has to wait, so have those behind it.
        while let Some(&next) = self.pools[pool].waiting.front() {
            if self.is_waiting(next)
                && let Placed::NotNow = self.place(pool, next.0, now)
            {
                break;
            }
            self.pools[pool].waiting.pop_front();
        }
        let PoolState { waiting, repeats, .. } = &self.pools[pool];
        if self.next_tick == Instant::NEVER && !(waiting.is_empty() && repeats.is_empty()) {
            self.next_tick = now + WAITING_TICK;
        }
    }

    fn place(&mut self, pool: usize, id: DeliveryId, now: Instant) -> Placed {
        let random = self.random();
        let delivery = &mut self.deliveries[id.0 as usize];
        if delivery.message.is_too_late(now) {
            let last = delivery.last.take().map(|(reply, _)| reply);
            self.give_up(id, too_late(last), None);
            return Placed::Yes;
        }
        if delivery.deadline <= now {
            // Nobody has seen it but those that cannot carry it: that is not the last word.
            let last = delivery.last.take().filter(|(reply, _)| reply.as_reply().is_temporary());
            let (reply, by) = last.unwrap_or_else(|| (ours(7, "no upstream had room in time"), None));
            self.give_up(id, reply, by);
            return Placed::Yes;
        }
        if self.draining && delivery.message.kept {
            // It lies on disk, and need not be waited for.
            self.give_up(id, ours(7, "shutting down"), None);
            return Placed::Yes;
        }
        if let Some(fallback) = self.better_pool(pool, now) {
            self.move_to(fallback, id);
            return Placed::Yes;
        }
        self.look_around(pool, now);
        self.look_at_links(pool, now);
        let delivery = &self.deliveries[id.0 as usize];
        let is_whole = delivery.may_go_whole();
        let waiting = self.pools[pool].waiting.len().saturating_sub(1) as u32;
        let ask = Ask { waiting, ..ask(delivery, self.options.pools[pool].policy, random) };
        match self.pools[pool].fleet.pick(&ask, now) {
            Pick::Wait => Placed::NotNow,
            Pick::Nobody => {
                self.exhausted(pool, id, ours(1, "no upstream could be reached"));
                Placed::Yes
            }
            Pick::Now(upstream) => match self.pools[pool].links[upstream].lease(is_whole, now) {
                None => Placed::NotNow,
                Some(lease) => {
                    self.offer(pool, upstream, id, lease, now);
                    Placed::Yes
                }
            },
        }
    }

    /// Puts the delivery on a link.
    fn offer(&mut self, pool: usize, upstream: usize, id: DeliveryId, lease: Lease, now: Instant) {
        let stamp = self.next_generation();
        let delivery = &mut self.deliveries[id.0 as usize];
        delivery.ticket = 0;
        delivery.attempt.restart(upstream, stamp);
        let state = &mut self.pools[pool];
        state.fleet.began(upstream);
        state.ages[upstream].push_back((now, id, stamp));
        match lease {
            Lease::Idle(link) | Lease::Join(link) => {
                self.deliveries[id.0 as usize].attempt.on = Some(link);
                self.join(link, id, now);
            }
            Lease::Open => self.open_link(pool, upstream, id, now),
        }
        self.refresh(pool, upstream);
    }

    fn open_link(&mut self, pool: usize, upstream: usize, id: DeliveryId, now: Instant) {
        let options = &self.options.pools[pool];
        let address = options.upstreams[upstream].address;
        let source =
            next_source(&options.source_addresses, address.is_ipv6(), &mut self.pools[pool].next_source);
        // Nobody waits beyond the delivery's own deadline.
        let deadline = (now + options.connect_timeout).min(self.deliveries[id.0 as usize].deadline);
        let link = LinkId(self.links.insert(Link::opening(pool, upstream, id, now)) as u32);
        self.deliveries[id.0 as usize].attempt.on = Some(link);
        self.commands.push_back(Queued::Open { link, address, source });
        self.link_deadlines.set(link.0 as usize, deadline);
    }

    /// The delivery is on no link any more.
    pub(in crate::dispatch) fn leave(&mut self, pool: usize, id: DeliveryId) -> usize {
        let delivery = &mut self.deliveries[id.0 as usize];
        delivery.part = None;
        let attempt = &mut delivery.attempt;
        (attempt.stamp, attempt.on, attempt.flows_on) = (0, None, None);
        let upstream = attempt.upstream;
        self.pools[pool].fleet.ended(upstream);
        self.refresh(pool, upstream);
        upstream
    }

    /// Begins to count its age, or ends that: how long a streamed message takes is its client's doing.
    pub(in crate::dispatch) fn restamp(&mut self, id: DeliveryId, counts: Option<Instant>) -> u32 {
        let stamp = self.next_generation();
        let delivery = &mut self.deliveries[id.0 as usize];
        delivery.attempt.stamp = stamp;
        let (pool, upstream) = (delivery.pool, delivery.attempt.upstream);
        if let Some(since) = counts {
            self.pools[pool].ages[upstream].push_back((since, id, stamp));
        }
        self.refresh(pool, upstream);
        stamp
    }

    /// Brings what the fleet says of an upstream up to date; waiting deliveries may go now.
    pub(in crate::dispatch) fn refresh(&mut self, pool: usize, upstream: usize) {
        let PoolState { fleet, links, ages, .. } = &mut self.pools[pool];
        let ages = &mut ages[upstream];
        let over = |id: DeliveryId, stamp: u32| {
            self.deliveries.get(id.0 as usize).is_none_or(|delivery| delivery.attempt.stamp != stamp)
        };
        while ages.front().is_some_and(|&(_, id, stamp)| over(id, stamp)) {
            ages.pop_front();
        }
        let oldest = ages.front().map_or((Instant::NEVER, 0), |&(since, id, _)| {
            (since, self.deliveries[id.0 as usize].message.plain_size())
        });
        let links = &links[upstream];
        fleet.set_rest(upstream, links.rest());
        fleet.set_links(upstream, links.has_room(), links.must_open(), oldest);
        self.stir(pool);
        self.show(pool, upstream);
    }
}

/// What balance is told of a delivery. Of several recipients the first stands for all.
fn ask(delivery: &Delivery, policy: Policy, random: u64) -> Ask<'_> {
    let recipient = match (policy, delivery.recipients.first()) {
        (Policy::RecipientHash, Some(&first)) => {
            key(delivery.message.envelope.recipient(usize::from(first)).path)
        }
        _ => 0,
    };
    Ask {
        tried: &delivery.tried,
        recipient,
        source: delivery.message.source,
        bytes: delivery.message.plain_size(),
        waiting: 0,
        random,
    }
}

/// The next of the local addresses that is of the upstream's family.
fn next_source(sources: &[IpAddr], ipv6: bool, next: &mut usize) -> Option<IpAddr> {
    let n = sources.len();
    let step = (0..n).find(|step| sources[(*next + step) % n].is_ipv6() == ipv6)?;
    let index = (*next + step) % n;
    *next = index + 1;
    Some(sources[index])
}
