//! Scripts as text and as steps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use postlane::balance::Policy;
use postlane::dispatch::Mode;
use postlane::protocol::server::FutureRelease;

use crate::disk::Keep;
use crate::stage::Setup;

/// Who speaks or hears: a client, or an upstream's link (0: its newest).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    Client(usize),
    Upstream(usize, usize),
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    Say(Who, Vec<u8>),
    Hear {
        who: Who,
        pattern: Vec<u8>,
        same_packet: bool,
    },
    /// Lines that fit nothing may come before.
    HearUpTo {
        who: Who,
        pattern: Vec<u8>,
    },
    HearNothing(Who),
    SeeTheEnd(Who),
    Connect(usize),
    Accept(usize),
    Close(Who),
    Reset(Who),
    Listen(usize, bool),
    Vanish(usize),
    Wait(Duration),
    Count(String, u64),
    Drain,
}

pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) setup: Setup,
    /// With their line numbers.
    pub(crate) steps: Vec<(usize, Step)>,
}

/// Longer waits are for virtual time.
const WAIT_MAX: Duration = Duration::from_millis(600);

impl Script {
    pub(crate) fn read(path: &Path) -> Script {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let mut script = Script { setup: Setup::new(7, upstreams(&text)), name, steps: Vec::new() };
        for (n, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let read = script.line(n + 1, line);
            assert!(read.is_some(), "{}:{}: not understood: {line}", script.name, n + 1);
        }
        script
    }

    pub(crate) fn is_for_sim_only(&self) -> bool {
        self.setup.keep.is_some()
            || self.steps.iter().any(|(_, step)| match step {
                Step::Wait(time) => *time > WAIT_MAX,
                Step::Vanish(_) => true,
                _ => false,
            })
    }

    fn line(&mut self, n: usize, line: &str) -> Option<()> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let step = match first {
            "set" => {
                let (name, value) = rest.trim().split_once(' ')?;
                return self.set(name, value.trim());
            }
            "wait" => Step::Wait(duration(rest)?),
            "drain" => Step::Drain,
            "count" => {
                let (name, value) = rest.split_once(' ')?;
                Step::Count(name.to_owned(), value.trim().parse().ok()?)
            }
            _ => match short(first, rest) {
                Some(steps) => {
                    self.steps.extend(steps.into_iter().map(|step| (n, step)));
                    return Some(());
                }
                None => Script::speech(first, rest)?,
            },
        };
        // What one says at one go leaves in one write.
        if let (Some((_, Step::Say(last, bytes))), Step::Say(who, more)) = (self.steps.last_mut(), &step)
            && last == who
        {
            bytes.extend_from_slice(more);
        } else {
            self.steps.push((n, step));
        }
        Some(())
    }

    fn speech(first: &str, rest: &str) -> Option<Step> {
        let name = first.trim_end_matches([':', '<', '>', '+', '~']);
        let mark = &first[name.len()..];
        let who = who(name)?;
        let heard_by_client = name.starts_with('S');
        let line = |text: &str| {
            let mut bytes = unescape(text);
            bytes.extend_from_slice(b"\r\n");
            bytes
        };
        Some(match (mark, who) {
            (":", Who::Client(_)) if !heard_by_client => Step::Say(who, line(rest)),
            (":", _) if heard_by_client => hear(who, rest, false),
            (">", Who::Upstream(..)) => Step::Say(who, line(rest)),
            ("<", Who::Upstream(..)) => hear(who, rest, false),
            ("<+", Who::Upstream(..)) => hear(who, rest, true),
            ("<~", Who::Upstream(..)) => Step::HearUpTo { who, pattern: unescape(rest) },
            (":~", _) if heard_by_client => Step::HearUpTo { who, pattern: unescape(rest) },
            ("", _) => match (rest, who) {
                ("hears nothing", _) => Step::HearNothing(who),
                ("closes", Who::Client(_)) if heard_by_client => Step::SeeTheEnd(who),
                ("sees the end", Who::Upstream(..)) => Step::SeeTheEnd(who),
                ("connects", Who::Client(n)) => Step::Connect(n),
                ("accepts", Who::Upstream(n, _)) => Step::Accept(n),
                ("closes", Who::Client(_)) | ("drops", Who::Upstream(..)) => Step::Close(who),
                ("resets", _) => Step::Reset(who),
                ("refuses", Who::Upstream(n, _)) => Step::Listen(n, false),
                ("listens", Who::Upstream(n, _)) => Step::Listen(n, true),
                ("vanishes", Who::Upstream(n, _)) => Step::Vanish(n),
                _ => match rest.split_once(": ")? {
                    ("raw", text) => Step::Say(who, unescape(text)),
                    (times, text) => {
                        let times: usize = times.strip_suffix(" times")?.parse().ok()?;
                        Step::Say(who, line(text).repeat(times))
                    }
                },
            },
            _ => return None,
        })
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let setup = &mut self.setup;
        match name {
            // Read beforehand.
            "upstreams" => {}
            "shards" => setup.shards = value.parse().ok()?,
            "buffers" => setup.buffers = value.parse().ok()?,
            "policy" => {
                setup.pool.policy = match value {
                    "round-robin" => Policy::RoundRobin,
                    "least-response-time" => Policy::LeastResponseTime,
                    _ => return None,
                }
            }
            "attempts" => setup.pool.attempts = value.parse().ok()?,
            "links" => setup.pool.links_max = value.parse().ok()?,
            "idle_links" => setup.pool.idle_links = value.parse().ok()?,
            "link_idle" => setup.pool.idle_timeout = duration(value)?,
            "transactions_per_link" => setup.pool.transactions_per_link = value.parse().ok()?,
            "connect_timeout" => setup.pool.connect_timeout = duration(value)?,
            "reply_timeout" => setup.pool.reply_timeout = duration(value)?,
            "eject_after" => setup.pool.health.eject_after = value.parse().ok()?,
            "idle_timeout" => setup.listener.idle_timeout = duration(value)?,
            "max_sessions" => setup.listener.sessions_max = value.parse().ok()?,
            "max_recipients" => setup.listener.server.recipients_max = value.parse().ok()?,
            "future_release" => {
                let seconds_max = value.parse().ok()?;
                setup.listener.server.future_release = Some(FutureRelease { seconds_max, unix_now: 0 });
            }
            "mode" => {
                let mode = match value {
                    "spool" => Mode::Spool,
                    "through-then-spool" => Mode::ThroughThenSpool,
                    _ => return None,
                };
                setup.keep = Some(Keep::plain(mode));
            }
            "deliver_by" => setup.listener.server.deliver_by = value.parse().ok()?,
            "max_message" => setup.listener.server.size_max = value.parse().ok()?,
            "trusted" => setup.listener.trusted = vec![value.parse().ok()?],
            _ => return None,
        }
        Some(())
    }
}

/// What is said in most scripts, in one line.
fn short(first: &str, rest: &str) -> Option<Vec<Step>> {
    let who = who(first)?;
    let say = |lines: &[String]| {
        let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        Step::Say(who, text.into_bytes())
    };
    let own = |line: &str| line.to_owned();
    let (verb, words) = rest.split_once(' ').unwrap_or((rest, ""));
    let words: Vec<&str> = words.split_whitespace().collect();
    match (who, verb, &words[..]) {
        (Who::Client(n), "greets", []) => Some(vec![
            Step::Connect(n),
            hear(who, "220 *", false),
            say(&[own("EHLO client.example")]),
            Step::HearUpTo { who, pattern: b"250 *".to_vec() },
        ]),
        (Who::Client(_), "mails", ["to", to @ ..]) => {
            let mut lines = vec![own("MAIL FROM:<alice@a.example>")];
            lines.extend(to.iter().map(|to| format!("RCPT TO:<{to}>")));
            lines.push(own("DATA"));
            let mut steps = vec![say(&lines), hear(who, "250 2.1.0 *", false)];
            steps.extend(to.iter().map(|_| hear(who, "250 2.1.5 *", false)));
            steps.push(hear(who, "354 *", false));
            steps.push(say(&["Subject: x", "", "hello", "."].map(own)));
            Some(steps)
        }
        (Who::Upstream(n, _), "greets", offers) => {
            let offers = match offers {
                ["with", offers @ ..] => offers.to_vec(),
                _ => vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "DELIVERBY"],
            };
            let mut lines = vec![own("250-mta.example")];
            lines.extend(offers.iter().map(|offer| format!("250-{offer}")));
            lines.push(own("250 ENHANCEDSTATUSCODES"));
            Some(vec![
                Step::Accept(n),
                say(&[own("220 mta.example")]),
                hear(who, "EHLO out1.example.net", false),
                say(&lines),
            ])
        }
        (Who::Upstream(..), "hears", ["mail", "to", to @ ..]) => {
            let mut steps = vec![hear(who, "MAIL FROM:<alice@a.example>*", false)];
            steps.extend(to.iter().map(|to| hear(who, &format!("RCPT TO:<{to}>"), true)));
            steps.push(hear(who, "DATA", true));
            Some(steps)
        }
        (Who::Upstream(..), "hears", ["the", "message"]) => {
            let end = Step::HearUpTo { who, pattern: b".".to_vec() };
            Some(vec![hear(who, "Received: from *", false), end])
        }
        // "goes ahead for 2": that many recipients.
        (Who::Upstream(..), "goes", ["ahead", rest @ ..]) => {
            let recipients = match rest {
                ["for", n] => n.parse().ok()?,
                _ => 1,
            };
            let mut lines = vec![own("250 2.1.0 ok")];
            lines.extend((0..recipients).map(|_| own("250 2.1.5 ok")));
            lines.push(own("354 go ahead"));
            Some(vec![say(&lines)])
        }
        _ => None,
    }
}

fn upstreams(text: &str) -> usize {
    let value = text.lines().find_map(|line| line.strip_prefix("set upstreams "));
    value.map_or(1, |value| value.trim().parse().unwrap())
}

fn hear(who: Who, pattern: &str, same_packet: bool) -> Step {
    Step::Hear { who, pattern: unescape(pattern), same_packet }
}

fn who(name: &str) -> Option<Who> {
    let number = |text: &str| if text.is_empty() { Some(1) } else { text.parse().ok() };
    if let Some(rest) = name.strip_prefix(['C', 'S']) {
        return Some(Who::Client(number(rest)?));
    }
    let rest = name.strip_prefix('U')?;
    let (upstream, link) = rest.split_once('.').unwrap_or((rest, "0"));
    Some(Who::Upstream(number(upstream)?, link.parse().ok()?))
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = (text[..split].parse::<u64>().ok()?, &text[split..]);
    Some(match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        _ => return None,
    })
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other.unwrap_or(b'\\'),
        });
    }
    bytes
}

/// Does the line fit? `*` stands for any bytes.
pub(crate) fn fits(pattern: &[u8], line: &[u8]) -> bool {
    match pattern.iter().position(|b| *b == b'*') {
        None => pattern == line,
        Some(star) => {
            let (before, after) = (&pattern[..star], &pattern[star + 1..]);
            line.starts_with(before) && (before.len()..=line.len()).any(|at| fits(after, &line[at..]))
        }
    }
}

#[test]
fn patterns() {
    assert!(fits(b"250 *", b"250 2.0.0 ok") && fits(b"*", b"") && fits(b"a*c*e", b"abcde"));
    assert!(!fits(b"250 *", b"250-x") && !fits(b"a*c", b"abcd") && !fits(b"", b"x"));
}
