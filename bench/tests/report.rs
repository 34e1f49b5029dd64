//! A whole run, and the four forms of its report.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use postlane_bench::load;
use postlane_bench::measure::Sampler;
use postlane_bench::report::{Comparison, Report};
use postlane_bench::sink;

fn run(fail: &str) -> Report {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let fail = fail.split_whitespace().map(|rule| rule.parse().expect("a rule")).collect();
    let sink = sink::spawn(sink::Options { listen, fail, ..Default::default() }).expect("binds");
    let mut options = load::Options::to(sink.addresses()[0]);
    options.rate = Some(1_000.0);
    options.duration = Some(Duration::from_millis(500));
    let sampler = Sampler::start(std::process::id()).expect("this process");
    let result = load::run(&options, &AtomicBool::new(false), &mut ()).expect("runs");
    let usage = sampler.finish().expect("this process");
    let arrived = sink.counts().messages;
    Report::new("a <run> & more", &options, result, Some(usage), Some(arrived)).with_option("upstreams", 3)
}

#[test]
fn the_numbers_agree_in_every_form() {
    let report = run("");
    assert_eq!((report.load.acknowledged, report.arrived), (500, Some(500)));
    let cpu = report.cpu_us_per_message.expect("it was measured");
    assert!((cpu * 500.0 - report.process.as_ref().expect("it was measured").cpu_us).abs() < 1.0);

    let json: serde_json::Value = serde_json::from_str(&report.json().expect("JSON")).expect("JSON");
    assert_eq!(json["load"]["acknowledged"], 500);
    assert_eq!(json["load"]["latency_us"]["count"], 500);
    assert_eq!(json["options"]["rate"], "1000/s");
    assert_eq!(json["options"]["upstreams"], "3");
    assert!(json["load"]["elapsed_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.49));
    assert!(json["when"].as_str().is_some_and(|when| when.starts_with("20") && when.ends_with('Z')));

    let text = report.to_string();
    assert!(
        text.contains("acknowledged") && text.contains("latency p99.9") && text.contains("CPU per message")
    );
    assert!(text.contains("not counted: not asked for"), "{text}");
    assert!(!text.contains("refused"), "{text}");

    assert!(report.hgrm().contains("Total count    =          500]"), "{}", report.hgrm());

    let html = report.html();
    assert!(html.contains("a &lt;run&gt; &amp; more") && !html.contains("<run>"));
    assert_eq!(html.matches("<svg").count(), 2);
    for elsewhere in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!html.contains(elsewhere), "the page must not need {elsewhere}");
    }
}

#[test]
fn trouble_is_told() {
    let report = run("rcpt:450:0.2 eod:554:0.1");
    let text = report.to_string();
    assert!(text.contains("refused 450 at rcpt") && text.contains("refused 554 at eod"), "{text}");
    assert!(report.html().contains("tile bad"));
    let shown = Comparison(std::slice::from_ref(&report)).to_string();
    let failed = (500 - report.load.acknowledged).to_string();
    assert!(shown.lines().nth(1).is_some_and(|line| line.ends_with(&failed)), "{shown}");
    assert_eq!(report.arrived, Some(report.load.acknowledged));
}
