use proptest::prelude::*;

use super::*;

/// The pool where no rule matches.
const OTHERWISE: u16 = 99;

fn compiled(rules: Vec<Rule>) -> Routes {
    Routes::new(rules, OTHERWISE)
}

fn domains(texts: &[&str]) -> Vec<Domain> {
    texts.iter().map(|text| Domain::from_text(text)).collect()
}

fn to(pool: u16, recipients: &[&str]) -> Rule {
    Rule { recipient_domains: domains(recipients), pool, ..Rule::default() }
}

fn pick(routes: &Routes, domain: &str, facts: &Facts<'_>) -> Option<u16> {
    let pool = routes.pick(routes.message(facts), domain.as_bytes(), facts);
    (pool != OTHERWISE).then_some(pool)
}

#[test]
fn domains_and_what_is_below_them() {
    let routes =
        compiled(vec![to(1, &["gmail.com", "*.googlemail.com"]), to(2, &["*.com"]), to(3, &["gmail.com"])]);
    let pool = |domain| pick(&routes, domain, &Facts::default());
    assert_eq!(pool("GMAIL.com"), Some(1));
    assert_eq!(pool("a.b.googlemail.com"), Some(1));
    assert_eq!(pool("googlemail.com"), Some(2), "a wildcard is not the domain itself");
    assert_eq!(pool("x.gmail.com"), Some(2));
    assert_eq!(pool("com"), None);
    assert_eq!(pool(".com"), None);
    assert_eq!(pool("example.org"), None);
    assert_eq!(pool(""), None);
    assert_eq!(pool(&"a.".repeat(200)), None, "longer than any domain");
}

#[test]
fn the_first_match_wins_whatever_it_is_about() {
    let network = |text: &str| text.parse::<Network>().expect("a network");
    let routes = compiled(vec![
        Rule { listeners: vec!["bulk".into()], recipient_domains: domains(&["a.example"]), ..to(1, &[]) },
        Rule { sender_domains: domains(&["*.shop.example", "<>"]), ..to(2, &[]) },
        Rule { sources: vec![network("10.0.0.0/8"), network("2001:db8::/32")], ..to(3, &[]) },
        to(4, &["a.example"]),
        Rule { listeners: vec!["bulk".into()], ..to(5, &[]) },
    ]);
    let plain = Facts { sender_domain: b"x.example", ..Facts::default() };
    assert_eq!(pick(&routes, "a.example", &plain), Some(4));
    assert_eq!(pick(&routes, "b.example", &plain), None);
    let bulk = Facts { listener: Some("bulk"), ..plain };
    assert_eq!(pick(&routes, "a.example", &bulk), Some(1));
    assert_eq!(pick(&routes, "b.example", &bulk), Some(5));
    let shop = Facts { sender_domain: b"News.Shop.Example", ..bulk };
    assert_eq!(pick(&routes, "b.example", &shop), Some(2));
    assert_eq!(pick(&routes, "a.example", &Facts::default()), Some(2), "the null sender");
    for (source, pool) in [("10.9.9.9", 3), ("::ffff:10.9.9.9", 3), ("2001:db8::1", 3), ("192.0.2.1", 4)] {
        let facts = Facts { source: source.parse().ok(), ..plain };
        assert_eq!(pick(&routes, "a.example", &facts), Some(pool), "{source}");
    }
}

#[test]
fn headers() {
    let block =
        b"Subject: Your\r\n\torder\r\nX-Campaign : Spring-2026\r\nx-campaign: other\r\n\r\nX-Late: yes\r\n";
    let has = |name: &str, pattern: &str| header::has(block, name, &Glob::new(pattern));
    assert!(has("x-campaign", "spring-*"));
    assert!(has("X-Campaign", "OTHER"));
    assert!(!has("X-Campaign", "spring"));
    assert!(has("subject", "your*order"));
    assert!(!has("X-Late", "*"), "that is in the body");
    assert!(!header::has(b"", "a", &Glob::new("*")));
    assert!(header::has(b"A: cut o", "a", &Glob::new("cut o")));
    let routes = compiled(vec![Rule {
        header: Some(HeaderRule { name: "X-Campaign".into(), pattern: Glob::new("*2026") }),
        ..to(7, &[])
    }]);
    assert!(routes.wants_header());
    assert_eq!(pick(&routes, "a.example", &Facts { header: block, ..Facts::default() }), Some(7));
    assert_eq!(pick(&routes, "a.example", &Facts::default()), None);
}

#[test]
fn globs() {
    let table = [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("a?c", "ABC", true),
        ("a?c", "ac", false),
        ("*ab*", "xxaab", true),
        ("*a*b*c", "aXbXc", true),
        ("*a*b*c", "aXcXb", false),
        ("**", "x", true),
    ];
    for (pattern, text, expected) in table {
        assert_eq!(Glob::new(pattern).matches(text.as_bytes()), expected, "{pattern} {text}");
    }
}

/// A rule of small words, so that rules and facts meet often.
fn rule() -> impl Strategy<Value = Rule> {
    let name = prop::sample::select(vec!["a", "b.a", "*.a", "*.b.a", "c", "<>"]);
    let network = prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "::/0", "10.1.2.3"]);
    (
        prop::collection::vec(name.clone(), 0..3),
        prop::collection::vec(name, 0..2),
        prop::collection::vec(prop::sample::select(vec!["l", "m"]), 0..2),
        prop::collection::vec(network, 0..2),
        prop::option::weighted(0.2, prop::sample::select(vec!["x*", "y"])),
        0..9u16,
    )
        .prop_map(|(recipients, senders, listeners, sources, header, pool)| Rule {
            recipient_domains: domains(&recipients),
            sender_domains: domains(&senders),
            listeners: listeners.into_iter().map(str::to_owned).collect(),
            sources: sources.into_iter().map(|text| text.parse().expect("a network")).collect(),
            header: header.map(|p| HeaderRule { name: "h".into(), pattern: Glob::new(p) }),
            pool,
        })
}

proptest! {
    /// The compiled rules say what reading them one by one says.
    #[test]
    fn same_as_reading_them_in_order(
        rules in prop::collection::vec(rule(), 0..12),
        recipient in prop::sample::select(vec!["a", "b.a", "c.b.a", "x.a", "c", ""]),
        sender in prop::sample::select(vec!["a", "b.a", "c.b.a", "x.a", "c", ""]),
        listener in prop::option::of(prop::sample::select(vec!["l", "m", "n"])),
        source in prop::option::of(prop::sample::select(vec!["10.1.2.3", "10.1.9.9", "10.9.9.9", "11.0.0.1", "::1"])),
        header in prop::sample::select(vec!["h: xy\r\n\r\n", "H: y\r\n", "i: y\r\n"]),
    ) {
        let facts = Facts {
            sender_domain: sender.as_bytes(),
            listener,
            source: source.map(|text| text.parse().expect("an address")),
            header: header.as_bytes(),
        };
        let meant = |domain: &Domain| domain.matches(recipient.as_bytes());
        let first = rules.iter().find(|rule| {
            (rule.recipient_domains.is_empty() || rule.recipient_domains.iter().any(meant)) && rule.holds(&facts)
        });
        let expected = first.map(|rule| rule.pool);
        prop_assert_eq!(pick(&compiled(rules.clone()), recipient, &facts), expected);
    }

    #[test]
    fn globs_never_panic(pattern in "[a*?]{0,8}", text in "[ab]{0,12}") {
        // Against the plain recursion.
        fn plain(p: &[u8], t: &[u8]) -> bool {
            match (p, t) {
                ([], t) => t.is_empty(),
                ([b'*', rest @ ..], t) => plain(rest, t) || !t.is_empty() && plain(p, &t[1..]),
                ([b'?', p @ ..], [_, t @ ..]) => plain(p, t),
                ([a, p @ ..], [b, t @ ..]) => a == b && plain(p, t),
                _ => false,
            }
        }
        prop_assert_eq!(Glob::new(&pattern).matches(text.as_bytes()), plain(pattern.as_bytes(), text.as_bytes()));
    }
}
