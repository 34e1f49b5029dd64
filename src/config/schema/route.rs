//! `[[route]]`.

use super::{TOP_KEYS, Taken, names};
use crate::config::error::Report;
use crate::config::section::{Located, Section};
use crate::config::tree::Table;
use crate::config::{Domain, Glob, HeaderRule, Network, Route};
use crate::route::NULL_SENDER;

/// All routes that are right, in order; what is wrong with the others is reported.
pub(super) fn all(
    tables: &[&Table],
    report: &mut Report,
    listeners: &Taken<String>,
    pools: &Taken<String>,
) -> Vec<Route> {
    let list = |taken: &Taken<String>| taken.names().map(str::to_owned).collect::<Vec<_>>();
    let (listeners, pools) = (list(listeners), list(pools));
    tables.iter().filter_map(|table| one(table, report, &listeners, &pools)).collect()
}

fn one(table: &Table, report: &mut Report, listeners: &[String], pools: &[String]) -> Option<Route> {
    let mut section = Section::new(table, "in `[[route]]`", report);
    let recipient_domain = domains(&mut section, "recipient_domain", false);
    let sender_domain = domains(&mut section, "sender_domain", true);
    let listener = list(&mut section, "listener", |text| known("listener", text, listeners));
    let source = list(&mut section, "source", |text| text.parse::<Network>());
    let header = section.table("header").map(|table| header(table, section.report));
    let pool = section.parsed("pool", |text| known("pool", text, pools));
    if section.key_at("pool").is_none() {
        section.missing("`[[route]]` has no `pool`: add `pool = \"...\"`");
    }
    section.close(&TOP_KEYS);
    Some(Route {
        recipient_domain,
        sender_domain,
        listener,
        source,
        header: match header {
            Some(header) => Some(header?),
            None => None,
        },
        pool: pool?.value,
    })
}

fn known(kind: &str, name: &str, names: &[String]) -> Result<String, String> {
    match names.iter().any(|known| known == name) {
        true => Ok(name.to_owned()),
        false => Err(names::unknown(kind, name, names.iter().map(String::as_str))),
    }
}

/// A list that says something: an empty one would mean everything, or nothing.
fn list<T>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let items = section.parsed_list(key, parse).unwrap_or_default();
    if section.is_empty_list(key) {
        let at = section.key_at(key).unwrap_or(section.at());
        section.report.wrong(
            at,
            format!(
                "`{key}` is an empty list, which nothing matches: remove it, or write what it is to match"
            ),
        );
    }
    items.into_iter().map(|item| item.value).collect()
}

fn domains(section: &mut Section<'_, '_>, key: &'static str, null: bool) -> Vec<Domain> {
    list(section, key, |text| {
        let name = text.strip_prefix("*.").unwrap_or(text);
        if null && text == NULL_SENDER || names::check_hostname(name).is_ok() {
            return Ok(Domain::from_text(text));
        }
        let null = if null { ", or `<>` for mail without a sender" } else { "" };
        Err(format!(
            "`{}` is not a domain: write it like `example.net`, or `*.example.net` for all below it{null}",
            text.escape_debug()
        ))
    })
}

fn header(table: &Table, report: &mut Report) -> Option<HeaderRule> {
    let mut section = Section::new(table, "in `header`", report);
    let name = section.parsed("name", |text| {
        // RFC 5322 2.2.
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        match !text.is_empty() && text.bytes().all(allowed) {
            true => Ok(text.to_owned()),
            false => Err(format!("`{}` cannot be a header's name", text.escape_debug())),
        }
    });
    let pattern = section.text("pattern");
    for key in ["name", "pattern"] {
        if section.key_at(key).is_none() {
            section.missing(format!(
                "`header` has no `{key}`: write `{{ name = \"X-Campaign\", pattern = \"spring-*\" }}`"
            ));
        }
    }
    section.close(&TOP_KEYS);
    let (Located { value: name, .. }, pattern) = (name?, pattern?);
    Some(HeaderRule { name, pattern: Glob::new(&pattern.value) })
}
