//! `postlane hw`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::check::print_json;
use super::machine;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Hw,
}

#[derive(Debug, Subcommand)]
enum Hw {
    /// Draw the machine: CPUs, NUMA nodes, NICs and their queues
    #[command(after_help = "Example: postlane hw show --json")]
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let Hw::Show { json } = arguments.command;
    match machine() {
        Ok((_, hw)) => {
            if json {
                print_json(&hw)
            } else {
                print!("{}", postlane_hw::show(&hw))
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
