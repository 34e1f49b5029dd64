//! `[delivery]`: who answers for a message, and the spool.

use std::path::PathBuf;
use std::time::Duration;

use super::super::section::Section;
use super::super::tree::Table;
use super::super::units::parse_duration;
use super::super::{Delivery, Mode};
use super::{TOP_KEYS, names};

const GIB: u64 = 1 << 30;
/// Or as many GiB as there are CPUs, for every shard needs some.
const SPOOL_MAX: u64 = 16 * GIB;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// More steps than anybody has use for; the last repeats.
const RETRY_STEPS_MAX: usize = 64;

const MODES: [(&str, Mode); 3] =
    [("through", Mode::Through), ("spool", Mode::Spool), ("through-then-spool", Mode::ThroughThenSpool)];

/// Reads the section; what is not there has its default, and so has all of it.
pub(super) fn read(top: &mut Section<'_, '_>, hostname: Option<&str>, cpus: usize) -> Delivery {
    let empty = Table::default();
    let table = top.table("delivery").unwrap_or(&empty);
    let mut section = Section::new(table, "in `[delivery]`", top.report);
    let mode = section.choice("mode", &MODES, &[]).unwrap_or(Mode::ThroughThenSpool);
    let bounce_from =
        section.parsed("bounce_from", |text| names::check_mailbox(text).map(|()| text.to_owned()));
    let spool = section.parsed("spool", |text| match text {
        "" => Err("write a directory, like `\"/var/spool/postlane\"`".to_owned()),
        path => Ok(PathBuf::from(path)),
    });
    let delivery = Delivery {
        mode,
        bounce_from: bounce_from.map_or_else(
            || format!("MAILER-DAEMON@{}", hostname.unwrap_or_default()),
            |mailbox| mailbox.value,
        ),
        through_timeout: section.duration(
            "through_timeout",
            Duration::from_secs(10),
            Duration::from_millis(10)..=9 * HOUR / 60,
        ),
        spool: spool.map_or_else(|| PathBuf::from("/var/spool/postlane"), |path| path.value),
        spool_max: section.size("spool_max", SPOOL_MAX.max(GIB * cpus as u64), GIB / 4..=1 << 50),
        sync: section.flag("sync", true),
        retry: retry(&mut section),
        max_age: section.duration("max_age", 4 * DAY, Duration::from_secs(1)..=90 * DAY),
        delay_warning: section.duration("delay_warning", 4 * HOUR, Duration::from_secs(1)..=90 * DAY),
    };
    section.close(&TOP_KEYS);
    delivery
}

fn retry(section: &mut Section<'_, '_>) -> Vec<Duration> {
    let step = |text: &str| {
        let step = parse_duration(text).ok_or_else(|| {
            format!("takes durations like `\"1m\"`, `\"5m\"`, `\"1h\"`, not `\"{}\"`", text.escape_debug())
        })?;
        match step {
            step if (Duration::from_secs(1)..=7 * DAY).contains(&step) => Ok(step),
            _ => Err(format!("`\"{text}\"`: write a duration from 1s to 7d")),
        }
    };
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let default = vec![minutes(1), minutes(5), minutes(15), minutes(60), minutes(120), minutes(240)];
    let at = section.key_at("retry");
    let Some(steps) = section.parsed_list("retry", step) else { return default };
    match at {
        Some(at) if section.is_empty_list("retry") => {
            section.report.wrong(at, "`retry` is empty: write at least one duration, like `[\"5m\"]`");
        }
        Some(at) if steps.len() > RETRY_STEPS_MAX => {
            section.report.wrong(at, format!("`retry` has more than {RETRY_STEPS_MAX} steps"));
        }
        _ => {}
    }
    let steps: Vec<Duration> = steps.into_iter().map(|step| step.value).collect();
    if steps.is_empty() { default } else { steps }
}
