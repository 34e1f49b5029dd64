//! How a link ends, and what that means for what was on it.

use super::{Ended, Link, Ride, State};
use crate::dispatch::verdict::{Fault, Phase, Trouble, judge};
use crate::dispatch::{Dispatch, Queued};
use crate::handle::{Cause, LinkId, StreamId};
use crate::limits::LINGER;
use crate::pool::Was;
use crate::time::Instant;

impl Dispatch {
    /// QUIT: the link takes no more and goes when that has left.
    pub(in crate::dispatch) fn retire_link(&mut self, id: LinkId, now: Instant) {
        let from = self.out.len();
        let link = &mut self.links[id.0 as usize];
        link.client.quit(&mut self.out);
        if let Some(stream) = link.stream {
            self.write_since(from, stream);
        }
        self.end_link(id, Queued::Close, now);
    }

    /// Closes the link's stream; what is on it is dealt with at the stream's end.
    pub(in crate::dispatch) fn end_link(&mut self, id: LinkId, how: fn(StreamId) -> Queued, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let was_opening = matches!(link.state, State::Opening | State::Greeting);
        let by_fault = link.trouble.is_some();
        link.state = State::Closing;
        let (pool, upstream) = (link.pool, link.upstream);
        if let Some(stream) = link.stream {
            self.commands.push_back(how(stream));
        }
        self.pools[pool].links[upstream].retire(id);
        if was_opening {
            self.not_opened(pool, upstream, by_fault, now);
        }
        self.link_deadlines.set(id.0 as usize, now + LINGER);
        self.refresh(pool, upstream);
    }

    pub(in crate::dispatch) fn link_expired(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(id.0 as usize) else {
            return;
        };
        match link.state {
            // It does not take what is left to send.
            State::Closing => self.commands.extend(link.stream.map(Queued::Abort)),
            State::Ready if link.line.is_empty() => {
                let options = &self.options.pools[link.pool];
                let (idle, ..) = self.pools[link.pool].links[link.upstream].counts();
                if idle > options.idle_links {
                    self.retire_link(id, now);
                } else {
                    self.link_deadlines.set(id.0 as usize, now + options.idle_timeout);
                }
            }
            _ => {
                link.trouble = Some(Ended::TimedOut);
                self.end_link(id, Queued::Abort, now);
            }
        }
    }

    /// The stream is gone, and nothing written to it is in use any more.
    pub(in crate::dispatch) fn link_closed(&mut self, id: LinkId, cause: Cause, now: Instant) {
        let mut link = self.links.remove(id.0 as usize);
        self.link_deadlines.set(id.0 as usize, Instant::NEVER);
        let (pool, upstream) = (link.pool, link.upstream);
        let was = match link.state {
            State::Opening | State::Greeting => Was::Opening,
            State::Ready => Was::Standing,
            State::Closing => Was::Retired,
        };
        if was == Was::Opening {
            self.not_opened(pool, upstream, true, now);
        }
        self.pools[pool].links[upstream].gone(id, was);
        let ours = link.state == State::Closing && link.trouble.is_none();
        if !link.line.is_empty() && !ours {
            let stats = &self.stats.pools[pool][upstream];
            if link.welcomed { stats.lost_links.add(1) } else { stats.connect_failures.add(1) }
        }
        let mut line = std::mem::take(&mut link.line);
        let current = line.pop_front();
        line.iter().for_each(|ride| self.lost_behind(&link, ride, now));
        if let Some(current) = current {
            self.current_lost(&link, &current, cause, now);
        }
        self.refresh(pool, upstream);
    }

    /// What the end of its link means for one whose replies had not begun. What was not written to its end can be
    /// repeated as if it had never been there; and after words like 421 nothing more was read.
    fn lost_behind(&mut self, link: &Link, ride: &Ride, now: Instant) {
        let is_taken_leave_of = matches!(link.trouble, Some(Ended::Unwelcome(_)));
        if ride.is_in_doubt() && !is_taken_leave_of {
            // The link's end is held against the upstream by the current one, once.
            let fault = judge(Trouble::Lost, Phase::Whole { heard: false }, true);
            self.failed(link.pool, ride.delivery, fault, now);
        } else {
            self.unqueue(link.pool, ride.delivery);
        }
    }

    /// What the end of its link means for the delivery that was being answered.
    fn current_lost(&mut self, link: &Link, current: &Ride, cause: Cause, now: Instant) {
        let delivery = &mut self.deliveries[current.delivery.0 as usize];
        let (attempt, recipients) = (&mut delivery.attempt, delivery.recipients.len());
        let heard = attempt.heard;
        // An answer to all of it counts as much as having written it.
        let is_sent = !current.leaving || link.early.is_some();
        let phase = match (attempt.dotted, link.welcomed) {
            (true, _) if !is_sent => Phase::Leaving { heard },
            (true, _) if attempt.chunked => Phase::Whole { heard },
            (true, _) => Phase::Dotted,
            (false, true) if attempt.flows_on.is_some() => Phase::Parts,
            (false, true) => Phase::Envelope { heard },
            (false, false) => Phase::Opening,
        };
        let reused = link.served > 0 || link.rested;
        let fault = match (&link.early, &link.trouble, cause) {
            // It had answered before all of the body had left; that is its answer.
            (Some(reply), ..) if !reply.as_reply().is_positive() => {
                let phase = if phase == Phase::Parts { phase } else { Phase::Dotted };
                judge(Trouble::Said(reply.as_reply()), phase, reused)
            }
            (_, Some(Ended::Unwelcome(reply)), _) => {
                judge(Trouble::Unwelcome(reply.as_reply()), phase, reused)
            }
            (_, Some(Ended::TimedOut), _) if phase == Phase::Opening => {
                judge(Trouble::NotOpened, phase, reused)
            }
            (_, Some(Ended::TimedOut), _) => judge(Trouble::TimedOut, phase, reused),
            (_, Some(Ended::Overdue { all }), _) => judge(Trouble::Overdue { all: *all }, phase, reused),
            (_, None, Cause::NotOpened(_)) => judge(Trouble::NotOpened, phase, reused),
            (_, None, _) => {
                // Refused before the body was sent, or sent for nobody: that is what counts.
                let is_all = attempt.failed.is_some() || attempt.refused.len() == recipients;
                let counts = match phase {
                    Phase::Dotted | Phase::Parts => false,
                    Phase::Whole { .. } | Phase::Leaving { .. } => is_all,
                    Phase::Opening | Phase::Envelope { .. } => true,
                };
                let mut refusal = || attempt.failed.take().or_else(|| attempt.worst_refusal().cloned());
                let refusal: Option<Fault> = counts.then(&mut refusal).flatten();
                refusal.unwrap_or_else(|| judge(Trouble::Lost, phase, reused))
            }
        };
        self.failed(link.pool, current.delivery, fault, now);
    }
}
