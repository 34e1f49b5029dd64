//! `postlane status`.

use std::process::ExitCode;

use clap::Args;

use super::client::Admin;

#[derive(Debug, Args)]
#[command(after_help = "Example: postlane status --admin http://127.0.0.1:8025 --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    admin: Admin,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    match arguments.admin.get(if arguments.json { "/api/v1/status" } else { "/" }) {
        Ok(body) => {
            print!("{body}");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
