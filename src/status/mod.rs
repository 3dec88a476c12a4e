//! How an installation is: what `agent-sync status` prints and the admin server's `/status` says.
//!
//! Gathered within [`DEADLINE`], and never an error: what cannot be found out is `None`, and the reasons say why. It is cheap: one
//! transaction, one trip to the database, and another for names where agents are troubled.

mod gather;
mod judge;
mod text;

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::config::Host;

use crate::config::{Config, Store};
use crate::database::{Database, DatabaseUrl};

/// How long gathering may take.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// At most so many agents are named.
pub const TROUBLED: usize = 20;

/// How far the outbox is counted. Counting all of it would take long when somebody should look soon.
pub const COUNTED: usize = 100_000;

/// `None` is what could not be found out, or does not apply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    pub health: Health,
    /// Why it is not healthy, a sentence each.
    pub reasons: Vec<String>,
    /// Of this agent-sync.
    pub version: &'static str,
    /// What all workers on the database share; before any has stored it, what is configured.
    pub scope: Option<String>,
    /// `postgres`, `langgraph` or `memory`.
    pub store: &'static str,
    /// `None` without `DATABASE_URL`.
    pub database: Option<DatabaseStatus>,
    pub triggers: Option<Triggers>,
    pub outbox: Option<Outbox>,
    pub agents: Option<Agents>,
    /// At most [`TROUBLED`], the worst first.
    pub troubled: Vec<Troubled>,
    /// Of the running worker that is asked.
    pub worker: Option<Worker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Healthy,
    /// It works, and somebody should look at it.
    Degraded,
    /// The first pass has not ended.
    Starting,
    /// It does not sync.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseStatus {
    pub reachable: bool,
    /// Why it cannot be reached.
    pub error: Option<String>,
    /// Such as `PostgreSQL 15.8`.
    pub server: Option<String>,
    /// `host:port/name`, as it is configured.
    pub address: Option<String>,
    pub role: Option<String>,
    /// 0: schema agent_sync is not installed.
    pub schema_version: Option<i32>,
    /// The newest that this agent-sync knows.
    pub known_version: i32,
    /// How many workers listen for changes, those of other processes included.
    pub listeners: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Triggers {
    /// On the source tables that exist.
    pub expected: i64,
    /// Those that are not there, or disabled, or altered, such as `update on agents`.
    pub missing: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outbox {
    /// How many changes wait, retries aside.
    pub depth: i64,
    pub oldest_age_seconds: Option<f64>,
    /// How many agents are to be tried again.
    pub retries: i64,
    /// There are more: it was counted up to [`COUNTED`] only.
    pub at_least: bool,
}

/// How many agents are in which state. One that has several assistants counts once, by the worst of them, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Agents {
    pub failed: i64,
    pub conflict: i64,
    pub held: i64,
    pub synced: i64,
    pub removed: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Troubled {
    pub agent_id: String,
    /// `None` where the agent is not there any more, too.
    pub name: Option<String>,
    /// `failed`, `conflict` or `held`.
    pub state: String,
    pub error: Option<String>,
    /// Failures in a row.
    pub attempts: i32,
    /// When it was looked at last, RFC 3339.
    pub last_at: String,
}

/// A worker, as it knows itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    /// RFC 3339.
    pub started_at: String,
    /// What `/ready` says.
    pub ready: bool,
    /// `None` where nothing is listened to: without a database.
    pub listener: Option<Listener>,
    /// How long a notification takes from one connection to the other.
    pub round_trip_seconds: Option<f64>,
    /// How many changes were found that no notification had announced.
    pub missed_doorbells: u64,
    /// How old the keys are that callers are known by.
    pub keys_age_seconds: Option<f64>,
    /// What is wrong with the server that requests are passed through to, in a sentence, or `reachable`. `None`: there is no such server,
    /// or nothing is known of it yet.
    pub upstream: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    Listening,
    CatchingUp,
    Connecting,
    PollingOnly,
}

/// What only a running worker can say, for [`Status::gather`].
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    pub worker: Worker,
    /// What the first pass waits for ([`crate::readiness::Readiness::pending`]).
    pub pending: Option<String>,
    /// Why changes do not reach their assistants at the moment: the change loop, or the place where assistants live.
    pub stuck: Option<String>,
    /// What else somebody should look at, such as that callers cannot be known.
    pub trouble: Vec<String>,
}

/// What a status is about: what is configured, and the database to ask.
#[derive(Debug, Clone)]
pub struct Subject {
    scope: Option<String>,
    store: &'static str,
    address: Option<String>,
    database: Option<Database>,
}

impl Subject {
    /// `database`: the pool that is asked, of one's own.
    pub fn new(config: &Config, database: Option<Database>) -> Self {
        Self {
            scope: config.scope.as_ref().ok().map(ToString::to_string),
            store: match config.store {
                Store::Postgres => "postgres",
                Store::Memory => "memory",
                Store::LangGraph(_) => "langgraph",
            },
            address: config.database.as_ref().map(address),
            database,
        }
    }
}

/// `host:port/name`.
pub fn address(url: &DatabaseUrl) -> String {
    let config = url.config();
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(place, host)| {
            let port = ports.get(place).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();
    let name = config.get_dbname().or(config.get_user());
    format!("{}/{}", hosts.join(","), name.unwrap_or_default())
}
