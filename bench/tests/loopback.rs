//! The generator against the sink, over loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postlane_bench::Stage;
use postlane_bench::load::{self, Exchange, LoadResult, Observer, Outcome, SizeMix};
use postlane_bench::sink::{self, Dumped, Handle};

static NEVER: AtomicBool = AtomicBool::new(false);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn sink_with(change: impl FnOnce(&mut sink::Options)) -> Handle {
    let mut options = sink::Options { listen: vec![loopback()], seed: 42, ..Default::default() };
    change(&mut options);
    sink::spawn(options).expect("the sink binds")
}

fn load_to(sink: &Handle, change: impl FnOnce(&mut load::Options)) -> LoadResult {
    let mut options = load::Options::to(sink.addresses()[0]);
    options.sessions = 8;
    options.messages = Some(500);
    options.reply_timeout = Duration::from_secs(10);
    change(&mut options);
    load::run(&options, &NEVER, &mut ()).expect("the load runs")
}

fn temporary(name: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("postlane-bench-{}-{count}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn assert_clean(result: &LoadResult, messages: u64) {
    assert_eq!(result.acknowledged, messages, "{result:?}");
    assert_eq!((result.started, result.sent), (messages, messages));
    assert_eq!(result.latency.histogram().len(), messages);
    assert_eq!(result.refused_total() + result.interrupted + result.in_doubt + result.unsent, 0);
    assert_eq!(result.connection_errors_total(), 0, "{:?}", result.connection_errors);
    assert_eq!(result.acknowledged_per_100ms.iter().sum::<u64>(), messages);
    assert_eq!(result.aborted, None);
}

#[test]
fn every_exchange_delivers_everything() {
    for exchange in [Exchange::Plain, Exchange::Pipelining, Exchange::Chunking] {
        let sink = sink_with(|_| {});
        let result = load_to(&sink, |options| {
            options.exchange = exchange;
            options.recipients = 3;
            options.size = "1KiB:1,10KiB:1,300KiB:0.1".parse().expect("a mix");
        });
        assert_clean(&result, 500);
        let (counts, _) = sink.stop().expect("stops");
        assert_eq!((counts.messages, counts.recipients, counts.connections), (500, 1500, 8), "{exchange:?}");
        assert_eq!(counts.replies(Stage::Eod, 250), 500);
        assert_eq!(counts.replies(Stage::Other, 221), 8, "every session says goodbye");
        let data = if exchange == Exchange::Chunking { 0 } else { 500 };
        assert_eq!(counts.replies(Stage::Data, 354), data);
        assert!(counts.bytes >= result.bytes);
    }
}

#[test]
fn several_chunked_messages_are_in_flight() {
    let chunked = |options: &mut load::Options| {
        (options.exchange, options.in_flight) = (Exchange::Chunking, 5);
        options.per_connection = Some(12);
    };
    let sink = sink_with(|_| {});
    let result = load_to(&sink, |options| {
        chunked(options);
        options.size = "1KiB:1,300KiB:0.1".parse().expect("a mix");
    });
    assert_clean(&result, 500);
    let (counts, _) = sink.stop().expect("stops");
    assert_eq!(counts.messages, 500);
    assert!((500 / 12..=500 / 12 + 8).contains(&(counts.connections as usize)), "{}", counts.connections);
    let resets = counts.replies(Stage::Other, 250);
    assert!(resets > 350, "four of five go behind another: {resets}");

    // What becomes of one is nothing to those behind it.
    let sink = sink_with(|options| {
        let rules = ["mail:450:0.05", "rcpt:550:0.05", "data:451:0.05", "eod:554:0.05"];
        options.fail = rules.map(|rule| rule.parse().expect("a rule")).to_vec();
        options.drop = vec!["eod:0.01".parse().expect("a rule")];
    });
    let result = load_to(&sink, chunked);
    let (counts, _) = sink.stop().expect("stops");
    assert_eq!(result.acknowledged, counts.messages);
    let lost = result.interrupted + result.in_doubt;
    assert_eq!(result.acknowledged + result.refused_total() + lost, 500, "{result:?}");
    assert!(lost >= counts.dropped[&Stage::Eod] && result.in_doubt > 0, "{result:?}");
    assert_eq!(result.refused[&Stage::Mail].keys().collect::<Vec<_>>(), [&450], "never \"nested MAIL\"");
}

#[test]
fn one_message_per_connection() {
    for exchange in [Exchange::Plain, Exchange::Pipelining, Exchange::Chunking] {
        let sink = sink_with(|_| {});
        let result = load_to(&sink, |options| {
            options.exchange = exchange;
            options.per_connection = Some(1);
        });
        assert_clean(&result, 500);
        let (counts, _) = sink.stop().expect("stops");
        assert_eq!(counts.messages, 500);
        assert!((500..=508).contains(&counts.connections), "{}", counts.connections);
    }
}

#[test]
fn an_open_loop_sends_by_schedule() {
    let sink = sink_with(|options| options.latency = Duration::from_millis(5));
    let result = load_to(&sink, |options| {
        options.messages = None;
        options.duration = Some(Duration::from_secs(1));
        options.rate = Some(500.0);
    });
    assert_clean(&result, 500);
    assert_eq!(sink.counts().messages, 500);
    assert!(result.latency.histogram().min() >= 5_000, "the sink's latency is within");
    let elapsed = result.elapsed.as_secs_f64();
    assert!((0.99..2.0).contains(&elapsed), "{elapsed}");
}

#[test]
fn an_open_loop_counts_the_wait_for_a_session() {
    // One session and 20 ms per message can do 50 a second: at 200 a second the queue grows.
    let sink = sink_with(|options| options.latency = Duration::from_millis(20));
    let result = load_to(&sink, |options| {
        options.sessions = 1;
        options.messages = Some(40);
        options.rate = Some(200.0);
    });
    assert_clean(&result, 40);
    // The last was meant for 195 ms and ends after 800 ms at the earliest.
    assert!(result.latency.percentile_us(100.0) >= 600_000, "{}", result.latency.percentile_us(100.0));
    let late = load_to(&sink, |options| {
        options.sessions = 1;
        options.messages = None;
        options.duration = Some(Duration::from_millis(500));
        options.rate = Some(200.0);
    });
    assert_eq!(late.started + late.unsent, 100, "what could not be sent is said");
    assert!(late.unsent >= 70, "{}", late.unsent);
}

#[test]
fn a_warm_up_does_not_count() {
    #[derive(Default)]
    struct Told(u32, u32);
    impl Observer for Told {
        fn measuring(&mut self) {
            self.0 += 1;
        }
        fn measured(&mut self) {
            self.1 += 1;
        }
    }
    let sink = sink_with(|_| {});
    let mut options = load::Options::to(sink.addresses()[0]);
    options.messages = Some(300);
    options.warmup = Duration::from_millis(200);
    let mut told = Told::default();
    let result = load::run(&options, &NEVER, &mut told).expect("runs");
    assert_clean(&result, 300);
    assert!(result.warmup_acknowledged > 0);
    assert_eq!(sink.counts().messages, 300 + result.warmup_acknowledged);
    assert_eq!((told.0, told.1), (1, 1));
}

#[test]
fn refusals_are_counted_where_they_happen() {
    for exchange in [Exchange::Plain, Exchange::Pipelining, Exchange::Chunking] {
        let sink = sink_with(|options| {
            let rules = ["mail:450:0.1", "rcpt:550:0.2", "data:451:0.1", "eod:554:0.1", "eod:421:0.02"];
            options.fail = rules.map(|rule| rule.parse().expect("a rule")).to_vec();
        });
        let result = load_to(&sink, |options| {
            options.exchange = exchange;
            options.recipients = 2;
        });
        let (counts, _) = sink.stop().expect("stops");
        assert_eq!(result.acknowledged, counts.messages, "{exchange:?}");
        assert_eq!(result.recipients, counts.recipients);
        assert!(result.recipients_refused > 0);
        assert_eq!(result.acknowledged + result.refused_total() + result.interrupted, 500, "{result:?}");
        assert_eq!(result.in_doubt, 0);
        assert_eq!(result.refused[&Stage::Mail][&450], counts.replies(Stage::Mail, 450));
        assert_eq!(result.refused[&Stage::Eod][&554], counts.replies(Stage::Eod, 554));
        assert!(counts.replies(Stage::Data, 451) > 0 && counts.replies(Stage::Rcpt, 550) > 0);
        assert!(result.connection_errors.keys().any(|cause| cause.contains("421")), "{result:?}");
    }
}

#[test]
fn lost_connections_are_counted_and_mended() {
    for exchange in [Exchange::Plain, Exchange::Pipelining, Exchange::Chunking] {
        let sink = sink_with(|options| {
            let rules = ["connect:0.1", "ehlo:0.1", "mail:0.02", "data:0.02", "eod:0.02"];
            options.drop = rules.map(|rule| rule.parse().expect("a rule")).to_vec();
        });
        let result = load_to(&sink, |options| (options.exchange, options.log) = (exchange, true));
        let (counts, _) = sink.stop().expect("stops");
        assert_eq!(result.acknowledged, counts.messages);
        assert_eq!(result.acknowledged + result.interrupted + result.in_doubt, 500, "{result:?}");
        let logged = |what| result.log.iter().filter(|line| line.outcome == what).count() as u64;
        let ends = [Outcome::Acknowledged, Outcome::Interrupted, Outcome::InDoubt].map(logged);
        assert_eq!(ends, [result.acknowledged, result.interrupted, result.in_doubt]);
        let mut numbers: Vec<u64> = result.log.iter().map(|line| line.number).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..500), "every message ends once");
        assert_eq!(result.log_csv().lines().count(), 501);
        assert!(counts.dropped[&Stage::Eod] > 0 && result.in_doubt >= counts.dropped[&Stage::Eod]);
        assert!(result.connection_errors_total() >= counts.dropped.values().sum::<u64>() - 1);
    }
}

#[test]
fn silence_times_out() {
    let sink = sink_with(|options| options.hang = vec!["eod:0.05".parse().expect("a rule")]);
    let started = Instant::now();
    let result = load_to(&sink, |options| {
        options.messages = Some(100);
        options.reply_timeout = Duration::from_millis(100);
    });
    let (counts, _) = sink.stop().expect("stops");
    assert_eq!(result.in_doubt, counts.hung[&Stage::Eod]);
    assert_eq!(result.acknowledged + result.in_doubt, 100);
    assert_eq!(result.connection_errors["timed out"], result.in_doubt);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_server_that_is_not_there_or_offers_less_is_an_error() {
    let sink = sink_with(|options| options.offers.chunking = false);
    let mut options = load::Options::to(sink.addresses()[0]);
    options.exchange = Exchange::Chunking;
    let error = load::run(&options, &NEVER, &mut ()).expect_err("CHUNKING is not offered");
    assert!(error.to_string().contains("does not offer CHUNKING"), "{error}");
    drop(sink);
    options.connect_timeout = Duration::from_millis(200);
    let error = load::run(&options, &NEVER, &mut ()).expect_err("nobody listens");
    assert!(error.to_string().contains("no connection to 127.0.0.1"), "{error}");
    options.recipients = 0;
    let error = load::run(&options, &NEVER, &mut ()).expect_err("makes no sense");
    assert!(error.to_string().contains("recipients"), "{error}");
}

#[test]
fn stored_messages_are_what_was_sent() {
    for exchange in [Exchange::Plain, Exchange::Pipelining, Exchange::Chunking] {
        let (maildir, dump) = (temporary("maildir"), temporary("dump"));
        let sink = sink_with(|options| {
            options.maildir = Some(maildir.clone());
            options.dump = Some(dump.clone());
        });
        let result = load_to(&sink, |options| {
            options.exchange = exchange;
            options.size = SizeMix::one(5_000);
            options.messages = Some(50);
        });
        assert_clean(&result, 50);
        drop(sink);
        let mut subjects = Vec::new();
        for entry in fs::read_dir(maildir.join("new")).expect("a maildir") {
            let message = fs::read(entry.expect("an entry").path()).expect("a message");
            assert_eq!(message.len(), 5_000);
            let text = String::from_utf8(message).expect("ascii");
            assert!(text.contains("\r\n.") && !text.contains("\r\n.."), "dots as they were meant");
            assert!(text.starts_with("From: ") && text.ends_with("\r\n"));
            subjects.push(text.lines().find(|line| line.starts_with("Subject")).map(str::to_owned));
        }
        subjects.sort();
        subjects.dedup();
        assert_eq!(subjects.len(), 50, "each message is itself");
        let dumped = fs::read_to_string(&dump).expect("a dump");
        let lines: Vec<Dumped> =
            dumped.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 50);
        assert!(
            lines.iter().all(|line| line.size == 5_000 && line.to.len() == 1 && line.message_id.is_some())
        );
        assert!(lines.iter().all(|line| line.body_hash == lines[0].body_hash));
        fs::remove_dir_all(maildir).expect("removed");
        fs::remove_file(dump).expect("removed");
    }
}

/// A dialogue by hand: sends, and returns the reply lines that `lines` counts.
fn dialogue(stream: &mut TcpStream, reader: &mut impl BufRead, text: &[u8], lines: usize) -> Vec<String> {
    stream.write_all(text).expect("sent");
    let mut replies = vec![String::new(); lines];
    replies.iter_mut().for_each(|line| assert!(reader.read_line(line).expect("a reply") > 0));
    replies
}

#[test]
fn bytes_arrive_exactly() {
    let maildir = temporary("exact");
    let counts_file = temporary("counts");
    let sink = sink_with(|options| {
        options.maildir = Some(maildir.clone());
        options.count_file = Some(counts_file.clone());
        options.offers.eight_bit = false;
    });
    let mut stream = TcpStream::connect(sink.addresses()[0]).expect("connects");
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    dialogue(&mut stream, &mut reader, b"", 1);
    dialogue(&mut stream, &mut reader, b"EHLO me\r\n", 8);
    let refused = dialogue(&mut stream, &mut reader, b"MAIL FROM:<a@b> BODY=8BITMIME\r\n", 1);
    assert!(refused[0].starts_with("555 5.5.4 BODY"), "{refused:?}");
    let envelope = b"MAIL FROM: <a@b>\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\nDATA\r\n";
    dialogue(&mut stream, &mut reader, envelope, 3);
    let sent = b"..one\r\n...two\n.bare\r.bare\r\n\0\xff\n.\n\r\n.\rx\r\n..\r\nno end\r\n.\r\n";
    let kept = b".one\r\n..two\n.bare\r.bare\r\n\0\xff\n.\n\r\n\rx\r\n.\r\nno end\r\n";
    let taken = dialogue(&mut stream, &mut reader, sent, 1);
    assert!(taken[0].starts_with("250 2.0.0 Ok: queued as "), "{taken:?}");
    let chunks = b"MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nBDAT 9\r\n..x\r\n.\r\nyBDAT 3 LAST\r\n\r\n.QUIT\r\n";
    let replies = dialogue(&mut stream, &mut reader, chunks, 5);
    assert!(replies[3].contains("queued as") && replies[4].starts_with("221"), "{replies:?}");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty());
    let (counts, _) = sink.stop().expect("stops");
    assert_eq!(counts.messages, 2);
    let mut stored: Vec<Vec<u8>> = fs::read_dir(maildir.join("new"))
        .expect("a maildir")
        .map(|entry| fs::read(entry.expect("an entry").path()).expect("a message"))
        .collect();
    stored.sort_by_key(Vec::len);
    assert_eq!(stored[0], b"..x\r\n.\r\ny\r\n.");
    assert_eq!(stored[1].escape_ascii().to_string(), kept.escape_ascii().to_string());
    let written: sink::Counts =
        serde_json::from_slice(&fs::read(&counts_file).expect("a file")).expect("JSON");
    assert_eq!(written, counts);
    fs::remove_dir_all(maildir).expect("removed");
    fs::remove_file(counts_file).expect("removed");
}

#[test]
fn pipelining_where_it_is_not_offered_is_noticed() {
    let sink = sink_with(|options| options.offers.pipelining = false);
    let mut stream = TcpStream::connect(sink.addresses()[0]).expect("connects");
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    dialogue(&mut stream, &mut reader, b"", 1);
    let offered = dialogue(&mut stream, &mut reader, b"EHLO me\r\n", 7);
    assert!(!offered.concat().contains("PIPELINING"));
    dialogue(&mut stream, &mut reader, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", 3);
    assert_eq!(sink.counts().pipelined_unoffered, 2);
}

#[test]
fn latency_delays_one_session_and_not_the_others() {
    let sink = sink_with(|options| options.latency = Duration::from_millis(100));
    let started = Instant::now();
    let result = load_to(&sink, |options| {
        options.sessions = 50;
        options.messages = Some(100);
    });
    assert_clean(&result, 100);
    let elapsed = started.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(2)).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_run_without_an_end_stops_when_told() {
    let sink = sink_with(|_| {});
    let stop = AtomicBool::new(false);
    let mut options = load::Options::to(sink.addresses()[0]);
    options.sessions = 4;
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| load::run(&options, &stop, &mut ()));
        let patience = Instant::now() + Duration::from_secs(20);
        while sink.counts().messages < 100 && Instant::now() < patience {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        run.join().expect("no panic").expect("it runs")
    });
    assert!(result.acknowledged >= 100);
    assert_clean(&result, sink.counts().messages);
    assert!(result.generator_busy > 0.0 && result.generator_busy <= 1.1, "{}", result.generator_busy);
}

#[test]
fn a_server_that_goes_away_ends_the_run() {
    let sink = sink_with(|_| {});
    let mut options = load::Options::to(sink.addresses()[0]);
    options.connect_timeout = Duration::from_millis(300);
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| load::run(&options, &NEVER, &mut ()));
        let patience = Instant::now() + Duration::from_secs(20);
        while sink.counts().messages < 100 && Instant::now() < patience {
            std::thread::yield_now();
        }
        drop(sink);
        run.join().expect("no panic").expect("it has a result")
    });
    assert!(result.aborted.is_some_and(|why| why.contains("refused")), "it says why");
    assert!(result.acknowledged >= 100 && result.connection_errors["refused"] > 0);
}

#[test]
fn ipv6_is_no_different() {
    let local: SocketAddr = "[::1]:0".parse().expect("an address");
    if std::net::TcpListener::bind(local).is_err() {
        eprintln!("this machine has no IPv6 loopback");
        return;
    }
    let sink = sink_with(|options| options.listen = vec![local, loopback()]);
    assert_clean(&load_to(&sink, |_| {}), 500);
    let second = sink.addresses()[1];
    assert_clean(&load_to(&sink, |options| options.target = second), 500);
    assert_eq!(sink.counts().messages, 1_000);
}
