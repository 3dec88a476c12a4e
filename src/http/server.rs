//! The server: accepts connections, keeps within its limits, gives every request an id, and stops gracefully.
//!
//! Whoever keeps it waiting is cut off by a deadline, and sooner when others want the slot ([`super::slots`]): while an
//! attacker holds all connections idle, a newcomer takes the place of the one that has been idle longest.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error_span, warn};
use uuid::Uuid;

use super::slots::{Slot, Slots};
use super::socket::Socket;
use super::{Answer, Body, Handle, Problem, empty_answer};
use crate::config::Limits;

const REQUEST_ID: &str = "x-request-id";

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
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
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
            tasks.spawn(async move { server.connection(stream, slot, false).await });
        } else if let Some(slot) = refused.take() {
            tasks.spawn(async move { server.connection(stream, slot, true).await });
        }
    }
    tasks.close();
    tasks.wait().await;
}

impl<H: Handle> Server<H> {
    /// Serves one connection, or, where it is one too many, only says so.
    async fn connection(&self, stream: TcpStream, slot: Slot, refuse: bool) {
        let unread = Arc::new(AtomicBool::new(false));
        let service = service_fn(|request: Request<Incoming>| async {
            if !slot.works() {
                return Err(GaveWay);
            }
            unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
            let answer = self.answer(request, refuse, &unread).await;
            slot.waits();
            Ok(answer)
        });
        slot.waits();
        let head_timeout = if refuse {
            REFUSED_HEAD_TIMEOUT
        } else {
            self.limits.head_timeout
        };
        let socket = Socket::new(stream, self.limits.answer_timeout, unread.clone());
        let connection = http1::Builder::new()
            // Without a timer the timeout would do nothing. It covers the wait for the next request, too.
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .keep_alive(!refuse)
            .serve_connection(TokioIo::new(socket), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = slot.gave_way() => return debug!("an idle connection gave way to a newer one"),
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = ended {
            debug!(error = %e, "connection ended");
        }
    }

    /// Answers one request, with its id in the answer and in every line that is logged meanwhile.
    async fn answer(
        &self,
        request: Request<Incoming>,
        refuse: bool,
        unread: &Arc<AtomicBool>,
    ) -> Answer {
        let id = request_id(&request);
        let cors = self.handler.cors();
        let origin = request.headers().get(ORIGIN).cloned();
        let preflight = cors.and_then(|cors| cors.preflight(request.method(), request.headers()));
        // Of the highest level: no filter keeps the lines and drops their id.
        let span = error_span!("request", request_id = %String::from_utf8_lossy(id.as_bytes()));
        let mut answer = async {
            let started = Instant::now();
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let handled = if let Some(head) = preflight {
                let mut answer = empty_answer(StatusCode::NO_CONTENT);
                *answer.headers_mut() = head;
                Ok(answer)
            } else if refuse {
                Err(Problem::overloaded())
            } else {
                self.handle(request, unread).await
            };
            let answer = handled.unwrap_or_else(Problem::answer);
            debug!(%method, path, status = answer.status().as_u16(), duration_ms = started.elapsed().as_millis(), "answered");
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
        unread: &Arc<AtomicBool>,
    ) -> Result<Answer, Problem> {
        let slot = self.requests.take().ok_or_else(Problem::overloaded)?;
        let slot = Arc::new(slot);
        let request = request.map(|incoming| Body {
            incoming,
            limits: self.limits.clone(),
            slot: slot.clone(),
            unread: unread.clone(),
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
