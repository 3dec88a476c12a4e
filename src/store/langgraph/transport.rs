//! Requests to a LangGraph server: few at a time, each with a deadline, sent again where that is safe, and not at all while the
//! [`Gate`] is closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::CONCURRENCY;
use super::gate::{Closed, Gate, Right};
use super::reply::{Reply, seconds};
use crate::config::LangGraph;
use crate::database::{Error, Fault};
use crate::http::connector::{Connector, connector};
use crate::http::url::HttpUrl;
use crate::metrics::StoreCalls;
use crate::retry::Backoff;
use crate::telemetry::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is read: an assistant is at most a few MiB.
const MAX_ANSWER: usize = 16 << 20;

/// How often a request is sent, where it is safe to send it again.
const ATTEMPTS: u32 = 3;

/// The pauses in between.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Answered to everybody.
pub const INFO: &str = "/info";

type HttpClient = Client<Connector, Full<Bytes>>;

#[derive(Debug)]
pub struct Transport {
    url: HttpUrl,
    headers: HeaderMap,
    /// The values of those that the configuration gave.
    secrets: Arc<[String]>,
    timeout: Duration,
    /// Without TLS nothing is sent, and the error says why.
    client: Result<HttpClient, String>,
    slots: Semaphore,
    gate: Mutex<Gate>,
    /// It has not answered at some time since this was last asked.
    was_away: AtomicBool,
    calls: OnceLock<StoreCalls>,
}

/// Why there is no answer to go by.
#[derive(Debug)]
pub enum Failure {
    /// Nothing is sent for now: the gate is closed, and has said why.
    Stopped(String, Fault),
    /// The connection broke: it may have been done, or not.
    Lost(String),
    /// It took too long: it may have been done, or not, or will be.
    Late(String),
    /// An internal error of the server's, or an answer that is too large to be read: it may have been done, or not.
    Broken(String),
}

impl From<Closed> for Failure {
    fn from(closed: Closed) -> Self {
        Self::Stopped(closed.why, closed.fault)
    }
}

impl Transport {
    pub fn new(config: &LangGraph) -> Self {
        let mut headers = config.headers.clone();
        if let Some(user) = config.url.authorization() {
            headers.entry(AUTHORIZATION).or_insert(user.clone());
        }
        let values = headers.values().filter_map(|value| value.to_str().ok());
        // A shorter one is found in any text.
        let secrets = values.filter(|value| value.len() >= 5);
        let secrets = secrets.map(str::to_owned).collect();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("agent-sync"));
        Self {
            url: config.url.clone(),
            headers,
            secrets,
            timeout: config.timeout,
            client: connector(CONNECT_TIMEOUT).map(client),
            slots: Semaphore::new(CONCURRENCY),
            gate: Mutex::default(),
            was_away: AtomicBool::new(false),
            calls: OnceLock::new(),
        }
    }

    pub fn count_on(&self, calls: StoreCalls) {
        // Whoever comes later counts on the same.
        let _ = self.calls.set(calls);
    }

    /// Whether anything may be sent, now or in a moment.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Error> {
        let opens = self.gate().opens(Instant::now());
        opens.map(drop).map_err(|closed| self.error(closed.into()))
    }

    /// Waits until something may be sent.
    pub async fn opened(&self) {
        loop {
            let now = Instant::now();
            let until = self.gate().opens(now).unwrap_or_else(|closed| closed.until);
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Why nothing was sent lately, as long as nothing shows that this is over.
    pub fn trouble(&self) -> Option<Error> {
        let trouble = self.gate().trouble(Instant::now()).cloned();
        trouble.map(|closed| self.error(closed.into()))
    }

    /// Whether it did not let us in when it was last asked.
    pub fn is_refused(&self) -> bool {
        let gate = self.gate();
        gate.trouble(Instant::now())
            .is_some_and(|closed| closed.fault == Fault::Setup)
    }

    pub fn error(&self, failure: Failure) -> Error {
        let (why, fault) = match failure {
            Failure::Stopped(why, fault) => (why, fault),
            Failure::Lost(why) | Failure::Late(why) | Failure::Broken(why) => (why, Fault::Passing),
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
        let right = reply.right;
        self.stop(
            format!(
                "it answers ({}) as no LangGraph server does; is LANGGRAPH_API_URL right? {}",
                reply.status,
                reply.detail()
            ),
            Fault::Setup,
            right,
        )
    }

    /// Not one of several requests was dealt with.
    pub fn is_broken(&self, why: &str) -> Failure {
        self.be_spared(format!("it is broken: {why}"))
    }

    /// Nothing more is sent for a while, to a server that has enough to do with itself.
    fn be_spared(&self, why: String) -> Failure {
        self.stop(why, Fault::Passing, Right::Everybodys)
    }

    /// Nothing more is sent for a while.
    fn stop(&self, why: String, fault: Fault, right: Right) -> Failure {
        let now = Instant::now();
        let is_news = self.gate().close(now, why.clone(), fault, right);
        self.tell(is_news, &why, fault);
        Failure::Stopped(why, fault)
    }

    /// Once, here, and not by everybody whose work has to wait for it.
    fn tell(&self, is_news: bool, why: &str, fault: Fault) {
        let server = &self.url;
        match fault {
            _ if !is_news => {}
            Fault::Setup => error!(
                %server, "the LangGraph server cannot be used: {why}. Nothing is lost: what changes waits in the outbox"
            ),
            _ => {
                warn!(%server, "the LangGraph server is left in peace: {why}. What changes waits in the outbox")
            }
        }
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
            let slot = self.slots.acquire().await;
            self.may_send().await?;
            let answered = self.once(method, path, body.clone()).await;
            drop(slot);
            self.count(method, path, &answered);
            let now = Instant::now();
            match answered {
                Ok(reply) if reply.status == StatusCode::TOO_MANY_REQUESTS => {
                    let asked = reply.retry_after.unwrap_or_default();
                    self.pause(now, asked.max(backoff.pause()));
                    if attempt >= ATTEMPTS {
                        return Err(self.be_spared("it is too busy for us (429)".to_owned()));
                    }
                }
                Ok(reply) => return self.judge(reply),
                Err(NotAnswered::NotSent(why)) => {
                    self.is_away(now, &why);
                    if attempt >= ATTEMPTS {
                        return Err(self.be_spared(format!("it cannot be reached: {why}")));
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(NotAnswered::Lost(why)) => {
                    self.is_away(now, &why);
                    return Err(Failure::Lost(why));
                }
                Err(NotAnswered::Late) => {
                    let why = format!("no answer within {} s", self.timeout.as_secs_f32());
                    self.failed(now, &why);
                    return Err(Failure::Late(why));
                }
                Err(NotAnswered::TooLarge) => {
                    return Err(Failure::Broken(format!(
                        "its answer is larger than {MAX_ANSWER} bytes"
                    )));
                }
            }
        }
        unreachable!("there is always another attempt")
    }

    /// Waits for a short pause to end.
    async fn may_send(&self) -> Result<(), Closed> {
        loop {
            let now = Instant::now();
            let until = self.gate().opens(now)?;
            if until <= now {
                return Ok(());
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// What an answer means for the server as a whole.
    fn judge(&self, reply: Reply) -> Result<Reply, Failure> {
        let (status, now) = (reply.status, Instant::now());
        let said = || format!("it answers {status}: {}", reply.detail());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.stop(
                format!(
                    "{}. It is asked again now and then; see LANGGRAPH_API_KEY and {}",
                    said(),
                    crate::config::LANGGRAPH_HEADERS
                ),
                Fault::Setup,
                reply.right,
            )),
            StatusCode::REQUEST_TIMEOUT => {
                self.failed(now, &said());
                Err(Failure::Lost(said()))
            }
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                self.is_away(now, &said());
                if let Some(asked) = reply.retry_after {
                    self.pause(now, asked);
                }
                Err(Failure::Lost(said()))
            }
            status if status.is_server_error() => Err(Failure::Broken(said())),
            status if status.is_redirection() => Err(self.stop(
                format!(
                    "{}; LANGGRAPH_API_URL must be where it answers itself",
                    said()
                ),
                Fault::Setup,
                reply.right,
            )),
            _ => {
                if self.gate().answered(now, reply.right) {
                    info!(server = %self.url, "the LangGraph server can be used again");
                }
                Ok(reply)
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
            let body = body.map_err(|e| match e.is::<LengthLimitError>() {
                true => NotAnswered::TooLarge,
                false => NotAnswered::Lost(chain(&*e)),
            })?;
            Ok(Reply {
                status: head.status,
                body: body.to_bytes(),
                retry_after: head.headers.get(RETRY_AFTER).and_then(seconds),
                right: match *method {
                    Method::GET if path == INFO => Right::Everybodys,
                    Method::GET => Right::Read,
                    _ => Right::Write,
                },
                secrets: self.secrets.clone(),
            })
        };
        let answered = tokio::time::timeout(self.timeout, answering).await;
        answered.unwrap_or(Err(NotAnswered::Late))
    }

    fn count(&self, method: &Method, path: &str, answered: &Result<Reply, NotAnswered>) {
        let operation = match *method {
            Method::GET if path == INFO => "info",
            Method::GET => "read",
            Method::POST => "create",
            Method::PATCH => "update",
            _ => "delete",
        };
        let is_error = match answered {
            // Not there, or there already: an answer like another.
            Ok(reply) => !reply.status.is_success() && !is_plain_refusal(reply.status),
            Err(_) => true,
        };
        if let Some(calls) = self.calls.get() {
            calls.count(operation, is_error);
        }
    }

    /// There is no server at the moment; when there is one again, it may be another.
    fn is_away(&self, now: Instant, why: &str) {
        self.was_away.store(true, Ordering::Relaxed);
        self.failed(now, why);
    }

    fn failed(&self, now: Instant, why: &str) {
        let why = format!("it is down: {why}");
        let is_news = self.gate().failed(now, &why);
        self.tell(is_news, &why, Fault::Passing);
    }

    fn pause(&self, now: Instant, pause: Duration) {
        let is_news = self.gate().asked_to_pause(now, pause);
        let why = format!("it asks for a pause of {} s", pause.as_secs());
        self.tell(is_news, &why, Fault::Passing);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum NotAnswered {
    /// There was no connection.
    NotSent(String),
    Lost(String),
    Late,
    TooLarge,
}

/// It says something of the assistant, and not of the request.
fn is_plain_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::CONFLICT)
}

fn client(connector: Connector) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(CONCURRENCY)
        .build(connector)
}
