//! One file per command.

mod bench;
mod check;
mod client;
mod demo;
mod hw;
mod queue;
mod reload;
mod serve;
mod sink;
mod status;
mod upstream;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use postlane::config::{Config, Machine, parse_duration};

/// Exit codes of sysexits(3).
pub(crate) const USAGE: u8 = 64;
const DATA: u8 = 65;
const UNAVAILABLE: u8 = 69;
const OS_REFUSED: u8 = 71;
const BAD_CONFIGURATION: u8 = 78;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take mail and spread it, in the foreground
    Serve(serve::Arguments),
    /// Check a configuration and print what it comes to
    Check(check::Arguments),
    /// Have the running instance read its configuration anew, all or nothing
    Reload(reload::Arguments),
    /// One upstream of the running instance: drain it, enable it, weigh it
    Upstream(upstream::Arguments),
    /// The messages that are kept: list, flush, suspend, resume, bounce, delete
    Queue(queue::Arguments),
    /// Show what the running instance does
    Status(status::Arguments),
    /// Measure a dispatcher, honestly
    Bench(Box<bench::Arguments>),
    /// A test MTA that accepts, delays, refuses and drops by rule, and counts
    Sink(sink::Arguments),
    /// The machine: what it has, how it is best set, and setting it so
    Hw(hw::Arguments),
}

impl Command {
    pub(crate) fn run(self) -> ExitCode {
        match self {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Check(arguments) => check::run(arguments),
            Command::Reload(arguments) => reload::run(arguments),
            Command::Upstream(arguments) => upstream::run(arguments),
            Command::Queue(arguments) => queue::run(arguments),
            Command::Status(arguments) => status::run(arguments),
            Command::Bench(arguments) => bench::run(*arguments),
            Command::Sink(arguments) => sink::run(arguments),
            Command::Hw(arguments) => hw::run(arguments),
        }
    }
}

/// Ends with `code` and says why.
fn fail(code: u8, why: impl std::fmt::Display) -> ExitCode {
    eprintln!("postlane: {why}");
    ExitCode::from(code)
}

/// This machine, as configurations are checked against it.
fn machine() -> Result<(Machine, postlane_hw::Machine), ExitCode> {
    let hw = discovered(Path::new("/"), &postlane_hw::Ethtool)?;
    Ok((checked_against(&hw), hw))
}

fn discovered(root: &Path, drivers: &dyn postlane_hw::Drivers) -> Result<postlane_hw::Machine, ExitCode> {
    postlane_hw::discover(root, drivers).map_err(|error| {
        fail(OS_REFUSED, format!("the machine cannot be looked at: {error}; is /proc mounted?"))
    })
}

fn checked_against(hw: &postlane_hw::Machine) -> Machine {
    Machine {
        hostname: hw.hostname.clone(),
        cpus: postlane_hw::order(hw),
        isolated: hw.isolated.iter().collect(),
        memory_bytes: hw.usable_memory_bytes(),
    }
}

/// CPUs in the order of the plan: near to the interface that the configuration bypasses the kernel by.
fn put_near(machine: &mut Machine, hw: &postlane_hw::Machine, config: &Config) {
    machine.cpus = postlane_hw::order_near(hw, &hw::interfaces(config));
}

/// For clap: `250ms`, `30s`, `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("`{text}` is not a duration; write 250ms, 30s, 5m, 2h or 7d"))
}
