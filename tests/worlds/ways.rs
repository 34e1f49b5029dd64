//! Which pool a recipient's mail is to end in, worked out by reading the rules one after another: the oracle beside
//! the compiled routes.

use postlane::balance::Tried;
use postlane::dispatch::options::{Pool, Upstream};
use postlane::route::{Domain, Glob, HeaderRule, Rule};

use crate::dice::Dice;
use crate::stage::{Setup, upstream_address};

/// The header field that rules look at.
const FIELD: &str = "X-World";
const COLOURS: [&str; 2] = ["red", "blue"];

/// One condition of a rule.
#[derive(Clone, Debug)]
enum Claim {
    /// The recipient's domain, or all below one.
    To(String),
    /// The sender's domain; empty: `<>`.
    From(&'static str),
    /// The only listener, or one that there is not.
    Listener(&'static str),
    /// The clients' network, or another.
    Source(&'static str),
    /// The colour in the header.
    Colour(&'static str),
}

/// Rules and pools as a world has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    rules: Vec<(Vec<Claim>, usize)>,
    /// By upstream.
    pool_of: Vec<usize>,
    fallbacks: Vec<Option<usize>>,
}

/// What a rule is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mail<'a> {
    pub(crate) sender: &'a str,
    pub(crate) recipient: &'a str,
    /// As the client sent it, or as the upstream got it.
    pub(crate) data: &'a [u8],
    /// Made here.
    pub(crate) internal: bool,
}

impl Ways {
    /// One pool has all of so many upstreams.
    pub(crate) fn one_pool(upstreams: usize) -> Ways {
        Ways { rules: Vec::new(), pool_of: vec![0; upstreams], fallbacks: vec![None] }
    }

    /// Splits the setup's pool into several, with rules and fallbacks by chance.
    pub(crate) fn draw(setup: &mut Setup, dice: &mut Dice) -> Ways {
        let upstreams = setup.pool.upstreams.len();
        let pools = dice.between(1, 3.min(upstreams));
        let pool_of: Vec<usize> =
            (0..upstreams).map(|n| if n < pools { n } else { dice.below(pools) }).collect();
        // Later pools only, so that the line has an end.
        let fallback = |pool: usize, dice: &mut Dice| {
            (pool + 1 < pools && dice.chance(0.6)).then(|| dice.between(pool + 1, pools - 1))
        };
        let fallbacks: Vec<Option<usize>> = (0..pools).map(|pool| fallback(pool, dice)).collect();
        let of = |pool: usize| Pool {
            name: format!("pool{pool}"),
            serial: pool as u64,
            fallback: fallbacks[pool],
            upstreams: (0..upstreams)
                .filter(|n| pool_of[*n] == pool)
                .map(|n| Upstream::new(format!("mta{}", n + 1), upstream_address(n), 1))
                .collect(),
            ..setup.pool.clone()
        };
        let mut all: Vec<Pool> = (0..pools).map(of).collect();
        setup.more = all.split_off(1);
        setup.pool = all.remove(0);
        let rules = if pools == 1 { 0 } else { dice.between(1, 5) };
        let rules = (0..rules).map(|_| {
            let claims = (0..dice.between(1, 2)).map(|_| draw_claim(dice)).collect();
            (claims, dice.below(pools))
        });
        let ways = Ways { rules: rules.collect(), pool_of, fallbacks };
        setup.rules = ways.rules.iter().map(|(claims, pool)| compiled(claims, *pool)).collect();
        ways
    }

    /// The pool that the first rule that holds names, else the first.
    pub(crate) fn pool_for(&self, mail: Mail<'_>) -> usize {
        let first = self.rules.iter().find(|(claims, _)| holds(claims, mail));
        first.map_or(0, |(_, pool)| *pool)
    }

    pub(crate) fn pool_of(&self, upstream: usize) -> usize {
        self.pool_of[upstream]
    }

    /// The pools that a message for `pool` goes through before it comes to `end`; none if it never does.
    pub(crate) fn line(&self, pool: usize, end: usize) -> Option<Vec<usize>> {
        let line = std::iter::successors(Some(pool), |pool| self.fallbacks[*pool]).take(Tried::MAX);
        let line: Vec<usize> = line.collect();
        let at = line.iter().position(|pool| *pool == end)?;
        Some(line[..at].to_vec())
    }
}

/// Sometimes a coloured field on top.
pub(crate) fn colour(data: &mut Vec<u8>, dice: &mut Dice) {
    if dice.chance(0.3) {
        let field = format!("{FIELD}: {}\r\nX-End: .\r\n", dice.pick(&COLOURS));
        data.splice(0..0, field.into_bytes());
    }
}

fn draw_claim(dice: &mut Dice) -> Claim {
    match dice.below(8) {
        0..=2 => Claim::To(format!("d{}.example", dice.below(6))),
        3 => Claim::To(dice.pick(&["*.example", "*.d1.example", "sender.example"]).to_owned()),
        4 => Claim::From(dice.pick(&["sender.example", "elsewhere.example", ""])),
        5 => Claim::Listener(dice.pick(&["apps", "nobody"])),
        6 => Claim::Source(dice.pick(&["127.0.0.0/8", "10.0.0.0/8"])),
        _ => Claim::Colour(dice.pick(&COLOURS)),
    }
}

/// Claims about the same are a list, of which one must hold.
fn holds(claims: &[Claim], mail: Mail<'_>) -> bool {
    let kind = std::mem::discriminant::<Claim>;
    claims.iter().all(|claim| {
        let mut same = claims.iter().filter(|other| kind(other) == kind(claim));
        match claim {
            // Only one header can be asked about: the last.
            Claim::Colour(_) => same.next_back().is_some_and(|claim| is_so(claim, mail)),
            _ => same.any(|claim| is_so(claim, mail)),
        }
    })
}

fn is_so(claim: &Claim, mail: Mail<'_>) -> bool {
    let domain = |path: &str| path.rsplit_once('@').map_or("", |(_, domain)| domain).to_owned();
    match claim {
        Claim::To(wanted) => match wanted.strip_prefix('*') {
            Some(end) => domain(mail.recipient).ends_with(end),
            None => domain(mail.recipient) == *wanted,
        },
        Claim::From(wanted) => domain(mail.sender) == *wanted,
        Claim::Listener(name) => !mail.internal && *name == "apps",
        Claim::Source(network) => !mail.internal && network.starts_with("127."),
        Claim::Colour(colour) => mail.data.starts_with(format!("{FIELD}: {colour}\r\n").as_bytes()),
    }
}

fn compiled(claims: &[Claim], pool: usize) -> Rule {
    let mut rule = Rule { pool: pool as u16, ..Rule::default() };
    for claim in claims {
        match claim {
            Claim::To(domain) => rule.recipient_domains.push(Domain::from_text(domain)),
            Claim::From("") => rule.sender_domains.push(Domain::from_text("<>")),
            Claim::From(domain) => rule.sender_domains.push(Domain::from_text(domain)),
            Claim::Listener(name) => rule.listeners.push((*name).to_owned()),
            Claim::Source(network) => rule.sources.push(network.parse().unwrap()),
            Claim::Colour(colour) => {
                rule.header = Some(HeaderRule { name: FIELD.to_owned(), pattern: Glob::new(colour) });
            }
        }
    }
    rule
}
