//! The two HTTP servers: the API that clients talk to, and the admin server for operators and probes.

pub mod admin;
pub mod api;
pub mod assistants;
pub mod auth;
pub(crate) mod body;
pub(crate) mod connector;
mod cors;
pub(crate) mod create;
mod exchange;
pub(crate) mod fields;
pub mod health;
mod lazy_sync;
pub(crate) mod patch;
pub mod relay;
mod route;
pub(crate) mod search;
mod server;
mod slots;
mod socket;
pub mod upstream;
pub mod url;
pub(crate) mod versions;

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::metrics::Metrics;

pub use body::{Body, read_json};
pub use cors::Cors;
pub use server::serve;

/// What we made ourselves is there as a whole; what another server makes, or what has yet to happen, comes bit by bit.
pub type Answer = Response<Either<Full<Bytes>, Bits>>;
pub type Bits = Either<upstream::Streamed, admin::events::EventStream>;

/// Who sent a request: the other end of its connection, in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Where an answer is counted.
#[derive(Debug, Clone, Copy)]
pub struct Counts<'a> {
    pub metrics: &'a Metrics,
    pub server: &'static str,
    /// One of few, and nothing that a client has said.
    pub route: &'static str,
}

/// A route of nobody's.
pub(crate) const NO_ROUTE: &str = "other";

/// What a server does with a request. An error is an answer, too.
pub trait Handle: Send + Sync + 'static {
    /// Whether a request is only passed on. Then it takes none of the slots for requests that are answered here.
    fn passes(&self, _request: &Request<Incoming>) -> bool {
        false
    }

    fn handle(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Answer, Problem>> + Send;

    /// Where its answers are counted, and under which of its routes this one.
    fn counts(&self, _request: &Request<Incoming>) -> Option<Counts<'_>> {
        None
    }

    /// For pages in a browser, if it is meant for them.
    fn cors(&self) -> Option<&Cors> {
        None
    }
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

    /// Never a shorter page: clients page until one is shorter than its limit. `fewer`: what to ask for instead.
    pub fn page_too_large(fewer: &str) -> Self {
        Self::unprocessable(format!(
            "the page is larger than 16 MiB: ask for fewer {fewer}"
        ))
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

    /// Others are served just now; this client is welcome again in a moment.
    pub fn overloaded() -> Self {
        Self {
            header: Some((RETRY_AFTER, "1")),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests at a time",
            )
        }
    }

    /// What it was stays in the log.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
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
    text_answer(status, body.to_string())
}

/// Of what is JSON already.
fn text_answer(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::from(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// To a path on this server. The method and the body stay what they were.
fn redirect(path: &str) -> Result<Answer, Problem> {
    let location = HeaderValue::from_str(path).map_err(|_| Problem::not_found())?;
    let mut answer = empty_answer(StatusCode::TEMPORARY_REDIRECT);
    answer.headers_mut().insert(LOCATION, location);
    Ok(answer)
}

pub fn empty_answer(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}
