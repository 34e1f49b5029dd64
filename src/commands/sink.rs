//! `postlane sink`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use postlane::sys::signals;
use postlane_bench::sink::{DropRule, FailRule, Offers, Options, Sink};

use super::{OS_REFUSED, USAGE, check::print_json, duration, fail};

#[derive(Debug, Args)]
#[command(after_help = "Example: postlane sink --listen 127.0.0.1:2600 --latency 5ms --fail rcpt:450:0.01\n\
    On TERM or INT it prints what it counted.\n\
    Stages of rules: connect, ehlo, mail, rcpt, data, eod.")]
pub(crate) struct Arguments {
    /// Where to listen; may be given several times
    #[arg(long, value_name = "ADDR", required = true)]
    listen: Vec<SocketAddr>,
    /// From the final dot to the reply to it
    #[arg(long, value_parser = duration, default_value = "0ms", value_name = "TIME")]
    latency: Duration,
    /// Latencies exponentially distributed around --latency
    #[arg(long)]
    jitter: bool,
    /// Refuse with a code at a stage, with a probability
    #[arg(long, value_name = "STAGE:CODE:P")]
    fail: Vec<FailRule>,
    /// Close the connection at a stage, with a probability
    #[arg(long, value_name = "STAGE:P")]
    drop: Vec<DropRule>,
    /// Fall silent at a stage, with a probability
    #[arg(long, value_name = "STAGE:P")]
    hang: Vec<DropRule>,
    /// Extensions not to offer: pipelining,size,8bitmime,smtputf8,dsn,chunking,binarymime
    #[arg(long, value_name = "LIST")]
    no: Option<String>,
    /// Keep each message here, as a maildir
    #[arg(long, value_name = "DIR")]
    maildir: Option<PathBuf>,
    /// Append a line of JSON for each message here
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Write the counts here as JSON in the end
    #[arg(long, value_name = "FILE")]
    count_file: Option<PathBuf>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
    /// For the dice of the rules
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let offers = match arguments.no.as_deref().map_or(Ok(Offers::default()), Offers::all_but) {
        Ok(offers) => offers,
        Err(error) => return fail(USAGE, format!("--no: {error}")),
    };
    signals::block();
    let addresses = format!("{:?}", arguments.listen);
    let options = Options {
        listen: arguments.listen,
        latency: arguments.latency,
        jitter: arguments.jitter,
        fail: arguments.fail,
        drop: arguments.drop,
        hang: arguments.hang,
        offers,
        maildir: arguments.maildir,
        dump: arguments.dump,
        count_file: arguments.count_file,
        seed: arguments.seed,
    };
    let sink = match Sink::bind(options) {
        Ok(sink) => sink,
        Err(error) => {
            return fail(OS_REFUSED, format!("the sink cannot listen on {addresses}: {error}"));
        }
    };
    for address in sink.addresses() {
        eprintln!("postlane sink: takes mail on {address}");
    }
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone());
    match sink.run(&stop) {
        Ok(counts) => {
            if arguments.json {
                print_json(&counts)
            } else {
                print!("{counts}")
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(OS_REFUSED, format!("the sink failed: {error}")),
    }
}

/// Sets the flag when TERM or INT comes. Signals must be blocked already.
pub(super) fn stop_on_signal(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        signals::wait();
        stop.store(true, Ordering::Relaxed);
    });
}
