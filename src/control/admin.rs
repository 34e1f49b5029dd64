//! The operators' HTTP endpoint: small answers, one request per connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;

use super::{Failure, View};
use crate::config::Admin;
use crate::observe::prometheus;
use crate::shard::Order;

/// A request's head may be so long.
const HEAD_MAX: usize = 8 << 10;
/// A request may take so long to come, and so long to be answered.
const PATIENCE: Duration = Duration::from_secs(5);
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
        let nanos: Vec<u64> = view.shards.iter().map(|stats| stats.busy_nanos.get()).collect();
        BusyWatch { at: Instant::now(), ratios: vec![0.0; nanos.len()], nanos }
    }

    fn look(&mut self, view: &View) -> &[f64] {
        let elapsed = self.at.elapsed().as_nanos() as f64;
        // Looks that follow each other closely see the last ratio again, not noise.
        if elapsed >= 500e6 {
            for ((ratio, last), stats) in self.ratios.iter_mut().zip(&mut self.nanos).zip(view.shards.iter())
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
pub(super) fn serve(view: Arc<View>, admin: Admin) -> Result<glommio::Task<()>, Failure> {
    let listener = TcpListener::bind(admin.listen)
        .map_err(|error| Failure::listen("the admin endpoint", admin.listen, &error.into()))?;
    let busy = Rc::new(RefCell::new(BusyWatch::new(&view)));
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
            let (view, busy, token, open) = (view.clone(), busy.clone(), admin.token.clone(), open.clone());
            glommio::spawn_local(async move {
                let exchange = async {
                    let _ = exchange(stream, &view, &busy, token.as_deref()).await;
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
    view: &View,
    busy: &RefCell<BusyWatch>,
    token: Option<&str>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0u8; 1024];
    let reply = loop {
        let n = stream.read(&mut piece).await?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => break answer(&request, view, busy, token),
            Ok(httparse::Status::Partial) if head.len() < HEAD_MAX => {}
            Ok(httparse::Status::Partial) => break Reply::text(431, "the request's head is too long\n"),
            Err(error) => break Reply::text(400, &format!("not HTTP: {error}\n")),
        }
    };
    stream.write_all(&reply.to_bytes()).await?;
    stream.flush().await?;
    stream.close().await
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

    fn to_bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
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

fn answer(
    request: &httparse::Request<'_, '_>,
    view: &View,
    busy: &RefCell<BusyWatch>,
    token: Option<&str>,
) -> Reply {
    let path = request.path.unwrap_or("").split('?').next().unwrap_or("");
    if request.method != Some("GET") {
        return Reply::text(405, "only GET is answered\n");
    }
    // Liveness is asked by machines that hold no token, and tells nothing.
    match path {
        "/healthz" => return Reply::text(200, "ok\n"),
        "/readyz" if view.orders.get() == Order::Run => return Reply::text(200, "taking mail\n"),
        "/readyz" => return Reply::text(503, "draining\n"),
        _ => {}
    }
    if !is_allowed(request, token) {
        return Reply::text(401, "send `Authorization: Bearer TOKEN` with the token of [admin]\n");
    }
    match path {
        "/metrics" => Reply {
            status: 200,
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: prometheus::text(&view.names, &view.shards, busy.borrow_mut().look(view)),
        },
        "/api/v1/status" => match serde_json::to_string_pretty(&view.status()) {
            Ok(body) => Reply { status: 200, kind: "application/json", body: body + "\n" },
            Err(error) => Reply::text(503, &format!("{error}\n")),
        },
        "/" => {
            Reply::text(200, &format!("{}\nsee /metrics, /api/v1/status, /healthz, /readyz\n", view.status()))
        }
        _ => Reply::text(404, "see /metrics, /api/v1/status, /healthz, /readyz\n"),
    }
}

fn is_allowed(request: &httparse::Request<'_, '_>, token: Option<&str>) -> bool {
    let Some(token) = token else { return true };
    let given = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
    let given = given.and_then(|header| header.value.strip_prefix(b"Bearer ")).unwrap_or_default();
    // As long for a wrong token as for a right one.
    let differing = given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differing == 0
}
