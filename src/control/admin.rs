//! The operators' HTTP endpoint: small answers, one request per connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;

use super::reload::Reloader;
use super::{Failure, View, queue};
use crate::balance::board::{self, Said};
use crate::config::Admin;
use crate::observe::prometheus;
use crate::shard::Order;

/// A request's head may be so long.
const HEAD_MAX: usize = 8 << 10;
/// And its body.
const BODY_MAX: usize = 4 << 10;
/// A request may take so long to come, and so long to be answered; a reload waits for every shard.
const PATIENCE: Duration = Duration::from_secs(40);
/// Requests answered at the same time.
const CONNECTIONS_MAX: usize = 64;

/// Shards' busy time at the last look: a ratio needs two.
struct BusyWatch {
    at: Instant,
    nanos: Vec<u64>,
    ratios: Vec<f64>,
}

impl BusyWatch {
    fn new(view: &View) -> Self {
        let nanos: Vec<u64> = view.shards().iter().map(|stats| stats.busy_nanos.get()).collect();
        BusyWatch { at: Instant::now(), ratios: vec![0.0; nanos.len()], nanos }
    }

    fn look(&mut self, view: &View) -> &[f64] {
        let elapsed = self.at.elapsed().as_nanos() as f64;
        // Looks that follow each other closely see the last ratio again, not noise.
        if elapsed >= 500e6 {
            for ((ratio, last), stats) in
                self.ratios.iter_mut().zip(&mut self.nanos).zip(view.shards().iter())
            {
                let nanos = stats.busy_nanos.get();
                *ratio = ((nanos - *last) as f64 / elapsed).min(1.0);
                *last = nanos;
            }
            self.at = Instant::now();
        }
        &self.ratios
    }
}

/// Listens, and answers until the executor ends.
///
/// # Errors
/// The address cannot be had.
pub(super) fn serve(reloader: Rc<Reloader>, admin: Admin) -> Result<glommio::Task<()>, Failure> {
    let listener = TcpListener::bind(admin.listen)
        .map_err(|error| Failure::listen("the admin endpoint", admin.listen, &error.into()))?;
    let busy = Rc::new(RefCell::new(BusyWatch::new(&reloader.view)));
    Ok(glommio::spawn_local(async move {
        let open = Rc::new(());
        loop {
            let Ok(stream) = listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            if Rc::strong_count(&open) > CONNECTIONS_MAX {
                continue;
            }
            let (reloader, busy, token, open) =
                (reloader.clone(), busy.clone(), admin.token.clone(), open.clone());
            glommio::spawn_local(async move {
                let exchange = async {
                    let _ = exchange(stream, &reloader, &busy, token.as_deref()).await;
                };
                exchange.or(sleep_for(PATIENCE)).await;
                drop(open);
            })
            .detach();
        }
    }))
}

async fn sleep_for(time: Duration) {
    sleep(time).await;
}

async fn exchange(
    mut stream: TcpStream,
    reloader: &Reloader,
    busy: &RefCell<BusyWatch>,
    token: Option<&str>,
) -> std::io::Result<()> {
    let mut input = Vec::new();
    let mut piece = [0u8; 1024];
    let reply = loop {
        match parse(&input, token) {
            Parsed::Whole(Request::Get(path)) => break get(&path, &reloader.view, busy),
            Parsed::Whole(Request::Post(path, body)) => break post(&path, &body, reloader).await,
            Parsed::Wrong(reply) => break reply,
            Parsed::Partly => {}
        }
        let n = stream.read(&mut piece).await?;
        if n == 0 {
            return Ok(());
        }
        input.extend_from_slice(&piece[..n]);
    };
    stream.write_all(&reply.to_bytes()).await?;
    stream.flush().await?;
    stream.close().await
}

/// What is asked for.
enum Request {
    Get(String),
    Post(String, Vec<u8>),
}

/// What has come so far.
enum Parsed {
    Partly,
    Whole(Request),
    Wrong(Reply),
}

fn parse(input: &[u8], token: Option<&str>) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(input) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if input.len() < HEAD_MAX => return Parsed::Partly,
        Ok(httparse::Status::Partial) => {
            return Parsed::Wrong(Reply::text(431, "the request's head is too long\n"));
        }
        Err(error) => return Parsed::Wrong(Reply::text(400, &format!("not HTTP: {error}\n"))),
    };
    let path = request.path.unwrap_or("").split('?').next().unwrap_or("").to_owned();
    // Liveness is asked by machines that hold no token, and tells nothing.
    if !matches!(&*path, "/healthz" | "/readyz") && !is_allowed(&request, token) {
        return Parsed::Wrong(Reply::text(
            401,
            "send `Authorization: Bearer TOKEN` with the token of [admin]\n",
        ));
    }
    match request.method {
        Some("GET") => Parsed::Whole(Request::Get(path)),
        // A page of another origin that is open in an operator's browser may send simple requests to loopback: those
        // it cannot give a content type of its own choice without being asked first (Fetch standard, 4.8).
        Some("POST") if header(&request, "content-type") != Some(b"application/json") => {
            Parsed::Wrong(Reply::text(415, "send `Content-Type: application/json`\n"))
        }
        Some("POST") => {
            let length = header(&request, "content-length").and_then(|text| std::str::from_utf8(text).ok());
            let length = length.map_or(Some(0), |text| text.trim().parse::<usize>().ok());
            match length {
                Some(length) if length <= BODY_MAX => match input.get(head..head + length) {
                    Some(body) => Parsed::Whole(Request::Post(path, body.to_vec())),
                    None => Parsed::Partly,
                },
                _ => Parsed::Wrong(Reply::text(413, "the request's body is too long\n")),
            }
        }
        _ => Parsed::Wrong(Reply::text(405, "only GET and POST are answered\n")),
    }
}

fn header<'a>(request: &httparse::Request<'_, 'a>, name: &str) -> Option<&'a [u8]> {
    request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

struct Reply {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Reply {
    fn text(status: u16, body: &str) -> Reply {
        Reply { status, kind: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn json(status: u16, value: &impl serde::Serialize) -> Reply {
        match serde_json::to_string_pretty(value) {
            Ok(body) => Reply { status, kind: "application/json", body: body + "\n" },
            Err(error) => Reply::text(503, &format!("{error}\n")),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Content",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            self.status,
            self.kind,
            self.body.len(),
            self.body
        )
        .into_bytes()
    }
}

const PATHS: &str = "see GET /metrics, /api/v1/status, /healthz, /readyz; POST /api/v1/reload, \
                     /api/v1/upstreams/POOL/NAME, /api/v1/queue\n";

fn get(path: &str, view: &View, busy: &RefCell<BusyWatch>) -> Reply {
    match path {
        "/healthz" => Reply::text(200, "ok\n"),
        "/readyz" if view.orders.get() == Order::Run => Reply::text(200, "taking mail\n"),
        "/readyz" => Reply::text(503, "draining\n"),
        "/metrics" => {
            let (names, shards) = view.sheet();
            Reply {
                status: 200,
                kind: "text/plain; version=0.0.4; charset=utf-8",
                body: prometheus::text(&names, &shards, busy.borrow_mut().look(view)),
            }
        }
        "/api/v1/status" => Reply::json(200, &view.status()),
        "/" => Reply::text(200, &format!("{}\n{PATHS}", view.status())),
        _ => Reply::text(404, PATHS),
    }
}

/// Orders. The answer says what came of it, as JSON.
async fn post(path: &str, body: &[u8], reloader: &Reloader) -> Reply {
    if path == "/api/v1/reload" {
        return match reloader.reload().await {
            Ok(changes) => Reply::json(200, &serde_json::json!({ "changes": changes })),
            Err(refusal) => {
                let value = serde_json::json!({ "error": refusal.why, "exit": refusal.exit });
                Reply::json(if refusal.exit == 78 { 422 } else { 409 }, &value)
            }
        };
    }
    if path == "/api/v1/queue" {
        return match queue::parse(body) {
            Ok(order) => match queue::carry_out(order, reloader).await {
                Ok(answer) => Reply::json(200, &answer),
                Err(why) => Reply::json(503, &serde_json::json!({ "error": why })),
            },
            Err(why) => Reply::json(400, &serde_json::json!({ "error": why })),
        };
    }
    let place = path.strip_prefix("/api/v1/upstreams/").and_then(|rest| rest.split_once('/'));
    match place {
        Some((pool, upstream)) => match command(body) {
            Ok(change) => match reloader.view.command(pool, upstream, change) {
                Ok(state) => Reply::json(200, &serde_json::json!({ "state": state.label() })),
                Err(why) => Reply::json(404, &serde_json::json!({ "error": why })),
            },
            Err(why) => Reply::json(400, &serde_json::json!({ "error": why })),
        },
        None => Reply::text(404, PATHS),
    }
}

/// `{"order": "drain"}`, `{"weight": 3}`, or both.
fn command(body: &[u8]) -> Result<impl Fn(Said) -> Said + use<>, String> {
    let advice = "send {\"order\": \"enable\", \"drain\" or \"disable\"}, {\"weight\": 1 to 65535}, or both";
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        order: Option<String>,
        weight: Option<u32>,
    }
    let wish: Wish = serde_json::from_slice(body).map_err(|error| format!("{error}: {advice}"))?;
    let order = match wish.order.as_deref() {
        None => None,
        Some("enable") => Some(board::Order::Enable),
        Some("drain") => Some(board::Order::Drain),
        Some("disable") => Some(board::Order::Disable),
        Some(other) => return Err(format!("`{}` is no order: {advice}", other.escape_debug())),
    };
    if order.is_none() && wish.weight.is_none() || wish.weight.is_some_and(|w| !(1..=65_535).contains(&w)) {
        return Err(advice.to_owned());
    }
    Ok(move |said: Said| Said {
        order: order.unwrap_or(said.order),
        weight: wish.weight.unwrap_or(said.weight),
        ..said
    })
}

fn is_allowed(request: &httparse::Request<'_, '_>, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given =
        header(request, "authorization").and_then(|text| text.strip_prefix(b"Bearer ")).unwrap_or_default();
    // As long for a wrong token as for a right one.
    let differing = given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differing == 0
}
