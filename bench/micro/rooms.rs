//! One small thing of a room, so often: for `bench/micro/run.py`, which counts its instructions under callgrind.
//!
//! `cargo run --release --example rooms -- scan 1000`; without a name it lists them.

use std::hint::black_box;
use std::time::Duration;

use postlane::balance::{Ask, Fleet, Heard, Policy, Tried, key};
use postlane::dispatch::owner::{Owners, ShardBy};
use postlane::handle::ShardId;
use postlane::observe::Histogram;
use postlane::protocol::client::{Client, Event as Reply};
use postlane::protocol::server::{Event, Options, Server};
use postlane::protocol::wire::data::{Form, Scanner};
use postlane::protocol::{Enhanced, Envelope, Mail, MailParameters, Recipient};
use postlane::shard::mailbox::mailboxes;
use postlane::time::{Deadlines, Instant};

/// What is measured, what it is, and how it is run.
type Case = (&'static str, &'static str, fn(u64));

const CASES: [Case; 10] = [
    ("parse", "MAIL, RCPT and DATA in one receive, answered, and an empty message", parse),
    ("chunk", "MAIL, RCPT and BDAT with a message of 1 KiB in one receive, answered", chunk),
    ("scan", "10 KiB of lines of 75 octets, for the end of data", |n| scan(n, Form::Stuffed)),
    ("scan-plain", "the same by BDAT", |n| scan(n, Form::Plain)),
    ("replies", "an upstream's replies to a pipelined transaction", replies),
    ("hash", "the shard of an address", hash),
    ("pick", "the best of 16 upstreams by response time", pick),
    ("deadline", "a deadline set, 10,000 others waiting", deadline),
    ("mailbox", "a letter to another shard and one back", mailbox),
    ("histogram", "a time recorded", histogram),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let times = arguments.get(1).and_then(|times| times.parse().ok());
    let case = CASES.iter().find(|(name, ..)| arguments.first().is_some_and(|wanted| wanted == name));
    match (case, times) {
        (Some((.., run)), Some(times)) => run(times),
        _ => CASES.iter().for_each(|(name, what, _)| println!("{name}\t{what}")),
    }
}

const OK: postlane::protocol::Reply<'static> = postlane::protocol::Reply::new(250, Enhanced(2, 0, 0), "Ok");
const GO: postlane::protocol::Reply<'static> =
    postlane::protocol::Reply { code: 354, enhanced: None, text: b"go" };

/// A session that hears this again and again.
fn session(times: u64, input: &[u8]) {
    let (mut server, mut out, options) = (Server::default(), Vec::new(), Options::default());
    server.receive(b"EHLO client.example\r\n", &options, &mut out);
    for _ in 0..times {
        out.clear();
        let mut at = 0;
        loop {
            let (taken, event) = server.receive(black_box(&input[at..]), &options, &mut out);
            at += taken;
            let answer = match event {
                None => break,
                Some(Event::Data) => GO,
                Some(Event::Mail(_) | Event::Recipient(_) | Event::End(_)) => OK,
                Some(_) => continue,
            };
            server.answer(answer, &mut out);
        }
        black_box(&out);
    }
}

const ENVELOPE: &str = "MAIL FROM:<alice@sender.example> SIZE=10240\r\nRCPT TO:<bob@recipient.example>\r\n";

fn parse(times: u64) {
    session(times, format!("{ENVELOPE}DATA\r\n.\r\n").as_bytes());
}

fn chunk(times: u64) {
    let body = "x".repeat(1022);
    session(times, format!("{ENVELOPE}BDAT 1024 LAST\r\n{body}\r\n").as_bytes());
}

fn scan(times: u64, form: Form) {
    let body = format!("{}\r\n", "x".repeat(73)).repeat(137);
    let survey = postlane::control::survey();
    for _ in 0..times {
        let mut scanner = Scanner::of(form);
        scanner.push_by(black_box(body.as_bytes()), survey);
        black_box(scanner.is_bare());
    }
}

fn replies(times: u64) {
    let mut envelope = Envelope::default();
    envelope.set_sender(&Mail { path: b"alice@sender.example", parameters: MailParameters::default() });
    envelope.push_recipient(&Recipient { path: b"bob@recipient.example", notify: None, orcpt: None });
    let (mut client, mut out) = (Client::new(), Vec::new());
    let hear = |client: &mut Client, mut input: &[u8], out: &mut Vec<u8>| {
        while !input.is_empty() {
            let (taken, event) = client.receive(black_box(input), "us.example", out);
            let go_ahead = matches!(event, Some(Reply::Data(_)));
            if go_ahead {
                client.body_written();
            }
            input = &input[taken..];
        }
    };
    hear(&mut client, b"220 mta.example\r\n", &mut out);
    hear(&mut client, b"250-mta.example\r\n250 PIPELINING\r\n", &mut out);
    for _ in 0..times {
        out.clear();
        client.begin(&envelope, &[0], 10_240, &mut out);
        hear(&mut client, b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go ahead\r\n", &mut out);
        hear(&mut client, b"250 2.0.0 Ok: queued as 0123456789AB\r\n", &mut out);
    }
}

fn hash(times: u64) {
    let owners = Owners::new(64, ShardBy::Address, "lane.example");
    for _ in 0..times {
        black_box(owners.of(black_box(b"Somebody.Or.Other@recipient.example")));
    }
}

fn pick(times: u64) {
    let weights = (0..16).map(|n| (1, key(format!("mta{n}").as_bytes())));
    let mut fleet = Fleet::new(Policy::LeastResponseTime, weights);
    let now = Instant::from_nanos(1_000_000_000);
    for n in 0..16 {
        fleet.heard(n, Heard::Done { bytes: 10_000 }, 1_000_000 + n as u64 * 10_000, now);
        (0..n % 5).for_each(|_| fleet.began(n));
    }
    let tried = Tried::default();
    for n in 0..times {
        let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ask = Ask { tried: &tried, recipient: random, source: random, bytes: 10_000, waiting: 0, random };
        black_box(fleet.pick(&ask, black_box(now)));
    }
}

fn deadline(times: u64) {
    let mut deadlines = Deadlines::default();
    let at = |n: u64| Instant::from_nanos(n * 1_000) + Duration::from_secs(300);
    (0..10_000).for_each(|slot| deadlines.set(slot as usize, at(slot)));
    for n in 0..times {
        deadlines.set((n % 10_000) as usize, black_box(at(10_000 + n)));
        black_box(deadlines.pop_expired(Instant::from_nanos(n)));
    }
}

fn mailbox(times: u64) {
    let mut boxes = mailboxes::<[u64; 8]>(2);
    let mut second = boxes.pop().expect("two were made");
    let mut first = boxes.pop().expect("two were made");
    for n in 0..times {
        first.post(ShardId(1), black_box([n; 8]));
        first.ring(|_| {});
        if let Some(letter) = second.take() {
            second.post(ShardId(0), letter);
        }
        second.ring(|_| {});
        black_box(first.take());
    }
}

fn histogram(times: u64) {
    let histogram = Histogram::default();
    (0..times).for_each(|n| histogram.record(black_box(n.wrapping_mul(0x9e37_79b9) >> 12)));
}
