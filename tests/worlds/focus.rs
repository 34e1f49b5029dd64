//! Worlds built for one question each.

use std::time::Duration;

use postlane::balance::Policy;
use postlane::dispatch::options::Pool;
use postlane::dispatch::owner::ShardBy;
use postlane::shard::Order;

use crate::client::{Client, Habits};
use crate::dice::Dice;
use crate::message::{Fate, Message};
use crate::play::Play;
use crate::stage::{Setup, Stage, upstream_address};
use crate::upstream::{Deed, Manner, Moment, Upstream};
use crate::ways::Ways;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A world with these upstreams and nobody who sends yet.
pub(crate) fn world(setup: &Setup, manners: Vec<Manner>) -> Play {
    let stage = Stage::new(setup);
    let mut dice = Dice::new(setup.seed);
    let ways = Ways::one_pool(manners.len());
    let upstreams = manners
        .into_iter()
        .enumerate()
        .map(|(n, manner)| Upstream::new(&stage.world, upstream_address(n), manner, dice.fork(), false));
    let upstreams = upstreams.collect();
    Play::new(stage, ways, upstreams, false)
}

impl Play {
    /// So many clients more that send so many messages each, from now on.
    pub(crate) fn add_clients(&mut self, count: usize, habits: &Habits, messages_each: usize, len: usize) {
        let mut dice = Dice::new(self.messages.len() as u64 + 17);
        for _ in 0..count {
            let numbers = self.messages.len()..self.messages.len() + messages_each;
            let plain = numbers.clone().map(|n| Message::plain(n, len, &mut dice));
            self.messages.extend(plain);
            let name = self.clients.len();
            let client = Client::new(
                name,
                self.stage.inlet,
                habits.clone(),
                numbers,
                self.now() + Duration::from_micros(37 * name as u64),
                dice.fork(),
                false,
            );
            self.clients.push(client);
        }
    }

    pub(crate) fn serve_all(&mut self) {
        self.run(Duration::from_secs(3600), "the clients", |play| {
            play.clients.iter().all(|client| client.done)
        });
    }

    pub(crate) fn all_are(&self, fate: Fate) {
        let other = self.messages.iter().find(|message| message.fate != fate);
        assert!(other.is_none(), "message {} is {:?}", other.unwrap().number, other.unwrap().fate);
    }

    pub(crate) fn waited_most(&self) -> Duration {
        self.clients.iter().map(|client| client.waited_most).max().unwrap_or_default()
    }
}

#[test]
fn a_slow_upstream_gets_a_small_share() {
    for clients in [16, 48] {
        let mut play = world(&Setup::new(1, 3), [1, 5, 50].map(|ms| Manner::slow(ms * MS)).to_vec());
        play.add_clients(clients, &Habits::plain(100), 100, 2_000);
        play.serve_all();
        let taken: Vec<usize> = play.upstreams.iter().map(|upstream| upstream.taken.len()).collect();
        println!("{clients} clients, 1, 5 and 50 ms: {taken:?} of {}", 100 * clients);
        play.finish();
        play.all_are(Fate::Answered(250));
        assert!(taken[0] > 3 * taken[1] && taken[1] > 3 * taken[2], "{taken:?}");
        assert!(taken[2] > 0, "{taken:?}");
    }
}

#[test]
fn equal_upstreams_get_equal_shares() {
    let mut setup = Setup::new(2, 4);
    setup.shards = 2;
    let mut play = world(&setup, vec![Manner::slow(3 * MS); 4]);
    play.add_clients(16, &Habits::plain(100), 100, 1_000);
    play.serve_all();
    let taken: Vec<usize> = play.upstreams.iter().map(|upstream| upstream.taken.len()).collect();
    println!("four times 3 ms: {taken:?}");
    play.finish();
    assert!(taken.iter().all(|n| (300..=500).contains(n)), "{taken:?}");
}

#[test]
fn a_hanging_upstream_gets_no_new_mail() {
    let mut setup = Setup::new(3, 3);
    setup.pool.reply_timeout = Duration::from_secs(20);
    let mut play = world(&setup, vec![Manner::slow(2 * MS); 3]);
    play.add_clients(32, &Habits::plain(400), 400, 1_000);
    play.pass(300 * MS);
    play.upstreams[0].manner.odds = vec![(Moment::Dot, Deed::Hang, 1.0)];
    let hung_at = play.now();
    let answered: usize = play.clients.iter().map(|client| client.answered.len()).sum();
    play.pass(Duration::from_secs(1));
    let late = |after: Duration| {
        let mails = play.upstreams[0].mails.iter();
        mails.filter(|at| **at > hung_at + after).count()
    };
    let counts = [0, 20, 50, 100, 200].map(|ms| (ms, late(ms * MS)));
    let now: usize = play.clients.iter().map(|client| client.answered.len()).sum();
    println!(
        "MAIL to the hanging one later than so many ms: {counts:?}; {} others were served in that second",
        now - answered
    );
    assert!(late(200 * MS) <= 2, "{counts:?}");
    assert!(now - answered > 2_000, "the others go on: {}", now - answered);
    play.upstreams[0].manner.odds.clear();
    play.serve_all();
    println!("longest wait of a client: {:?}", play.waited_most());
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert!(count.in_doubt <= 16, "{count:?}");
    assert!(play.waited_most() < Duration::from_secs(21), "{:?}", play.waited_most());
}

#[test]
fn one_that_dies_and_returns_is_no_clients_trouble() {
    let mut setup = Setup::new(4, 3);
    setup.shards = 2;
    setup.pool.health.eject_for = 500 * MS;
    let manners = [1, 5, 50].map(|ms| Manner::slow(ms * MS)).to_vec();
    let mut play = world(&setup, manners);
    play.add_clients(16, &Habits::plain(500), 500, 1_000);
    play.pass(300 * MS);
    play.upstreams[0].die(&play.stage.world);
    let before = play.upstreams[0].taken.len();
    play.pass(Duration::from_secs(1));
    assert_eq!(play.upstreams[0].taken.len(), before);
    play.upstreams[0].rise(&play.stage.world);
    play.serve_all();
    let after = play.upstreams[0].taken.len() - before;
    println!("{before} before its death, {after} after its return, longest wait {:?}", play.waited_most());
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert!(after > 500, "it is used again: {after}");
    assert!(count.repeats <= count.in_doubt);
    assert!(play.waited_most() < Duration::from_secs(1));
}

#[test]
fn a_reload_takes_one_away_and_brings_another() {
    let mut setup = Setup::new(12, 3);
    setup.shards = 2;
    setup.pool.care.slow_start = Duration::ZERO;
    let newcomer = setup.pool.upstreams.split_off(2);
    let mut play = world(&setup, vec![Manner::slow(5 * MS); 3]);
    play.add_clients(16, &Habits::plain(200), 200, 1_000);
    play.pass(200 * MS);
    assert_eq!((play.upstreams[0].links() > 0, play.upstreams[2].links()), (true, 0));
    setup.pool.upstreams[0].is_leaving = true;
    setup.pool.upstreams.extend(newcomer);
    play.stage.reload(&setup);
    // What was in flight finishes; then nothing of it is left.
    play.pass(100 * MS);
    let (taken, links) = (play.upstreams[0].taken.len(), play.upstreams[1].links());
    assert_eq!((play.upstreams[0].links(), taken > 0, links > 0), (0, true, true));
    play.serve_all();
    assert_eq!(play.upstreams[0].taken.len(), taken);
    let others = [1, 2].map(|n: usize| play.upstreams[n].taken.len());
    assert!(others[1] > others[0] / 2, "{others:?}");
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!((count.in_doubt, count.repeats), (0, 0));
}

/// The policy changes for what comes next, and what is known of the upstreams stays known.
#[test]
fn a_reload_changes_the_policy() {
    let mut setup = Setup::new(17, 2);
    setup.shards = 2;
    let mut play = world(&setup, vec![Manner::slow(MS), Manner::slow(20 * MS)]);
    let mut shares = |setup: &Setup, policy: Policy| {
        let setup = Setup { pool: Pool { policy, ..setup.pool.clone() }, ..setup.clone() };
        play.stage.reload(&setup);
        let before = [0, 1].map(|n: usize| play.upstreams[n].taken.len());
        play.add_clients(8, &Habits::plain(50), 50, 1_000);
        play.serve_all();
        [0, 1].map(|n: usize| play.upstreams[n].taken.len() - before[n])
    };
    let first = shares(&setup, Policy::LeastResponseTime);
    let second = shares(&setup, Policy::RoundRobin);
    let third = shares(&setup, Policy::LeastResponseTime);
    println!("least response time {first:?}, round robin {second:?}, least response time {third:?}");
    assert!(first[1] < 80 && third[1] <= first[1], "{first:?} {third:?}");
    assert!(second[0].abs_diff(second[1]) <= 2, "{second:?}");
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!((count.in_doubt, count.repeats), (0, 0));
}

#[test]
fn a_message_for_four_shards_is_split_and_its_body_shared() {
    let mut setup = Setup::new(5, 1);
    setup.shards = 4;
    let mut play = world(&setup, vec![Manner::slow(100 * MS)]);
    play.add_clients(1, &Habits::plain(1), 1, 150_000);
    play.messages[0].recipients = (0..40).map(|n| format!("m0.r{n}@d{n}.example")).collect();
    play.pass(50 * MS);
    let held = play.stage.shards.iter().map(|shard| shard.net().buffers_held());
    let held: Vec<usize> = held.filter(|held| *held > 0).collect();
    assert!(held.len() == 1 && held[0] <= 150_000 / 16_384 + 3, "buffers held: {held:?}");
    play.serve_all();
    let taken = &play.upstreams[0].taken;
    assert_eq!(taken.len(), 4, "once for each shard");
    let recipients: usize = taken.iter().map(|taken| taken.recipients.len()).sum();
    assert_eq!(recipients, 40);
    assert_eq!(play.stage.sum(|stats| stats.letters.get()), 6);
    play.finish();
    play.all_are(Fate::Answered(250));
}

#[test]
fn by_session_a_message_stays_with_the_shard_that_took_it() {
    let mut setup = Setup::new(5, 1);
    setup.shards = 4;
    setup.shard_by = ShardBy::Session;
    let mut play = world(&setup, vec![Manner::slow(100 * MS)]);
    play.add_clients(1, &Habits::plain(1), 1, 150_000);
    play.messages[0].recipients = (0..40).map(|n| format!("m0.r{n}@d{n}.example")).collect();
    play.serve_all();
    let taken = &play.upstreams[0].taken;
    assert_eq!(taken.iter().map(|taken| taken.recipients.len()).collect::<Vec<_>>(), [40], "in one piece");
    assert_eq!(play.stage.sum(|stats| stats.letters.get()), 0);
    play.finish();
    play.all_are(Fate::Answered(250));
}

#[test]
fn a_drain_in_mid_load_loses_nothing() {
    let mut setup = Setup::new(6, 2);
    setup.shards = 3;
    let mut play = world(&setup, vec![Manner::slow(10 * MS); 2]);
    play.add_clients(20, &Habits::plain(1000), 1000, 20_000);
    play.pass(500 * MS);
    play.stage.order(Order::Drain);
    play.run(Duration::from_secs(5), "the drain", |play| {
        play.stage.under_way() == 0 && play.clients.iter().all(|client| client.replies_421 > 0)
    });
    // Clients that come back are sent away.
    play.pass(300 * MS);
    assert!(play.clients.iter().all(|client| client.replies_421 > 1));
    play.clients.iter_mut().for_each(Client::give_up);
    let count = play.finish();
    assert!(count.accepted > 500, "{count:?}");
    assert_eq!((count.repeats, count.in_doubt), (0, 0), "{count:?}");
    let unanswered = play.messages.iter().filter(|message| message.fate == Fate::Unanswered);
    assert_eq!(unanswered.count(), 0, "whoever had sent a final dot was answered");
}

/// Clients that push on while they wait for an answer hold buffers too: links must hear their replies all the same.
#[test]
fn eager_clients_cannot_starve_the_links() {
    let mut setup = Setup::new(8, 1);
    setup.buffers = 24;
    let mut play = world(&setup, vec![Manner::slow(20 * MS)]);
    let eager = Habits { eager: true, ..Habits::plain(6) };
    play.add_clients(60, &eager, 6, 500);
    play.serve_all();
    println!("longest wait: {:?}", play.waited_most());
    let count = play.finish();
    assert_eq!(count.in_doubt, 0, "{count:?}");
    assert!(play.waited_most() < Duration::from_secs(5), "{:?}", play.waited_most());
    let bad = play.clients.iter().flat_map(|client| &client.finals);
    let bad: Vec<_> =
        bad.filter(|(_, text)| !text.starts_with("250 ") && !text.starts_with("452 4.3.1")).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(count.accepted > 0);
}

#[test]
fn links_keep_their_bounds() {
    let mut setup = Setup::new(9, 1);
    setup.shards = 2;
    setup.pool.links_max = 3;
    setup.pool.transactions_per_link = 4;
    setup.pool.idle_links = 1;
    setup.pool.idle_timeout = Duration::from_secs(2);
    let mut play = world(&setup, vec![Manner::slow(5 * MS)]);
    play.add_clients(20, &Habits::plain(40), 40, 500);
    play.serve_all();
    assert_eq!(play.upstreams[0].messages_most, 4);
    assert_eq!(play.upstreams[0].links_most, 6);
    play.pass(Duration::from_secs(10));
    assert!(play.upstreams[0].links() <= 2, "idle links are closed");
    play.finish();
    play.all_are(Fate::Answered(250));
}

#[test]
fn stop_takes_leave_of_whoever_is_there() {
    let mut setup = Setup::new(10, 1);
    setup.shards = 2;
    let mut play = world(&setup, vec![Manner::slow(50 * MS)]);
    // Some in the middle of a message, some waiting for an answer.
    let stalls = Habits { stall: 1.0, ..Habits::plain(1) };
    play.add_clients(10, &stalls, 1, 5_000);
    play.add_clients(10, &Habits::plain(20), 20, 5_000);
    play.pass(120 * MS);
    play.stage.order(Order::Drain);
    play.stage.order(Order::Stop);
    play.clients.iter_mut().for_each(Client::give_up);
    play.run(Duration::from_secs(2), "the stop", |play| play.stage.has_ended());
    play.stage.assert_nothing_left();
    play.judge();
}

/// A client that never reads what it is told may hold neither memory nor its session for ever.
#[test]
fn a_client_that_does_not_read_is_let_go() {
    let mut setup = Setup::new(11, 1);
    setup.listener.idle_timeout = Duration::from_secs(60);
    let stage = Stage::new(&setup);
    let peer = stage.world.connect(stage.inlet, "127.0.0.1:0".parse().unwrap());
    let mut play = Play::new(stage, Ways::one_pool(1), Vec::new(), false);
    play.pass(MS);
    play.stage.world.pause(peer);
    let mut pushed = 0;
    for _ in 0..2_000 {
        play.stage.world.send(peer, &b"EHLO c.example\r\n".repeat(64));
        pushed += 64;
        play.pass(MS);
    }
    let heard = play.stage.shards[0].net().buffers_held();
    assert!(heard <= 8, "its input holds {heard} buffers");
    assert!(
        play.stage.shards[0].net().unsent_bytes() < 1 << 20,
        "{} bytes of replies to {pushed} commands are kept for it",
        play.stage.shards[0].net().unsent_bytes()
    );
    play.pass(Duration::from_secs(120));
    assert!(play.stage.shards[0].dispatch().is_empty(), "the session is still there");
    play.stage.assert_nothing_left();
}

/// An upstream that stops reading in the middle of a body, having said that it leaves.
#[test]
fn a_link_that_cannot_be_closed_is_cut() {
    for said in [&b""[..], b"421 4.3.2 leaving\r\n", b"554 5.7.1 no\r\n", b"what is this\r\n"] {
        let mut setup = Setup::new(12, 2);
        setup.faults.window_bytes = 8_000;
        setup.pool.reply_timeout = Duration::from_secs(30);
        let mut play = world(&setup, vec![Manner::good()]);
        let at = upstream_address(1);
        play.stage.world.listen_peer(at).unwrap();
        play.upstreams[0].die(&play.stage.world);
        play.add_clients(1, &Habits::plain(1), 1, 100_000);
        play.pass(100 * MS);
        let peer = play.stage.world.accept_peer(at).expect("it is called");
        play.stage.world.send(peer, b"220 x\r\n250-x\r\n250 PIPELINING\r\n");
        play.pass(10 * MS);
        play.stage.world.send(peer, b"250 ok\r\n250 ok\r\n354 go\r\n");
        play.stage.world.pause(peer);
        play.pass(10 * MS);
        play.stage.world.send(peer, said);
        play.pass(Duration::from_secs(5));
        play.upstreams[0].rise(&play.stage.world);
        play.run(Duration::from_secs(120), "an answer", |play| play.clients.iter().all(|client| client.done));
        println!("{:?}: {:?}", String::from_utf8_lossy(said), play.messages[0].fate);
        play.stage.world.reset(peer);
        play.finish();
    }
}

/// Input that comes while an answer is waited for is kept, in buffers; the answer needs one too.
#[test]
fn input_kept_for_later_cannot_starve_the_links() {
    let mut setup = Setup::new(13, 1);
    setup.buffers = 24;
    let mut play = world(&setup, vec![Manner::slow(200 * MS)]);
    let inlet = play.stage.inlet;
    let peers: Vec<_> =
        (0..16).map(|_| play.stage.world.connect(inlet, "127.0.0.1:0".parse().unwrap())).collect();
    play.pass(MS);
    for (n, peer) in peers.iter().enumerate() {
        let text = format!("EHLO c\r\nMAIL FROM:<m{n}@s.example>\r\nRCPT TO:<r{n}@d.example>\r\nDATA\r\n");
        play.stage.world.send(*peer, text.as_bytes());
        play.pass(MS);
        play.stage.world.send(*peer, b"Subject: x\r\n\r\nx\r\n.\r\n");
        play.pass(MS);
    }
    for _ in 0..12 {
        for peer in &peers {
            // Too large to be put together with what came before.
            play.stage.world.send(*peer, &b"NOOP\r\n".repeat(1000));
        }
        play.pass(MS);
    }
    play.pass(Duration::from_secs(2));
    let mut answers = Vec::new();
    for peer in &peers {
        let mut heard = Vec::new();
        play.stage.world.take_received(*peer, &mut heard);
        let heard = String::from_utf8_lossy(&heard).into_owned();
        let end = heard.split_once("354 ").and_then(|(_, rest)| rest.split("\r\n").nth(1)).unwrap_or("");
        answers.push(end.to_owned());
    }
    let taken = play.upstreams[0].taken.len();
    let positive = answers.iter().filter(|answer| answer.starts_with("250 ")).count();
    assert!(taken > 4 && positive == taken, "{taken} taken, answers: {answers:#?}");
    assert_eq!(play.stage.sum(|stats| stats.in_doubt.get()), 0);
    peers.iter().for_each(|peer| play.stage.world.reset(*peer));
    play.end();
}

/// Those that cannot carry a message are no attempts, and "cannot" is not said while another only said "later".
#[test]
fn upstreams_that_cannot_carry_it_are_passed_over() {
    let mut setup = Setup::new(14, 6);
    setup.pool.attempts = 2;
    let plain = Manner { eight_bit: false, ..Manner::good() };
    let mut manners = vec![plain.clone(); 5];
    manners.push(Manner::slow(30 * MS));
    let mut play = world(&setup, manners);
    play.add_clients(1, &Habits::plain(10), 10, 500);
    play.messages.iter_mut().for_each(|message| message.parameters = " BODY=8BITMIME".into());
    play.serve_all();
    play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!(play.upstreams[5].taken.len(), 10);

    setup.seed = 15;
    let busy = Manner { odds: vec![(Moment::Mail, Deed::Defer, 1.0)], ..Manner::good() };
    let mut manners = vec![plain; 5];
    manners.push(busy);
    let mut play = world(&setup, manners);
    play.add_clients(1, &Habits::plain(10), 10, 500);
    play.messages.iter_mut().for_each(|message| message.parameters = " BODY=8BITMIME".into());
    play.serve_all();
    play.finish();
    play.all_are(Fate::Answered(451));
}

/// One upstream refuses some recipients and puts others off; that the others take those is no reason to forget the
/// refusals.
#[test]
fn a_refusal_is_not_forgotten_over_a_repeat() {
    let mut setup = Setup::new(16, 2);
    setup.shards = 2;
    setup.pool.policy = Policy::RoundRobin;
    let mut manners = vec![Manner { refuses: Some("no"), ..Manner::good() }; 2];
    manners[0].puts_off = Some("later");
    let mut play = world(&setup, manners);
    play.add_clients(1, &Habits::plain(4), 4, 500);
    for message in &mut play.messages {
        let n = message.number;
        let named = |kind: &str| (0..4).map(|r| format!("{kind}.m{n}.r{r}@d{r}.example")).collect();
        message.recipients =
            ["no", "later", "yes"].iter().flat_map(|kind| -> Vec<String> { named(kind) }).collect();
    }
    play.serve_all();
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!((count.bounces, count.in_doubt, count.repeats), (4, 0, 0), "{count:?}");
    let to = |kind: &str| {
        let recipients = play.upstreams.iter().flat_map(|u| &u.taken).flat_map(|taken| &taken.recipients);
        recipients.filter(|recipient| recipient.starts_with(kind)).count()
    };
    assert_eq!((to("no"), to("later"), to("yes")), (0, 16, 16));
}
