//! Several messages in flight on one link, which is lost: at every octet of what is sent, and of what is answered.

use std::time::Duration;

use postlane::net::sim::{Faults, PeerId};

use crate::client::Habits;
use crate::focus::world;
use crate::message::Fate;
use crate::play::Play;
use crate::stage::{Setup, upstream_address};
use crate::upstream::Manner;

const MS: Duration = Duration::from_millis(1);
/// Messages in flight when the link is lost.
const MESSAGES: usize = 4;

/// One upstream is played by hand, the other joins once all this is so. The link has carried one message, and now `MESSAGES`
/// more are on it; no more than `window` octets of them have been taken by its kernel, unless it reads.
struct Scene {
    play: Play,
    peer: PeerId,
    /// What the first one has read.
    read: Vec<u8>,
}

impl Scene {
    fn new(window: Option<usize>) -> Scene {
        let mut setup = Setup::new(31, 2);
        setup.pool.links_max = 1;
        let newcomer = setup.pool.upstreams.split_off(1);
        let mut play = world(&setup, vec![Manner { chunking: true, ..Manner::good() }; 2]);
        let at = upstream_address(0);
        play.upstreams[0].die(&play.stage.world);
        play.stage.world.listen_peer(at).unwrap();
        play.add_clients(1, &Habits::plain(1), 1, 40);
        play.pass(5 * MS);
        let peer = play.stage.world.accept_peer(at).expect("it is called");
        let mut scene = Scene { play, peer, read: Vec::new() };
        scene.say("220 a\r\n");
        scene.say("250-a\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        scene.say(&"250 2.0.0 ok\r\n".repeat(3));
        scene.play.all_are(Fate::Answered(250));
        scene.play.stage.world.take_received(peer, &mut scene.read);
        scene.read.clear();
        if let Some(window) = window {
            scene.play.stage.world.pause(peer);
            let faults = Faults { window_bytes: window, ..Faults::default() };
            scene.play.stage.world.set_path(at, Some(faults));
        }
        scene.play.add_clients(MESSAGES, &Habits::plain(1), 1, 40);
        scene.play.pass(5 * MS);
        scene.play.stage.world.take_received(peer, &mut scene.read);
        setup.pool.upstreams.extend(newcomer);
        scene.play.stage.reload(&setup);
        scene
    }

    fn say(&mut self, text: &str) {
        self.play.stage.world.send(self.peer, text.as_bytes());
        self.play.pass(5 * MS);
    }

    fn in_doubt(&self) -> u64 {
        self.play.stage.sum(|stats| stats.in_doubt.get())
    }

    /// The link is lost, so many messages had been answered, and so many are in doubt: the other upstream gets all that
    /// were not, once each.
    fn lose(mut self, what: &str, answered: usize, in_doubt: usize) {
        self.play.stage.world.reset(self.peer);
        self.play.run(Duration::from_secs(60), what, |play| play.clients.iter().all(|client| client.done));
        self.play.all_are(Fate::Answered(250));
        assert_eq!(self.in_doubt(), in_doubt as u64, "{what}");
        assert_eq!(self.play.upstreams[1].taken.len(), MESSAGES - answered, "{what}");
        self.play.end();
        assert!(self.play.upstreams[1].breaches.is_empty(), "{what}: {:?}", self.play.upstreams[1].breaches);
    }
}

/// Where each message ends in what the upstream reads.
fn ends(read: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (0, Vec::new());
    while at < read.len() {
        let end = at + read[at..].iter().position(|&byte| byte == b'\n').expect("a command") + 1;
        let line = String::from_utf8(read[at..end].to_vec()).unwrap();
        at = end;
        if let Some(size) = line.strip_prefix("BDAT ") {
            at += size.trim_end().strip_suffix(" LAST").expect("all of it").parse::<usize>().unwrap();
            ends.push(at);
        }
    }
    ends
}

#[test]
fn what_had_not_left_is_not_in_doubt() {
    let whole = Scene::new(None).read;
    let ends = ends(&whole);
    assert_eq!((ends.len(), ends.last()), (MESSAGES, Some(&whole.len())));
    for taken in 1..=whole.len() {
        let scene = Scene::new(Some(taken));
        let sent = ends.partition_point(|&end| end <= taken);
        scene.lose(&format!("{taken} of {} octets had left", whole.len()), 0, sent);
    }
    println!("{} octets, messages end at {ends:?}", whole.len());
}

#[test]
fn what_was_answered_is_done() {
    let mut replies = String::new();
    let mut ends = Vec::new();
    for n in 0..MESSAGES {
        // Whatever comes behind one in flight begins with RSET.
        let lines = if n == 0 { 3 } else { 4 };
        replies.push_str(&"250 ok\r\n".repeat(lines));
        ends.push(replies.len());
    }
    for heard in 0..=replies.len() {
        let mut scene = Scene::new(None);
        scene.say(&replies[..heard]);
        let answered = ends.partition_point(|&end| end <= heard);
        scene.lose(&format!("{heard} octets of replies"), answered, MESSAGES - answered);
    }
}

#[test]
fn what_comes_behind_words_of_farewell_was_not_taken() {
    for answered in 0..MESSAGES {
        let mut scene = Scene::new(None);
        for n in 0..answered {
            scene.say(&"250 ok\r\n".repeat(if n == 0 { 3 } else { 4 }));
        }
        scene.say("421 4.3.2 leaving\r\n");
        scene.lose(&format!("421 after {answered}"), answered, 0);
    }
}

/// What becomes of one is nothing to those behind it; all of it in whatever pieces.
#[test]
fn each_has_its_own_outcome() {
    for refused in 0..MESSAGES {
        let mut scene = Scene::new(None);
        let mut replies = String::new();
        for n in 0..MESSAGES {
            replies.push_str(if n == 0 { "" } else { "250 reset\r\n" });
            replies.push_str(match (n == refused, n % 2) {
                (false, _) => "250 ok\r\n250 ok\r\n250 2.0.0 taken\r\n",
                (true, 0) => "250 ok\r\n550 5.1.1 nobody\r\n554 5.5.1 no valid recipients\r\n",
                (true, _) => "250 ok\r\n250 ok\r\n552 5.3.4 too much\r\n",
            });
        }
        for piece in replies.as_bytes().chunks(7) {
            scene.say(std::str::from_utf8(piece).unwrap());
        }
        let fates: Vec<Fate> = scene.play.messages[1..].iter().map(|message| message.fate).collect();
        let positive = fates.iter().filter(|fate| **fate == Fate::Answered(250)).count();
        let code = if refused % 2 == 0 { 550 } else { 552 };
        assert!(positive == MESSAGES - 1 && fates.contains(&Fate::Answered(code)), "{fates:?}");
        assert_eq!(scene.in_doubt(), 0);
        scene.play.end();
    }
}

/// Few links are enough where messages need not wait for each other's answers.
#[test]
fn few_links_carry_many() {
    let carried = |chunking: bool| {
        let mut setup = Setup::new(32, 1);
        setup.pool.links_max = 2;
        setup.faults.delay_min = 5 * MS;
        setup.faults.delay_max = 5 * MS;
        let mut play = world(&setup, vec![Manner { chunking, ..Manner::good() }]);
        play.add_clients(32, &Habits::plain(50), 50, 500);
        let begin = play.now();
        play.serve_all();
        let took = play.now().since(begin);
        play.finish();
        play.all_are(Fate::Answered(250));
        took
    };
    let (by_data, by_chunks) = (carried(false), carried(true));
    println!(
        "1600 messages over two links, 10 ms there and back: {by_data:?} by DATA, {by_chunks:?} by BDAT"
    );
    assert!(by_chunks * 3 < by_data, "{by_chunks:?} against {by_data:?}");
}

/// Messages of one turn leave by one link where that costs them nothing, and by one each where the upstream deals with one
/// after the other.
#[test]
fn company_is_kept_where_it_is_free() {
    let links = |millis: u32| {
        let mut setup = Setup::new(33, 1);
        setup.pool.links_max = 32;
        setup.pool.idle_timeout = 200 * MS;
        setup.pool.idle_links = 0;
        let manner = Manner { chunking: true, serial: true, ..Manner::slow(millis * MS) };
        let mut play = world(&setup, vec![manner]);
        play.add_clients(4, &Habits { chunking: true, eager: true, ..Habits::plain(2_000) }, 2_000, 500);
        let mut begun = play.now();
        // Those that were opened before it was known how the upstream is have gone by the second half.
        let (mut sum, mut looks) = (0, 0);
        play.run(Duration::from_secs(3600), "the clients", |play| {
            if play.upstreams[0].taken.len() > 4_000 && play.now() >= begun + 5 * MS {
                begun = play.now();
                (sum, looks) = (sum + play.upstreams[0].links(), looks + 1);
            }
            play.clients.iter().all(|client| client.done)
        });
        play.finish();
        play.all_are(Fate::Answered(250));
        sum as f64 / looks as f64
    };
    let (at_once, one_by_one) = (links(0), links(5));
    println!("links on average: {at_once:.1} to one that answers at once, {one_by_one:.1} to a slow one");
    assert!(2.0 * at_once < one_by_one, "{at_once}, {one_by_one}");
}
