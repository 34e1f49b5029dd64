//! `postlane check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use postlane::config::{Config, Plan, plan};
use postlane::control::{Scale, scale};

use super::{BAD_CONFIGURATION, fail, machine, put_near};

#[derive(Debug, Args)]
#[command(after_help = "Example: postlane check --config postlane.toml\n\
    Exit 0 if all is well, 78 with every error as file:line:column: message otherwise.")]
pub(crate) struct Arguments {
    /// The configuration; conf.d/*.toml beside it is read too
    #[arg(long, value_name = "FILE", default_value = "/etc/postlane/postlane.toml")]
    config: PathBuf,
    /// Print the plan, or the errors, as JSON
    #[arg(long)]
    json: bool,
}

/// What `check --json` says of a configuration that is in order.
#[derive(serde::Serialize)]
struct Checked {
    #[serde(flatten)]
    plan: Plan,
    scale: Scale,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let (mut machine, hw) = match machine() {
        Ok(machine) => machine,
        Err(code) => return code,
    };
    match Config::load(&arguments.config, &machine) {
        Ok(config) => {
            put_near(&mut machine, &hw, &config);
            let mut plan = plan(&config, &machine);
            let places = postlane_hw::plan(
                &hw,
                &postlane_hw::Wanted::Cpus(plan.shards.iter().map(|s| s.cpu).collect()),
                &[],
            );
            if let Ok(places) = places {
                let notes = postlane_hw::notes(&hw, &places);
                plan.notes.extend(notes.into_iter().filter(|note| !note.contains("share")));
            }
            let scale = scale(&config, plan.shards.len());
            if arguments.json {
                print_json(&Checked { plan, scale })
            } else {
                print!("{plan}{scale}")
            }
            ExitCode::SUCCESS
        }
        Err(errors) => {
            if arguments.json {
                print_json(&errors);
                return ExitCode::from(BAD_CONFIGURATION);
            }
            eprintln!("{errors}");
            fail(BAD_CONFIGURATION, "the configuration is not in order")
        }
    }
}

/// Prints a value for programs.
pub(super) fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("postlane: {error}"),
    }
}
