//! Environment → [`Config`]. Pure: it is given the variables and a way to read files, and reports all problems in one go.

mod authentication;
mod origins;
pub mod secrets;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use crate::database::{DatabaseUrl, UrlError};
use crate::http::url::HttpUrl;
use crate::removals::MaxRemovals;
use crate::scope::{Scope, ScopeError};

pub use authentication::{
    ALLOW_ANONYMOUS, ALLOW_SERVICE_ROLE, Authentication, SUPABASE_JWKS_URL, SUPABASE_JWT_SECRET,
    SUPABASE_URL, Secret,
};
pub use origins::Origins;

pub use store::{
    LANGGRAPH_API_KEY, LANGGRAPH_API_URL, LANGGRAPH_HEADERS, LANGGRAPH_TIMEOUT, LangGraph, STORE,
    Store,
};

pub const DATABASE_URL: &str = "DATABASE_URL";
pub const SCOPE: &str = "AGENT_SYNC_SCOPE";
pub const ROBYN_DEV: &str = "ROBYN_DEV";
pub const HTTP_ADDR: &str = "AGENT_SYNC_HTTP_ADDR";
pub const ADMIN_ADDR: &str = "AGENT_SYNC_ADMIN_ADDR";
pub const DEFAULT_MODEL: &str = "AGENT_SYNC_DEFAULT_MODEL";
pub const AUTO_MIGRATE: &str = "AGENT_SYNC_AUTO_MIGRATE";
pub const RESYNC_INTERVAL: &str = "AGENT_SYNC_RESYNC_INTERVAL";
pub const ON_REMOVE: &str = "AGENT_SYNC_ON_REMOVE";
pub const MAX_REMOVALS: &str = "AGENT_SYNC_MAX_REMOVALS";
pub const WRITE_BACK: &str = "AGENT_SYNC_WRITE_BACK";
pub const AUTHENTICATOR_URL: &str = "AGENT_SYNC_AUTHENTICATOR_URL";
pub const AUTHORIZE: &str = "AGENT_SYNC_AUTHORIZE";
pub const RECHECK_ACCESS: &str = "AGENT_SYNC_RECHECK_ACCESS";
pub const MAX_BODY: &str = "AGENT_SYNC_MAX_BODY";
pub const MAX_CONNECTIONS: &str = "AGENT_SYNC_MAX_CONNECTIONS";
pub const MAX_REQUESTS: &str = "AGENT_SYNC_MAX_REQUESTS";
pub const CORS_ORIGINS: &str = "AGENT_SYNC_CORS_ORIGINS";
pub const MAX_STREAMS: &str = "AGENT_SYNC_MAX_STREAMS";
pub const UPSTREAM: &str = "AGENT_SYNC_UPSTREAM";
pub const LOG: &str = "AGENT_SYNC_LOG";
pub const LOG_FORMAT: &str = "AGENT_SYNC_LOG_FORMAT";

const DEFAULT_ADMIN_ADDR: &str = "127.0.0.1:8091";
/// All that is read, but for the variables that name files ([`secrets`]).
pub const NAMES: [&str; 32] = [
    DATABASE_URL,
    STORE,
    LANGGRAPH_API_URL,
    LANGGRAPH_API_KEY,
    LANGGRAPH_HEADERS,
    LANGGRAPH_TIMEOUT,
    SCOPE,
    SUPABASE_URL,
    SUPABASE_JWKS_URL,
    SUPABASE_JWT_SECRET,
    ALLOW_SERVICE_ROLE,
    ALLOW_ANONYMOUS,
    AUTHENTICATOR_URL,
    AUTHORIZE,
    RECHECK_ACCESS,
    ROBYN_DEV,
    HTTP_ADDR,
    ADMIN_ADDR,
    UPSTREAM,
    DEFAULT_MODEL,
    AUTO_MIGRATE,
    RESYNC_INTERVAL,
    ON_REMOVE,
    MAX_REMOVALS,
    WRITE_BACK,
    MAX_BODY,
    MAX_CONNECTIONS,
    MAX_REQUESTS,
    MAX_STREAMS,
    CORS_ORIGINS,
    LOG,
    LOG_FORMAT,
];

/// The model of an agent that has none.
pub const DEFAULT_MODEL_NAME: &str = "openai:gpt-4o";

/// Environment variables, by name. What was not UTF-8 in a value has become U+FFFD.
pub type Variables = BTreeMap<String, String>;

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_model: DEFAULT_MODEL_NAME.to_owned(),
            on_remove: OnRemove::Delete,
            max_removals: MaxRemovals::default(),
            scope: Scope::None,
            write_back: true,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// `None`: nothing is synced.
    pub database: Option<DatabaseUrl>,
    /// Where assistants live.
    pub store: Store,
    /// A scope that cannot be understood is not fatal: the pass is skipped, the worker runs.
    pub scope: Result<Scope, ScopeError>,
    /// Lazy sync for everybody, without a tenant check.
    pub dev: bool,
    pub authentication: Authentication,
    pub http_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub auto_migrate: bool,
    /// How often everything is looked at, whether or not a change was announced. `None`: never.
    pub resync_interval: Option<Duration>,
    /// Of the API. The admin server has its own.
    pub limits: Limits,
    /// Whose pages may call the API from a browser.
    pub cors_origins: Origins,
    /// The server that everything but `/assistants` is passed through to.
    pub upstream: Option<HttpUrl>,
    pub sync: Settings,
    pub tenancy: Tenancy,
    pub log: Log,
}

/// How the database is asked which agents a user may have.
#[derive(Debug, Clone)]
pub struct Tenancy {
    /// As whom to log in for that. `None`: as for everything else.
    pub authenticator: Option<DatabaseUrl>,
    pub authorize: Authorize,
    /// Whether users' assistants are asked about again when they are written, and at every resync.
    pub recheck: bool,
}

/// What a user must be able to read to have an agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Authorize {
    /// Every column of `public.agents` that the mapping uses.
    #[default]
    Agent,
    /// All that the worker reads, with the same result.
    Source,
}

/// What a server's clients may take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// In bytes.
    pub max_body: usize,
    pub max_connections: usize,
    /// In hand at a time.
    pub max_requests: usize,
    /// Passed through at a time. Each has a connection of its own to the upstream, too.
    pub max_streams: usize,
    /// How long a client may take for the head of a request, and so for how long a connection may be idle.
    pub head_timeout: Duration,
    /// How long it may take for the body, or, where it is passed through, for its next part.
    pub body_timeout: Duration,
    /// How long it may take to read the answer, or, where it is passed through, any of it.
    pub answer_timeout: Duration,
}

/// What clients may take up of them: many systems give a process 1,024.
const DESCRIPTORS: usize = 768;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 1024 * 1024,
            max_connections: DESCRIPTORS,
            max_requests: 64,
            max_streams: 256,
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(15),
        }
    }
}

/// How agents are synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For agents that have no model.
    pub default_model: String,
    pub on_remove: OnRemove,
    pub max_removals: MaxRemovals,
    /// In scope besides what all workers on the database share.
    pub scope: Scope,
    /// Whether an agent's row is to name its assistant.
    pub write_back: bool,
}

/// What becomes of the assistants of an agent that is not active any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemove {
    Delete,
    /// They stay as they are, until the agent is active again.
    Keep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter as tracing-subscriber's [`Targets`] takes it.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl Config {
    /// Of variables that name no files.
    pub fn from_variables(variables: &Variables) -> Result<Self, ConfigErrors> {
        Self::from_variables_and_files(variables, |_| Err(std::io::ErrorKind::Unsupported.into()))
    }

    /// `files`: what is in a file that a variable names ([`secrets`]).
    pub fn from_variables_and_files(
        variables: &Variables,
        files: impl Fn(&Path) -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, ConfigErrors> {
        let (complete, problems) = secrets::complete(variables, files);
        let mut reader = Reader {
            variables: &complete,
            problems,
        };
        let database = reader.optional(DATABASE_URL, database_url);
        let store = Store::read(&mut reader, database.is_some());
        let upstream = reader.optional(UPSTREAM, HttpUrl::bare);
        if let (Some(upstream), Store::LangGraph(server)) = (&upstream, &store)
            && upstream.leads_into(&server.url)
        {
            reader.problems.push(format!(
                "{UPSTREAM}: it is the server of {LANGGRAPH_API_URL} by another path, by which assistants would be changed unseen: leave it \
                 out, or make them the same"
            ));
        }
        let is_in_front = upstream.is_some() || matches!(store, Store::LangGraph(_));
        let config = Self {
            store,
            database,
            scope: reader.text(SCOPE).unwrap_or_default().parse(),
            dev: reader.with_default(ROBYN_DEV, "false", boolean),
            authentication: Authentication::read(&mut reader),
            http_addr: reader.with_default(HTTP_ADDR, "127.0.0.1:8090", address),
            admin_addr: reader.with_default(ADMIN_ADDR, DEFAULT_ADMIN_ADDR, address),
            auto_migrate: reader.with_default(AUTO_MIGRATE, "true", boolean),
            resync_interval: reader.with_default(RESYNC_INTERVAL, "10m", interval),
            limits: reader.limits(is_in_front),
            cors_origins: reader
                .optional(CORS_ORIGINS, origins::origins)
                .unwrap_or_default(),
            upstream,
            sync: Settings {
                default_model: reader
                    .text(DEFAULT_MODEL)
                    .unwrap_or(DEFAULT_MODEL_NAME)
                    .to_owned(),
                on_remove: reader.with_default(ON_REMOVE, "delete", on_remove),
                max_removals: reader
                    .optional(MAX_REMOVALS, max_removals)
                    .unwrap_or_default(),
                scope: Scope::None,
                write_back: reader.with_default(WRITE_BACK, "true", boolean),
            },
            tenancy: Tenancy {
                authenticator: reader.optional(AUTHENTICATOR_URL, database_url),
                authorize: reader.with_default(AUTHORIZE, "agent", authorize),
                recheck: reader.with_default(RECHECK_ACCESS, "true", boolean),
            },
            log: Log {
                filter: reader.with_default(LOG, "info", filter),
                format: reader.with_default(LOG_FORMAT, "text", log_format),
            },
        };
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(reader.problems))
        }
    }
}

struct Reader<'a> {
    variables: &'a Variables,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Set to nothing but blanks is the same as not set.
    fn text(&self, name: &str) -> Option<&'a str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let parsed = if text.contains(char::REPLACEMENT_CHARACTER) {
            Err("it is not valid UTF-8".to_owned())
        } else {
            parse(text)
        };
        match parsed {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(format!("{name}: {problem}"));
                None
            }
        }
    }

    fn limits(&mut self, has_upstream: bool) -> Limits {
        let mut default = Limits::default();
        if has_upstream {
            // A stream is a descriptor here and another one there.
            default.max_connections = DESCRIPTORS - default.max_streams;
        }
        let limits = Limits {
            max_body: self.optional(MAX_BODY, bytes).unwrap_or(default.max_body),
            max_connections: self
                .optional(MAX_CONNECTIONS, at_least_one)
                .unwrap_or(default.max_connections),
            max_requests: self
                .optional(MAX_REQUESTS, at_least_one)
                .unwrap_or(default.max_requests),
            max_streams: self
                .optional(MAX_STREAMS, at_least_one)
                .unwrap_or(default.max_streams),
            ..default
        };
        if has_upstream && limits.max_streams >= limits.max_connections {
            self.problems.push(format!(
                "{MAX_STREAMS}: {} is not below {MAX_CONNECTIONS} ({}): streams could keep everything else out",
                limits.max_streams, limits.max_connections
            ));
        }
        limits
    }

    fn with_default<T>(
        &mut self,
        name: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.optional(name, &parse).unwrap_or_else(|| {
            parse(default).unwrap_or_else(|e| unreachable!("the default of {name}: {e}"))
        })
    }
}

fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    text.parse().map_err(|e: UrlError| e.to_string())
}

/// The address of the admin server, whatever the rest of the configuration is like.
pub fn admin_addr(variables: &Variables) -> Result<SocketAddr, String> {
    let problems = Vec::new();
    let reader = Reader {
        variables,
        problems,
    };
    address(reader.text(ADMIN_ADDR).unwrap_or(DEFAULT_ADMIN_ADDR))
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let resolved = text
        .to_socket_addrs()
        .map_err(|e| format!("`{text}` is not an address like 127.0.0.1:8090: {e}"))?;
    resolved
        .into_iter()
        .next()
        .ok_or_else(|| format!("`{text}` resolves to no address"))
}

/// `0` is never.
fn interval(text: &str) -> Result<Option<Duration>, String> {
    match humantime::parse_duration(text) {
        Ok(interval) => Ok(Some(interval).filter(|interval| !interval.is_zero())),
        Err(_) => Err(format!(
            "`{text}` is not an interval like 10m, 1h or 90s, nor 0 for never"
        )),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match interval(text)? {
        Some(duration) => Ok(duration),
        None => Err("it must be more than 0".to_owned()),
    }
}

fn on_remove(text: &str) -> Result<OnRemove, String> {
    match text.to_ascii_lowercase().as_str() {
        "delete" => Ok(OnRemove::Delete),
        "keep" => Ok(OnRemove::Keep),
        _ => Err(format!("`{text}` is neither delete nor keep")),
    }
}

fn authorize(text: &str) -> Result<Authorize, String> {
    match text.to_ascii_lowercase().as_str() {
        "agent" => Ok(Authorize::Agent),
        "source" => Ok(Authorize::Source),
        _ => Err(format!("`{text}` is neither agent nor source")),
    }
}

fn max_removals(text: &str) -> Result<MaxRemovals, String> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(MaxRemovals::Unlimited);
    }
    text.parse().map(MaxRemovals::AtMost).map_err(|_| {
        format!("`{text}` is neither a number of agents like 25 nor unlimited; unset, it is 10 or 20 % of ours, whichever is more")
    })
}

fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1024),
        None => match text.strip_suffix(['m', 'M']) {
            Some(number) => (number, 1024 * 1024),
            None => (text, 1),
        },
    };
    at_least_one(number)
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("`{text}` is not a size like 1048576, 512k or 1M"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{text}` is not a number of at least 1")),
    }
}

fn filter(text: &str) -> Result<String, String> {
    match text.parse::<Targets>() {
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(format!(
            "`{text}` is not a log filter like info or agent_sync=debug: {e}"
        )),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither text nor json")),
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not usable:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}
