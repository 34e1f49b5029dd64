//! Asking the running instance, over its admin endpoint.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{UNAVAILABLE, USAGE, fail};

/// How long the instance may take to answer: a reload waits for every shard.
const PATIENCE: Duration = Duration::from_secs(45);

/// Where the instance is.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// The running instance's admin endpoint
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "POSTLANE_ADMIN",
        default_value = "http://127.0.0.1:8025"
    )]
    admin: String,
    /// The token of [admin], where it has one
    #[arg(long, global = true, env = "POSTLANE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Admin {
    /// The status and body of the answer; a POST if there is a body to send.
    pub(super) fn ask(&self, path: &str, body: Option<&str>) -> Result<(u16, String), ExitCode> {
        let address = self.admin.strip_prefix("http://").unwrap_or(&self.admin).trim_end_matches('/');
        let Ok(address) = address.parse::<SocketAddr>() else {
            return Err(fail(USAGE, format!("--admin `{}` is not like http://127.0.0.1:8025", self.admin)));
        };
        let answer = request(address, path, self.token.as_deref(), body);
        answer.map_err(|error| {
            let why = format!("no instance answers on {address}: {error}; is it running, with [admin]?");
            fail(UNAVAILABLE, why)
        })
    }

    /// The body of a good answer.
    pub(super) fn get(&self, path: &str) -> Result<String, ExitCode> {
        match self.ask(path, None)? {
            (200, body) => Ok(body),
            (code, body) => Err(self.refused(code, &body)),
        }
    }

    /// An answer that is not what was asked for.
    pub(super) fn refused(&self, code: u16, body: &str) -> ExitCode {
        fail(UNAVAILABLE, format!("{} answered {code}: {}", self.admin, body.trim()))
    }
}

fn request(
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let (method, content) = match body {
        Some(body) => {
            ("POST", format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()))
        }
        None => ("GET", String::new()),
    };
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}{content}Connection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((code, body.to_owned()))
}
