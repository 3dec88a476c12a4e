//! Requests to a LangGraph server: few at a time, each with a deadline, sent again where that is safe, and not at all while the
//! [`Gate`] is closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::CONCURRENCY;
use super::gate::{Closed, Gate};
use crate::config::LangGraph;
use crate::database::{Error, Fault};
use crate::http::connector::{Connector, connector};
use crate::http::url::HttpUrl;
use crate::retry::Backoff;
use crate::telemetry::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is read: an assistant is at most a few MiB.
const MAX_ANSWER: usize = 16 << 20;

/// How often a request is sent, where it is safe to send it again.
const ATTEMPTS: u32 = 3;

/// The pauses in between.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause that is waited for with work in hand.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most that is quoted of an answer.
const MAX_QUOTED: usize = 200;

type HttpClient = Client<Connector, Full<Bytes>>;

#[derive(Debug)]
pub struct Transport {
    url: HttpUrl,
    headers: HeaderMap,
    timeout: Duration,
    /// Without TLS nothing is sent, and the error says why.
    client: Result<HttpClient, String>,
    slots: Semaphore,
    gate: Mutex<Gate>,
    /// It has not answered at some time since this was last asked.
    was_away: AtomicBool,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
    retry_after: Option<Duration>,
}

/// Why there is no answer to go by.
#[derive(Debug)]
pub enum Failure {
    /// Nothing is sent for now.
    Stopped(String, Fault),
    /// The connection broke, or it took too long: it may have been done, or not.
    Lost(String),
    /// An internal error of the server's: it may have been done, or not.
    Broken(String),
}

impl Failure {
    /// Whether there is no point in looking what came of it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Stopped(..))
    }
}

impl From<Closed> for Failure {
    fn from(closed: Closed) -> Self {
        Self::Stopped(closed.why, closed.fault)
    }
}

impl Reply {
    /// What went wrong, as servers say it in one of three ways.
    pub fn detail(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = ["detail", "message", "error"]
            .iter()
            .find_map(|name| json.get(name));
        let said = match said {
            Some(Value::String(said)) => said.clone(),
            Some(other) => other.to_string(),
            None => text.into_owned(),
        };
        let line = said.lines().next().unwrap_or_default();
        line.chars().take(MAX_QUOTED).collect()
    }
}

impl Transport {
    pub fn new(config: &LangGraph) -> Self {
        let mut headers = config.headers.clone();
        if let Some(user) = config.url.authorization() {
            headers.entry(AUTHORIZATION).or_insert(user.clone());
        }
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("agent-sync"));
        Self {
            url: config.url.clone(),
            headers,
            timeout: config.timeout,
            client: connector(CONNECT_TIMEOUT).map(client),
            slots: Semaphore::new(CONCURRENCY),
            gate: Mutex::default(),
            was_away: AtomicBool::new(false),
        }
    }

    pub fn check(&self) -> Result<(), Error> {
        let closed = self.gate().check(Instant::now());
        closed.map_err(|closed| self.error(closed.into()))
    }

    pub fn error(&self, failure: Failure) -> Error {
        let (why, fault) = match failure {
            Failure::Stopped(why, fault) => (why, fault),
            Failure::Lost(why) | Failure::Broken(why) => (why, Fault::Passing),
        };
        Error::Server {
            why: format!("{}: {why}", self.url),
            fault,
        }
    }

    /// Whether the server has been away since this was last asked.
    pub fn was_away(&self) -> bool {
        self.was_away.swap(false, Ordering::Relaxed)
    }

    /// What answers is something else.
    pub fn no_langgraph(&self, reply: &Reply) -> Failure {
        Failure::Stopped(
            format!(
                "it answers ({}) as no LangGraph server does; is LANGGRAPH_API_URL right? {}",
                reply.status,
                reply.detail()
            ),
            Fault::Setup,
        )
    }

    /// A request that changes nothing: sent again when its answer is lost.
    pub async fn read(&self, path: &str) -> Result<Reply, Failure> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 1..ATTEMPTS {
            match self.send(&Method::GET, path, None).await {
                Err(Failure::Lost(_) | Failure::Broken(_)) => {
                    tokio::time::sleep(backoff.pause()).await;
                }
                answered => return answered,
            }
        }
        self.send(&Method::GET, path, None).await
    }

    /// A request that changes something: when its answer is lost, the caller has to look first.
    pub async fn write(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, Failure> {
        self.send(method, path, body).await
    }

    /// Sends it, again and again as long as it surely was not dealt with.
    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, Failure> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let body = body
            .map(|body| Bytes::from(body.to_string()))
            .unwrap_or_default();
        for attempt in 1.. {
            self.gate().check(Instant::now())?;
            let slot = self.slots.acquire().await;
            let answered = self.once(method, path, body.clone()).await;
            drop(slot);
            let pause = match answered {
                Ok(reply) => match self.judge(reply)? {
                    Ok(reply) => return Ok(reply),
                    // Too many requests.
                    Err(asked) => asked.unwrap_or_else(|| backoff.pause()),
                },
                Err(NotAnswered::NotSent(_)) if attempt < ATTEMPTS => backoff.pause(),
                Err(NotAnswered::NotSent(why)) => {
                    return Err(Failure::Stopped(why, Fault::Passing));
                }
                Err(NotAnswered::Lost(why)) => return Err(Failure::Lost(why)),
            };
            if pause > LONGEST_PAUSE || attempt >= ATTEMPTS {
                self.gate().asked_to_pause(Instant::now(), pause);
                self.gate().check(Instant::now())?;
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("there is always another attempt")
    }

    /// What an answer means for the server as a whole. Inner error: it was not dealt with, and how long to wait.
    fn judge(&self, reply: Reply) -> Result<Result<Reply, Option<Duration>>, Failure> {
        let status = reply.status;
        let said = || format!("it answers {status}: {}", reply.detail());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = format!(
                    "{}; nothing is written there until it lets us in: see LANGGRAPH_API_KEY and {}",
                    said(),
                    crate::config::LANGGRAPH_HEADERS
                );
                self.gate().refused(Instant::now(), why.clone());
                Err(Failure::Stopped(why, Fault::Setup))
            }
            StatusCode::TOO_MANY_REQUESTS => Ok(Err(reply.retry_after)),
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                self.is_away(&said());
                if let Some(pause) = reply.retry_after {
                    self.gate().asked_to_pause(Instant::now(), pause);
                }
                Err(Failure::Lost(said()))
            }
            status if status.is_server_error() => Err(Failure::Broken(said())),
            status if status.is_redirection() => Err(Failure::Stopped(
                format!(
                    "{}; LANGGRAPH_API_URL must be where it answers itself",
                    said()
                ),
                Fault::Setup,
            )),
            _ => {
                self.gate().answered();
                Ok(Ok(reply))
            }
        }
    }

    async fn once(&self, method: &Method, path: &str, body: Bytes) -> Result<Reply, NotAnswered> {
        let client = self.client.as_ref();
        let client = client.map_err(|why| NotAnswered::NotSent(why.clone()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = self.url.join(path).uri().clone();
        *request.headers_mut() = self.headers.clone();
        let answering = async {
            let answer = client.request(request).await.map_err(|e| {
                let why = chain(&e);
                match e.is_connect() {
                    true => NotAnswered::NotSent(why),
                    false => NotAnswered::Lost(why),
                }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|e| NotAnswered::Lost(chain(&*e)))?.to_bytes();
            Ok(Reply {
                status: head.status,
                body,
                retry_after: head.headers.get(RETRY_AFTER).and_then(seconds),
            })
        };
        let answered = tokio::time::timeout(self.timeout, answering).await;
        let late = || {
            let seconds = self.timeout.as_secs_f32();
            Err(NotAnswered::Lost(format!("no answer within {seconds} s")))
        };
        let answered = answered.unwrap_or_else(|_| late());
        if let Err(NotAnswered::NotSent(why) | NotAnswered::Lost(why)) = &answered {
            self.is_away(why);
        }
        answered
    }

    fn is_away(&self, why: &str) {
        self.was_away.store(true, Ordering::Relaxed);
        self.gate().failed(Instant::now(), why);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum NotAnswered {
    /// There was no connection.
    NotSent(String),
    Lost(String),
}

/// A `Retry-After` in seconds. As a date it is not taken: LangGraph servers send none.
fn seconds(header: &HeaderValue) -> Option<Duration> {
    let seconds: u64 = header.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

fn client(connector: Connector) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(CONCURRENCY)
        .build(connector)
}
