//! `postlane reload`.

use std::process::ExitCode;

use clap::Args;

use super::client::Admin;
use super::{UNAVAILABLE, fail};

#[derive(Debug, Args)]
#[command(after_help = "Example: postlane reload --admin http://127.0.0.1:8025\n\
    The instance reads its file and conf.d anew, prints what differs and applies it, all or nothing: no session is\n\
    dropped. Exit 78 with every error as file:line:column: message if the file is not in order; nothing has changed then.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    admin: Admin,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let (code, body) = match arguments.admin.ask("/api/v1/reload", Some("{}")) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(&body) else {
        return arguments.admin.refused(code, &body);
    };
    if arguments.json {
        print!("{body}");
    }
    if let Some(error) = value["error"].as_str() {
        let exit = value["exit"].as_u64().and_then(|exit| u8::try_from(exit).ok()).unwrap_or(UNAVAILABLE);
        eprintln!("{error}");
        return fail(exit, "not reloaded; what was in force is still in force");
    }
    if !arguments.json {
        let changes = value["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        changes.iter().filter_map(serde_json::Value::as_str).for_each(|line| println!("{line}"));
        println!("{}", if changes.is_empty() { "nothing has changed" } else { "reloaded" });
    }
    ExitCode::SUCCESS
}
