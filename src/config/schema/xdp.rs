//! `backend` and `[xdp]`: how upstream bytes travel.

use std::ops::RangeInclusive;

use super::super::error::Report;
use super::super::section::Section;
use super::super::tree::Table;
use super::super::{CpuList, Xdp, XdpMode};
use super::TOP_KEYS;

/// Above those that the kernel gives away unless told otherwise.
const PORTS: RangeInclusive<u16> = 61_000..=65_535;
/// Fewer are no use.
const PORTS_MIN: usize = 64;
const QUEUES_MAX: u32 = 1_024;

/// The section, if it is there and right.
pub(super) fn read(table: &Table, report: &mut Report) -> Option<Xdp> {
    let mut section = Section::new(table, "in `[xdp]`", report);
    let interface = section.parsed("interface", |text| {
        // IFNAMSIZ, less the end of the string; what the kernel takes for a name.
        let is_name = !text.is_empty() && text.len() < 16 && !text.contains(['/', ':', ' ']);
        if is_name { Ok(text.to_owned()) } else { Err(format!("`{text}` is no name of an interface")) }
    });
    if section.key_at("interface").is_none() {
        section.missing(
            "`[xdp]` has no `interface`: add `interface = \"eth1\"` (`ip link` lists those there are)",
        );
    }
    let queues = queues(&mut section);
    let modes = [
        ("auto", None),
        ("zero-copy", Some(XdpMode::ZeroCopy)),
        ("copy", Some(XdpMode::Copy)),
        ("generic", Some(XdpMode::Generic)),
    ];
    let mode = section.choice("mode", &modes, &[]).flatten();
    let ports = section.parsed("ports", parse_ports);
    let fallback = section.flag("fallback", false);
    section.close(&TOP_KEYS);
    Some(Xdp {
        interface: interface?.value,
        queues,
        mode,
        ports: ports.map_or(PORTS, |ports| ports.value),
        fallback,
    })
}

fn queues(section: &mut Section<'_, '_>) -> Option<Vec<u32>> {
    if section.is_number("queues") {
        let count = section.count("queues", 1, 1..=QUEUES_MAX);
        return Some((0..count).collect());
    }
    let parsed = section.parsed("queues", |text| match text {
        "auto" => Ok(None),
        _ => match text.parse::<CpuList>() {
            Ok(list) if list.0.iter().all(|&queue| queue < QUEUES_MAX) => Ok(Some(list.0)),
            _ => Err(format!(
                "`{text}` is no list of queues: write `\"auto\"`, a number without quotes, or `\"0-3\"`"
            )),
        },
    });
    parsed.and_then(|parsed| parsed.value)
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?));
    match parsed {
        Some(range) if *range.start() >= 1_024 && range.len() >= PORTS_MIN => Ok(range),
        Some(_) => {
            Err(format!("`{text}`: write at least {PORTS_MIN} ports from 1024 on, like `\"61000-65535\"`"))
        }
        None => Err(format!("`{text}` is no range of ports: write it like `\"61000-65535\"`")),
    }
}
