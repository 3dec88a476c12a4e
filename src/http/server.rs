//! The server: accepts connections, keeps within its limits, gives every request an id, and stops gracefully.
//!
//! Whoever keeps it waiting is cut off by a deadline, and sooner when others want the slot ([`super::slots`]): while an
//! attacker holds all connections idle, a newcomer takes the place of the one that has been idle longest.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use http_body_util::Either;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error_span, warn};
use uuid::Uuid;

use super::exchange::Exchange;
use super::slots::{Slot, Slots};
use super::socket::Socket;
use super::upstream::Tunnel;
use super::{Answer, Body, Counts, Handle, Peer, Problem, empty_answer};
use crate::config::Limits;

pub(super) const REQUEST_ID: &str = "x-request-id";

/// The longest request id that is taken from a client.
const MAX_REQUEST_ID: usize = 128;

/// More of them, or a longer head, is answered 431.
const MAX_HEADERS: usize = 100;
const MAX_HEAD: usize = 32 * 1024;

/// What one connection reads ahead.
const MAX_BUFFER: usize = 64 * 1024;

/// How many connections too many are told so at a time, and how long each may take to ask.
const MAX_REFUSED: usize = 64;
const REFUSED_HEAD_TIMEOUT: Duration = Duration::from_secs(1);

struct Server<H> {
    handler: Arc<H>,
    limits: Arc<Limits>,
    requests: Arc<Slots>,
    shutdown: CancellationToken,
}

/// How long the client of an answer without an end may take for what was on its way when the server stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The connection was closed in favour of another one, just as its client went on.
#[derive(Debug, thiserror::Error)]
#[error("closed in favour of a newer connection")]
struct GaveWay;

/// Serves until `shutdown` is called, then lets the requests in hand finish.
pub async fn serve(
    listener: TcpListener,
    handler: Arc<impl Handle>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let connections = Slots::new(limits.max_connections);
    let refused = Slots::new(MAX_REFUSED);
    let server = Arc::new(Server {
        handler,
        requests: Slots::new(limits.max_requests),
        limits: Arc::new(limits),
        shutdown,
    });
    let tasks = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, Peer(peer.ip().to_canonical())),
                Err(e) => {
                    // Out of file descriptors, most likely: it passes when connections close.
                    warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = server.shutdown.cancelled() => break,
        };
        let server = server.clone();
        if let Some(slot) = connections.take() {
            tasks.spawn(async move { server.connection(stream, peer, slot, false).await });
        } else if let Some(slot) = refused.take() {
            tasks.spawn(async move { server.connection(stream, peer, slot, true).await });
        }
    }
    tasks.close();
    tasks.wait().await;
}

impl<H: Handle> Server<H> {
    /// Serves one connection, or, where it is one too many, only says so.
    async fn connection(&self, stream: TcpStream, peer: Peer, slot: Slot, refuse: bool) {
        let slot = Arc::new(slot);
        let exchange = Arc::new(Exchange::default());
        let tunnel = OnceLock::new();
        let service = service_fn(|mut request: Request<Incoming>| async {
            if !slot.works() {
                return Err(GaveWay);
            }
            exchange.begins(!request.body().is_end_stream());
            request.extensions_mut().insert(peer);
            let version = request.version();
            let mut answer = self.answer(request, refuse, &exchange).await;
            match (
                answer.extensions_mut().remove::<Tunnel>(),
                answer.body_mut(),
            ) {
                (Some(through), _) => {
                    exchange.streams(false);
                    let _ = tunnel.set(through);
                }
                (None, Either::Right(Either::Left(streamed))) => {
                    streamed.begins(version, slot.clone(), exchange.clone());
                }
                (None, Either::Right(Either::Right(events))) => {
                    events.begins(slot.clone(), exchange.clone());
                }
                (None, Either::Left(_)) => {
                    if exchange.is_unread() {
                        // Unless the rest of the body is there already, the connection ends here, and its client must not ask on it
                        // again.
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(CONNECTION, close);
                    }
                    slot.waits();
                }
            }
            Ok(answer)
        });
        slot.waits();
        let head_timeout = if refuse {
            REFUSED_HEAD_TIMEOUT
        } else {
            self.limits.head_timeout
        };
        let socket = Socket::new(stream, self.limits.answer_timeout, exchange.clone());
        let connection = http1::Builder::new()
            // Without a timer the timeout would do nothing. It covers the wait for the next request, too.
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .keep_alive(!refuse)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = slot.gave_way() => return debug!("an idle connection gave way to a newer one"),
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match exchange.is_cuttable() {
                    true => timeout(LAST_WORDS, connection).await.unwrap_or(Ok(())),
                    false => connection.await,
                }
            }
        };
        if let Err(e) = ended {
            debug!(error = %e, "connection ended");
        } else if let Some(tunnel) = tunnel.get() {
            tunnel.run().await;
        }
    }

    /// Answers one request, with its id in the answer and in every line that is logged meanwhile.
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        refuse: bool,
        exchange: &Arc<Exchange>,
    ) -> Answer {
        let id = request_id(&request);
        let cors = self.handler.cors();
        let origin = request.headers().get(ORIGIN).cloned();
        let preflight = cors.and_then(|cors| cors.preflight(request.method(), request.headers()));
        // Whoever sees the request sees the same one.
        request.headers_mut().insert(REQUEST_ID, id.clone());
        // Of the highest level: no filter keeps the lines and drops their id.
        let span = error_span!("request", request_id = %String::from_utf8_lossy(id.as_bytes()));
        let mut answer = async {
            let started = Instant::now();
            let counts = self.handler.counts(&request);
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let handled = if let Some(head) = preflight {
                let mut answer = empty_answer(StatusCode::NO_CONTENT);
                *answer.headers_mut() = head;
                Ok(answer)
            } else if refuse {
                Err(Problem::overloaded())
            } else {
                self.handle(request, exchange).await
            };
            let answer = handled.unwrap_or_else(Problem::answer);
            let (status, took) = (answer.status(), started.elapsed());
            if let Some(counts) = counts {
                let Counts { metrics, server, route } = counts;
                metrics.answered(server, route, status, took);
            }
            debug!(%method, path, status = status.as_u16(), duration_ms = took.as_millis(), "answered");
            answer
        }
        .instrument(span)
        .await;
        answer.headers_mut().insert(REQUEST_ID, id);
        if let Some(cors) = cors {
            cors.mark(origin.as_ref(), answer.headers_mut());
        }
        answer
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        exchange: &Arc<Exchange>,
    ) -> Result<Answer, Problem> {
        let slot = match self.handler.passes(&request) {
            true => None,
            false => Some(Arc::new(
                self.requests.take().ok_or_else(Problem::overloaded)?,
            )),
        };
        let request = request.map(|incoming| Body {
            incoming,
            limits: self.limits.clone(),
            slot: slot.clone(),
            exchange: exchange.clone(),
        });
        // What panicked is dropped; what it shares with others is behind locks that do not mind.
        AssertUnwindSafe(self.handler.handle(request))
            .catch_unwind()
            .await
            // The panic hook has logged where.
            .unwrap_or_else(|_| Err(Problem::internal()))
    }
}

/// The client's own, where it is fit for a log.
fn request_id(request: &Request<Incoming>) -> HeaderValue {
    let is_fit = |id: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match request.headers().get(REQUEST_ID).filter(is_fit) {
        Some(id) => id.clone(),
        None => HeaderValue::from_str(&Uuid::new_v4().to_string())
            .unwrap_or_else(|e| unreachable!("an uuid is visible ASCII: {e}")),
    }
}
