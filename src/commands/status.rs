//! `postlane status`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{UNAVAILABLE, USAGE, fail};

/// How long the instance may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Example: postlane status --admin http://127.0.0.1:8025 --json")]
pub(crate) struct Arguments {
    /// The running instance's admin endpoint
    #[arg(long, value_name = "URL", env = "POSTLANE_ADMIN", default_value = "http://127.0.0.1:8025")]
    admin: String,
    /// The token of [admin], where it has one
    #[arg(long, env = "POSTLANE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let address = arguments.admin.strip_prefix("http://").unwrap_or(&arguments.admin).trim_end_matches('/');
    let Ok(address) = address.parse::<SocketAddr>() else {
        return fail(USAGE, format!("--admin `{}` is not like http://127.0.0.1:8025", arguments.admin));
    };
    let path = if arguments.json { "/api/v1/status" } else { "/" };
    match get(address, path, arguments.token.as_deref()) {
        Ok((200, body)) => {
            print!("{body}");
            ExitCode::SUCCESS
        }
        Ok((code, body)) => fail(UNAVAILABLE, format!("{address} answered {code}: {}", body.trim())),
        Err(error) => fail(
            UNAVAILABLE,
            format!("no instance answers on {address}: {error}; is it running, with [admin]?"),
        ),
    }
}

fn get(address: SocketAddr, path: &str, token: Option<&str>) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((code, body.to_owned()))
}
