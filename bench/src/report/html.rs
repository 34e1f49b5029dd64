//! One page that holds everything: no script, no font, no image from elsewhere; light and dark.

use std::fmt::Write;

use super::Report;
use super::plot::{Plot, nice_ticks, tick_text};
use crate::load::BIN_MS;
use crate::text::{grouped, micros};

const STYLE: &str = include_str!("style.css");

/// Longest throughput curve, in points; above it, bins are taken together to full seconds and more.
const POINTS_MAX: usize = 300;

pub(super) fn page(report: &Report) -> String {
    let mut out = String::with_capacity(64 << 10);
    let label = escape(&report.label);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{label} – Postlane bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>{label}</h1><p>{} · {} CPUs · {} · Linux {}</p></header>\n",
        report.when,
        report.machine.cpus,
        escape(&report.machine.cpu_model),
        escape(&report.machine.kernel),
    );
    tiles(report, &mut out);
    let _ =
        write!(out, "<section><h2>Latency by percentile</h2>\n{}</section>\n", latency_plot(report).svg());
    let _ =
        write!(out, "<section><h2>Throughput over time</h2>\n{}</section>\n", throughput_plot(report).svg());
    out.push_str("<div class=\"tables\">\n");
    table("Outcome", &report.outcome(), &mut out);
    table("Latency", &report.latencies(), &mut out);
    table("Cost of the process measured", &report.cost(), &mut out);
    let options: Vec<_> = report.options.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    table("Options", &options, &mut out);
    out.push_str("</div>\n");
    if !report.notes.is_empty() {
        let notes = report.notes.iter().map(|note| format!("<li>{}</li>", escape(note)));
        let _ = writeln!(
            out,
            "<section class=\"notes\"><h2>To judge it by</h2><ul>{}</ul></section>",
            notes.collect::<String>()
        );
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn tiles(report: &Report, out: &mut String) {
    let load = &report.load;
    let failed = load.not_acknowledged();
    let mut tiles = vec![
        ("messages per second", grouped(load.rate.round() as u64), ""),
        ("median latency", micros(load.latency.percentile_us(50.0) as f64), ""),
        ("99th percentile", micros(load.latency.percentile_us(99.0) as f64), ""),
        ("not acknowledged", grouped(failed), if failed > 0 { " bad" } else { "" }),
    ];
    if let Some(cpu) = report.cpu_us_per_message {
        tiles.insert(1, ("CPU per message", format!("{cpu:.1} µs"), ""));
    }
    out.push_str("<div class=\"tiles\">\n");
    for (name, value, class) in tiles {
        let _ = writeln!(out, "<div class=\"tile{class}\"><b>{value}</b><span>{name}</span></div>");
    }
    out.push_str("</div>\n");
}

/// Percentiles on HdrHistogram's axis: each nine takes the same room.
fn latency_plot(report: &Report) -> Plot<'static> {
    let histogram = report.load.latency.histogram();
    // The last one in so many messages is as far as the curve can be known.
    let nines_max = (histogram.len().max(10) as f64).log10();
    let points = histogram.iter_quantiles(20).map(|step| {
        let nines = -(1.0 - step.quantile_iterated_to()).max(f64::MIN_POSITIVE).log10();
        (nines.min(nines_max), step.value_iterated_to() as f64 / 1e3)
    });
    let points: Vec<(f64, f64)> = points.filter(|point| point.0.is_finite()).collect();
    let ticks = [
        (0.0, "0 %"),
        (0.5f64, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
        (0.999999, "99.9999 %"),
    ];
    Plot {
        title: "Latency in milliseconds by percentile",
        x_label: "percentile",
        y_label: "latency, ms",
        x_ticks: ticks.map(|(quantile, name)| (-(1.0 - quantile).log10(), name.to_owned())).to_vec(),
        points,
        steps: false,
    }
}

fn throughput_plot(report: &Report) -> Plot<'static> {
    let bins = &report.load.acknowledged_per_100ms;
    let per_second = 1_000 / BIN_MS as usize;
    let group =
        if bins.len() <= POINTS_MAX { 1 } else { per_second * bins.len().div_ceil(POINTS_MAX * per_second) };
    let width = group as f64 * BIN_MS as f64 / 1e3;
    let total = report.load.elapsed.as_secs_f64();
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (index, chunk) in bins.chunks(group).enumerate() {
        let start = index as f64 * width;
        let covered = (total - start).min(width);
        // A last sliver of a bin says more about chance than about speed.
        if covered >= width / 4.0 || points.is_empty() {
            points.push((start, chunk.iter().sum::<u64>() as f64 / covered.max(1e-3)));
        }
    }
    if let Some(last) = points.last().copied() {
        points.push((total.max(last.0), last.1));
    }
    let ticks = nice_ticks(total);
    let x_ticks = ticks.iter().map(|tick| (*tick, tick_text(*tick, total))).collect();
    Plot {
        title: "Messages acknowledged per second over time",
        x_label: "seconds",
        y_label: "messages per second",
        x_ticks,
        points,
        steps: true,
    }
}

fn table(title: &str, rows: &[(String, String)], out: &mut String) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "<section><h2>{title}</h2><table>");
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    out.push_str("</table></section>\n");
}

/// Text as HTML shows it literally, in attributes too.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
