//! Plays a script's steps on a ground.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use postlane::observe::Stats;
use postlane::shard::Order;

use crate::ground::{End, Ground};
use crate::script::{Script, Step, Who, fits};

/// How long something that is to come may take; how long nothing must come.
const PATIENCE: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(30);

/// A stream as the script hears it: bytes, and where packets begin.
struct Ear {
    end: End,
    heard: Vec<u8>,
    /// Of `heard`, what the script has dealt with.
    taken: usize,
    packets: Vec<usize>,
    last_line: usize,
}

struct Player<G> {
    ground: G,
    clients: BTreeMap<usize, Ear>,
    /// By upstream, in the order they were accepted.
    links: Vec<Vec<Ear>>,
    transcript: String,
}

/// Plays it; what went wrong, with all that was said.
pub(crate) fn run<G: Ground>(script: &Script) -> Result<(), String> {
    let upstreams = script.setup.pool.upstreams.len();
    let mut player = Player {
        ground: G::new(&script.setup),
        clients: BTreeMap::new(),
        links: (0..upstreams).map(|_| Vec::new()).collect(),
        transcript: String::new(),
    };
    for (line, step) in &script.steps {
        if let Err(why) = player.step(step) {
            let said = std::mem::take(&mut player.transcript);
            // The shards' threads, if there are any, are left to themselves.
            std::mem::forget(player);
            return Err(format!("{}.txt:{line}: {why}\n{said}", script.name));
        }
    }
    let ended = catch_unwind(AssertUnwindSafe(|| player.ground.end()));
    ended.map_err(|_| format!("{}.txt: it does not end well\n{}", script.name, player.transcript))
}

/// Scripts have their clients on the loopback.
fn here<G: Ground>(pattern: &[u8]) -> Vec<u8> {
    const SCRIPTED: &[u8] = b"127.0.0.1";
    match pattern.windows(SCRIPTED.len()).position(|part| part == SCRIPTED) {
        Some(at) => [&pattern[..at], G::CLIENT.as_bytes(), &pattern[at + SCRIPTED.len()..]].concat(),
        None => pattern.to_vec(),
    }
}

impl<G: Ground> Player<G> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Say(who, bytes) => {
                if let Who::Client(n) = who
                    && !self.clients.contains_key(n)
                {
                    self.connect(*n);
                }
                let ear = self.ear(*who)?.end;
                self.note(*who, "says", bytes);
                self.ground.send(ear, bytes);
                Ok(())
            }
            Step::Hear { who, pattern, same_packet } => self.hear(*who, &here::<G>(pattern), *same_packet),
            Step::HearUpTo { who, pattern } => self.hear_up_to(*who, &here::<G>(pattern)),
            Step::HearNothing(who) => {
                self.ground.wait(QUIET);
                let rest = self.listen(*who)?;
                if rest.is_empty() { Ok(()) } else { Err(format!("it heard {:?}", lossy(&rest))) }
            }
            Step::SeeTheEnd(who) => self.see_the_end(*who),
            Step::Connect(n) => {
                self.connect(*n);
                Ok(())
            }
            Step::Accept(upstream) => self.accept(*upstream),
            Step::Close(who) => {
                let end = self.ear(*who)?.end;
                self.note(*who, "closes", b"");
                self.ground.close(end);
                self.forget(*who);
                Ok(())
            }
            Step::Reset(who) => {
                let end = self.ear(*who)?.end;
                self.note(*who, "resets", b"");
                self.ground.reset(end);
                self.forget(*who);
                Ok(())
            }
            Step::Listen(upstream, listens) => {
                self.ground.listen(upstream - 1, *listens);
                Ok(())
            }
            Step::Vanish(upstream) => {
                self.ground.vanish(upstream - 1);
                Ok(())
            }
            Step::Wait(time) => {
                self.ground.wait(*time);
                Ok(())
            }
            Step::Count(name, number) => self.count(name, *number),
            Step::Drain => {
                self.ground.order(Order::Drain);
                Ok(())
            }
        }
    }

    fn connect(&mut self, n: usize) {
        let end = self.ground.connect();
        self.clients.insert(n, Ear::new(end));
    }

    /// A client that has closed may come again.
    fn forget(&mut self, who: Who) {
        if let Who::Client(n) = who {
            self.clients.remove(&n);
        }
    }

    fn ear(&mut self, who: Who) -> Result<&mut Ear, String> {
        match who {
            Who::Client(n) => self.clients.get_mut(&n).ok_or("the client is not connected".into()),
            Who::Upstream(upstream, link) => {
                let links = &mut self.links[upstream - 1];
                let at = if link == 0 { links.len().wrapping_sub(1) } else { link - 1 };
                links.get_mut(at).ok_or("there is no such link".into())
            }
        }
    }

    /// Takes in what has come; what the script has not dealt with.
    fn listen(&mut self, who: Who) -> Result<Vec<u8>, String> {
        let end = self.ear(who)?.end;
        let bytes = self.ground.receive(end);
        let ear = self.ear(who)?;
        if !bytes.is_empty() {
            ear.packets.push(ear.heard.len());
            ear.heard.extend_from_slice(&bytes);
        }
        Ok(ear.heard[ear.taken..].to_vec())
    }

    /// Listens to everybody, so that each packet is seen for itself.
    fn step_ground(&mut self, patience: Duration) -> Result<bool, String> {
        let goes_on = self.ground.step(patience);
        let clients: Vec<Who> = self.clients.keys().map(|n| Who::Client(*n)).collect();
        let links = self.links.iter().enumerate();
        let links = links.flat_map(|(u, links)| (1..=links.len()).map(move |l| Who::Upstream(u + 1, l)));
        for who in clients.into_iter().chain(links.collect::<Vec<_>>()) {
            self.listen(who)?;
        }
        Ok(goes_on)
    }

    fn hear(&mut self, who: Who, pattern: &[u8], same_packet: bool) -> Result<(), String> {
        let (line, together) = self.hear_line(who, pattern)?;
        if !fits(pattern, &line) {
            return Err(format!("it should hear {:?}, not {:?}", lossy(pattern), lossy(&line)));
        }
        if same_packet && !together {
            return Err(format!("{:?} came in a packet of its own", lossy(&line)));
        }
        Ok(())
    }

    fn hear_up_to(&mut self, who: Who, pattern: &[u8]) -> Result<(), String> {
        loop {
            let (line, _) = self.hear_line(who, pattern)?;
            if fits(pattern, &line) {
                return Ok(());
            }
        }
    }

    /// The next line, and whether it came in the packet of the one before.
    fn hear_line(&mut self, who: Who, pattern: &[u8]) -> Result<(Vec<u8>, bool), String> {
        loop {
            let rest = self.listen(who)?;
            if let Some(len) = rest.iter().position(|b| *b == b'\n') {
                let line = &rest[..=len];
                self.note(who, "hears", line);
                let ear = self.ear(who)?;
                let packet = |at: usize| ear.packets.partition_point(|begun| *begun <= at);
                let together = packet(ear.last_line) == packet(ear.taken);
                ear.last_line = ear.taken;
                ear.taken += len + 1;
                return Ok((line.strip_suffix(b"\r\n").unwrap_or(line).to_vec(), together));
            }
            if !self.step_ground(PATIENCE)? {
                let rest = self.listen(who)?;
                return Err(format!("it should hear {:?}; there is {:?}", lossy(pattern), lossy(&rest)));
            }
        }
    }

    fn see_the_end(&mut self, who: Who) -> Result<(), String> {
        let end = self.ear(who)?.end;
        loop {
            let rest = self.listen(who)?;
            if !rest.is_empty() {
                return Err(format!("it heard {:?} before the end", lossy(&rest)));
            }
            if self.ground.is_over(end) {
                self.note(who, "sees the end", b"");
                self.ground.close(end);
                self.forget(who);
                return Ok(());
            }
            if !self.step_ground(PATIENCE)? {
                return Err("it is not ended".into());
            }
        }
    }

    fn accept(&mut self, upstream: usize) -> Result<(), String> {
        loop {
            if let Some(end) = self.ground.accept(upstream - 1) {
                self.links[upstream - 1].push(Ear::new(end));
                self.note(Who::Upstream(upstream, 0), "accepts", b"");
                return Ok(());
            }
            if !self.step_ground(PATIENCE)? {
                return Err("nobody calls".into());
            }
        }
    }

    fn count(&mut self, name: &str, number: u64) -> Result<(), String> {
        let of: &dyn Fn(&Stats) -> u64 = match name {
            "in_doubt" => &|stats| stats.in_doubt.get(),
            "bounces" => &|stats| stats.bounces.get(),
            "relay_notices" => &|stats| stats.relay_notices.get(),
            "bounces_dropped" => &|stats| stats.bounces_dropped.get(),
            "accepted" => &|stats| stats.listeners[0].accepted.get(),
            "deferred" => &|stats| stats.listeners[0].deferred.get(),
            "rejected" => &|stats| stats.listeners[0].rejected.get(),
            "turned_away" => &|stats| stats.listeners[0].turned_away.get(),
            _ => return Err(format!("no counter {name}")),
        };
        let counted = self.ground.sum(of);
        if counted == number { Ok(()) } else { Err(format!("{name} is {counted}")) }
    }

    fn note(&mut self, who: Who, does: &str, bytes: &[u8]) {
        let who = match who {
            Who::Client(n) => format!("C{n}"),
            Who::Upstream(n, 0) => format!("U{n}"),
            Who::Upstream(n, link) => format!("U{n}.{link}"),
        };
        let text: String = lossy(bytes).chars().take(300).collect();
        self.transcript.push_str(&format!("    {who} {does} {text:?}\n"));
    }
}

impl Ear {
    fn new(end: End) -> Ear {
        Ear { end, heard: Vec::new(), taken: 0, packets: Vec::new(), last_line: 0 }
    }
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
