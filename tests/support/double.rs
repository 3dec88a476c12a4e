//! A LangGraph server whose faults are scripted. What it does when nothing goes wrong is as little of the official assistants API as
//! the worker needs; the real server has tests of its own.

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
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Number, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TestDatabase;

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
    assistants: BTreeMap<Uuid, Stored>,
    log: Vec<Seen>,
    rules: Vec<Rule>,
    /// `None`: any.
    graphs: Option<Vec<String>>,
    /// What `/info` says besides.
    revision: u64,
    /// New connections are closed before they carry anything.
    slams: bool,
    slow: Duration,
}

struct Stored {
    now: Value,
    versions: Vec<Value>,
}

/// A status, headers and a body.
struct Reply(u16, Vec<(&'static str, String)>, String);

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
        self.state().assistants.clear();
    }

    /// From now on `/info` says something else.
    pub fn deploy(&self) {
        self.state().revision += 1;
    }

    /// No other graphs than these.
    pub fn know_only(&self, graphs: &[&str]) {
        self.state().graphs = Some(graphs.iter().map(ToString::to_string).collect());
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
            .assistants
            .get(&id)
            .map(|stored| stored.now.clone())
    }

    pub fn assistants(&self) -> Vec<Value> {
        let state = self.state();
        state
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

    /// All its versions, the oldest first.
    pub fn history(&self, id: Uuid) -> Vec<Value> {
        let state = self.state();
        let stored = state.assistants.get(&id);
        stored.map_or_else(Vec::new, |stored| stored.versions.clone())
    }

    /// Puts what it has where [`TestDatabase::differences`] looks for it, as if a worker of that place had written it.
    pub async fn copy_to(&self, db: &TestDatabase) {
        self.copy_but_for(Uuid::nil(), db).await;
    }

    /// The same, where this one is somebody else's.
    pub async fn copy_but_for(&self, foreign: Uuid, db: &TestDatabase) {
        let mut all = self.assistants();
        all.retain(|assistant| assistant["assistant_id"] != json!(foreign));
        for assistant in &mut all {
            let mirrored = assistant["config"]["configurable"].clone();
            if assistant["context"] == mirrored {
                assistant["context"] = json!({});
            }
            if assistant["description"] == "" {
                assistant["description"] = Value::Null;
            }
            object_mut(&mut assistant["metadata"]).retain(|_, value| !value.is_null());
        }
        let statement = "insert into langgraph_server.assistants (id, graph_id, config, context, metadata, name, description, version)
            select a->>'assistant_id', a->>'graph_id', a->'config', a->'context', a->'metadata', a->>'name', a->>'description',
              (a->>'version')::int
            from jsonb_array_elements($1::text::jsonb) as a";
        let rows = Value::Array(all).to_string();
        let copying = async {
            db.client
                .batch_execute("begin; delete from langgraph_server.assistants")
                .await?;
            db.client.execute(statement, &[&rows]).await?;
            db.client.batch_execute("commit").await
        };
        copying.await.expect("copied");
    }

    /// Somebody else makes or replaces an assistant.
    pub fn put(&self, id: Uuid, body: Value) {
        let made = create(id, object(&body));
        self.state().assistants.insert(id, made);
    }

    /// Somebody else changes one.
    pub fn patch(&self, id: Uuid, body: Value) {
        let mut state = self.state();
        let stored = state.assistants.get_mut(&id).expect("it is there");
        stored.patch(&object(&body));
    }

    /// Somebody else deletes one.
    pub fn delete(&self, id: Uuid) {
        self.state().assistants.remove(&id).expect("it is there");
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
        let done = || self.state().handle(&seen);
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
                    return Some(rule.fault.clone());
                }
            }
        }
        None
    }

    fn handle(&mut self, seen: &Seen) -> Reply {
        let body = &seen.body;
        let path: Vec<&str> = seen.path.trim_matches('/').split('/').collect();
        match (seen.method.as_str(), path.as_slice()) {
            ("GET", ["ok"]) => ok(&json!({"ok": true})),
            ("GET", ["info"]) => ok(&json!({
                "version": "0.16.7", "langgraph_py_version": "1.2.22", "flags": {"assistants": true},
                "host": {"kind": "self-hosted", "revision_id": self.revision},
            })),
            ("POST", ["assistants"]) => self.create(&object(body)),
            ("POST", ["assistants", "search"]) => self.search(&object(body)),
            ("POST", ["assistants", "count"]) => ok(&json!(self.matching(&object(body)).len())),
            (method, ["assistants", id, rest @ ..]) => match Uuid::try_parse(id) {
                Ok(id) => self.one(method, id, rest, body),
                Err(_) => detail(422, "Invalid assistant ID: must be a UUID"),
            },
            _ => detail(404, "Not Found"),
        }
    }

    fn one(&mut self, method: &str, id: Uuid, rest: &[&str], body: &Value) -> Reply {
        let missing = || detail(404, &format!("Assistant with ID {id} not found"));
        match (method, rest) {
            ("GET", []) => match self.assistants.get(&id) {
                Some(stored) => ok(&stored.now),
                None => detail(404, "Not Found"),
            },
            ("PATCH", []) => {
                let body = object(body);
                if let Some(wrong) = wrong(&body).or_else(|| self.unknown_graph(&body)) {
                    return wrong;
                }
                if body.get("description").is_some_and(Value::is_null) {
                    return detail(422, r#"null is not of type "string""#);
                }
                match self.assistants.get_mut(&id) {
                    Some(stored) => {
                        stored.patch(&body);
                        ok(&stored.now)
                    }
                    None => missing(),
                }
            }
            ("DELETE", []) => match self.assistants.remove(&id) {
                Some(_) => Reply(204, Vec::new(), String::new()),
                None => missing(),
            },
            ("POST", ["versions"]) => match self.assistants.get(&id) {
                Some(stored) => ok(&stored.versions.iter().rev().cloned().collect()),
                None => missing(),
            },
            _ => detail(405, "Method Not Allowed"),
        }
    }

    fn create(&mut self, body: &Map<String, Value>) -> Reply {
        if let Some(wrong) = wrong(body).or_else(|| self.unknown_graph(body)) {
            return wrong;
        }
        if !body.contains_key("graph_id") {
            return detail(422, r#""graph_id" is a required property"#);
        }
        let id = body.get("assistant_id").and_then(Value::as_str);
        let id = id.map_or_else(Uuid::new_v4, |id| Uuid::try_parse(id).expect("a uuid"));
        if let Some(stored) = self.assistants.get(&id) {
            return match body.get("if_exists").and_then(Value::as_str) {
                Some("do_nothing") => ok(&stored.now),
                _ => detail(409, &format!("Assistant {id} already exists")),
            };
        }
        let made = create(id, body.clone());
        let reply = ok(&made.now);
        self.assistants.insert(id, made);
        reply
    }

    fn unknown_graph(&self, body: &Map<String, Value>) -> Option<Reply> {
        let (known, graph) = (self.graphs.as_ref()?, body.get("graph_id")?.as_str()?);
        let is_known = known.iter().any(|known| known == graph);
        (!is_known).then(|| {
            detail(
                404,
                &format!("Graph '{graph}' not found. Expected one of: {known:?}"),
            )
        })
    }

    fn matching(&self, body: &Map<String, Value>) -> Vec<&Value> {
        let metadata = body.get("metadata").and_then(Value::as_object);
        let contains = |assistant: &Value| {
            let mut wanted = metadata.into_iter().flatten();
            wanted.all(|(key, value)| assistant["metadata"].get(key) == Some(value))
        };
        let all = self.assistants.values().map(|stored| &stored.now);
        all.filter(|assistant| contains(assistant)).collect()
    }

    fn search(&self, body: &Map<String, Value>) -> Reply {
        let number = |name: &str, default: u64| {
            let number = body.get(name).and_then(Value::as_u64).unwrap_or(default);
            usize::try_from(number).expect("small")
        };
        let found = self.matching(body).into_iter();
        let page: Vec<&Value> = found
            .skip(number("offset", 0))
            .take(number("limit", 10))
            .collect();
        ok(&json!(page))
    }
}

/// What the official server refuses.
fn wrong(body: &Map<String, Value>) -> Option<Reply> {
    let full = |value: Option<&Value>| {
        value
            .and_then(Value::as_object)
            .is_some_and(|o| !o.is_empty())
    };
    let configurable = body
        .get("config")
        .and_then(|config| config.get("configurable"));
    if full(configurable) && full(body.get("context")) {
        return Some(detail(400, "Cannot specify both configurable and context."));
    }
    let typed = [
        ("config", "object"),
        ("context", "object"),
        ("metadata", "object"),
        ("name", "string"),
        ("graph_id", "string"),
    ];
    typed.iter().find_map(|(name, kind)| {
        let value = body.get(*name)?;
        let fits = if *kind == "object" {
            value.is_object()
        } else {
            value.is_string()
        };
        (!fits).then(|| detail(422, &format!("{value} is not of type \"{kind}\"")))
    })
}

fn create(id: Uuid, body: Map<String, Value>) -> Stored {
    let now = now();
    let mut stored = Stored {
        now: json!({
            "assistant_id": id, "graph_id": null, "config": {}, "context": {}, "metadata": {}, "name": "Untitled",
            "description": null, "version": 0, "created_at": now, "updated_at": now,
        }),
        versions: Vec::new(),
    };
    stored.patch(&body);
    stored.now["updated_at"] = stored.now["created_at"].clone();
    stored
}

impl Stored {
    fn patch(&mut self, body: &Map<String, Value>) {
        let stored = &mut self.now;
        for field in ["graph_id", "name", "description"] {
            if let Some(value) = body.get(field) {
                stored[field] = value.clone();
            }
        }
        if let Some(Value::Object(metadata)) = body.get("metadata") {
            object_mut(&mut stored["metadata"]).extend(metadata.clone());
        }
        // As a server does whose JSON went through protobuf: all numbers are doubles, and what is empty is gone.
        if let Some(Value::Object(config)) = body.get("config")
            && !config.is_empty()
        {
            let kept = config
                .iter()
                .filter(|(_, value)| **value != json!({}) && **value != json!([]));
            stored["config"] = kept
                .map(|(key, value)| (key.clone(), plain(value)))
                .collect();
            let configurable = stored["config"].get("configurable").cloned();
            stored["context"] = configurable.unwrap_or_else(|| json!({}));
        }
        if let Some(context) = body.get("context") {
            stored["context"] = plain(context);
            stored["config"]["configurable"] = plain(context);
        }
        let version = self.versions.len() + 1;
        stored["version"] = json!(version);
        stored["updated_at"] = json!(now());
        self.versions.push(stored.clone());
    }
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Number(number) => {
            let double: f64 = number.to_string().parse().expect("a number");
            Number::from_f64(double).map_or(Value::Null, Value::Number)
        }
        other => other.clone(),
    }
}

fn ok(body: &Value) -> Reply {
    Reply(StatusCode::OK.as_u16(), Vec::new(), body.to_string())
}

fn detail(status: u16, detail: &str) -> Reply {
    Reply(status, Vec::new(), json!({ "detail": detail }).to_string())
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("an object")
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("a time")
}
