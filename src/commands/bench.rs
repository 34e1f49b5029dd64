//! `postlane bench`.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use postlane::sys::signals;
use postlane_bench::load::{self, Exchange, Observer, Progress, SizeMix};
use postlane_bench::measure::{Sampler, Usage};
use postlane_bench::progress::Line;
use postlane_bench::report::Report;
use postlane_bench::sink;

use super::sink::stop_on_signal;
use super::{DATA, OS_REFUSED, UNAVAILABLE, check, duration, fail};

/// How long the dispatcher may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(
    after_help = "Example: postlane bench --upstreams 3 --upstream-latency 1ms,5ms,20ms --duration 10s\n\
    Without --target it starts a dispatcher of its own, with sinks behind it, and measures that one's CPU time.\n\
    With --rate, latency counts from the time a message was due, not from when it could be sent."
)]
pub(crate) struct Arguments {
    /// The server to load; without it a dispatcher and sinks are started
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<SocketAddr>,
    /// The process behind --target, on this machine: its CPU time is measured
    #[arg(long, requires = "target")]
    pid: Option<u32>,
    /// Sinks behind the dispatcher that is started
    #[arg(long, default_value_t = 3, conflicts_with = "target", value_parser = clap::value_parser!(u16).range(1..=64))]
    upstreams: u16,
    /// Their response times, in turn
    #[arg(long, value_delimiter = ',', value_parser = duration, default_value = "0ms", conflicts_with = "target")]
    upstream_latency: Vec<Duration>,
    /// Shards of the dispatcher that is started: auto, a number, or CPUs like 2-9
    #[arg(long, default_value = "auto", conflicts_with = "target")]
    shards: String,
    /// Its links from one shard to one upstream
    #[arg(long, default_value_t = 8, conflicts_with = "target")]
    links_per_shard: u16,
    /// Sessions at the same time
    #[arg(long, default_value_t = 64)]
    sessions: usize,
    /// Messages to send
    #[arg(long, conflicts_with = "duration")]
    messages: Option<u64>,
    /// How long to send [default: 10s]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Send for this long before anything counts
    #[arg(long, value_parser = duration, default_value = "1s")]
    warmup: Duration,
    /// Messages per second, at fixed times; without it as fast as it goes
    #[arg(long)]
    rate: Option<f64>,
    /// Size of a message, or a mix: 1KiB:0.5,10KiB:0.4,100KiB:0.1
    #[arg(long, default_value = "10KiB")]
    size: SizeMix,
    /// Recipients of each message
    #[arg(long, default_value_t = 1)]
    recipients: usize,
    /// Recipient domains
    #[arg(long, default_value_t = 100)]
    domains: usize,
    /// MAIL, RCPT and DATA in one send
    #[arg(long, conflicts_with = "chunking")]
    pipelining: bool,
    /// MAIL, RCPT and the message by BDAT in one send; the target must offer CHUNKING
    #[arg(long)]
    chunking: bool,
    /// With --chunking: messages sent on a connection before the first of them is answered
    #[arg(long, default_value_t = 1, requires = "chunking")]
    in_flight: usize,
    /// How long a session waits, for an answer or to be read, before it is given up
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "60s")]
    patience: Duration,
    /// Messages on one connection; without it all there are
    #[arg(long)]
    per_connection: Option<u64>,
    /// Not in this version
    #[arg(long, hide = true)]
    tls: bool,
    /// Count system calls too, by perf; that makes them dearer, so leave it out where CPU time matters
    #[arg(long)]
    syscalls: bool,
    /// Write the results as JSON; - prints them
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latencies as an HdrHistogram percentile distribution
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Write what became of every single message, as CSV: number, when it was due, how long it took, how it ended
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write one self-contained page with the plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    if arguments.tls {
        return fail(UNAVAILABLE, "--tls is not available in this version; leave it out");
    }
    signals::block();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone());
    let ground = match &arguments.target {
        Some(target) => Ground { target: *target, pid: arguments.pid, own: None },
        None => match start_own(&arguments) {
            Ok(ground) => ground,
            Err(error) => {
                return fail(OS_REFUSED, format!("the dispatcher to be measured cannot be started: {error}"));
            }
        },
    };
    let options = options(&arguments, ground.target);
    let mut watch =
        Watch { line: Line::new(), pid: ground.pid, calls: arguments.syscalls, sampler: None, usage: None };
    let result = match load::run(&options, &stop, &mut watch) {
        Ok(result) => result,
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::InvalidInput { super::USAGE } else { UNAVAILABLE };
            return fail(code, format!("{}: {error}", ground.target));
        }
    };
    drop(watch.line);
    let own = ground.own.is_some();
    let arrived = ground.own.map(Own::end);
    let lost = arrived.is_some_and(|arrived| arrived < result.acknowledged);
    let failed = result.acknowledged == 0;
    let label =
        if own { format!("postlane {}", env!("CARGO_PKG_VERSION")) } else { ground.target.to_string() };
    let mut report = Report::new(&label, &options, result, watch.usage, arrived);
    if own {
        let latencies: Vec<String> = arguments.upstream_latency.iter().map(|l| format!("{l:?}")).collect();
        report = report
            .with_option("upstreams", arguments.upstreams)
            .with_option("upstream-latency", latencies.join(","))
            .with_option("shards", &arguments.shards)
            .with_option("links-per-shard", arguments.links_per_shard);
    }
    match write(&arguments, &report) {
        Err(error) => fail(OS_REFUSED, error),
        Ok(()) if lost => fail(DATA, "fewer messages arrived at the sinks than were acknowledged"),
        Ok(()) if failed => fail(UNAVAILABLE, "not one message was acknowledged"),
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn options(arguments: &Arguments, target: SocketAddr) -> load::Options {
    let exchange = match (arguments.pipelining, arguments.chunking) {
        (_, true) => Exchange::Chunking,
        (true, false) => Exchange::Pipelining,
        (false, false) => Exchange::Plain,
    };
    let unbounded = arguments.messages.is_none() && arguments.duration.is_none();
    load::Options {
        sessions: arguments.sessions,
        reply_timeout: arguments.patience,
        messages: arguments.messages,
        duration: if unbounded { Some(Duration::from_secs(10)) } else { arguments.duration },
        rate: arguments.rate,
        size: arguments.size.clone(),
        recipients: arguments.recipients,
        domains: arguments.domains,
        exchange,
        in_flight: arguments.in_flight,
        per_connection: arguments.per_connection,
        warmup: arguments.warmup,
        log: arguments.log.is_some(),
        ..load::Options::to(target)
    }
}

fn write(arguments: &Arguments, report: &Report) -> Result<(), String> {
    let to_file = |path: &PathBuf, text: &str| {
        std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
    };
    match &arguments.json {
        Some(path) if path.as_os_str() == "-" => check::print_json(report),
        Some(path) => {
            to_file(path, &report.json().map_err(|error| error.to_string())?)?;
            print!("{report}");
        }
        None => print!("{report}"),
    }
    if let Some(path) = &arguments.hgrm {
        to_file(path, &report.hgrm())?;
    }
    if let Some(path) = &arguments.log {
        to_file(path, &report.load.log_csv())?;
    }
    if let Some(path) = &arguments.html {
        to_file(path, &report.html())?;
    }
    Ok(())
}

/// Draws the line and samples the process while it counts.
struct Watch {
    line: Line,
    pid: Option<u32>,
    calls: bool,
    sampler: Option<Sampler>,
    usage: Option<Usage>,
}

impl Observer for Watch {
    fn measuring(&mut self) {
        let start = if self.calls { Sampler::start_counting_calls } else { Sampler::start };
        self.sampler = self.pid.and_then(|pid| {
            start(pid)
                .inspect_err(|error| eprintln!("postlane: process {pid} cannot be measured: {error}"))
                .ok()
        });
    }

    fn measured(&mut self) {
        self.usage = self.sampler.take().and_then(|sampler| sampler.finish().ok());
        self.line.measured();
    }

    fn progress(&mut self, progress: &Progress) {
        self.line.progress(progress);
    }
}

/// What is loaded.
struct Ground {
    target: SocketAddr,
    pid: Option<u32>,
    own: Option<Own>,
}

/// A dispatcher and sinks of our own.
struct Own {
    dispatcher: Child,
    configuration: PathBuf,
    sinks: Vec<sink::Handle>,
}

fn start_own(arguments: &Arguments) -> io::Result<Ground> {
    let latencies = arguments.upstream_latency.iter().cycle();
    let start = |latency: &Duration| {
        let listen = vec![([127, 0, 0, 1], 0).into()];
        sink::spawn(sink::Options { listen, latency: *latency, ..sink::Options::default() })
    };
    let sinks =
        latencies.take(usize::from(arguments.upstreams)).map(start).collect::<io::Result<Vec<_>>>()?;
    // A port that was free a moment ago; the kernel gives it to nobody else so soon.
    let target = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let quoted = arguments
        .shards
        .parse::<u16>()
        .map_or_else(|_| format!("\"{}\"", arguments.shards), |n| n.to_string());
    let mut text = format!(
        "hostname = \"bench.postlane.example\"\nshards = {quoted}\ndrain_timeout = \"5s\"\n[delivery]\nmode = \"through\"\n\
         [[listener]]\nname = \"bench\"\naddress = \"{target}\"\nmax_sessions = {}\n[[pool]]\nname = \"sinks\"\n\
         links_per_shard = {}\nidle_links = {}\n",
        arguments.sessions + 16,
        arguments.links_per_shard,
        arguments.links_per_shard,
    );
    for (n, sink) in sinks.iter().enumerate() {
        let _ =
            writeln!(text, "[[pool.upstream]]\nname = \"sink{n}\"\naddress = \"{}\"", sink.addresses()[0]);
    }
    let configuration = std::env::temp_dir().join(format!("postlane-bench-{}.toml", std::process::id()));
    std::fs::write(&configuration, text)?;
    let dispatcher = Command::new(std::env::current_exe()?)
        .args(["serve", "--config"])
        .arg(&configuration)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut own = Own { dispatcher, configuration, sinks };
    let pid = own.dispatcher.id();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(target).is_err() {
        let ended = own.dispatcher.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let said = format!("`postlane serve` with {} did not start", own.configuration.display());
            return Err(io::Error::other(said));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Ground { target, pid: Some(pid), own: Some(own) })
}

impl Own {
    /// Lets the dispatcher drain; the messages that its sinks counted.
    fn end(mut self) -> u64 {
        signals::terminate(self.dispatcher.id());
        let _ = self.dispatcher.wait();
        self.sinks.drain(..).filter_map(|sink| sink.stop().ok()).map(|(counts, _)| counts.messages).sum()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.dispatcher.kill();
        let _ = self.dispatcher.wait();
        let _ = std::fs::remove_file(&self.configuration);
    }
}
