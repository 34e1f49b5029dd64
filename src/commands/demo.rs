//! `postlane serve --demo`: the whole product in one process, with three upstreams of different speed behind it.

use std::fs::DirBuilder;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use postlane::config::Config;
use postlane::control::{self, Running, View};
use postlane::observe::Snapshot;
use postlane::observe::status::final_replies;
use postlane::sys::signals;
use postlane_bench::sink;

use super::{OS_REFUSED, fail, machine, serve};

const UPSTREAMS: [(&str, Duration); 3] = [
    ("fast", Duration::from_millis(1)),
    ("medium", Duration::from_millis(5)),
    ("slow", Duration::from_millis(20)),
];

pub(super) fn run() -> ExitCode {
    let (machine, _) = match machine() {
        Ok(machine) => machine,
        Err(code) => return code,
    };
    // Before any thread is started: none of the sinks' is to die of Ctrl-C.
    signals::block();
    let mut sinks = Vec::new();
    let mut upstreams = String::new();
    for (name, latency) in UPSTREAMS {
        let options =
            sink::Options { listen: vec![([127, 0, 0, 1], 0).into()], latency, ..sink::Options::default() };
        let sink = match sink::spawn(options) {
            Ok(sink) => sink,
            Err(error) => {
                return fail(OS_REFUSED, format!("the demo's upstreams cannot be started: {error}"));
            }
        };
        let address = sink.addresses()[0];
        upstreams += &format!("[[pool.upstream]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        sinks.push(sink);
    }
    let spool = match TemporarySpool::new() {
        Ok(spool) => spool,
        Err(error) => return fail(OS_REFUSED, format!("the demo's spool cannot be made: {error}")),
    };
    let text = format!("{CONFIGURATION}\n{upstreams}\n[delivery]\nspool = {:?}\n", spool.0);
    let config = match Config::parse("demo", &text, &machine) {
        Ok(config) => config,
        Err(errors) => return fail(super::BAD_CONFIGURATION, errors),
    };
    let announce = |running: &Running| {
        serve::announce(running, &config);
        eprint!("{WELCOME}");
    };
    let mut live = LiveLine::default();
    let code = serve::end(control::serve(&config, None, &machine, announce, move |view| live.show(view)));
    for (sink, (name, _)) in sinks.into_iter().zip(UPSTREAMS) {
        if let Ok((counts, _)) = sink.stop() {
            eprintln!("upstream {name} took {} messages", counts.messages);
        }
    }
    code
}

const CONFIGURATION: &str = r#"
hostname = "demo.postlane.example"
drain_timeout = "5s"
[admin]
listen = "127.0.0.1:8025"
[[listener]]
name = "demo"
address = "127.0.0.1:2525"
max_sessions = 2000
[[pool]]
name = "farm"
"#;

const WELCOME: &str = r"
Send a first mail from another terminal, any of these:
  curl smtp://127.0.0.1:2525 --mail-from you@example.com --mail-rcpt friend@example.org --crlf -T README.md
  swaks --server 127.0.0.1:2525 --from you@example.com --to friend@example.org
  postlane bench --target 127.0.0.1:2525 --duration 10s
Look at http://127.0.0.1:8025/metrics meanwhile. Ctrl-C ends the demo.

";

/// A directory that is there as long as this is.
struct TemporarySpool(PathBuf);

impl TemporarySpool {
    fn new() -> io::Result<TemporarySpool> {
        let path = std::env::temp_dir().join(format!("postlane-demo-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(TemporarySpool(path))
    }
}

impl Drop for TemporarySpool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("postlane: the demo's spool {} is left: {error}", self.0.display());
        }
    }
}

/// One line of live numbers a second: over itself on a terminal, below each other in a pipe.
#[derive(Default)]
struct LiveLine {
    accepted: u64,
    delivered: Vec<u64>,
    replies: Vec<Snapshot>,
    said: bool,
}

impl LiveLine {
    fn show(&mut self, view: &View) {
        let status = view.status();
        let upstreams = &status.pools[0].upstreams;
        self.delivered.resize(upstreams.len(), 0);
        self.replies.resize(upstreams.len(), Snapshot::default());
        let accepted: u64 = status.listeners.iter().map(|listener| listener.accepted).sum();
        let mut line = format!("accepted {accepted} ({}/s)", accepted - self.accepted);
        let still = accepted == self.accepted;
        self.accepted = accepted;
        for (i, upstream) in upstreams.iter().enumerate() {
            let replies = final_replies(&view.shards(), 0, i);
            let p50 = replies.since(&self.replies[i]).quantile(0.5) as f64 / 1e6;
            let rate = upstream.delivered - self.delivered[i];
            line += &format!("  | {} {} ({rate}/s, p50 {p50:.1} ms)", upstream.name, upstream.delivered);
            self.delivered[i] = upstream.delivered;
            self.replies[i] = replies;
        }
        let mut out = io::stdout();
        if out.is_terminal() {
            let _ = write!(out, "\r\x1b[K{line}");
        } else if !(still && self.said) {
            let _ = writeln!(out, "{line}");
        }
        self.said = true;
        let _ = out.flush();
    }
}
