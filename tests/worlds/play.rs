//! A world in motion: shards, clients and upstreams on one clock; and what must be true of it in the end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use postlane::disk::sim::Faults;
use postlane::dispatch::{self, Row, Selection, list_kept};
use postlane::observe::{FailedAt, Stats, UpstreamStats};
use postlane::shard::Order;
use postlane::time::Instant;

use crate::client::Client;
use crate::decay::Spot;
use crate::message::{Fate, Message};
use crate::stage::Stage;
use crate::upstream::{Taken, Upstream, find};
use crate::ways::{Mail, Ways};

/// Groups that a message's recipients may be.
const GROUPS_MAX: u64 = 5;

/// Something the world does at a time.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    Die(usize),
    Rise(usize),
    /// Its process is stopped, and goes on.
    Sleep(usize),
    Wake(usize),
    Drain,
    Stop,
    /// The process is gone, or the power is.
    Crash {
        power: bool,
    },
    /// It starts again, with so many shards.
    Start {
        shards: u16,
    },
    /// From now on the disk is like that.
    Disk(Faults),
    /// So many reads fail from now on.
    Unreadable(f64),
    /// A bit flips.
    Flip {
        spot: Spot,
        bit: u8,
    },
    /// An operator's order about kept messages.
    Manage(Box<dispatch::Order>),
    /// The wall clock leaps so many seconds.
    Leap(i64),
}

pub(crate) struct Play {
    pub(crate) stage: Stage,
    pub(crate) ways: Ways,
    pub(crate) clients: Vec<Client>,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) messages: Vec<Message>,
    /// In order of time.
    pub(crate) turns: Vec<(Instant, Turn)>,
    pub(crate) trace: bool,
    /// When the process or the power went.
    pub(crate) crashes: Vec<Instant>,
    /// Recipients whose mail an operator has deleted.
    pub(crate) deleted: HashSet<String>,
    /// When an operator had messages tried at once; and how often the wall clock leapt.
    pub(crate) flushes: Vec<Instant>,
    pub(crate) leaps: usize,
    /// Outcomes need not be on disk soon.
    pub(crate) has_failing_disk: bool,
    /// It does not start again when it stops.
    pub(crate) is_ending: bool,
}

/// What a world came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) accepted: u64,
    pub(crate) deferred: u64,
    pub(crate) rejected: u64,
    pub(crate) unanswered: u64,
    pub(crate) taken: u64,
    pub(crate) repeats: u64,
    pub(crate) in_doubt: u64,
    pub(crate) bounces: u64,
    pub(crate) relay_notices: u64,
    pub(crate) lost_links: u64,
    /// Recipients whose mail went to another pool than the first, by a rule; and to a fallback.
    pub(crate) routed: u64,
    pub(crate) fallen_back: u64,
    pub(crate) streamed: u64,
    pub(crate) crashes: u64,
    /// Messages kept, found again at a start, put off, too old; refused by the disk; lost to an operator's order.
    pub(crate) kept: u64,
    pub(crate) found: u64,
    pub(crate) put_off: u64,
    pub(crate) expired: u64,
    pub(crate) disk_refused: u64,
    pub(crate) deleted: u64,
    pub(crate) sync_failures: u64,
    /// Taken once more because of a crash.
    pub(crate) repeats_by_crash: u64,
    /// Takings of messages that were held, and of those that were wanted by a time; recipients told to be late, and returned
    /// for it.
    pub(crate) held: u64,
    pub(crate) timed: u64,
    pub(crate) late: u64,
    pub(crate) overdue: u64,
    /// Bits that flipped, messages found damaged, and sent in parts.
    pub(crate) flips: u64,
    pub(crate) damaged: u64,
    pub(crate) in_parts: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: &Count) {
        self.messages += other.messages;
        self.accepted += other.accepted;
        self.deferred += other.deferred;
        self.rejected += other.rejected;
        self.unanswered += other.unanswered;
        self.taken += other.taken;
        self.repeats += other.repeats;
        self.in_doubt += other.in_doubt;
        self.bounces += other.bounces;
        self.relay_notices += other.relay_notices;
        self.lost_links += other.lost_links;
        self.routed += other.routed;
        self.fallen_back += other.fallen_back;
        self.streamed += other.streamed;
        self.crashes += other.crashes;
        self.kept += other.kept;
        self.found += other.found;
        self.put_off += other.put_off;
        self.expired += other.expired;
        self.disk_refused += other.disk_refused;
        self.deleted += other.deleted;
        self.sync_failures += other.sync_failures;
        self.repeats_by_crash += other.repeats_by_crash;
        self.held += other.held;
        self.timed += other.timed;
        self.late += other.late;
        self.overdue += other.overdue;
        self.flips += other.flips;
        self.damaged += other.damaged;
        self.in_parts += other.in_parts;
    }
}

impl Play {
    /// A world with nobody yet who sends.
    pub(crate) fn new(stage: Stage, ways: Ways, upstreams: Vec<Upstream>, trace: bool) -> Play {
        Play {
            stage,
            ways,
            clients: Vec::new(),
            upstreams,
            messages: Vec::new(),
            turns: Vec::new(),
            trace,
            crashes: Vec::new(),
            deleted: HashSet::new(),
            flushes: Vec::new(),
            leaps: 0,
            has_failing_disk: false,
            is_ending: false,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.stage.now()
    }

    /// Lets time pass until `until` holds; no later than `limit`.
    pub(crate) fn run(&mut self, limit: Duration, what: &str, mut until: impl FnMut(&Play) -> bool) {
        let end = self.now() + limit;
        loop {
            self.stage.settle();
            if self.step_actors() {
                continue;
            }
            if until(self) {
                return;
            }
            let actors = self.clients.iter().map(Client::wake);
            let actors = actors.chain(self.upstreams.iter().map(Upstream::wake)).min();
            let turn = self.turns.first().map_or(Instant::NEVER, |(at, _)| *at);
            let next = self.stage.next_due().min(actors.unwrap_or(Instant::NEVER)).min(turn);
            assert!(next <= end, "{what}: next thing at {next:?}, end at {end:?}\n{}", self.state());
            self.stage.advance_to(next);
            if turn <= next {
                let (_, turn) = self.turns.remove(0);
                self.turn(turn);
            }
            if self.is_to_start_again() {
                self.start(self.stage.setup.shards);
            }
        }
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        loop {
            self.stage.settle();
            if self.step_actors() {
                continue;
            }
            let actors = self.clients.iter().map(Client::wake);
            let actors = actors.chain(self.upstreams.iter().map(Upstream::wake)).min();
            let next = self.stage.next_due().min(actors.unwrap_or(Instant::NEVER));
            if next > end {
                self.stage.advance_to(end);
                self.stage.settle();
                return;
            }
            self.stage.advance_to(next);
        }
    }

    /// Who is not done yet.
    fn state(&self) -> String {
        let clients = self.clients.iter().filter(|client| !client.done);
        let clients: Vec<String> = clients.map(|client| client.state(&self.stage.world)).collect();
        let links: Vec<usize> = self.upstreams.iter().map(Upstream::links).collect();
        let spools = self.stage.shards.iter().filter_map(|shard| shard.dispatch().spool());
        let kept: Vec<Row> =
            spools.flat_map(|spool| list_kept(spool, &Selection::default(), 5, self.now()).rows).collect();
        let under_way = self.stage.under_way();
        format!("{}\nlinks {links:?}, under way {under_way}, kept {kept:#?}", clients.join("\n"))
    }

    fn turn(&mut self, turn: Turn) {
        if self.trace {
            println!("{:>12} {turn:?}", self.now().as_nanos());
        }
        match turn {
            Turn::Die(upstream) if self.upstreams[upstream].up => {
                self.upstreams[upstream].die(&self.stage.world)
            }
            Turn::Rise(upstream) if !self.upstreams[upstream].up => {
                self.upstreams[upstream].rise(&self.stage.world);
            }
            Turn::Die(_) | Turn::Rise(_) => {}
            Turn::Sleep(upstream) => self.upstreams[upstream].sleep(self.stage.now()),
            Turn::Wake(upstream) => self.upstreams[upstream].wake_up(self.stage.now()),
            Turn::Drain => self.stage.order(Order::Drain),
            Turn::Stop => self.stage.order(Order::Stop),
            Turn::Crash { power } => self.crash(power),
            Turn::Start { shards } => self.start(shards),
            Turn::Disk(faults) => {
                self.has_failing_disk = true;
                self.stage.platter.set_faults(faults);
            }
            Turn::Unreadable(chance) => self.set_unreadable(chance),
            Turn::Flip { spot, bit } => self.flip(spot, bit),
            Turn::Manage(order) => self.manage(*order),
            Turn::Leap(seconds) => {
                self.leaps += 1;
                self.stage.leap(seconds);
            }
        }
    }

    fn step_actors(&mut self) -> bool {
        let world = &self.stage.world;
        let mut acted = false;
        for client in &mut self.clients {
            acted |= client.step(world, &mut self.messages);
        }
        for upstream in &mut self.upstreams {
            acted |= upstream.step(world);
        }
        acted
    }

    /// Plays it to the end: all clients served, drained, stopped; and judges.
    pub(crate) fn finish(&mut self) -> Count {
        self.end();
        self.judge()
    }

    pub(crate) fn end(&mut self) {
        self.run(Duration::from_secs(3 * 3600), "a client waits for ever", |play| {
            (play.turns.is_empty() || play.stage.setup.keep.is_none())
                && play.clients.iter().all(|client| client.done)
        });
        for client in &self.clients {
            // Nine minutes for the messages that it is held back behind, five for one that then says nothing, and what may
            // have been under way.
            assert!(
                client.waited_most < Duration::from_secs(900),
                "{:?} waited for an answer",
                client.waited_most
            );
        }
        if self.stage.setup.keep.is_some() {
            self.empty_spools();
        }
        self.stage.order(Order::Drain);
        self.run(Duration::from_secs(1200), "the drain does not end", |play| play.stage.under_way() == 0);
        self.stage.order(Order::Stop);
        self.run(Duration::from_secs(1200), "the stop does not end", |play| play.stage.has_ended());
        self.stage.assert_nothing_left();
    }

    /// The oracle.
    pub(crate) fn judge(&self) -> Count {
        for upstream in &self.upstreams {
            assert!(upstream.breaches.is_empty(), "{}: {:?}", upstream.at, upstream.breaches);
        }
        let stage = &self.stage;
        let mut count = Count {
            messages: self.messages.len() as u64,
            in_doubt: stage.sum(|stats| stats.in_doubt.get()),
            bounces: stage.sum(|stats| stats.bounces.get()),
            relay_notices: stage.sum(|stats| stats.relay_notices.get()),
            lost_links: stage.sum(|stats| stats.pools.iter().flatten().map(|u| u.lost_links.get()).sum()),
            streamed: stage.sum(|stats| stats.streamed.get()),
            crashes: self.crashes.len() as u64,
            kept: stage.sum(|stats| stats.spool.kept.get()),
            found: stage.found,
            put_off: stage.sum(|stats| stats.spool.deferred.get()),
            expired: stage.sum(|stats| stats.spool.expired.get()),
            disk_refused: stage.sum(|stats| stats.spool.refused.get()),
            deleted: self.deleted.len() as u64,
            sync_failures: stage.sum(|stats| stats.spool.sync_failures.get()),
            flips: stage.decay.flips,
            damaged: stage.sum(|stats| stats.spool.damaged.get()),
            in_parts: stage.sum(|stats| stats.spool.in_parts.get()),
            ..Count::default()
        };
        let (by_recipient, repeated) = self.sort_takings(&mut count);
        self.judge_ways(&mut count);
        let known: HashSet<&str> =
            self.messages.iter().flat_map(|m| m.recipients.iter().map(String::as_str)).collect();
        let senders: HashSet<&str> = self.messages.iter().map(|m| m.sender.as_str()).collect();
        for recipient in by_recipient.keys() {
            assert!(
                known.contains(recipient) || senders.contains(recipient),
                "mail for a stranger: {recipient}"
            );
        }
        self.judge_names(&by_recipient);
        let mut refused_but_taken = 0;
        let mut excused = 0;
        for message in &self.messages {
            let (unexplained, missing) = self.judge_message(message, &by_recipient, &repeated, &mut count);
            refused_but_taken += unexplained;
            let untold = self.judge_notices(message, &by_recipient, &mut count);
            // What is in doubt may have been taken, and be among what one notice says has failed.
            excused += if count.in_doubt > 0 { missing.max(untold) } else { missing + untold };
        }
        let dropped = stage.sum(|stats| stats.bounces_dropped.get());
        // A record that a start finds damaged was a message that nothing more is known of, or said that one is over.
        let lost = if stage.decay.reports > 0 { stage.decay.flips } else { 0 };
        assert!(
            excused <= dropped + lost,
            "{excused} messages have recipients that nobody took and nobody was told of, {dropped} bounces were dropped"
        );
        assert!(
            count.repeats + refused_but_taken <= count.in_doubt + lost * GROUPS_MAX,
            "{} taken again, {refused_but_taken} taken though refused, but {} in doubt",
            count.repeats,
            count.in_doubt
        );
        let counted = stage.sum(|stats| stats.listeners[0].accepted.get());
        assert!(counted >= count.accepted, "{counted} counted as accepted, {} were", count.accepted);
        assert!(
            counted <= count.accepted + count.unanswered,
            "{counted} counted as accepted, {} were, {} unknown",
            count.accepted,
            count.unanswered
        );
        count
    }

    /// All that was taken, by recipient; and what had been taken before.
    fn sort_takings(&self, count: &mut Count) -> (HashMap<&str, Vec<&Taken>>, HashSet<*const Taken>) {
        let mut by_recipient: HashMap<&str, Vec<&Taken>> = HashMap::new();
        let mut repeated: HashSet<*const Taken> = HashSet::new();
        // Those that were in doubt: a group that was may have been split when it was repeated.
        let mut doubted: HashSet<*const Taken> = HashSet::new();
        let mut takings: Vec<&Taken> = self.upstreams.iter().flat_map(|upstream| &upstream.taken).collect();
        takings.sort_by_key(|taken| taken.at);
        for taken in takings {
            count.taken += 1;
            let mut again = false;
            for recipient in &taken.recipients {
                let earlier = by_recipient.entry(recipient).or_default();
                // A bounce is a message of its own to that address.
                let same = |other: &&&Taken| other.mail == taken.mail && other.data == taken.data;
                again |= earlier.iter().any(|other| same(&other));
                // What came of it may not have been on disk yet when everything went.
                let is_forgotten = |other: &&&Taken| self.is_forgotten(other, taken);
                count.repeats_by_crash +=
                    u64::from(earlier.iter().filter(same).any(|other| is_forgotten(&other)));
                let doubts = earlier.iter().filter(same).filter(|other| !is_forgotten(other));
                let before = doubted.len();
                doubted.extend(doubts.map(|other| std::ptr::from_ref(*other)));
                count.repeats += (doubted.len() - before) as u64;
                earlier.push(taken);
            }
            if again {
                repeated.insert(taken);
            }
            if self.trace && again {
                println!("taken again at {:?}: {} for {:?}", taken.at, taken.mail, taken.recipients);
            }
        }
        (by_recipient, repeated)
    }

    /// Every recipient's mail ended in the pool that its route names, or in a fallback of that one, which then had
    /// cause to fall back.
    fn judge_ways(&self, count: &mut Count) {
        for (n, upstream) in self.upstreams.iter().enumerate() {
            let end = self.ways.pool_of(n);
            for taken in &upstream.taken {
                let sender = taken.mail.trim_start_matches('<').split('>').next().unwrap_or("");
                for recipient in &taken.recipients {
                    let number = recipient.strip_prefix('m').and_then(|rest| rest.split(['.', '@']).next());
                    let message = number.and_then(|number| self.messages.get(number.parse::<usize>().ok()?));
                    let internal = message.is_none_or(|message| message.sender == *recipient);
                    let data = match message {
                        Some(message) if !internal => &message.data,
                        _ => &taken.data,
                    };
                    let pool = self.ways.pool_for(Mail { sender, recipient, data, internal });
                    let line = self.ways.line(pool, end).unwrap_or_else(|| {
                        panic!("mail to {recipient} is for pool {pool} and ended in pool {end}")
                    });
                    for passed in &line {
                        assert!(
                            self.had_trouble(*passed),
                            "pool {passed} had no cause to give {recipient} away"
                        );
                    }
                    count.fallen_back += u64::from(!line.is_empty());
                    count.routed += u64::from(pool > 0);
                }
            }
        }
    }

    /// Was there anything that keeps a message from a pool's upstreams?
    fn had_trouble(&self, pool: usize) -> bool {
        let its = self.upstreams.iter().enumerate().filter(|(n, _)| self.ways.pool_of(*n) == pool);
        let lacks = |upstream: &Upstream| {
            let manner = &upstream.manner;
            let is_hasty = self.has_hurry() && manner.deliver_by != Some(0);
            is_hasty
                || upstream.hid
                || upstream.put_off
                || !manner.eight_bit
                || !manner.utf8
                || manner.only_helo
                || manner.size.is_some()
        };
        let failures = |stats: &Stats| {
            let failed = |upstream: &UpstreamStats| FailedAt::ALL.map(|at| upstream.failures(at).get());
            stats.pools[pool].iter().flat_map(|upstream| failed(upstream)).sum()
        };
        its.into_iter().any(|(_, upstream)| lacks(upstream)) || self.stage.sum(failures) > 0
    }

    /// Takings of a message that was refused, and whether some of an accepted one's recipients were forgotten.
    fn judge_message(
        &self,
        message: &Message,
        taken: &HashMap<&str, Vec<&Taken>>,
        repeated: &HashSet<*const Taken>,
        count: &mut Count,
    ) -> (u64, u64) {
        let n = message.number;
        let mut takings: Vec<&Taken> = Vec::new();
        let mut missing = Vec::new();
        for recipient in &message.recipients {
            let of = taken.get(recipient.as_str()).map_or(&[][..], |list| list);
            if of.is_empty() && !self.is_deleted(recipient, message) {
                missing.push(recipient);
            }
            takings.extend(of);
        }
        takings.sort_by_key(|taken| std::ptr::from_ref(*taken) as usize);
        takings.dedup_by_key(|taken| std::ptr::from_ref(*taken) as usize);
        for taken in &takings {
            check_taken(message, taken);
            self.judge_time(message, taken, count);
        }
        if message.violation {
            assert!(takings.is_empty(), "message {n} is a violation and was taken");
            let fate = message.fate;
            let fits = matches!(fate, Fate::Unsent | Fate::Unanswered | Fate::Answered(554 | 400..=499));
            assert!(fits, "message {n} is a violation: {fate:?}");
        }
        match message.fate {
            Fate::Unsent => assert!(takings.is_empty(), "message {n} was not sent and was taken"),
            Fate::Unanswered => count.unanswered += 1,
            Fate::Answered(250) => {
                count.accepted += 1;
                if !missing.is_empty() && !self.is_told(message, &missing, taken) {
                    if self.trace {
                        println!("message {n} was accepted; nobody took it for {missing:?}, nobody was told");
                    }
                    return (0, 1);
                }
            }
            Fate::Answered(code) => {
                count.deferred += u64::from(code < 500);
                count.rejected += u64::from(code >= 500);
                if self.trace && !takings.is_empty() {
                    println!("message {n} was answered {code} and taken {} times", takings.len());
                }
                // Where the sender cannot be told of those it was put off for, the client is.
                let is_put_off = !missing.is_empty() || count.in_doubt > 0;
                if message.sender.is_empty() && code < 500 && is_put_off {
                    return (0, 0);
                }
                // Those taken again have been counted as that.
                takings.retain(|taken| !repeated.contains(&std::ptr::from_ref(*taken)));
                // A write that failed may be there all the same after a crash.
                takings.retain(|taken| {
                    !(message.disk_refused && self.has_crashed(message.answered_at, taken.at))
                });
                return (takings.len() as u64, 0);
            }
        }
        (0, 0)
    }

    /// A message is known by the name that its client was told: the answer was its own.
    fn judge_names(&self, taken: &HashMap<&str, Vec<&Taken>>) {
        for (number, text) in self.clients.iter().flat_map(|client| &client.finals) {
            let name = text.split_once("(id ").and_then(|(_, rest)| rest.split_once(')'));
            let name = name.or_else(|| text.split_once(" as ").and_then(|(_, rest)| rest.split_once("\r\n")));
            let Some((name, _)) = name.filter(|_| text.starts_with("250")) else { continue };
            let takings = self.messages[*number].recipients.iter().filter_map(|to| taken.get(to.as_str()));
            for taken in takings.flatten() {
                let line = split_received(&taken.data).map_or(&b""[..], |(line, _)| line);
                let is_it = find(line, format!(" id {name}").as_bytes()).is_some();
                assert!(is_it, "message {number} was told {text:?} and has {:?}", head(line));
            }
        }
    }

    /// Was the sender told of all these recipients?
    fn is_told(&self, message: &Message, missing: &[&String], taken: &HashMap<&str, Vec<&Taken>>) -> bool {
        missing.iter().all(|recipient| is_noticed(message, recipient, "failed", taken))
    }

    /// What the sender was told: nothing it did not ask for or that is not so. 1 if it was not told all that it asked for.
    fn judge_notices(&self, message: &Message, taken: &HashMap<&str, Vec<&Taken>>, count: &mut Count) -> u64 {
        let n = message.number;
        let mut untold = false;
        for recipient in &message.recipients {
            let noticed = |action| is_noticed(message, recipient, action, taken);
            let takings = taken.get(recipient.as_str()).map_or(&[][..], |list| list);
            let notices = taken.get(message.sender.as_str()).map_or(&[][..], |list| list);
            untold |= self.judge_lateness(message, recipient, takings, notices, count);
            let is_asked = message.notify.contains("SUCCESS");
            let is_ours = |taken: &&&Taken| is_asked && !taken.dsn || self.is_told_for_time(message, taken);
            let are_ours = takings.iter().filter(is_ours).count();
            if noticed("relayed") {
                assert!(are_ours > 0, "message {n}: its sender did not ask to hear of {recipient} from us");
            } else if are_ours > 0 && !message.sender.is_empty() && message.fate == Fate::Answered(250) {
                // In doubt it may be with one and fail elsewhere; then it was said to have failed.
                // What a cut of the power leaves may be that it was taken, and not the notice written with that.
                let is_lost = takings.iter().any(|taken| self.has_crashed(taken.at, Instant::NEVER))
                    || self.is_deleted(recipient, message);
                untold |= are_ours == takings.len() && !noticed("failed") && !is_lost;
            }
            let is_never = message.notify.contains("NEVER");
            assert!(!is_never || !noticed("failed"), "message {n}: NEVER, and told of {recipient}");
        }
        if untold && self.trace {
            println!("message {n} was handed on, and nobody was told");
        }
        untold.into()
    }
}

/// Has a notice said this of the recipient to the message's sender?
fn is_noticed(message: &Message, recipient: &str, action: &str, taken: &HashMap<&str, Vec<&Taken>>) -> bool {
    let notices = taken.get(message.sender.as_str()).map_or(&[][..], |list| list);
    let lines = format!("\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: {action}\r\n");
    let says =
        |notice: &&&Taken| notice.mail.starts_with("<>") && find(&notice.data, lines.as_bytes()).is_some();
    notices.iter().any(|notice| says(&notice))
}

/// What was taken is what was sent, with one `Received:` on top.
fn check_taken(message: &Message, taken: &Taken) {
    let n = message.number;
    let (line, rest) = split_received(&taken.data)
        .unwrap_or_else(|| panic!("message {n} was taken without Received: {:?}", head(&taken.data)));
    assert!(
        rest == message.data,
        "message {n} was changed: {} bytes became {}, first difference at {:?}: {:?} became {:?}",
        message.data.len(),
        rest.len(),
        rest.iter().zip(&message.data).position(|(a, b)| a != b),
        head(&message.data),
        head(rest),
    );
    let line = String::from_utf8_lossy(line);
    let names = line.contains("\r\n\tfor <");
    assert_eq!(names, message.recipients.len() == 1, "message {n}: {line:?}");
    assert!(line.contains("by out1.example.net with "), "message {n}: {line:?}");
    let sender = format!("<{}>", message.sender);
    assert!(taken.mail.starts_with(&sender), "message {n}: from {}", taken.mail);
    for recipient in &taken.recipients {
        assert!(message.recipients.contains(recipient), "message {n} for {recipient}");
    }
}

fn head(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&data[..data.len().min(100)])
}

/// The `Received:` field with its folded lines, and the rest.
pub(crate) fn split_received(data: &[u8]) -> Option<(&[u8], &[u8])> {
    if !data.starts_with(b"Received: ") {
        return None;
    }
    let mut from = 0;
    loop {
        from += find(&data[from..], b"\r\n")? + 2;
        if data.get(from) != Some(&b'\t') {
            return Some(data.split_at(from));
        }
    }
}
