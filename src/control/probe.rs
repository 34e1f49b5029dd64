//! One look at an upstream: is it there, and does it speak SMTP?

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use futures_lite::FutureExt;
use glommio::timer::sleep;

use crate::config::{Probe, ProbeMail};
use crate::sys::socket;

/// A socket that is not ready is looked at again after this, and then after ever longer times.
const NAP_MIN: Duration = Duration::from_millis(1);
const NAP_MAX: Duration = Duration::from_millis(50);
/// No reply to a greeting or EHLO is longer.
const REPLY_MAX: usize = 16 << 10;

/// What to look at, and how.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    pub(super) probe: Probe,
    /// To be asked for between EHLO and QUIT.
    pub(super) mail: Option<ProbeMail>,
    pub(super) address: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) hostname: String,
    /// For all of it.
    pub(super) timeout: Duration,
}

/// What is wrong with an upstream.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// In words.
    pub(super) why: String,
    /// It said 421: it may only have too many connections, ours among them.
    pub(super) may_be_full: bool,
}

/// Goes and looks.
///
/// # Errors
/// What is wrong.
pub(super) async fn run(errand: &Errand) -> Result<(), Trouble> {
    let too_long = async {
        sleep(errand.timeout).await;
        Err(format!("no answer within {:?}", errand.timeout))
    };
    let result = look(errand).or(too_long).await;
    result.map_err(|why| Trouble { may_be_full: why.contains("`421"), why })
}

async fn look(errand: &Errand) -> Result<(), String> {
    let mut stream = socket::call(errand.address, errand.source).map_err(|error| error.to_string())?;
    until_ready(|| connected(&stream)).await.map_err(|error| error.to_string())?;
    if errand.probe != Probe::Smtp {
        return Ok(());
    }
    expect(&mut stream, "220", "greeted").await?;
    ask(&mut stream, "EHLO", &errand.hostname).await?;
    if let Some(mail) = &errand.mail {
        ask(&mut stream, "MAIL", &format!("FROM:<{}>", mail.sender)).await?;
        ask(&mut stream, "RCPT", &format!("TO:<{}>", mail.recipient)).await?;
        // Nothing is sent: DATA would be mail.
        ask(&mut stream, "RSET", "").await?;
    }
    // The answer to QUIT tells nothing more, but closing before it has come may be a reset to the other side.
    say(&mut stream, "QUIT\r\n").await?;
    let _ = reply(&mut stream).await;
    Ok(())
}

/// Whether a stream that connects has got there.
fn connected(stream: &TcpStream) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
        other => other.map(drop),
    }
}

async fn until_ready<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut nap = NAP_MIN;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => return other,
        }
        sleep(nap).await;
        nap = (nap * 2).min(NAP_MAX);
    }
}

async fn say(stream: &mut TcpStream, line: &str) -> Result<(), String> {
    // A few octets on a fresh stream: the kernel takes all or nothing.
    until_ready(|| stream.write(line.as_bytes())).await.map(drop).map_err(|error| error.to_string())
}

/// Says a command and wants a positive answer.
async fn ask(stream: &mut TcpStream, verb: &str, argument: &str) -> Result<(), String> {
    let space = if argument.is_empty() { "" } else { " " };
    say(stream, &format!("{verb}{space}{argument}\r\n")).await?;
    expect(stream, "2", &format!("answered {verb}")).await
}

/// Wants a reply whose code begins like this.
async fn expect(stream: &mut TcpStream, code: &str, what: &str) -> Result<(), String> {
    let text = reply(stream).await?;
    if text.starts_with(code) {
        return Ok(());
    }
    let line: String = text.lines().next_back().unwrap_or_default().chars().take(100).collect();
    Err(format!("it {what} with `{}`", line.escape_debug()))
}

/// A whole reply: up to a line whose code is not followed by a hyphen.
async fn reply(stream: &mut TcpStream) -> Result<String, String> {
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let n = until_ready(|| stream.read(&mut piece)).await.map_err(|error| error.to_string())?;
        if n == 0 {
            return Err("it closed the connection".to_owned());
        }
        text.extend_from_slice(&piece[..n]);
        let is_last = |line: &[u8]| line.ends_with(b"\n") && line.get(3) != Some(&b'-');
        if text.split_inclusive(|byte| *byte == b'\n').any(is_last) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        if text.len() > REPLY_MAX {
            return Err("its reply does not end".to_owned());
        }
    }
}
