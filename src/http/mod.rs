//! The two HTTP servers: the API that clients talk to, and the admin server for operators and probes.

pub mod admin;
pub mod assistants;
pub mod auth;
mod create;
mod fields;
mod lazy_sync;
mod patch;
mod search;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// The largest body that is read.
const MAX_BODY: usize = 1024 * 1024;

/// How long a client may take to send its headers, and then its body.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

pub type Answer = Response<Full<Bytes>>;

/// What a server does with a request. An error is an answer, too.
pub trait Handle: Send + Sync + 'static {
    fn handle(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Answer, Problem>> + Send;
}

/// An answer that is not the one the client hoped for: `{"detail": "…"}`, as LangGraph servers send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            header: None,
        }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not Found")
    }

    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self {
            header: Some((ALLOW, allowed)),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        }
    }

    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// The store cannot be reached just now.
    pub fn unavailable() -> Self {
        Self {
            header: Some((RETRY_AFTER, "5")),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable")
        }
    }

    pub fn with_header(self, name: HeaderName, value: &'static str) -> Self {
        Self {
            header: Some((name, value)),
            ..self
        }
    }

    fn answer(self) -> Answer {
        let mut answer = json_answer(self.status, &json!({ "detail": self.detail }));
        if let Some((name, value)) = self.header {
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        answer
    }
}

pub fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

pub fn empty_answer(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

/// Serves until `shutdown` is called, then lets the requests in hand finish.
pub async fn serve(listener: TcpListener, handler: Arc<impl Handle>, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
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
            () = shutdown.cancelled() => break,
        };
        let (handler, shutdown) = (handler.clone(), shutdown.clone());
        connections.spawn(async move {
            let service = service_fn(|request| answer(&*handler, request));
            let connection = http1::Builder::new()
                // Without a timer the timeout would do nothing.
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = ended {
                debug!(error = %e, "connection ended");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(handler: &impl Handle, request: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(handler
        .handle(request)
        .await
        .unwrap_or_else(Problem::answer))
}

/// Reads a JSON body, whatever its content type says.
async fn read_json(body: Incoming) -> Result<Value, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Request body too large (limit: {MAX_BODY} bytes)"),
        )
    };
    let collected =
        tokio::time::timeout(READ_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    let bytes = match collected {
        Err(_) => {
            return Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "The request body took too long",
            ));
        }
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "The request body could not be read",
            ));
        }
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    serde_json::from_slice(&bytes)
        .map_err(|_| Problem::unprocessable("Invalid JSON in request body"))
}
