//! A LangGraph server whose faults are scripted. What it does when nothing goes wrong is as little of the official assistants API as
//! the worker needs; the real server has tests of its own.

mod api;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use agent_sync::config;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use api::{Api, Reply, create, object};

/// Only reached when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Double {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// `None`: nobody is let in, connections are refused.
    accepting: Mutex<Option<JoinSet<()>>>,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer, and nothing is done.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is closed, and nothing is done.
    ResetBefore,
    /// It is done, and the connection is closed.
    ResetAfter,
    /// It is done, and answered like this all the same.
    AnswerAfter(u16, Vec<(&'static str, String)>, String),
    /// Nothing is done before it is let go. Whether or not the client still waits then.
    HoldBefore,
    /// It is done at once, and answered when it is let go.
    HoldAfter,
    /// It is done after this time.
    Later(Duration),
    /// It is done, and answered after this time.
    AnswerLater(Duration),
    /// It is done, and the answer names another assistant.
    AnotherId,
    /// It is done, and the answer is this much longer.
    Longer(usize),
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::detail(status, "scripted")
    }

    pub fn detail(status: u16, detail: &str) -> Self {
        Self::Answer(status, Vec::new(), json!({ "detail": detail }).to_string())
    }

    /// Too many requests.
    pub fn retry_after(status: u16, seconds: u32) -> Self {
        let header = ("retry-after", seconds.to_string());
        Self::Answer(
            status,
            vec![header],
            r#"{"detail": "slow down"}"#.to_owned(),
        )
    }
}

/// A fault, and which requests it befalls.
struct Rule {
    method: &'static str,
    path: String,
    /// How many are let through first.
    skip: usize,
    times: usize,
    fault: Fault,
}

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub body: Value,
    pub headers: BTreeMap<String, String>,
    pub at: Instant,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// How many are held, and may go.
    held: Shut,
    go: Shut,
    in_hand: AtomicUsize,
    most_in_hand: AtomicUsize,
    connections: AtomicUsize,
    /// Connections end with it.
    cut: Mutex<CancellationToken>,
}

/// Without permits at first.
struct Shut(Semaphore);

impl Default for Shut {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Default)]
struct State {
    api: Api,
    log: Vec<Seen>,
    /// How many requests something befell.
    faults: usize,
    rules: Vec<Rule>,
    /// New connections are closed before they carry anything.
    slams: bool,
    slow: Duration,
}

impl Double {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let accepting = Mutex::new(Some(accept(listener, shared.clone())));
        Self {
            address,
            shared,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For one that is used without a worker.
    pub fn config(&self) -> config::LangGraph {
        config::LangGraph {
            url: self.url().parse().expect("a url"),
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(30),
        }
    }

    // What goes wrong.

    /// The next request with this method whose path contains this has this fault.
    pub fn next(&self, method: &'static str, path: impl ToString, fault: Fault) {
        self.some(method, path, 0, 1, fault);
    }

    /// All such requests, until [`Double::mend`].
    pub fn always(&self, method: &'static str, path: impl ToString, fault: Fault) {
        self.some(method, path, 0, usize::MAX, fault);
    }

    /// So many of them, after so many others. Any method: `""`.
    pub fn some(
        &self,
        method: &'static str,
        path: impl ToString,
        skip: usize,
        times: usize,
        fault: Fault,
    ) {
        let path = path.to_string();
        self.state().rules.push(Rule {
            method,
            path,
            skip,
            times,
            fault,
        });
    }

    /// Nothing more goes wrong.
    pub fn mend(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.slams = false;
        state.slow = Duration::ZERO;
    }

    /// Each answer takes this long.
    pub fn slow(&self, pause: Duration) {
        self.state().slow = pause;
    }

    /// Waits until a request is held.
    pub async fn held(&self) {
        let held = timeout(DEADLINE, self.shared.held.0.acquire()).await;
        held.expect("a request is held").expect("open").forget();
    }

    /// Lets one that is held go.
    pub fn let_go(&self) {
        self.shared.go.0.add_permits(1);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        let mut cut = self.shared.cut.lock().expect("cut");
        std::mem::take(&mut *cut).cancel();
    }

    /// Closes all connections, and each new one as soon as it is there.
    pub fn slam(&self) {
        self.state().slams = true;
        self.cut();
    }

    /// Closes all connections, and refuses new ones.
    pub fn refuse(&self) {
        self.accepting.lock().expect("accepting").take();
        self.cut();
    }

    /// Takes connections again.
    pub async fn listen(&self) {
        let listener = TcpListener::bind(self.address).await.expect("bound again");
        *self.accepting.lock().expect("accepting") = Some(accept(listener, self.shared.clone()));
    }

    /// A restart of a server that keeps everything in memory.
    pub fn lose_all(&self) {
        let mut state = self.state();
        let lost = std::mem::take(&mut state.api.assistants);
        state.api.lost.extend(lost.into_values());
    }

    /// From now on `/info` says something else.
    pub fn deploy(&self) {
        self.state().api.revision += 1;
    }

    /// No other graphs than these.
    pub fn know_only(&self, graphs: &[&str]) {
        self.state().api.graphs = Some(graphs.iter().map(ToString::to_string).collect());
    }

    // What it saw.

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many requests were in hand at the same time, at most.
    pub fn most_in_hand(&self) -> usize {
        self.shared.most_in_hand.load(Ordering::SeqCst)
    }

    pub fn log(&self) -> Vec<Seen> {
        self.state().log.clone()
    }

    /// Those to `/assistants`.
    pub fn requests(&self) -> Vec<Seen> {
        let log = self.log().into_iter();
        log.filter(|seen| seen.path.starts_with("/assistants"))
            .collect()
    }

    /// Those with this method whose path or body names this assistant.
    pub fn requests_for(&self, method: &str, id: Uuid) -> Vec<Seen> {
        let id = id.to_string();
        let names =
            |seen: &Seen| seen.path.contains(&id) || seen.body["assistant_id"] == id.as_str();
        let requests = self.requests().into_iter();
        requests
            .filter(|seen| seen.method == method && names(seen))
            .collect()
    }

    /// The methods of the requests that name this assistant, in order.
    pub fn methods(&self, id: Uuid) -> Vec<String> {
        let text = id.to_string();
        let names =
            |seen: &Seen| seen.path.contains(&text) || seen.body["assistant_id"] == text.as_str();
        let requests = self.requests().into_iter().filter(names);
        requests.map(|seen| seen.method.to_string()).collect()
    }

    /// Requests that change something.
    pub fn writes(&self) -> Vec<Seen> {
        let requests = self.requests().into_iter();
        requests.filter(|seen| seen.method != Method::GET).collect()
    }

    pub fn forget_log(&self) {
        self.state().log.clear();
        self.shared.most_in_hand.store(0, Ordering::SeqCst);
    }

    // What it has.

    pub fn assistant(&self, id: Uuid) -> Option<Value> {
        self.state()
            .api
            .assistants
            .get(&id)
            .map(|stored| stored.now.clone())
    }

    pub fn assistants(&self) -> Vec<Value> {
        let state = self.state();
        state
            .api
            .assistants
            .values()
            .map(|stored| stored.now.clone())
            .collect()
    }

    pub fn prompt(&self, id: Uuid) -> Option<String> {
        let assistant = self.assistant(id)?;
        let prompt = &assistant["config"]["configurable"]["system_prompt"];
        prompt.as_str().map(str::to_owned)
    }

    pub fn versions(&self, id: Uuid) -> usize {
        self.history(id).len()
    }

    /// The versions of all that it has, or has ever lost.
    pub fn histories(&self) -> Vec<Vec<Value>> {
        let state = self.state();
        let all = state.api.assistants.values().chain(&state.api.lost);
        all.map(|stored| stored.versions.clone()).collect()
    }

    /// How many requests something befell.
    pub fn faults(&self) -> usize {
        self.state().faults
    }

    /// All its versions, the oldest first.
    pub fn history(&self, id: Uuid) -> Vec<Value> {
        let state = self.state();
        let stored = state.api.assistants.get(&id);
        stored.map_or_else(Vec::new, |stored| stored.versions.clone())
    }

    /// Somebody else makes or replaces an assistant.
    pub fn put(&self, id: Uuid, body: Value) {
        let made = create(id, object(&body));
        self.state().api.assistants.insert(id, made);
    }

    /// Somebody else changes one.
    pub fn patch(&self, id: Uuid, body: Value) {
        let mut state = self.state();
        let stored = state.api.assistants.get_mut(&id).expect("it is there");
        stored.patch(&object(&body));
    }

    /// Somebody else deletes one.
    pub fn delete(&self, id: Uuid) {
        self.state()
            .api
            .assistants
            .remove(&id)
            .expect("it is there");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> JoinSet<()> {
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            if shared.state().slams {
                continue;
            }
            let cut = shared.cut.lock().expect("cut").clone();
            let shared = shared.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let shared = shared.clone();
                    // What was begun is done, whether or not the client still waits.
                    let answering = tokio::spawn(async move { shared.answer(request).await });
                    async move { answering.await.map_err(|_| "cut")?.ok_or("reset") }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    _ = connection => {}
                    () = cut.cancelled() => {}
                }
            });
        }
    });
    accepting
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("state")
    }

    /// `None`: the connection is to be closed.
    async fn answer(&self, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let seen = Seen {
            method: head.method,
            path: head.uri.to_string(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            headers: head
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
                .collect(),
            at: Instant::now(),
        };
        let in_hand = self.in_hand.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_hand.fetch_max(in_hand, Ordering::SeqCst);
        let reply = self.reply(seen).await;
        self.in_hand.fetch_sub(1, Ordering::SeqCst);
        let Reply(status, headers, body) = reply?;
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        Some(
            answer
                .body(Full::new(Bytes::from(body)))
                .expect("an answer"),
        )
    }

    async fn reply(&self, seen: Seen) -> Option<Reply> {
        let (fault, slow) = {
            let mut state = self.state();
            state.log.push(seen.clone());
            (state.fault(&seen), state.slow)
        };
        tokio::time::sleep(slow).await;
        let done = || self.state().api.handle(&seen);
        Some(match fault {
            None => done(),
            Some(Fault::Answer(status, headers, body)) => Reply(status, headers, body),
            Some(Fault::AnswerAfter(status, headers, body)) => {
                done();
                Reply(status, headers, body)
            }
            Some(Fault::ResetBefore) => return None,
            Some(Fault::ResetAfter) => {
                done();
                return None;
            }
            Some(Fault::HoldBefore) => {
                self.hold().await;
                done()
            }
            Some(Fault::HoldAfter) => {
                let reply = done();
                self.hold().await;
                reply
            }
            Some(Fault::Later(pause)) => {
                tokio::time::sleep(pause).await;
                done()
            }
            Some(Fault::AnswerLater(pause)) => {
                let reply = done();
                tokio::time::sleep(pause).await;
                reply
            }
            Some(Fault::AnotherId) => {
                let Reply(status, headers, body) = done();
                let mut body: Value = serde_json::from_str(&body).expect("JSON");
                body["assistant_id"] = json!(Uuid::new_v4());
                Reply(status, headers, body.to_string())
            }
            Some(Fault::Longer(bytes)) => {
                let Reply(status, headers, body) = done();
                Reply(status, headers, body + &" ".repeat(bytes))
            }
        })
    }

    async fn hold(&self) {
        self.held.0.add_permits(1);
        self.go.0.acquire().await.expect("open").forget();
    }
}

impl State {
    fn fault(&mut self, seen: &Seen) -> Option<Fault> {
        let id = seen.body["assistant_id"].as_str().unwrap_or_default();
        let place = format!("{} {id}", seen.path);
        let applies = |rule: &&mut Rule| {
            rule.times > 0
                && (rule.method.is_empty() || seen.method == rule.method)
                && place.contains(&rule.path)
        };
        for rule in self.rules.iter_mut().filter(applies) {
            match rule.skip.checked_sub(1) {
                Some(left) => rule.skip = left,
                None => {
                    rule.times = rule.times.saturating_sub(1);
                    self.faults += 1;
                    return Some(rule.fault.clone());
                }
            }
        }
        None
    }
}
