//! `[[listener]]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::{MIB, TOP_KEYS, Taken, names};
use crate::config::error::Report;
use crate::config::section::Section;
use crate::config::tree::Table;
use crate::config::units::Size;
use crate::config::{Backend, Listener, Network};

const ADDRESSES_MAX: usize = 64;
const TRUSTED_MAX: usize = 4096;

/// All listeners that are right; what is wrong with the others is reported.
pub(super) fn all(
    tables: &[&Table],
    report: &mut Report,
    named: &mut Taken<String>,
    listened: &mut Taken<SocketAddr>,
    top: (u64, Backend),
) -> Vec<Listener> {
    tables.iter().filter_map(|table| one(table, report, named, listened, top)).collect()
}

fn one(
    table: &Table,
    report: &mut Report,
    named: &mut Taken<String>,
    listened: &mut Taken<SocketAddr>,
    (memory, top_backend): (u64, Backend),
) -> Option<Listener> {
    let mut section = Section::new(table, "in `[[listener]]`", report);
    let name = names::name(&mut section, "[[listener]]", named);
    let addresses = addresses(&mut section, listened);
    let backend = backend(&mut section, top_backend, addresses.as_deref().unwrap_or_default());
    let trusted = trusted(&mut section);
    let max_message = section.size("max_message", 25 * MIB, 1024..=2048 * MIB);
    if max_message > memory {
        let at = section.key_at("max_message").unwrap_or(section.at());
        let (message, memory) = (Size(max_message), Size(memory));
        section.report.wrong(at, format!("`max_message` is {message}, but `memory` for all bodies is {memory}: lower it, or raise `memory`"));
    }
    let max_recipients = section.count("max_recipients", 1000, 1..=100_000);
    let max_sessions = section.count("max_sessions", 20_000, 1..=1_000_000);
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(24 * 3600));
    let idle_timeout = section.duration("idle_timeout", Duration::from_secs(300), least..=most);
    section.choice("tls", &[("off", ())], &["optional", "required", "implicit"]);
    section.choice("bare_newline", &[("reject", ())], &["normalize"]);
    section.only_false("proxy_protocol");
    for key in ["certificate", "key"] {
        section.later(key, "remove it; there is no TLS yet");
    }
    section.later("auth", "remove it; `trusted` says who may relay");
    section.later("xclient", "remove it");
    section.close(&TOP_KEYS);
    Some(Listener {
        name: name?.value,
        addresses: addresses?,
        backend,
        trusted,
        max_message,
        max_recipients,
        max_sessions,
        idle_timeout,
    })
}

fn addresses(section: &mut Section<'_, '_>, listened: &mut Taken<SocketAddr>) -> Option<Vec<SocketAddr>> {
    let Some(addresses) = section.parsed_list("address", |text| names::parse_address(text, 2525)) else {
        if section.key_at("address").is_none() {
            section.missing("`[[listener]]` has no `address`: add `address = \"127.0.0.1:2525\"`");
        }
        return None;
    };
    let at = section.key_at("address").unwrap_or(section.at());
    if section.is_empty_list("address") {
        section.report.wrong(at, "`address` is an empty list: write at least one, like `\"127.0.0.1:2525\"`");
    } else if addresses.len() > ADDRESSES_MAX {
        section.report.wrong(at, format!("`address` lists {}: at most {ADDRESSES_MAX}", addresses.len()));
    }
    for address in &addresses {
        listened.claim(section.report, address, |value| format!("`{value}` is already listened on"));
    }
    Some(addresses.into_iter().map(|address| address.value).collect())
}

/// Where it is not written: the kernel's, for its packet filter does not see what goes past it.
fn backend(section: &mut Section<'_, '_>, top: Backend, addresses: &[SocketAddr]) -> Backend {
    let choices = [("uring", Backend::Uring), ("xdp", Backend::Xdp)];
    let is_local = !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback());
    let Some(written) = section.choice("backend", &choices, &[]) else {
        return Backend::Uring;
    };
    let wrong = match (written, top) {
        (Backend::Xdp, Backend::Uring) => {
            "`backend = \"xdp\"` of a listener needs the same at the top of the file, and `[xdp]`"
        }
        (Backend::Xdp, Backend::Xdp) if is_local => {
            "nothing for a loopback address comes by an interface: write `\"uring\"`, or another `address`"
        }
        _ => return written,
    };
    let at = section.key_at("backend").unwrap_or(section.at());
    section.report.wrong(at, wrong);
    written
}

fn trusted(section: &mut Section<'_, '_>) -> Vec<Network> {
    let Some(networks) = section.parsed_list("trusted", |text| text.parse::<Network>()) else {
        return ["127.0.0.0/8", "::1/128"].map(|text| text.parse().expect("a network")).to_vec();
    };
    if let Some(beyond) = networks.get(TRUSTED_MAX) {
        section.report.wrong(beyond.at, format!("`trusted` lists {}: at most {TRUSTED_MAX}", networks.len()));
    }
    networks.into_iter().map(|network| network.value).collect()
}
