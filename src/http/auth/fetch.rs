//! Fetches a JWKS over HTTP: one answer, not too large, within a deadline, from the very URL that was configured.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::jwks::Source;
use super::keys::Keys;
use crate::http::connector::{Connector, connector};
use crate::http::url::HttpUrl;
use crate::telemetry::chain;

/// For everything from looking up the host to the last byte.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The largest answer that is read.
const MAX_ANSWER: usize = 256 * 1024;

/// Says no more of the URL than may be shown.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {why}")]
pub struct FetchError {
    url: String,
    why: String,
}

type HttpClient = Client<Connector, Empty<Bytes>>;

impl FetchError {
    pub fn new(url: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            why: why.into(),
        }
    }
}

/// Where a project publishes its keys.
#[derive(Debug)]
pub struct Endpoint {
    url: HttpUrl,
    /// Without TLS nothing is fetched, and the error says why.
    client: Result<HttpClient, String>,
}

impl Endpoint {
    pub fn new(url: HttpUrl) -> Self {
        let client = connector(DEADLINE).map(client);
        Self { url, client }
    }

    async fn answer(&self) -> Result<Keys, String> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.url.uri().clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("agent-sync"));
        if let Some(user) = self.url.authorization() {
            headers.insert(AUTHORIZATION, user.clone());
        }
        let answer = client.request(request).await.map_err(|e| chain(&e))?;
        // A redirect is an answer like any other that is not the keys.
        if answer.status() != StatusCode::OK {
            return Err(format!(
                "it answered with status {}",
                answer.status().as_u16()
            ));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| match e.is::<LengthLimitError>() {
            true => format!("its answer is larger than {MAX_ANSWER} bytes"),
            false => chain(&*e),
        })?;
        Keys::parse(&body.to_bytes()).map_err(|_| "its answer is no JWKS".to_owned())
    }
}

impl Source for Endpoint {
    async fn fetch(&self) -> Result<Keys, FetchError> {
        let answered = tokio::time::timeout(DEADLINE, self.answer()).await;
        let late = || Err(format!("no answer within {} s", DEADLINE.as_secs()));
        answered
            .unwrap_or_else(|_| late())
            .map_err(|why| FetchError::new(self.url.to_string(), why))
    }
}

fn client(connector: Connector) -> HttpClient {
    // Minutes lie between two fetches: no connection is worth keeping.
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector)
}
