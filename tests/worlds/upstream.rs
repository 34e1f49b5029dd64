//! Upstreams that a world plays: a small SMTP reader of its own, so that it judges what it is sent independently
//! of the parsers under test, with manners good and bad.

mod chunks;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use postlane::net::sim::{PeerId, PeerState, World};
use postlane::time::Instant;

use crate::dice::Dice;
use chunks::Chunk;

/// One that wakes has read what waited for it by then.
const WAKING: Duration = Duration::from_millis(500);

/// No answer takes longer, but for those that never come: these are not waited for longer than that.
const ANSWERED: Duration = Duration::from_secs(5);
const GIVEN_UP: Duration = Duration::from_secs(65);

/// Where in the dialogue something can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    Greeting,
    Hello,
    Mail,
    Rcpt,
    Data,
    /// Some of the body has come.
    Body,
    Dot,
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    Refuse,
    Defer,
    /// Says something that is no answer to what it was told.
    Babble,
    /// 421 and close.
    Leave,
    Hang,
    Drop,
    Reset,
}

/// How an upstream is.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) delay_min: Duration,
    pub(crate) delay_max: Duration,
    /// Added to the delay of the answer to the final dot.
    pub(crate) dot_delay: Duration,
    /// One message after the other: a delay begins when the last one's is over, whichever link that was on.
    pub(crate) serial: bool,
    pub(crate) pipelining: bool,
    pub(crate) chunking: bool,
    pub(crate) binary: bool,
    pub(crate) eight_bit: bool,
    pub(crate) utf8: bool,
    pub(crate) dsn: bool,
    pub(crate) size: Option<u64>,
    /// DELIVERBY, and the least seconds for what is to come back.
    pub(crate) deliver_by: Option<u32>,
    /// EHLO is unknown to it.
    pub(crate) only_helo: bool,
    /// DATA without a recipient is answered 354 all the same.
    pub(crate) data_for_nobody: bool,
    pub(crate) multi_line: bool,
    /// An idle link is closed after this, saying 421 or not.
    pub(crate) idle_timeout: Option<(Duration, bool)>,
    /// Recipients that begin so are refused, or put off.
    pub(crate) refuses: Option<&'static str>,
    pub(crate) puts_off: Option<&'static str>,
    /// Recipients that begin so are accepted only after so long.
    pub(crate) ponders: Option<(&'static str, Duration)>,
    /// What goes wrong, and how often.
    pub(crate) odds: Vec<(Moment, Deed, f64)>,
    /// That a message whose answer is never given was taken all the same.
    pub(crate) taken_silently: f64,
}

impl Manner {
    /// Answers at once, does everything, refuses nothing.
    pub(crate) fn good() -> Manner {
        Manner {
            delay_min: Duration::ZERO,
            delay_max: Duration::ZERO,
            dot_delay: Duration::ZERO,
            serial: false,
            pipelining: true,
            chunking: false,
            binary: false,
            eight_bit: true,
            utf8: true,
            dsn: true,
            size: None,
            deliver_by: None,
            only_helo: false,
            data_for_nobody: false,
            multi_line: false,
            idle_timeout: None,
            refuses: None,
            puts_off: None,
            ponders: None,
            odds: Vec::new(),
            taken_silently: 0.5,
        }
    }

    pub(crate) fn slow(dot_delay: Duration) -> Manner {
        Manner { dot_delay, ..Manner::good() }
    }
}

/// A message it took.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) at: Instant,
    /// It may have lain unread since then.
    pub(crate) since: Instant,
    /// When its MAIL came, or may have come.
    pub(crate) begun: Instant,
    /// It has been answered by then, or given up on.
    pub(crate) settled_by: Instant,
    pub(crate) mail: String,
    /// The accepted ones.
    pub(crate) recipients: Vec<String>,
    /// In wire form, without the final `.CRLF`.
    pub(crate) data: Vec<u8>,
    /// On a link that DSN had been offered on.
    pub(crate) dsn: bool,
    /// On one that DELIVERBY had been offered on, and what MAIL said of that.
    pub(crate) heeds_time: bool,
    pub(crate) by: Option<String>,
}

enum Act {
    Say(Vec<u8>),
    GoAhead,
    Close,
    Reset,
}

#[derive(PartialEq, Eq, Debug)]
enum Phase {
    Hello,
    Ready,
    Mail,
    Data,
}

struct Link {
    peer: PeerId,
    input: Vec<u8>,
    /// What it will say and do, in order.
    acts: VecDeque<(Instant, Act)>,
    phase: Phase,
    /// DSN was offered, and DELIVERBY.
    dsn: bool,
    heeds_time: bool,
    mail: String,
    begun: Instant,
    by: Option<String>,
    recipients: Vec<String>,
    /// What is being taken by BDAT.
    chunk: Option<Chunk>,
    /// 354 has been sent.
    went_ahead: bool,
    /// It hangs, or is going to close: hears nothing more.
    deaf: bool,
    body_judged: bool,
    /// The message was refused before its end.
    answered_early: bool,
    messages: usize,
    since: Instant,
    over: bool,
}

pub(crate) struct Upstream {
    pub(crate) at: SocketAddr,
    pub(crate) manner: Manner,
    pub(crate) taken: Vec<Taken>,
    /// What it was sent that no upstream should be.
    pub(crate) breaches: Vec<String>,
    /// Most links at a time, ever.
    pub(crate) links_most: usize,
    /// Most MAIL commands on one link.
    pub(crate) messages_most: usize,
    pub(crate) connections: usize,
    /// MAIL commands with their times.
    pub(crate) mails: Vec<Instant>,
    pub(crate) up: bool,
    /// Its process is stopped: the kernel still takes connections and bytes for it, nobody reads them.
    pub(crate) asleep: bool,
    slept_at: Instant,
    woke_at: Instant,
    busy_until: Instant,
    links: Vec<Link>,
    dice: Dice,
    trace: bool,
    /// It has not answered an EHLO as it should: what it offers is not known on that link.
    pub(crate) hid: bool,
    /// It has put off a recipient.
    pub(crate) put_off: bool,
}

impl Upstream {
    pub(crate) fn new(world: &World, at: SocketAddr, manner: Manner, dice: Dice, trace: bool) -> Upstream {
        world.listen_peer(at).expect("the address is free");
        Upstream {
            at,
            manner,
            taken: Vec::new(),
            hid: false,
            put_off: false,
            breaches: Vec::new(),
            links_most: 0,
            messages_most: 0,
            connections: 0,
            mails: Vec::new(),
            up: true,
            asleep: false,
            slept_at: Instant::default(),
            woke_at: Instant::default(),
            busy_until: Instant::default(),
            links: Vec::new(),
            dice,
            trace,
        }
    }

    /// Dies: every link is reset, nobody gets in.
    pub(crate) fn die(&mut self, world: &World) {
        self.up = false;
        self.forget_answers(world.now());
        world.unlisten_peer(self.at);
        self.links.drain(..).for_each(|link| world.reset(link.peer));
    }

    pub(crate) fn rise(&mut self, world: &World) {
        self.up = true;
        world.listen_peer(self.at).expect("the address is free");
    }

    pub(crate) fn sleep(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.asleep, true) && self.woke_at + WAKING < now {
            self.slept_at = now;
        }
        self.forget_answers(now);
    }

    /// Answers that are due are not given, or nobody knows when.
    fn forget_answers(&mut self, now: Instant) {
        let due = self.taken.iter_mut().filter(|taken| taken.settled_by >= now);
        due.for_each(|taken| taken.settled_by = Instant::NEVER);
    }

    pub(crate) fn wake_up(&mut self, now: Instant) {
        if std::mem::replace(&mut self.asleep, false) {
            self.woke_at = now;
        }
    }

    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// When it acts by itself.
    pub(crate) fn wake(&self) -> Instant {
        if self.asleep {
            return Instant::NEVER;
        }
        let act = |link: &Link| match link.acts.front() {
            Some((at, _)) => *at,
            None => self.idle_end(link),
        };
        self.links.iter().map(act).min().unwrap_or(Instant::NEVER)
    }

    fn idle_end(&self, link: &Link) -> Instant {
        match self.manner.idle_timeout {
            Some((time, _)) if !link.deaf => link.since + time,
            _ => Instant::NEVER,
        }
    }

    /// Reads and acts; true if anything was done.
    pub(crate) fn step(&mut self, world: &World) -> bool {
        if !self.up || self.asleep {
            return false;
        }
        let mut acted = false;
        while let Some(peer) = world.accept_peer(self.at) {
            acted = true;
            self.greet(peer, world.now());
        }
        let mut links = std::mem::take(&mut self.links);
        for link in &mut links {
            acted |= self.step_link(link, world);
        }
        links.retain(|link| !link.over);
        self.links = links;
        self.links_most = self.links_most.max(self.links.len());
        acted
    }

    fn greet(&mut self, peer: PeerId, now: Instant) {
        self.connections += 1;
        let mut link = Link {
            peer,
            input: Vec::new(),
            acts: VecDeque::new(),
            phase: Phase::Hello,
            dsn: false,
            heeds_time: false,
            mail: String::new(),
            begun: now,
            by: None,
            recipients: Vec::new(),
            chunk: None,
            went_ahead: false,
            deaf: false,
            body_judged: false,
            answered_early: false,
            messages: 0,
            since: now,
            over: false,
        };
        if !self.misbehave(&mut link, Moment::Greeting, now) {
            self.say(&mut link, now, "220 mta.example ESMTP");
        }
        self.links.push(link);
    }

    fn step_link(&mut self, link: &mut Link, world: &World) -> bool {
        let now = world.now();
        let before = link.input.len();
        world.take_received(link.peer, &mut link.input);
        let mut acted = link.input.len() > before;
        if acted {
            link.since = now;
            if self.trace {
                let news =
                    String::from_utf8_lossy(&link.input[before..]).chars().take(200).collect::<String>();
                println!("{:>12} {} <- {news:?}", now.as_nanos(), self.at);
            }
            if link.phase == Phase::Data && !link.deaf && !link.went_ahead {
                self.breaches.push("a body before 354".into());
            }
        }
        while !link.deaf && self.take_one(link, now) {}
        if !link.deaf && link.acts.is_empty() && self.idle_end(link) <= now {
            if self.manner.idle_timeout.is_some_and(|(_, says)| says) {
                link.acts.push_back((now, Act::Say(b"421 4.4.2 idle for too long\r\n".to_vec())));
            }
            link.acts.push_back((now, Act::Close));
            link.deaf = true;
        }
        while let Some((_, act)) = link.acts.pop_front_if(|(at, _)| *at <= now) {
            acted = true;
            self.act(link, act, world);
        }
        match world.peer_state(link.peer) {
            PeerState::Finished => {
                world.close(link.peer);
                link.over = true;
            }
            PeerState::Failed(_) | PeerState::Closed => {
                world.close(link.peer);
                link.over = true;
            }
            PeerState::Connecting | PeerState::Open => {}
        }
        acted || link.over
    }

    fn act(&mut self, link: &mut Link, act: Act, world: &World) {
        link.since = world.now();
        match act {
            Act::Say(bytes) => {
                if self.trace {
                    let text = String::from_utf8_lossy(&bytes);
                    println!("{:>12} {} -> {text:?}", world.now().as_nanos(), self.at);
                }
                world.send(link.peer, &bytes);
            }
            Act::GoAhead => {
                link.went_ahead = true;
                world.send(link.peer, b"354 go ahead\r\n");
            }
            Act::Close => {
                world.close(link.peer);
                link.over = true;
            }
            Act::Reset => {
                world.reset(link.peer);
                link.over = true;
            }
        }
    }

    /// Takes one command, or what there is of a message. False: it needs more.
    fn take_one(&mut self, link: &mut Link, now: Instant) -> bool {
        if link.phase == Phase::Data {
            return self.take_body(link, now);
        }
        if let Some(chunk) = link.chunk {
            return self.take_chunk(link, chunk, now);
        }
        let Some(end) = link.input.iter().position(|&b| b == b'\n') else {
            return false;
        };
        let line: Vec<u8> = link.input.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        let Some(line) = line.strip_suffix("\r\n").filter(|line| !line.contains(['\r', '\0'])) else {
            self.breaches.push(format!("a command line that ends badly: {line:?}"));
            return true;
        };
        if !self.manner.pipelining && !link.acts.is_empty() {
            self.breaches.push(format!("pipelining was not offered: {line:?}"));
        }
        self.command(link, line, now);
        true
    }

    fn command(&mut self, link: &mut Link, line: &str, now: Instant) {
        let upper = line.to_ascii_uppercase();
        match (upper.split(' ').next().unwrap_or(""), &link.phase) {
            ("EHLO", Phase::Hello) if self.manner.only_helo => self.say(link, now, "502 5.5.1 what?"),
            ("EHLO" | "HELO", Phase::Hello) => {
                if !self.misbehave(link, Moment::Hello, now) {
                    link.phase = Phase::Ready;
                    let extended = upper.starts_with("EHLO");
                    link.dsn = extended && self.manner.dsn;
                    link.heeds_time = extended && self.manner.deliver_by.is_some();
                    let reply = self.hello(extended);
                    self.say(link, now, &reply);
                }
            }
            ("MAIL", Phase::Ready) => self.mail(link, line, now),
            ("RCPT", Phase::Mail) => self.rcpt(link, line, now),
            // Behind a MAIL that was refused.
            ("RCPT" | "DATA", Phase::Ready) => self.say(link, now, "503 5.5.1 MAIL first"),
            ("DATA", Phase::Mail) => self.data(link, now),
            ("BDAT", Phase::Ready | Phase::Mail) => self.bdat(link, line, now),
            ("RSET", Phase::Ready | Phase::Mail) => {
                link.phase = Phase::Ready;
                self.say(link, now, "250 2.0.0 forgotten");
            }
            ("QUIT", _) => {
                self.say(link, now, "221 2.0.0 bye");
                let at = link.acts.back().map_or(now, |(at, _)| *at);
                link.acts.push_back((at, Act::Close));
                link.deaf = true;
            }
            _ => {
                self.breaches.push(format!("out of order in {:?}: {line:?}", link.phase));
                self.say(link, now, "503 5.5.1 no");
            }
        }
    }

    fn hello(&self, extended: bool) -> String {
        let manner = &self.manner;
        let mut lines = vec!["mta.example".to_owned()];
        if extended {
            let offers = [
                (manner.pipelining, "PIPELINING"),
                (manner.chunking, "CHUNKING"),
                (manner.binary, "BINARYMIME"),
                (manner.eight_bit, "8BITMIME"),
                (manner.utf8, "SMTPUTF8"),
                (manner.dsn, "DSN"),
            ];
            lines.extend(offers.iter().filter(|(has, _)| *has).map(|(_, word)| (*word).to_owned()));
            lines.extend(manner.size.map(|size| format!("SIZE {size}")));
            lines.extend(manner.deliver_by.map(|least| format!("DELIVERBY {least}")));
        }
        let last = lines.len() - 1;
        let marked = lines.iter().enumerate();
        let marked = marked.map(|(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' }));
        marked.collect::<Vec<_>>().join("\r\n")
    }

    fn mail(&mut self, link: &mut Link, line: &str, now: Instant) {
        link.messages += 1;
        self.messages_most = self.messages_most.max(link.messages);
        self.mails.push(now);
        let lower = line.to_ascii_lowercase();
        let extended = !self.manner.only_helo;
        let offered = |has: bool, word: &str| extended && has || !lower.contains(word);
        let fits = [
            offered(self.manner.size.is_some(), " size="),
            offered(self.manner.eight_bit, " body="),
            offered(self.manner.binary, " body=binarymime"),
            offered(self.manner.utf8, " smtputf8"),
            offered(self.manner.dsn, " ret="),
            offered(self.manner.dsn, " envid="),
            offered(self.manner.deliver_by.is_some(), " by="),
            !lower.contains(" hold"),
        ];
        if fits.contains(&false) || !lower.starts_with("mail from:<") {
            self.breaches.push(format!("not offered, or no MAIL: {line:?}"));
        }
        if !self.misbehave(link, Moment::Mail, now) {
            link.phase = Phase::Mail;
            // What is left of the time differs from one attempt to the next.
            let mail = &line["MAIL FROM:".len()..];
            let (before, by) = mail.split_once(" BY=").map_or((mail, None), |(mail, by)| (mail, Some(by)));
            link.mail = before.to_owned();
            link.by = by.map(str::to_owned);
            link.begun = self.unread_since(now);
            link.recipients.clear();
            self.say(link, now, "250 2.1.0 sender ok");
        }
    }

    fn rcpt(&mut self, link: &mut Link, line: &str, now: Instant) {
        let lower = line.to_ascii_lowercase();
        let dsn = lower.contains(" notify=") || lower.contains(" orcpt=");
        if dsn && !link.dsn || !lower.starts_with("rcpt to:<") {
            self.breaches.push(format!("not offered, or no RCPT: {line:?}"));
        }
        let is = |name: Option<&str>| name.is_some_and(|name| lower["rcpt to:<".len()..].starts_with(name));
        if is(self.manner.refuses) {
            self.commit(link, Moment::Rcpt, Deed::Refuse, now);
        } else if is(self.manner.puts_off) {
            self.commit(link, Moment::Rcpt, Deed::Defer, now);
        } else if !self.misbehave(link, Moment::Rcpt, now) {
            let path = line["RCPT TO:<".len()..].split('>').next().unwrap_or("");
            link.recipients.push(path.to_owned());
            let ponders = self.manner.ponders.filter(|(name, _)| is(Some(name)));
            self.say(link, now + ponders.map_or(Duration::ZERO, |(_, time)| time), "250 2.1.5 recipient ok");
        }
    }

    fn data(&mut self, link: &mut Link, now: Instant) {
        if link.recipients.is_empty() && !self.manner.data_for_nobody {
            return self.say(link, now, "554 5.5.1 no valid recipients");
        }
        if self.misbehave(link, Moment::Data, now) {
            return;
        }
        link.phase = Phase::Data;
        link.went_ahead = false;
        link.body_judged = false;
        link.answered_early = false;
        let at = self.due(link, now);
        link.acts.push_back((at, Act::GoAhead));
    }

    fn take_body(&mut self, link: &mut Link, now: Instant) -> bool {
        if link.input.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut link.body_judged, true) && self.misbehave(link, Moment::Body, now) {
            return false;
        }
        let end = if link.input.starts_with(b".\r\n") {
            0
        } else {
            match find(&link.input, b"\r\n.\r\n") {
                Some(at) => at + 2,
                None => return false,
            }
        };
        let data: Vec<u8> = link.input.drain(..end).collect();
        link.input.drain(..3);
        link.phase = Phase::Ready;
        if link.answered_early {
            return true;
        }
        if link.recipients.is_empty() {
            if !data.is_empty() {
                self.breaches.push("a body for nobody".into());
            }
            self.say(link, now, "554 5.5.1 no valid recipients");
            return true;
        }
        self.end_message(link, data, now);
        true
    }

    /// What comes up now may have lain unread since then.
    fn unread_since(&self, now: Instant) -> Instant {
        if now <= self.woke_at + WAKING { self.slept_at } else { now }
    }

    /// A whole message has come, in the form of DATA without its final dot.
    fn end_message(&mut self, link: &mut Link, data: Vec<u8>, now: Instant) {
        if !self.manner.eight_bit && data.iter().any(|b| *b >= 0x80) {
            self.breaches.push("an 8-bit body".into());
        }
        let mut taken = Taken {
            at: now,
            since: self.unread_since(now),
            begun: link.begun,
            settled_by: now + ANSWERED,
            mail: std::mem::take(&mut link.mail),
            recipients: std::mem::take(&mut link.recipients),
            data,
            dsn: link.dsn,
            heeds_time: link.heeds_time,
            by: link.by.take(),
        };
        let begun = if self.manner.serial { now.max(self.busy_until) } else { now };
        let now = begun + self.manner.dot_delay;
        self.busy_until = now;
        match self.fate(Moment::Dot) {
            Some(deed) => {
                if !matches!(deed, Deed::Refuse | Deed::Defer | Deed::Leave)
                    && self.dice.chance(self.manner.taken_silently)
                {
                    taken.settled_by = now + GIVEN_UP;
                    self.taken.push(taken);
                }
                self.commit(link, Moment::Dot, deed, now);
            }
            None => {
                self.taken.push(taken);
                let id = self.taken.len();
                self.say(link, now, &format!("250 2.0.0 taken as {id}"));
            }
        }
    }

    fn fate(&mut self, moment: Moment) -> Option<Deed> {
        let odds = self.manner.odds.iter();
        let odds: Vec<(Deed, f64)> = odds.filter(|o| o.0 == moment).map(|o| (o.1, o.2)).collect();
        odds.into_iter().find(|(_, chance)| self.dice.chance(*chance)).map(|(deed, _)| deed)
    }

    fn misbehave(&mut self, link: &mut Link, moment: Moment, now: Instant) -> bool {
        let fate = self.fate(moment);
        let Some(deed) = fate else { return false };
        self.commit(link, moment, deed, now);
        // A body refused before its end is read all the same.
        moment != Moment::Body || link.deaf
    }

    fn commit(&mut self, link: &mut Link, moment: Moment, deed: Deed, now: Instant) {
        let in_body = link.phase == Phase::Data;
        self.hid |= moment == Moment::Hello;
        self.put_off |= moment == Moment::Rcpt && deed == Deed::Defer;
        match deed {
            Deed::Refuse | Deed::Defer if in_body => {
                link.answered_early = true;
                let text = if deed == Deed::Refuse {
                    "554 5.7.1 I do not like how it begins"
                } else {
                    "452 4.3.1 no room for it"
                };
                self.say(link, now, text);
            }
            // Two answers to one message would be a lie that nobody can see through.
            Deed::Babble if in_body => {}
            Deed::Babble => {
                // Nothing that could be taken for a yes.
                let text = self.dice.pick(&["SSH-2.0-x", "999 9.9.9 x", "25", "", "150 x", "354 go on"]);
                let yes = moment == Moment::Data && text.starts_with('3');
                self.say(link, now, if yes { "150 x" } else { text });
            }
            Deed::Refuse => self.say(link, now, "550 5.7.1 not here"),
            Deed::Defer => self.say(link, now, "450 4.2.0 not now"),
            Deed::Leave => {
                self.say(link, now, "421 4.3.2 going down");
                let at = self.due(link, now);
                link.acts.push_back((at, Act::Close));
                link.deaf = true;
            }
            Deed::Hang => link.deaf = true,
            Deed::Drop | Deed::Reset => {
                let at = self.due(link, now);
                let act = if deed == Deed::Drop { Act::Close } else { Act::Reset };
                link.acts.push_back((at, act));
                link.deaf = true;
            }
        }
    }

    fn say(&mut self, link: &mut Link, now: Instant, text: &str) {
        let at = self.due(link, now);
        let mut reply = Vec::new();
        if self.manner.multi_line && !text.starts_with("250-") && text.len() > 4 {
            reply.extend_from_slice(format!("{}-first of two\r\n", &text[..3]).as_bytes());
        }
        reply.extend_from_slice(text.as_bytes());
        reply.extend_from_slice(b"\r\n");
        link.acts.push_back((at, Act::Say(reply)));
    }

    /// Answers come in order, each after a delay of its own.
    fn due(&mut self, link: &Link, now: Instant) -> Instant {
        let (low, high) =
            (self.manner.delay_min.as_nanos() as usize, self.manner.delay_max.as_nanos() as usize);
        let delay = Duration::from_nanos(self.dice.between(low, high.max(low)) as u64);
        let after = link.acts.back().map_or(now, |(at, _)| *at);
        (now + delay).max(after)
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
