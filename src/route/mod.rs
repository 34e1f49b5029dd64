//! Which pool a recipient's mail goes to: rules in order, the first that matches. Pure.
//!
//! Rules are compiled: what a rule is chiefly about (recipient domain, else sender domain, else source network)
//! is looked up, not searched, so that ten thousand of them cost no more than ten. What is found are the numbers
//! of rules; of those the lowest whose other conditions hold as well is the first match.

mod domain;
mod glob;
mod header;

use std::collections::HashMap;
use std::net::IpAddr;

use crate::network::Network;
use domain::DomainIndex;
pub use domain::{Domain, NULL_SENDER};
pub use glob::Glob;

/// One rule. All conditions that it states must hold; of a list, one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The recipient's domain; empty: any.
    pub recipient_domains: Vec<Domain>,
    /// The sender's; empty: any.
    pub sender_domains: Vec<Domain>,
    /// Names of listeners; empty: any.
    pub listeners: Vec<String>,
    /// Where the client's address lies; empty: anywhere.
    pub sources: Vec<Network>,
    /// A header field and what it must be like.
    pub header: Option<HeaderRule>,
    /// Where to.
    pub pool: u16,
}

/// A header field and what its value must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// The field's name, in any case.
    pub name: String,
    /// For the whole of its value, unfolded.
    pub pattern: Glob,
}

/// What is known of a message, the same for all its recipients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The sender's domain; empty for `<>`.
    pub sender_domain: &'a [u8],
    /// The listener's name; `None` for what was made here.
    pub listener: Option<&'a str>,
    /// The client's address; `None` for what was made here.
    pub source: Option<IpAddr>,
    /// The header block, as much of it as is looked at; needed only if `Routes::wants_header`.
    pub header: &'a [u8],
}

/// The first rule without a condition on recipients that a message meets.
#[derive(Clone, Copy, Debug)]
pub struct Message(u32);

/// Compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    rules: Vec<Rule>,
    by_recipient: DomainIndex,
    by_sender: DomainIndex,
    by_source: HashMap<Network, Vec<u32>>,
    /// The prefix lengths in `by_source`, by family.
    prefixes_v4: Vec<u8>,
    prefixes_v6: Vec<u8>,
    /// Rules about nothing that is looked up.
    rest: Vec<u32>,
    wants_header: bool,
    /// The pool where no rule matches.
    otherwise: u16,
}

impl Routes {
    /// Compiles rules, the first first. `otherwise`: the pool where none matches.
    pub fn new(rules: Vec<Rule>, otherwise: u16) -> Routes {
        let mut routes = Routes { otherwise, ..Routes::default() };
        for (number, rule) in rules.iter().enumerate() {
            let number = number as u32;
            routes.wants_header |= rule.header.is_some();
            if !rule.recipient_domains.is_empty() {
                rule.recipient_domains.iter().for_each(|domain| routes.by_recipient.insert(domain, number));
            } else if !rule.sender_domains.is_empty() {
                rule.sender_domains.iter().for_each(|domain| routes.by_sender.insert(domain, number));
            } else if !rule.sources.is_empty() {
                rule.sources.iter().for_each(|network| routes.insert_source(*network, number));
            } else {
                routes.rest.push(number);
            }
        }
        routes.rules = rules;
        routes
    }

    fn insert_source(&mut self, network: Network, number: u32) {
        self.by_source.entry(network).or_default().push(number);
        let prefixes = if network.is_ipv4() { &mut self.prefixes_v4 } else { &mut self.prefixes_v6 };
        if !prefixes.contains(&network.prefix()) {
            prefixes.push(network.prefix());
        }
    }

    /// Does some rule look at the header?
    pub fn wants_header(&self) -> bool {
        self.wants_header
    }

    /// Looks at a message; once, before its recipients.
    pub fn message(&self, facts: &Facts<'_>) -> Message {
        let mut first = self.first_of(&self.rest, u32::MAX, facts);
        if !self.by_sender.is_empty() {
            let mut consider = |numbers: &[u32]| first = self.first_of(numbers, first, facts);
            self.by_sender.look_up(facts.sender_domain, &mut consider);
        }
        if let Some(source) = facts.source.map(|source| source.to_canonical()) {
            let prefixes = if source.is_ipv4() { &self.prefixes_v4 } else { &self.prefixes_v6 };
            for prefix in prefixes {
                if let Some(numbers) = self.by_source.get(&Network::around(source, *prefix)) {
                    first = self.first_of(numbers, first, facts);
                }
            }
        }
        Message(first)
    }

    /// The pool for a recipient with this domain.
    pub fn pick(&self, message: Message, recipient_domain: &[u8], facts: &Facts<'_>) -> u16 {
        let mut first = message.0;
        if !self.by_recipient.is_empty() {
            let mut consider = |numbers: &[u32]| first = self.first_of(numbers, first, facts);
            self.by_recipient.look_up(recipient_domain, &mut consider);
        }
        self.rules.get(first as usize).map_or(self.otherwise, |rule| rule.pool)
    }

    /// The first of these rules, in ascending order, that matches; `best` if none is below it.
    fn first_of(&self, numbers: &[u32], best: u32, facts: &Facts<'_>) -> u32 {
        let mut below = numbers.iter().copied().take_while(|number| *number < best);
        below.find(|number| self.rules[*number as usize].holds(facts)).unwrap_or(best)
    }
}

impl Rule {
    /// Whether all conditions but that on the recipient hold.
    fn holds(&self, facts: &Facts<'_>) -> bool {
        let one_of = |empty: bool, matches: &dyn Fn() -> bool| empty || matches();
        one_of(self.listeners.is_empty(), &|| {
            facts.listener.is_some_and(|name| self.listeners.iter().any(|l| l == name))
        }) && one_of(self.sender_domains.is_empty(), &|| {
            self.sender_domains.iter().any(|domain| domain.matches(facts.sender_domain))
        }) && one_of(self.sources.is_empty(), &|| {
            facts.source.is_some_and(|source| self.sources.iter().any(|network| network.contains(source)))
        }) && self.header.as_ref().is_none_or(|rule| header::has(facts.header, &rule.name, &rule.pattern))
    }
}

#[cfg(test)]
mod tests;
