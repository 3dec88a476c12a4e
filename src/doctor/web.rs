//! A request to a server, with a deadline. Of the answer nothing is quoted: some servers repeat the key that they do not accept.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::http::connector::connector;
use crate::http::url::HttpUrl;
use crate::telemetry::chain;

/// From looking up the host to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;

pub struct Answer {
    pub status: StatusCode,
    /// What its clock says, in seconds since 1970.
    pub date: Option<f64>,
    /// Null where it is no JSON.
    pub body: Value,
}

/// The error is fit to be shown.
pub async fn ask(
    method: Method,
    url: &HttpUrl,
    headers: &HeaderMap,
    body: Option<&Value>,
) -> Result<Answer, String> {
    let connector = connector(PATIENCE)?;
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let body = body.map(|body| Bytes::from(body.to_string()));
    let mut request = Request::new(Full::new(body.unwrap_or_default()));
    *request.method_mut() = method;
    *request.uri_mut() = url.uri().clone();
    *request.headers_mut() = headers.clone();
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static("agent-sync"));
    if let Some(user) = url.authorization() {
        headers.entry(AUTHORIZATION).or_insert_with(|| user.clone());
    }
    let asking = async {
        let answer = client.request(request).await.map_err(|e| chain(&e))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|e| chain(&*e))?.to_bytes();
        Ok(Answer {
            status: head.status,
            date: head.headers.get(DATE).and_then(date),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    };
    let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| late())
}

fn date(header: &HeaderValue) -> Option<f64> {
    let date = OffsetDateTime::parse(header.to_str().ok()?, &Rfc2822).ok()?;
    // Whole seconds: on average half of one more.
    Some(date.unix_timestamp() as f64 + 0.5)
}
