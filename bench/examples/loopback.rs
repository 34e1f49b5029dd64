//! What generator and sink cost by themselves: one against the other, each on its thread, over loopback.
//!
//! `cargo run --release -p postlane-bench --example loopback [seconds] [sessions] [size] [per-connection] [html-prefix]`

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use postlane_bench::load::{self, Exchange};
use postlane_bench::report::Report;
use postlane_bench::{measure, progress, sink};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| arguments.get(index).cloned().unwrap_or(default.to_owned());
    println!(
        "{:<12} {:>10} {:>14} {:>14} {:>9} {:>9}",
        "exchange", "msg/s", "load µs/msg", "sink µs/msg", "p50 µs", "p99 µs"
    );
    for exchange in [Exchange::Plain, Exchange::Pipelining, Exchange::Chunking] {
        let sink = sink::spawn(sink::Options { listen: vec!["127.0.0.1:0".parse()?], ..Default::default() })?;
        let mut options = load::Options::to(sink.addresses()[0]);
        options.duration = Some(Duration::from_secs_f64(argument(0, "2").parse()?));
        options.sessions = argument(1, "64").parse()?;
        options.size = argument(2, "10KiB").parse()?;
        options.per_connection = argument(3, "0").parse().ok().filter(|most| *most > 0);
        options.exchange = exchange;
        let before = measure::thread_cpu();
        let result = load::run(&options, &AtomicBool::new(false), &mut progress::Line::new())?;
        let load_us = (measure::thread_cpu() - before).as_secs_f64() * 1e6;
        let (counts, spent) = sink.stop()?;
        assert_eq!(counts.messages, result.acknowledged);
        let each = result.acknowledged as f64;
        println!(
            "{:<12} {:>10.0} {:>14.2} {:>14.2} {:>9} {:>9}",
            format!("{exchange:?}"),
            result.rate,
            load_us / each,
            spent.as_secs_f64() * 1e6 / each,
            result.latency.percentile_us(50.0),
            result.latency.percentile_us(99.0),
        );
        if let Some(prefix) = arguments.get(4) {
            let label = format!("Generator against sink, {exchange:?}");
            let report = Report::new(&label, &options, result, None, Some(counts.messages));
            std::fs::write(format!("{prefix}-{exchange:?}.html"), report.html())?;
            println!("{report}");
        }
    }
    Ok(())
}
