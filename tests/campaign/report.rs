//! The campaign as a table and as a page with plots.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use postlane::balance::Policy;

use super::brain::Way;
use super::outcome::Outcome;
use super::play::play_with;
use super::scenario::{FROM, MS, Nanos, SECOND, Scenario, TO};
use super::{ms, run};

const FLEETS: [usize; 3] = [4, 16, 64];

/// Plays everything; prints the table and writes `target/campaign.html`.
pub(crate) fn campaign(seed: u64) {
    let mut page = String::from(HEAD);
    let _ = writeln!(
        page,
        "<h1>Balance under trouble</h1><p>Seed {seed}. Virtual time; the trouble lasts from second \
         5 to second 17; times are of messages that came in these. Shaded: while it lasts.</p>"
    );
    println!("seed {seed}; times in ms, of messages that came while the trouble was on");
    for scenario in Scenario::ALL {
        for fleet in FLEETS {
            println!("\n{}, {fleet} upstreams", scenario.label());
            println!("{HEADER}");
            let _ = writeln!(page, "<h2>{}, {fleet} upstreams</h2><table>{ROW_HEAD}", scenario.label());
            let mut lines = Vec::new();
            for way in Way::all() {
                let mut outcome = run(way, scenario, fleet, None, seed);
                let cells = cells(way, scenario, &mut outcome);
                println!("{}", text_row(&cells));
                let row: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
                let _ = writeln!(page, "<tr>{row}</tr>");
                lines.push((way, outcome));
            }
            let _ = writeln!(page, "</table>{}", plot(&lines));
        }
    }
    returns(seed);
    super::knee::report(seed);
    page.push_str("</main>");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/campaign.html");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, page).unwrap();
    println!("\nplots: {}", path.display());
}

/// How long those affected take, from the end of the trouble, until they get four fifths of their fair share again:
/// at once when they are found well, and with a slow start.
pub(crate) fn returns(seed: u64) {
    let scenarios = [Scenario::HalfVanish, Scenario::BlackHoles, Scenario::FailsFast];
    println!("\nfair again after, 4 upstreams, seed {seed}: slow_start 0 s and 10 s");
    for scenario in scenarios {
        println!("{}", scenario.label());
        for policy in Policy::ALL {
            let after = [0, 10].map(|seconds| {
                let slow_start = Duration::from_secs(seconds);
                play_with(Way::Policy(policy), scenario, 4, None, seed, slow_start).returned_after()
            });
            let [at_once, slowly] = after.map(|nanos| match nanos {
                Some(nanos) => format!("{:.1} s", ms(nanos) / 1e3),
                None => "never".to_owned(),
            });
            println!("  {:<28} {at_once:>8} {slowly:>8}", policy.label());
        }
    }
}

const HEADER: &str =
    "policy                            p50      p99    p99.9   failed  noticed    fair again   share";
const ROW_HEAD: &str = "<tr><th>policy<th>p50 ms<th>p99 ms<th>p99.9 ms<th>failed<th>noticed after ms<th>fair again \
                        after ms<th>share of those affected</tr>";

fn cells(way: Way, scenario: Scenario, outcome: &mut Outcome) -> [String; 8] {
    let after = |nanos: Option<Nanos>| match (scenario, nanos) {
        (Scenario::Larger, _) => String::new(),
        (_, None) => "never".to_owned(),
        (_, Some(nanos)) => format!("{:.0}", ms(nanos)),
    };
    [
        way.label().to_owned(),
        format!("{:.1}", ms(outcome.percentile(0.5))),
        format!("{:.1}", ms(outcome.percentile(0.99))),
        format!("{:.1}", ms(outcome.percentile(0.999))),
        format!("{:.2} %", outcome.failure_share() * 100.0),
        after(outcome.noticed_after()),
        after(outcome.returned_after()),
        format!("{:.2} %", outcome.share_of_affected() * 100.0),
    ]
}

fn text_row(cells: &[String; 8]) -> String {
    let [way, p50, p99, p999, failed, noticed, returned, share] = cells;
    format!("{way:<29} {p50:>7} {p99:>8} {p999:>8} {failed:>8} {noticed:>8} {returned:>13} {share:>7}")
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 30.0;
/// The y axis: from a millisecond to ten seconds, by powers of ten.
const DECADES: f64 = 4.0;

/// The longest time of a message by when it came, each tenth of a second, on a logarithmic axis.
fn plot(lines: &[(Way, Outcome)]) -> String {
    let end = lines.first().map_or(1, |(_, outcome)| outcome.worst.len());
    let x = |tenth: f64| LEFT + tenth / end as f64 * (WIDTH - LEFT);
    let y = |ms: f64| (HEIGHT - BOTTOM) * (1.0 - ms.clamp(1.0, 10_000.0).log10() / DECADES);
    let tenth = |nanos: Nanos| nanos as f64 / (SECOND / 10) as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let (from, to) = (x(tenth(FROM)), x(tenth(TO)));
    let _ = write!(
        svg,
        "<rect x=\"{from}\" width=\"{}\" height=\"{}\" class=\"fault\"/>",
        to - from,
        HEIGHT - BOTTOM
    );
    for (ms, text) in [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1000.0, "1 s"), (10_000.0, "10 s")]
    {
        let at = y(ms);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{WIDTH}\"/><text x=\"0\" y=\"{:.1}\">{text}</text>",
            at + 4.0
        );
    }
    for second in (0..=50).step_by(5) {
        let at = x(f64::from(second) * 10.0);
        let _ = write!(svg, "<text x=\"{at:.0}\" y=\"{}\">{second} s</text>", HEIGHT - 8.0);
    }
    for (number, (way, outcome)) in lines.iter().enumerate() {
        let mut path = String::new();
        for (tenth, worst) in outcome.worst.iter().enumerate().filter(|(_, worst)| **worst > 0) {
            let to = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{to}{:.1} {:.1}", x(tenth as f64), y(*worst as f64 / MS as f64));
        }
        let hue = number * 360 / lines.len();
        let _ = write!(
            svg,
            "<path fill=\"none\" stroke=\"hsl({hue} 70% 45%)\" d=\"{path}\"><title>{}</title></path>",
            way.label()
        );
    }
    svg.push_str("</svg><p class=\"key\">");
    for (number, (way, _)) in lines.iter().enumerate() {
        let hue = number * 360 / lines.len();
        let _ = write!(svg, "<span style=\"color:hsl({hue} 70% 45%)\">■</span> {} &nbsp; ", way.label());
    }
    svg + "</p>"
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Balance under trouble</title><style>\
    body{font:15px/1.5 system-ui,sans-serif;margin:2rem}main{max-width:60rem;margin:auto}table{border-collapse:collapse}\
    td,th{padding:.1rem .7rem;text-align:right}td:first-child,th:first-child{text-align:left}svg{width:100%}\
    svg text{font-size:11px;fill:#666}.grid{stroke:#ddd}.fault{fill:#f4e9e9}.key{font-size:13px}</style><main>";
