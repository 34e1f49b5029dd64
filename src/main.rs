//! The command line: flags to plans, plans to wiring.

mod commands;

use std::process::ExitCode;

use clap::Parser;
use commands::Command;

/// A high-throughput SMTP dispatcher: takes mail by SMTP and gives each message to whichever upstream MTA answers
/// fastest.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => arguments.command.run(),
        Err(error) => {
            let _ = error.print();
            // sysexits: EX_USAGE for what cannot be understood; help and version are no errors.
            if error.use_stderr() { ExitCode::from(commands::USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
