//! The body of a request: how much of it is read, how long that may take, and what JSON is taken.

use std::future::pending;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use serde_json::Value;
use tokio::time::timeout;

use super::Problem;
use super::exchange::Exchange;
use super::slots::Slot;
use crate::config::Limits;

/// How deep arrays and objects may nest. serde_json itself gives up at 128.
const MAX_DEPTH: usize = 100;

/// How many values a body may have. In memory a value is up to thirty times as large as its text, and an object, which is a
/// tree, ten times as large as other values.
const MAX_VALUES: usize = 20_000;
const OBJECT: usize = 10;

/// A body that has not been read yet.
#[derive(Debug)]
pub struct Body {
    pub(super) incoming: Incoming,
    pub(super) limits: Arc<Limits>,
    /// The request's. `None` for one that is only passed on.
    pub(super) slot: Option<Arc<Slot>>,
    pub(super) exchange: Arc<Exchange>,
}

impl Body {
    /// Reads all of it.
    pub(crate) async fn read(self) -> Result<Vec<u8>, Problem> {
        let Self {
            incoming,
            limits,
            slot,
            exchange,
        } = self;
        let gave_way = async {
            match &slot {
                Some(slot) => {
                    slot.waits();
                    slot.gave_way().await;
                }
                None => pending().await,
            }
        };
        let read = tokio::select! {
            biased;
            () = gave_way => return Err(Problem::overloaded()),
            read = timeout(limits.body_timeout, collect(incoming, limits.max_body)) => read,
        };
        let bytes = read.map_err(|_| {
            Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "The request body took too long",
            )
        })??;
        exchange.has_read();
        match slot.is_none_or(|slot| slot.works()) {
            true => Ok(bytes),
            false => Err(Problem::overloaded()),
        }
    }
}

/// Copied together as it comes: kept as they came, chunks of a byte each would take a multiple of their size.
async fn collect(mut incoming: Incoming, max: usize) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Request body too large (limit: {max} bytes)"),
        )
    };
    if incoming.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "The request body could not be read",
            )
        })?;
        // Else trailers.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads a JSON body, whatever its content type says.
pub async fn read_json(body: Body) -> Result<Value, Problem> {
    parse(&body.read().await?)
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    let extent = Extent::of(bytes);
    if extent.depth > MAX_DEPTH {
        return Err(Problem::unprocessable(format!(
            "The request body is nested too deeply (limit: {MAX_DEPTH} levels)"
        )));
    }
    if extent.values > MAX_VALUES {
        return Err(Problem::unprocessable(format!(
            "The request body has too many values (limit: {MAX_VALUES}, where an object counts as {OBJECT})"
        )));
    }
    serde_json::from_slice(bytes)
        .map_err(|_| Problem::unprocessable("Invalid JSON in request body"))
}

/// How much a JSON text is in memory, seen from its brackets and commas. Where it is valid, it has no more values than this.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub depth: usize,
    pub values: usize,
}

impl Extent {
    pub fn of(text: &[u8]) -> Self {
        let mut extent = Self {
            depth: 0,
            values: 1,
        };
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        for byte in text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = quoted,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'[' | b'{' => {
                    depth += 1;
                    extent.depth = extent.depth.max(depth);
                    extent.values += if *byte == b'{' { OBJECT } else { 1 };
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' => extent.values += 1,
                _ => {}
            }
        }
        extent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_not_parsed() {
        // serde_json's feature raw_value would do so, and what is in there was not counted.
        let body = r#"{"a":{"$serde_json::private::RawValue":"[[]]"}}"#;
        let parsed = parse(body.as_bytes()).expect("valid");
        assert_eq!(parsed.to_string(), body);
    }

    #[test]
    fn what_is_quoted_does_not_count() {
        for (text, depth, values) in [
            (r#""""#, 0, 1),
            (r#"{"a": [1, {"b": 2}], "c": 3}"#, 3, 24),
            (r#"["[[,,\"[,\\", "]"]"#, 1, 3),
            (r#"["\\", [[]]]"#, 3, 5),
            ("]]][[", 2, 3),
        ] {
            assert_eq!(
                Extent::of(text.as_bytes()),
                Extent { depth, values },
                "{text}"
            );
        }
    }
}
