//! Configuration from the outside: what loads, what does not, and what is said about it.

use std::path::PathBuf;
use std::time::Duration;

use postlane::config::{
    Backend, Balance, Config, Difference, Domain, EXAMPLE, Error, Errors, Glob, HeaderRule, Health, Listener,
    Machine, Mode, Probe, ProbeMail, Route, ShardBy, Shards, Xdp, XdpMode, difference, plan,
};
use proptest::prelude::*;

fn machine() -> Machine {
    Machine {
        hostname: "box.example.net".to_owned(),
        cpus: vec![0, 1, 2, 3],
        isolated: vec![6, 7],
        memory_bytes: 8 << 30,
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from("tests/config").join(name)
}

/// `line:column: message` of each error.
fn lines(errors: &Errors) -> Vec<String> {
    errors.0.iter().map(|error| format!("{}:{}: {}", error.line, error.column, error.message)).collect()
}

fn errors_of(text: &str) -> Vec<String> {
    lines(&Config::parse("p.toml", text, &machine()).expect_err("must be refused"))
}

const POOL: &str = "[[pool]]\nname = 'farm'\nupstream = [{ name = 'mta1', address = '10.1.0.11:25' }]\n";
const REST: &str = "\
[[pool]]
name = 'farm'
upstream = [{ name = 'mta1', address = '10.1.0.11:25' }]
[delivery]
mode = 'through'
";
const LISTENER: &str = "[[listener]]\nname = 'apps'\naddress = '127.0.0.1:2525'\n";

/// A text completed to a whole configuration by sections after it.
fn with_rest(text: &str) -> Result<Config, Errors> {
    Config::parse("p.toml", &format!("{text}\n{LISTENER}{REST}"), &machine())
}

#[test]
fn the_example_loads() {
    let config = Config::parse("example.toml", EXAMPLE, &machine()).expect("the example is right");
    assert_eq!(config.hostname, "mail.example.net");
    assert_eq!(config.listeners[0].addresses.len(), 2);
    assert_eq!(config.pools[0].upstreams[1].weight, 2);
}

#[test]
fn every_policy_has_its_word() {
    for balance in Balance::ALL {
        let word = balance.label();
        let pool = REST.replace("name = 'farm'", &format!("name = 'farm'\nbalance = '{word}'"));
        let config = Config::parse("p.toml", &format!("{LISTENER}{pool}"), &machine()).expect(word);
        assert_eq!(config.pools[0].balance, balance);
        assert_eq!(plan(&config, &machine()).pools[0].balance, word);
    }
}

#[test]
fn the_least_text_gets_the_defaults() {
    let config = with_rest("").expect("enough");
    assert_eq!(config.hostname, "box.example.net");
    assert_eq!(config.shards, Shards::Auto);
    assert_eq!(config.shard_by, ShardBy::Address);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.memory, 2 << 30);
    assert_eq!(config.admin, None);
    let expected = Listener {
        name: "apps".to_owned(),
        addresses: vec!["127.0.0.1:2525".parse().expect("an address")],
        backend: Backend::Uring,
        trusted: vec!["127.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")],
        max_message: 25 << 20,
        max_recipients: 1000,
        max_sessions: 20_000,
        idle_timeout: Duration::from_secs(300),
    };
    assert_eq!(config.listeners, [expected]);
    let pool = &config.pools[0];
    assert_eq!(pool.balance, Balance::LeastResponseTime);
    assert_eq!((pool.links_per_shard, pool.idle_links, pool.transactions_per_link), (8, 1, 0));
    assert_eq!((pool.attempts, pool.chunking, pool.source_addresses.len()), (3, true, 0));
    assert_eq!(pool.connect_timeout, Duration::from_secs(5));
    assert_eq!(pool.reply_timeout, Duration::from_secs(300));
    assert_eq!(pool.idle_timeout, Duration::from_secs(30));
    let health = Health {
        probe: Probe::Smtp,
        probe_mail: None,
        interval: Duration::from_secs(5),
        rise: 2,
        fall: 3,
        eject_after: 5,
        eject_for: Duration::from_secs(10),
        slow_start: Duration::from_secs(30),
        panic_below_permille: 300,
    };
    assert_eq!(pool.health, health);
    assert_eq!((pool.fallback.as_deref(), config.routes.len()), (None, 0));
    assert_eq!(pool.upstreams[0].weight, 1);
    assert_eq!(config.delivery.mode, Mode::Through);
    assert_eq!(config.delivery.bounce_from, "MAILER-DAEMON@box.example.net");
}

#[test]
fn written_values_are_taken() {
    let config = Config::load(&fixture("full.toml"), &machine()).expect("all of it is right");
    assert_eq!(config.shards, Shards::Cpus(vec![2, 3, 0]));
    assert_eq!(config.shard_by, ShardBy::Domain);
    assert_eq!((config.drain_timeout, config.memory), (Duration::ZERO, 64 << 20));
    let admin = config.admin.as_ref().expect("written");
    assert_eq!(admin.token.as_deref(), Some("postlane"));
    assert!(!format!("{config:?}").contains("\"postlane\""), "the token is not in debug output");
    let listener = &config.listeners[0];
    assert_eq!((listener.max_message, listener.max_recipients, listener.max_sessions), (1 << 20, 100, 1));
    assert!(listener.trusted.is_empty());
    assert_eq!(listener.idle_timeout, Duration::from_millis(250));
    let pool = &config.pools[0];
    assert_eq!((pool.balance, pool.idle_links, pool.attempts), (Balance::RoundRobin, 2, 1));
    assert!(!pool.chunking);
    let health = Health {
        probe: Probe::Tcp,
        probe_mail: None,
        interval: Duration::from_millis(100),
        rise: 1,
        fall: 100,
        eject_after: 1,
        eject_for: Duration::from_secs(300),
        slow_start: Duration::ZERO,
        panic_below_permille: 1000,
    };
    assert_eq!(pool.health, health);
    assert_eq!(pool.fallback.as_deref(), Some("overflow"));
    let domains = |texts: &[&str]| texts.iter().map(|text| Domain::from_text(text)).collect::<Vec<_>>();
    let route = Route {
        recipient_domain: domains(&["gmail.com", "*.googlemail.com"]),
        sender_domain: domains(&["shop.example", "<>"]),
        listener: vec!["apps".to_owned()],
        source: vec!["10.0.0.0/8".parse().expect("a network")],
        header: Some(HeaderRule { name: "X-Campaign".to_owned(), pattern: Glob::new("spring-*") }),
        pool: "overflow".to_owned(),
    };
    assert_eq!(config.routes, [route]);
    assert_eq!(config.delivery.bounce_from, "bounces@example.net");
    for (text, shards) in [
        ("shards = 4", Shards::Count(4)),
        ("shards = '6-7'", Shards::Cpus(vec![6, 7])),
        ("shards = '3-3'", Shards::Cpus(vec![3])),
    ] {
        assert_eq!(with_rest(text).expect(text).shards, shards);
    }
}

#[test]
fn kernel_bypass_is_read() {
    let config = with_rest("backend = 'xdp'\n[xdp]\ninterface = 'eth1'").expect("the rest has its defaults");
    assert_eq!(config.backend, Backend::Xdp);
    let auto =
        Xdp { interface: "eth1".into(), queues: None, mode: None, ports: 61_000..=65_535, fallback: false };
    assert_eq!(config.xdp, Some(auto.clone()));
    let all =
        "[xdp]\ninterface = 'eth1'\nqueues = '4-6'\nmode = 'copy'\nports = '50000-50999'\nfallback = true";
    let config = with_rest(all).expect("all of it is right");
    assert_eq!(config.backend, Backend::Uring, "the section alone changes nothing");
    let all = Xdp {
        queues: Some(vec![4, 5, 6]),
        mode: Some(XdpMode::Copy),
        ports: 50_000..=50_999,
        fallback: true,
        ..auto.clone()
    };
    assert_eq!(config.xdp, Some(all));
    let two = with_rest("[xdp]\ninterface = 'eth1'\nqueues = 2").expect("a number");
    assert_eq!(two.xdp.and_then(|xdp| xdp.queues), Some(vec![0, 1]));
}

/// A listener's clients are the kernel's, unless it says otherwise, which it cannot where only the loopback reaches it.
#[test]
fn a_listener_may_bypass_the_kernel_or_not() {
    let read = |top: &str, listener: &str| {
        let top = format!("backend = '{top}'\n[xdp]\ninterface = 'eth1'\n");
        let listener = format!("[[listener]]\nname = 'in'\n{listener}\n");
        Config::parse("p.toml", &format!("{top}{listener}{REST}"), &machine())
    };
    let chosen = |top: &str, listener: &str| {
        let config = read(top, listener).expect(listener);
        assert_eq!(plan(&config, &machine()).listeners[0].backend, config.listeners[0].backend.label());
        config.listeners[0].backend
    };
    let outside = "address = '10.1.0.5:25'";
    assert_eq!(chosen("xdp", outside), Backend::Uring);
    assert_eq!(chosen("xdp", "address = '0.0.0.0:25'\nbackend = 'xdp'"), Backend::Xdp);
    assert_eq!(chosen("xdp", "address = ['127.0.0.1:25', '10.1.0.5:25']\nbackend = 'xdp'"), Backend::Xdp);
    assert_eq!(chosen("xdp", &format!("{outside}\nbackend = 'xdp'")), Backend::Xdp);
    assert_eq!(chosen("xdp", &format!("{outside}\nbackend = 'uring'")), Backend::Uring);
    assert_eq!(chosen("xdp", "address = '127.0.0.1:25'"), Backend::Uring);
    assert_eq!(chosen("uring", outside), Backend::Uring);
    let refused = |top: &str, listener: &str| lines(&read(top, listener).expect_err(listener)).join("\n");
    let words = refused("uring", &format!("{outside}\nbackend = 'xdp'"));
    assert_eq!(
        words,
        "7:1: `backend = \"xdp\"` of a listener needs the same at the top of the file, and `[xdp]`"
    );
    let words = refused("xdp", "address = '127.0.0.1:25'\nbackend = 'xdp'");
    assert!(words.starts_with("7:1: nothing for a loopback address comes by an interface"), "{words}");
    let before = read("xdp", &format!("{outside}\nbackend = 'xdp'")).expect("right");
    let after = read("xdp", &format!("{outside}\nbackend = 'uring'")).expect("right");
    let difference = difference(&before, &after, &machine());
    assert_eq!(difference.lines, ["~ listener in: backend: xdp → uring"]);
    assert_eq!(difference.fixed, ["backend of a listener's address"], "its clients would be cut off");
}

/// One mistake each, in a text that is otherwise whole.
#[test]
fn each_mistake_is_named_at_its_place() {
    #[rustfmt::skip]
    let table = [
        ("hostnam = 'a'", "1:1: unknown key `hostnam` at the top of the file; did you mean `hostname`?"),
        ("hostname = 'my_box'", "1:12: `hostname`: `my_box` is not a host name: write letters, digits, `-` and dots, like `mail.example.net`"),
        ("hostname = 5", "1:12: `hostname` takes a text in quotes, not a number"),
        ("hostname = box", "1:12: `box` is not in quotes: write `\"box\"`"),
        ("hostname =", "1:11: the value is missing: write one after `=`"),
        ("hostname = \"box", "1:16: the closing `\"` is missing"),
        ("hostname", "1:9: a key without a value: write `key = value`"),
        ("shards = 0", "1:10: `shards` is 0: write a value from 1 to 1024"),
        ("shards = '4'", "1:10: `shards`: write `4` without quotes for that many shards, or `\"4-4\"` for one on CPU 4"),
        ("shards = '0-9'", "1:10: `shards`: this process may not run on CPU 4-5,8-9: choose from 0-3,6-7"),
        ("shards = '1-2,2'", "1:10: `shards`: CPU 2 is named twice: name it once; or `\"auto\"`, or a number of shards without quotes"),
        ("shard_by = 'sender'", "1:12: `shard_by` cannot be `\"sender\"`: write `\"address\"`, `\"domain\"` or `\"session\"`"),
        ("memory = -5", "1:10: `memory` is -5: write a value from 16MiB to 8GiB"),
        ("memory = '1PB'", "1:10: `memory` takes a size like `\"64KiB\"`, `\"25MiB\"`, `\"2GiB\"` or a number of bytes, not `\"1PB\"`"),
        ("memory = 0.5", "1:10: `memory` takes a size like `\"64KiB\"`, `\"25MiB\"`, `\"2GiB\"` or a number of bytes, not a number with a fraction"),
        ("memory = '16MiB'", "2:1: `max_message` is 25MiB, but `memory` for all bodies is 16MiB: lower it, or raise `memory`"),
        ("drain_timeout = 30", "1:17: `drain_timeout` takes a duration like `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"2h\"`, `\"7d\"`, not `30`, which has no unit"),
        ("drain_timeout = '7d'", "1:17: `drain_timeout` is 7d: write a value from 0s to 1h"),
        ("hostname = 'a'\nhostname = 'b'", "2:1: `hostname` is already set above: keep one of the two"),
        ("admin = 'x'", "1:9: `admin` takes a table `[admin]`, not a text"),
        ("[admin]", "1:1: `[admin]` has no `listen`: add `listen = \"127.0.0.1:8025\"`"),
        ("[admin]\nlisten = '127.0.0.1:2525'", "5:11: `127.0.0.1:2525` is already listened on, at p.toml:2:10: choose another"),
        ("[admin]\nlisten = '0.0.0.0:8025'", "2:10: `[admin]` without `token` may only listen on a loopback address: add `token = { file = \"...\" }` or write `listen = \"127.0.0.1:8025\"`"),
        ("[admin]\nlisten = '127.0.0.1:1'\ntoken = { file = '/nowhere/token' }", "3:9: `token`: cannot read the file `/nowhere/token`: No such file or directory (os error 2)"),
        ("[admin]\nlisten = '127.0.0.1:1'\ntoken = { file = '/dev/zero' }", "3:9: `token`: cannot read the file `/dev/zero`: it is not a plain file"),
        ("[admin]\nlisten = '127.0.0.1:1'\ntoken = { env = 'POSTLANE_TEST_UNSET' }", "3:9: `token`: the environment variable `POSTLANE_TEST_UNSET` is not set"),
        ("[admin]\nlisten = '127.0.0.1:1'\ntoken = { env = '' }", "3:9: `token`: `` cannot be the name of an environment variable"),
        ("[admin]\nlisten = '127.0.0.1:1'\ntoken = { fil = 'x' }", "3:9: `token`: write a text, `{ file = \"path\" }` or `{ env = \"NAME\" }`"),
        ("[admin]\nlisten = '127.0.0.1:1'\ntoken = ''", "3:9: `token` must be printable ASCII without spaces, at least one character"),
        ("[admin]\nlisten = '127.0.0.1:1'\nshards = 3", "3:1: unknown key `shards` in `[admin]`; it belongs at the top of the file, before the first `[section]`"),
        ("[[admin]]\nlisten = '127.0.0.1:1'", "1:1: `admin` takes a table `[admin]`, not a list"),
        ("backend = 'dpdk'", "1:11: `backend` cannot be `\"dpdk\"`: write `\"uring\"` or `\"xdp\"`"),
        ("backend = 'xdp'", "1:1: `backend = \"xdp\"` needs `[xdp]` with `interface = \"eth1\"`"),
        ("[xdp]", "1:1: `[xdp]` has no `interface`: add `interface = \"eth1\"` (`ip link` lists those there are)"),
        ("[xdp]\ninterface = 'eth1:0'", "2:13: `interface`: `eth1:0` is no name of an interface"),
        ("[xdp]\ninterface = 'eth1'\nmode = 'fast'", "3:8: `mode` cannot be `\"fast\"`: write `\"auto\"`, `\"zero-copy\"`, `\"copy\"` or `\"generic\"`"),
        ("[xdp]\ninterface = 'eth1'\nqueues = 'all'", "3:10: `queues`: `all` is no list of queues: write `\"auto\"`, a number without quotes, or `\"0-3\"`"),
        ("[xdp]\ninterface = 'eth1'\nqueues = 0", "3:10: `queues` is 0: write a value from 1 to 1024"),
        ("[xdp]\ninterface = 'eth1'\nports = '61000'", "3:9: `ports`: `61000` is no range of ports: write it like `\"61000-65535\"`"),
        ("[xdp]\ninterface = 'eth1'\nports = '61000-61010'", "3:9: `ports`: `61000-61010`: write at least 64 ports from 1024 on, like `\"61000-65535\"`"),
        ("[xdp]\ninterface = 'eth1'\nbackend = 'xdp'", "3:1: unknown key `backend` in `[xdp]`; it belongs at the top of the file, before the first `[section]`"),
        ("[colours]", "1:2: unknown key `colours` at the top of the file; it takes hostname, shards, shard_by, backend, xdp, drain_timeout, memory, admin, listener, pool, route, delivery"),
    ];
    for (text, expected) in table {
        let errors = with_rest(text).expect_err(text);
        assert_eq!(lines(&errors), [expected], "{text}");
    }
}

#[test]
fn delivery_has_defaults_and_bounds() {
    let read = |text: &str| Config::parse("p.toml", &format!("{LISTENER}{POOL}{text}"), &machine());
    let minutes = |list: &[u64]| list.iter().map(|m| Duration::from_secs(60 * m)).collect::<Vec<_>>();
    let delivery = read("").expect("all of it has defaults").delivery;
    assert_eq!(delivery.mode, Mode::ThroughThenSpool);
    assert_eq!(delivery.spool.to_str(), Some("/var/spool/postlane"));
    assert!(delivery.sync);
    assert_eq!(delivery.retry, minutes(&[1, 5, 15, 60, 120, 240]));
    assert_eq!((delivery.max_age, delivery.spool_max), (Duration::from_secs(4 * 86_400), 16 << 30));
    let large = Machine { cpus: (0..100).collect(), ..machine() };
    let delivery = Config::parse("p.toml", &format!("{LISTENER}{POOL}"), &large).expect("as before").delivery;
    assert_eq!(delivery.spool_max, 100 << 30, "every shard has room for its files");
    let written = "[delivery]\nmode = 'spool'\nspool = 'here'\nsync = false\nretry = ['2m', '9m']\nmax_age = '1h'\n\
                   spool_max = '1GiB'\nthrough_timeout = '2s'\ndelay_warning = '30m'\n";
    let delivery = read(written).expect("all of it is right").delivery;
    assert_eq!((delivery.mode, delivery.sync, delivery.spool_max), (Mode::Spool, false, 1 << 30));
    assert_eq!((delivery.spool.to_str(), delivery.retry), (Some("here"), minutes(&[2, 9])));
    assert_eq!(
        (delivery.max_age, delivery.delay_warning),
        (Duration::from_secs(3600), Duration::from_secs(1800))
    );
    assert_eq!(delivery.through_timeout, Duration::from_secs(2));
    #[rustfmt::skip]
    let table = [
        ("mode = 'both'", "`mode` cannot be `\"both\"`: write `\"through\"`, `\"spool\"` or `\"through-then-spool\"`"),
        ("retry = []", "`retry` is empty: write at least one duration, like `[\"5m\"]`"),
        ("retry = ['soon']", "`retry`: takes durations like `\"1m\"`, `\"5m\"`, `\"1h\"`, not `\"soon\"`"),
        ("retry = ['8d']", "`retry`: `\"8d\"`: write a duration from 1s to 7d"),
        ("spool = ''", "`spool`: write a directory, like `\"/var/spool/postlane\"`"),
        ("spool_max = '1MiB'", "`spool_max` is 1MiB: write a value from 256MiB to 1048576GiB"),
        ("max_age = '0s'", "`max_age` is 0s: write a value from 1s to 90d"),
        ("sync = 'yes'", "`sync` takes `true` or `false`, not a text"),
    ];
    for (text, expected) in table {
        let errors = read(&format!("[delivery]\n{text}\n")).expect_err(text);
        assert!(errors.0.len() == 1 && errors.0[0].message.contains(expected), "{text}: {errors}");
    }
}

#[test]
fn what_is_absent_is_named() {
    let no_listener =
        "there is no `[[listener]]`: add one with `name = \"...\"` and `address = \"127.0.0.1:2525\"`";
    let no_pool = "there is no `[[pool]]`: add one with `name = \"...\"` and a `[[pool.upstream]]`";
    assert_eq!(
        errors_of(""),
        [
            format!("1:1: there is no `[[listener]]`{}", &no_listener["there is no `[[listener]]`".len()..]),
            format!("1:1: {no_pool}"),
        ]
    );
    assert_eq!(
        errors_of("listener = []\n[[pool]]\n[delivery]\n"),
        [
            format!("1:1: {no_listener}"),
            "2:1: `[[pool]]` has no `name`: add `name = \"...\"`".to_owned(),
            "2:1: `[[pool]]` has no upstream: add `[[pool.upstream]]` with `name = \"...\"` and `address = \"10.1.0.11:25\"`".to_owned(),
        ]
    );
    let nameless = Machine { hostname: "my_box".to_owned(), ..machine() };
    let errors = Config::parse("p.toml", &format!("{LISTENER}{REST}"), &nameless).expect_err("no host name");
    let expected = "1:1: `hostname` is not set, and the machine's own name will not do (`my_box` is not a host name: \
                    write letters, digits, `-` and dots, like `mail.example.net`): set `hostname = \"mail.example.net\"`";
    assert_eq!(lines(&errors), [expected]);
}

/// A file with a mistake on nearly every line: all are said at once, each once.
#[test]
fn every_mistake_at_once() {
    let errors = Config::load(&fixture("wrong.toml"), &machine()).expect_err("nearly all of it is wrong");
    #[rustfmt::skip]
    let expected = [
        "1:12: `my.host` is not in quotes: write `\"my.host\"`",
        "2:10: `shards`: write `4` without quotes for that many shards, or `\"4-4\"` for one on CPU 4",
        "3:12: `domain` is not in quotes: write `\"domain\"`",
        "4:10: `memory` takes a size like `\"64KiB\"`, `\"25MiB\"`, `\"2GiB\"` or a number of bytes, not `\"2TB\"`",
        "5:17: `drain_timeout` takes a duration like `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"2h\"`, `\"7d\"`, not `30`, which has no unit",
        "7:8: `name`: `a b` will not do: write 1 to 64 letters, digits and signs, without spaces, quotes, `/`, `\\`",
        "8:1: unknown key `adress` in `[[listener]]`; did you mean `address`?",
        "9:12: `address`: `localhost:25` is not an IP address and a port: write it like `127.0.0.1:2525` or `[::1]:2525`",
        "9:28: `address`: `1.2.3.4` has no port: write `1.2.3.4:2525`",
        "9:39: `address` takes a text in quotes, not a number",
        "10:12: `trusted`: `10.1.0.0/8` has bits set beyond its prefix: write `10.0.0.0/8`",
        "10:26: `trusted`: `x` is not a network: write it like `10.0.0.0/8` or `2001:db8::/32`",
        "11:15: `max_message` is 0B: write a value from 1KiB to 2GiB",
        "12:18: `max_recipients` takes a whole number, not a text",
        "13:16: `max_sessions` is beyond all bounds: write a value from 1 to 1000000",
        "14:16: `idle_timeout` takes a duration like `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"2h\"`, `\"7d\"`, not `\"5 minutes\"`",
        "15:1: unknown key `hostname` in `[[listener]]`; it belongs at the top of the file, before the first `[section]`",
        "18:11: `balance` cannot be `\"fastest\"`: write `\"least-response-time\"`, `\"round-robin\"`, `\"weighted-round-robin\"`, `\"least-connections\"`, `\"weighted-least-connections\"`, `\"power-of-two\"`, `\"recipient-hash\"`, `\"source-hash\"` or `\"random\"`",
        "19:1: `idle_links` is 9, but `links_per_shard` is 8: lower it, or raise `links_per_shard`",
        "20:28: `::1` is already in `source_addresses`, at tests/config/wrong.toml:20:21: choose another",
        "20:35: `source_addresses`: `0.0.0.0` cannot be sent from: write an address of this machine",
        "21:12: `attempts` is 0: write a value from 1 to 20",
        "22:12: `fallback`: there is no pool `b`; did you mean `a`?",
        "24:9: `probe` cannot be `\"ping\"`: write `\"smtp\"`, `\"tcp\"` or `\"off\"`",
        "25:13: `eject_for` is 10m: write a value from 10ms to 5m",
        "28:11: `10.0.0.1:25` cannot be reached from `source_addresses`: add an IPv4 address to them",
        "29:10: `weight` is 65536: write a value from 1 to 65535",
        "31:8: `u` is already the name of a `[[pool.upstream]]`, at tests/config/wrong.toml:27:8: choose another",
        "32:11: `address`: `10.0.0.1:0` has port 0: write the port, like `10.0.0.1:25`",
        "34:8: `a` is already the name of a `[[pool]]`, at tests/config/wrong.toml:17:8: choose another",
        "35:1: `[[pool]]` has no upstream: add `[[pool.upstream]]` with `name = \"...\"` and `address = \"10.1.0.11:25\"`",
        "37:15: `bounce_from`: `me` is not a mail address: write it like `MAILER-DAEMON@mail.example.net`",
    ];
    // Two lines are not even TOML, so what is absent (an upstream) is not guessed at.
    let expected: Vec<&str> = expected.into_iter().filter(|line| !line.starts_with("35:")).collect();
    assert_eq!(lines(&errors), expected);
    let first = "tests/config/wrong.toml:1:12: `my.host` is not in quotes: write `\"my.host\"`";
    assert_eq!(errors.to_string().lines().next(), Some(first));
}

#[test]
fn routes_and_fallbacks_name_what_there_is() {
    let errors = |text: &str| {
        let pools = "[[pool]]\nname = 'b'\nfallback = 'c'\nupstream = [{ name = 'u', address = '10.0.0.1:25' }]\n\
                     [[pool]]\nname = 'c'\nfallback = 'b'\nupstream = [{ name = 'u', address = '10.0.0.1:25' }]\n";
        errors_of(&format!("{LISTENER}{REST}{text}{pools}"))
            .into_iter()
            .filter(|e| !e.contains("comes back"))
            .collect::<Vec<_>>()
    };
    let table = [
        ("[[route]]\nlistener = 'apps'\n", "9:1: `[[route]]` has no `pool`: add `pool = \"...\"`"),
        ("[[route]]\npool = 'fram'\n", "10:8: `pool`: there is no pool `fram`; did you mean `farm`?"),
        (
            "[[route]]\npool = 'elsewhere'\n",
            "10:8: `pool`: there is no pool `elsewhere`; write one of `farm`, `b`, `c`",
        ),
        (
            "[[route]]\npool = 'b'\nlistener = ['apps', 'x']\n",
            "11:21: `listener`: there is no listener `x`; write one of `apps`",
        ),
        (
            "[[route]]\npool = 'b'\nrecipient_domain = ['a.b', '*']\n",
            "11:28: `recipient_domain`: `*` is not a domain: write it like `example.net`, or `*.example.net` for all below it",
        ),
        (
            "[[route]]\npool = 'b'\nrecipient_domain = '<>'\n",
            "11:20: `recipient_domain`: `<>` is not a domain: write it like `example.net`, or `*.example.net` for all below it",
        ),
        (
            "[[route]]\npool = 'b'\nsender_domain = []\n",
            "11:1: `sender_domain` is an empty list, which nothing matches: remove it, or write what it is to match",
        ),
        (
            "[[route]]\npool = 'b'\nsource = '10.1.0.0/8'\n",
            "11:10: `source`: `10.1.0.0/8` has bits set beyond its prefix: write `10.0.0.0/8`",
        ),
        (
            "[[route]]\npool = 'b'\nheader = { name = 'a:', pattern = '' }\n",
            "11:19: `name`: `a:` cannot be a header's name",
        ),
        (
            "[[route]]\npool = 'b'\nheader = { name = 'a' }\n",
            "11:10: `header` has no `pattern`: write `{ name = \"X-Campaign\", pattern = \"spring-*\" }`",
        ),
        (
            "[[route]]\npool = 'b'\nrecipient = 'a.b'\n",
            "11:1: unknown key `recipient` in `[[route]]`; it takes recipient_domain, sender_domain, listener, source, header, pool",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(errors(text), [expected], "{text}");
    }
    let line = errors_of(&format!(
        "{LISTENER}{REST}[[pool]]\nname = 'b'\nfallback = 'b'\nupstream = [{{ name = 'u', address = '10.0.0.1:25' }}]\n"
    ));
    assert_eq!(line, ["11:12: `fallback`: from `b` by `b` it comes back to `b`: let the line end somewhere"]);
    let shares = errors_of(&format!("{LISTENER}{REST}[pool.health]\npanic_below = 3\n"));
    assert!(!shares.is_empty());
}

#[test]
fn a_difference_names_what_is_new_gone_and_otherwise() {
    let parse = |text: &str| Config::parse("p.toml", text, &machine()).expect("a right configuration");
    let before = parse(&format!("{LISTENER}{REST}"));
    assert_eq!(difference(&before, &before, &machine()), Difference::default());
    let route = "[[route]]\npool = 'farm'\nlistener = 'apps'\n";
    let text = format!("shards = 3\n{LISTENER}max_recipients = 7\n{REST}{route}").replace("mta1", "mta2");
    let difference = difference(&before, &parse(&text), &machine());
    assert_eq!(difference.fixed, ["shards"]);
    assert_eq!(
        difference.lines,
        [
            "~ listener apps: max_recipients: 1000 → 7",
            "- pool farm: upstream mta1 10.1.0.11:25: weight: 1",
            "~ shards: Auto → Count(3)",
            "+ pool farm: upstream mta2 10.1.0.11:25: weight: 1",
            "~ routes: 1 added, 0 removed, 1 in all",
        ]
    );
}

#[test]
fn brackets_left_open_are_named_where_they_open() {
    let open_list = "[[listener]]\nname = 'a'\ntrusted = [ '10.0.0.0/8',\n[[pool]]\nname = 'b'\nfoo = 1\n";
    assert_eq!(errors_of(open_list), ["3:11: this `[` is never closed: write `]` at its end"]);
    assert_eq!(
        errors_of("admin = { listen = '127.0.0.1:1'\n"),
        ["1:9: this `{` is never closed: write `}` at its end"]
    );
    let header = "[admin]\nlisten = 5\n[[listener]\nname = 'a'\ncolour = 1\n";
    assert_eq!(
        errors_of(header),
        [
            "2:10: `listen` takes a text in quotes, not a number",
            "3:12: the closing `]]` of this header is missing"
        ]
    );
    assert_eq!(
        errors_of("[pool]\nname = 'a'\n").first().map(String::as_str),
        Some("1:1: there can be several: write `[[pool]]`, not `[pool]`")
    );
}

/// Whatever the whole product will take and this version does not gets one line at its own place.
#[test]
fn later_keys_are_refused_once_each() {
    let text = std::fs::read_to_string(fixture("later.toml")).expect("the fixture");
    let errors = Config::load(&fixture("later.toml"), &machine()).expect_err("not yet");
    let refused: Vec<(usize, String)> = errors
        .0
        .iter()
        .map(|error| {
            let (what, advice) =
                error.message.split_once(" is not available in this version: ").unwrap_or_else(|| {
                    panic!("about something else: {error}");
                });
            assert!(!advice.is_empty());
            let key = what.trim_matches('`').split(' ').next().unwrap_or_default();
            (error.line, key.to_owned())
        })
        .collect();
    let later = [
        "tls",
        "certificate",
        "key",
        "auth",
        "proxy_protocol",
        "bare_newline",
        "tls",
        "auth",
        "log",
        "source",
        "provider",
        "dkim",
        "suppression",
        "feedback",
    ];
    assert_eq!(refused.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>(), later);
    for (line, key) in refused {
        let written = text.lines().nth(line - 1).expect("a line of the file");
        assert!(written.trim_start_matches('[').starts_with(&key), "{key} is on line {line}: {written}");
    }
}

#[test]
fn parts_are_merged_in_name_order() {
    let config = Config::load(&fixture("parts/postlane.toml"), &machine()).expect("together they are whole");
    let names: Vec<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["apps", "submission"]);
    let pools: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["farm", "second"]);
    let token = config.admin.and_then(|admin| admin.token);
    assert_eq!(token.as_deref(), Some("squeamish-ossifrage"), "found beside the part that names it");
}

#[test]
fn what_parts_set_twice_names_both_places() {
    let errors = Config::load(&fixture("clash/postlane.toml"), &machine()).expect_err("they clash");
    let root = "tests/config/clash";
    #[rustfmt::skip]
    let expected = [
        format!("{root}/postlane.toml:4:10: `[admin]` without `token` may only listen on a loopback address: add `token = {{ file = \"...\" }}` or write `listen = \"127.0.0.1:8025\"`"),
        format!("{root}/conf.d/10.toml:1:1: `hostname` is already set at {root}/postlane.toml:1:1: keep one of the two"),
        format!("{root}/conf.d/10.toml:2:7: `listen` is already set at {root}/postlane.toml:4:1: keep one of the two"),
        format!("{root}/conf.d/10.toml:3:1: `listener` is already set at {root}/postlane.toml:6:3: keep one of the two"),
        format!("{root}/conf.d/20.toml:2:8: `farm` is already the name of a `[[pool]]`, at {root}/conf.d/10.toml:6:8: choose another"),
        format!("{root}/conf.d/20.toml:8:11: `127.0.0.1:2525` is already listened on, at {root}/postlane.toml:8:11: choose another"),
        format!("{root}/conf.d/20.toml:9:1: unknown key `colour` in `[[listener]]`; it takes name, address, backend, trusted, max_message, max_recipients, max_sessions, idle_timeout, tls, bare_newline, proxy_protocol"),
    ];
    assert_eq!(errors.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn unreadable_files_are_errors_too() {
    let missing = Config::load(&fixture("none.toml"), &machine()).expect_err("there is none");
    let advice = "; write the configuration there, or name another file with `--config`";
    let expected =
        format!("tests/config/none.toml:1:1: cannot be read: No such file or directory (os error 2){advice}");
    assert_eq!(missing.to_string(), expected);
    let folder = Config::load(&fixture("."), &machine()).expect_err("a folder");
    assert!(folder.to_string().contains(":1:1: cannot be read: Is a directory"));
    let path = std::env::temp_dir().join(format!("postlane-config-{}.toml", std::process::id()));
    std::fs::write(&path, b"hostname = 'a'\nx = '\xff'\n").expect("a temporary file");
    let bytes = Config::load(&path, &machine()).expect_err("not UTF-8");
    std::fs::remove_file(&path).expect("the temporary file");
    assert_eq!(lines(&bytes), ["2:6: this byte is not UTF-8: save the file as UTF-8"]);
}

#[test]
fn errors_are_json_too() {
    let errors = Config::parse("p.toml", "x = 1", &machine()).expect_err("unknown");
    let json = serde_json::to_value(&errors).expect("plain data");
    let last: &Error = errors.0.last().expect("there are errors");
    let listed = json.as_array().and_then(|list| list.last()).expect("a list");
    assert_eq!(listed["line"], last.line);
    assert_eq!(listed["file"], "p.toml");
    assert_eq!(listed["message"], last.message.as_str());
}

#[test]
fn too_many_of_anything_is_refused() {
    let listeners: String =
        (1..=65).map(|n| format!("[[listener]]\nname = 'l{n}'\naddress = '127.0.0.1:{n}'\n")).collect();
    assert_eq!(
        errors_of(&format!("{listeners}{REST}")),
        ["193:1: more than 64 `[[listener]]`: 64 is the most there can be"]
    );
    let upstreams: String = (1..=1025)
        .map(|n| format!("[[pool.upstream]]\nname = 'u{n}'\naddress = '127.0.0.1:{n}'\n"))
        .collect();
    let text = format!("{LISTENER}[delivery]\nmode = 'through'\n[[pool]]\nname = 'p'\n{upstreams}");
    assert_eq!(
        errors_of(&text),
        ["3080:1: more than 1024 `[[pool.upstream]]`: 1024 is the most there can be"]
    );
}

#[test]
fn the_plan_adds_up() {
    let config = with_rest("shards = 6\nmemory = '6GiB'").expect("right");
    let plan = plan(&config, &machine());
    assert_eq!(plan.shards.iter().map(|shard| shard.cpu).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
    assert_eq!(plan.bounds.links, 6 * 8);
    assert_eq!(plan.bounds.sessions, 20_000);
    assert_eq!(plan.bounds.memory_per_shard, 1 << 30);
    assert_eq!(
        plan.notes,
        [
            "6 shards share 4 CPUs: more shards than CPUs cost time and gain nothing",
            "`memory` is 6GiB, more than half of the machine's 8GiB",
        ]
    );
    let text = plan.to_string();
    assert!(text.contains("shards     6 on CPU 0-3,0-1, recipients by address"), "{text}");
    assert!(text.contains("upstream mta1  10.1.0.11:25  weight 1"), "{text}");
    let json = serde_json::to_value(&plan).expect("plain data");
    assert_eq!(json["pools"][0]["upstreams"][0]["address"], "10.1.0.11:25");
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let many = |part: &str, times: usize| part.repeat(times);
    for text in [
        format!("{}a = 1", many("a.", 100_000)),
        format!("a = {}", many("[", 100_000)),
        format!("a = {}", many("{a=", 100_000)),
        format!("a = {}", many("{a.a.a.a.a.a.a.a=", 100_000)),
        format!("a = {}1{}", many("{a.a.a.a.a.a.a.a=", 78), many("}", 78)),
        format!("a = {}1{}", many("{'!'.\"!\".a.a.a.a.a.a.a.a=", 78), many("}", 78)),
    ] {
        assert!(Config::parse("p.toml", &text, &machine()).is_err());
    }
}

/// Words and signs of configurations, to get past the first line.
fn soup() -> impl Strategy<Value = String> {
    let words = [
        "[[listener]]",
        "[[pool]]",
        "[pool.health]",
        "[[pool.upstream]]",
        "[delivery]",
        "[admin]",
        "hostname",
        "shards",
        "address",
        "name",
        "trusted",
        "mode",
        "token",
        "memory",
        "idle_timeout",
        " = ",
        "=",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "\n",
        "\n",
        "\n",
        "\"auto\"",
        "\"2-9\"",
        "\"10.0.0.0/8\"",
        "\"127.0.0.1:25\"",
        "\"5m\"",
        "\"1GiB\"",
        "5",
        "-1",
        "true",
        "0x",
        "1979-05-27",
        "1.5",
        "\u{e9}",
        "\u{feff}",
        "\0",
        "\r\n",
        "#",
        "file",
        "env",
        "\"\"\"",
        "\\",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..80)
        .prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(Config::parse("p.toml", &text, &machine()).is_err());
    }

    #[test]
    fn no_words_panic_and_errors_have_places(text in soup()) {
        if let Err(errors) = Config::parse("p.toml", &text, &machine()) {
            prop_assert!(!errors.0.is_empty());
            let lines = text.split('\n').count();
            for error in &errors.0 {
                prop_assert!((1..=lines).contains(&error.line) && error.column >= 1, "{}", error);
            }
        }
    }

    #[test]
    fn a_whole_text_cut_anywhere_never_panics(cut in 0..EXAMPLE.len()) {
        let text = EXAMPLE.get(..cut).unwrap_or("");
        let _ = Config::parse("p.toml", text, &machine());
    }
}

#[test]
fn a_probe_that_asks_for_a_recipient() {
    let with = |health: &str| {
        format!("{LISTENER}{REST}").replace("[delivery]", &format!("[pool.health]\n{health}\n[delivery]"))
    };
    let mail = |health: &str| {
        let config = Config::parse("p.toml", &with(health), &machine()).expect("it is right");
        config.pools[0].health.probe_mail.clone()
    };
    let asked = |sender: &str| Some(ProbeMail { sender: sender.into(), recipient: "probe@a.example".into() });
    assert_eq!(mail("rise = 1"), None);
    assert_eq!(mail("probe_recipient = 'probe@a.example'"), asked(""));
    assert_eq!(mail("probe_recipient = 'probe@a.example'\nprobe_sender = ''"), asked(""));
    assert_eq!(
        mail("probe_sender = 'p@b.example'\nprobe_recipient = 'probe@a.example'"),
        asked("p@b.example")
    );
    let wrong = |health: &str| {
        let errors = errors_of(&with(health));
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.into_iter().next().expect("one")
    };
    assert!(wrong("probe_sender = 'p@b.example'").contains("`probe_sender` needs a `probe_recipient`"));
    assert!(wrong("probe_recipient = 'probe'").contains("`probe_recipient`: `probe` is not a mail address"));
    let text = wrong("probe = 'tcp'\nprobe_recipient = 'p@a.example'");
    assert!(text.contains("only asked about by `probe = \"smtp\"`"), "{text}");
}

/// Whatever a file can say makes a difference, in force or refused by name: nothing is quietly ignored.
#[test]
fn every_key_makes_a_difference() {
    let text = "hostname = 'a.example'\nshards = 1\nshard_by = 'address'\ndrain_timeout = '3s'\nmemory = '64MiB'\n\
        [admin]\nlisten = '127.0.0.1:8025'\ntoken = 't'\n\
        [[listener]]\nname = 'in'\naddress = '127.0.0.1:2525'\ntrusted = ['10.0.0.0/8']\nmax_message = '1MiB'\n\
        max_recipients = 9\nmax_sessions = 9\nidle_timeout = '9s'\n\
        [[pool]]\nname = 'farm'\nbalance = 'random'\nlinks_per_shard = 4\nidle_links = 2\nidle_timeout = '9s'\n\
        transactions_per_link = 9\nsource_addresses = ['127.0.0.1']\nconnect_timeout = '9s'\nreply_timeout = '9s'\n\
        attempts = 2\nchunking = true\nfallback = 'other'\n\
        [pool.health]\nprobe = 'smtp'\nprobe_sender = 'a@b.example'\nprobe_recipient = 'a@b.example'\n\
        interval = '9s'\nrise = 9\nfall = 9\neject_after = 9\neject_for = '9s'\nslow_start = '9s'\n\
        panic_below = 0.1\n\
        [[pool.upstream]]\nname = 'u'\naddress = '127.0.0.1:2601'\nweight = 9\n\
        [[pool]]\nname = 'other'\nupstream = [{ name = 'v', address = '127.0.0.1:2602' }]\n\
        [[pool]]\nname = 'third'\nupstream = [{ name = 'w', address = '127.0.0.1:2603' }]\n\
        [[route]]\npool = 'other'\nrecipient_domain = 'a.b'\nsender_domain = 'a.b'\nlistener = 'in'\nsource = '10.0.0.0/8'\n\
        header = { name = 'x', pattern = 'y' }\n\
        [delivery]\nmode = 'through'\nbounce_from = 'a@b.example'\n";
    let changes = [
        ("'a.example'", "'b.example'", true),
        ("shards = 1", "shards = 2", true),
        ("shard_by = 'address'", "shard_by = 'domain'", true),
        ("'64MiB'", "'65MiB'", true),
        ("127.0.0.1:8025", "127.0.0.1:8026", true),
        ("token = 't'", "token = 'u'", true),
        ("drain_timeout = '3s'", "drain_timeout = '4s'", false),
        ("127.0.0.1:2525", "127.0.0.1:2526", false),
        ("name = 'in'", "name = 'out'", false),
        ("trusted = ['10.0.0.0/8']", "trusted = ['11.0.0.0/8']", false),
        ("max_message = '1MiB'", "max_message = '2MiB'", false),
        ("max_recipients = 9", "max_recipients = 8", false),
        ("max_sessions = 9", "max_sessions = 8", false),
        ("max_sessions = 9\nidle_timeout = '9s'", "max_sessions = 9\nidle_timeout = '8s'", false),
        ("'random'", "'source-hash'", false),
        ("links_per_shard = 4", "links_per_shard = 3", false),
        ("idle_links = 2", "idle_links = 1", false),
        ("idle_links = 2\nidle_timeout = '9s'", "idle_links = 2\nidle_timeout = '8s'", false),
        ("transactions_per_link = 9", "transactions_per_link = 8", false),
        ("source_addresses = ['127.0.0.1']", "source_addresses = ['127.0.0.2']", false),
        ("connect_timeout = '9s'", "connect_timeout = '8s'", false),
        ("reply_timeout = '9s'", "reply_timeout = '8s'", false),
        ("attempts = 2", "attempts = 1", false),
        ("chunking = true", "chunking = false", false),
        ("fallback = 'other'", "fallback = 'third'", false),
        ("probe_sender = 'a@b", "probe_sender = 'c@b", false),
        ("probe_recipient = 'a@b", "probe_recipient = 'c@b", false),
        ("interval = '9s'", "interval = '8s'", false),
        ("rise = 9", "rise = 8", false),
        ("fall = 9", "fall = 8", false),
        ("eject_after = 9", "eject_after = 8", false),
        ("eject_for = '9s'", "eject_for = '8s'", false),
        ("slow_start = '9s'", "slow_start = '8s'", false),
        ("panic_below = 0.1", "panic_below = 0.2", false),
        ("127.0.0.1:2601", "127.0.0.1:2609", false),
        ("weight = 9", "weight = 8", false),
        ("name = 'u'", "name = 'x'", false),
        ("pool = 'other'", "pool = 'third'", false),
        ("recipient_domain = 'a.b'", "recipient_domain = 'c.b'", false),
        ("sender_domain = 'a.b'\n", "sender_domain = 'c.b'\n", false),
        ("listener = 'in'\n", "", false),
        ("source = '10.0.0.0/8'", "source = '11.0.0.0/8'", false),
        ("pattern = 'y'", "pattern = 'z'", false),
        ("bounce_from = 'a@", "bounce_from = 'c@", false),
    ];
    let parse = |text: &str| {
        Config::parse("p.toml", text, &machine()).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
    };
    let running = parse(text);
    for (from, to, is_fixed) in changes {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        // A listener that is called otherwise is so in the routes too.
        let changed = if from == "name = 'in'" {
            changed.replace("listener = 'in'", "listener = 'out'")
        } else {
            changed
        };
        let difference = difference(&running, &parse(&changed), &machine());
        assert_eq!(!difference.fixed.is_empty(), is_fixed, "{from} → {to}: {difference:?}");
        assert!(is_fixed || !difference.lines.is_empty(), "{from} → {to} would be ignored");
    }
}
