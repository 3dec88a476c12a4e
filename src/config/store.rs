//! Where assistants live.

use std::fmt;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::secrets::file_variable;
use super::{DATABASE_URL, Reader, duration};
use crate::http::url::HttpUrl;

pub const STORE: &str = "AGENT_SYNC_STORE";
pub const LANGGRAPH_API_URL: &str = "LANGGRAPH_API_URL";
pub const LANGGRAPH_API_KEY: &str = "LANGGRAPH_API_KEY";
pub const LANGGRAPH_HEADERS: &str = "AGENT_SYNC_LANGGRAPH_HEADERS";
pub const LANGGRAPH_TIMEOUT: &str = "AGENT_SYNC_LANGGRAPH_TIMEOUT";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// `langgraph_server.assistants`, in the database that agents are in.
    Postgres,
    /// The worker's own memory.
    Memory,
    LangGraph(Box<LangGraph>),
}

/// A LangGraph server.
#[derive(Clone, PartialEq, Eq)]
pub struct LangGraph {
    pub url: HttpUrl,
    /// Sent with each request. May be secret.
    pub headers: HeaderMap,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl fmt::Debug for LangGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    Memory,
    LangGraph,
}

impl Store {
    pub(super) fn read(reader: &mut Reader<'_>, has_database: bool) -> Self {
        let default = match has_database {
            true => Kind::Postgres,
            false => Kind::Memory,
        };
        let kind = reader.optional(STORE, kind).unwrap_or(default);
        let is_named = [DATABASE_URL, &file_variable(DATABASE_URL)]
            .iter()
            .any(|name| reader.text(name).is_some());
        if !has_database && !matches!(kind, Kind::Memory) && !is_named {
            reader.problems.push(format!(
                "{STORE}: only memory does without a database; {DATABASE_URL} says where the agents are"
            ));
        }
        match kind {
            Kind::Postgres => Self::Postgres,
            Kind::Memory => Self::Memory,
            Kind::LangGraph => {
                langgraph(reader).map_or(Self::Memory, |server| Self::LangGraph(Box::new(server)))
            }
        }
    }
}

/// `None`: the reader has a problem.
fn langgraph(reader: &mut Reader<'_>) -> Option<LangGraph> {
    if reader.text(LANGGRAPH_API_URL).is_none() {
        reader.problems.push(format!(
            "{LANGGRAPH_API_URL}: {STORE}=langgraph needs it, such as http://localhost:8123"
        ));
    }
    let url = reader.optional(LANGGRAPH_API_URL, server);
    let mut headers = reader
        .optional(LANGGRAPH_HEADERS, headers)
        .unwrap_or_default();
    let key = reader.optional(LANGGRAPH_API_KEY, |key| secret(key.as_bytes()));
    if let Some(key) = key {
        headers.insert(HeaderName::from_static("x-api-key"), key);
    }
    let timeout = reader.with_default(LANGGRAPH_TIMEOUT, "30s", duration);
    Some(LangGraph {
        url: url?,
        headers,
        timeout,
    })
}

fn kind(text: &str) -> Result<Kind, String> {
    match text.to_ascii_lowercase().as_str() {
        "postgres" => Ok(Kind::Postgres),
        "memory" => Ok(Kind::Memory),
        "langgraph" => Ok(Kind::LangGraph),
        _ => Err(format!(
            "`{text}` is none of postgres, langgraph and memory"
        )),
    }
}

/// With a user, if need be: it is sent as basic authentication.
fn server(text: &str) -> Result<HttpUrl, String> {
    let url: HttpUrl = text.trim_end_matches('/').parse()?;
    if url.has_more_than_a_path() {
        return Err("it must have neither a query nor a fragment".to_owned());
    }
    Ok(url)
}

/// `name=value,name=value`, percent-encoded, as OpenTelemetry's exporters take them. The error shows no value.
fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (place, pair) in text.split(',').enumerate() {
        let wrong = || {
            format!(
                "part {} is not a header like x-auth-scheme=langsmith (several are separated by commas; in a value, write a comma \
                 as %2C and a percent sign as %25)",
                place + 1
            )
        };
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        headers.insert(name, secret(&value).map_err(|_| wrong())?);
    }
    Ok(headers)
}

fn secret(value: &[u8]) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| "it has characters that no header can have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
