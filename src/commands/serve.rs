//! `postlane serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use postlane::config::Config;
use postlane::control::{self, Failure, Running, View};

use super::{BAD_CONFIGURATION, demo, fail, machine, put_near};

/// Example: postlane serve --config /etc/postlane/postlane.toml
#[derive(Debug, Args)]
#[command(after_help = "Example: postlane serve --config /etc/postlane/postlane.toml\n\
    TERM or INT: new mail gets 421, what is under way finishes, exit 0. HUP: as `postlane reload`.")]
pub(crate) struct Arguments {
    /// The configuration; conf.d/*.toml beside it is read too
    #[arg(long, value_name = "FILE", default_value = "/etc/postlane/postlane.toml", conflicts_with = "demo")]
    config: PathBuf,
    /// Run with an embedded configuration and three embedded upstreams; needs nothing installed, no root
    #[arg(long)]
    demo: bool,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    if arguments.demo {
        return demo::run();
    }
    let (mut machine, hw) = match machine() {
        Ok(machine) => machine,
        Err(code) => return code,
    };
    let config = match Config::load(&arguments.config, &machine) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return fail(BAD_CONFIGURATION, "the configuration is not in order; nothing was started");
        }
    };
    put_near(&mut machine, &hw, &config);
    let announce = |running: &Running| announce(running, &config);
    end(control::serve(&config, Some(&arguments.config), &machine, announce, |_: &View| {}))
}

/// Says what runs, on stderr: stdout is for facts.
pub(super) fn announce(running: &Running, config: &Config) {
    let cpus: Vec<String> = running.cpus.iter().map(ToString::to_string).collect();
    eprintln!("postlane {}: {} shards on CPUs {}", env!("CARGO_PKG_VERSION"), cpus.len(), cpus.join(","));
    eprintln!("postlane: {}", running.features);
    if let Some(bypass) = &running.bypass {
        eprintln!("postlane: upstreams by {bypass}");
    }
    for bound in &running.bound {
        eprintln!("postlane: listener {} takes mail on {}", bound.name, bound.address);
    }
    for pool in &config.pools {
        let upstreams: Vec<String> =
            pool.upstreams.iter().map(|u| format!("{} {}", u.name, u.address)).collect();
        eprintln!("postlane: pool {}: {}", pool.name, upstreams.join(", "));
    }
    if let Some(admin) = &config.admin {
        eprintln!("postlane: metrics and status on http://{}/", admin.listen);
    }
}

pub(super) fn end(end: Result<(), Failure>) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure.exit, failure),
    }
}
