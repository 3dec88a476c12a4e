//! The admin server: `/live` (the process answers) and `/ready` (the first pass has ended, and the database answers with a schema
//! that this worker knows).
//! Liveness never depends on the database: restarting the worker does not mend it.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::{Answer, Body, Handle, Problem, json_answer};
use crate::database::{Database, Error};
use crate::readiness::Readiness;
use crate::store::Place;

/// How long the database may take to answer a probe.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Admin {
    pub readiness: Arc<Readiness>,
    /// `None` in in-memory mode.
    pub database: Option<Database>,
    /// Where assistants live.
    pub place: Place,
}

impl Handle for Admin {
    async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed("GET, HEAD"));
        }
        match request.uri().path() {
            "/live" => Ok(json_answer(StatusCode::OK, &json!({ "live": true }))),
            "/ready" => Ok(self.ready().await),
            _ => Err(Problem::not_found()),
        }
    }
}

impl Admin {
    async fn ready(&self) -> Answer {
        let pending = self.readiness.pending();
        let unreachable = self.unreachable(pending.is_none()).await;
        // Where the database is away, or the place where assistants live, so is the change loop.
        let stuck = || {
            let trouble = self.place.trouble().map(|trouble| trouble.to_string());
            trouble.or_else(|| self.readiness.stuck())
        };
        let callers = self.readiness.callers_unknown();
        let reasons: Vec<String> = [pending, unreachable.or_else(stuck), callers]
            .into_iter()
            .flatten()
            .collect();
        let status = if reasons.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_answer(
            status,
            &json!({ "ready": reasons.is_empty(), "reasons": reasons }),
        )
    }

    async fn unreachable(&self, is_set_up: bool) -> Option<String> {
        let database = self.database.as_ref()?;
        let checking = async {
            match is_set_up {
                true => database.check_schema().await,
                false => database.check().await,
            }
        };
        let checked = tokio::time::timeout(PROBE_TIMEOUT, checking).await;
        match checked {
            Ok(Ok(())) => None,
            Ok(Err(e @ Error::Newer(_))) => Some(e.to_string()),
            Ok(Err(e)) => Some(format!("the database does not answer: {e}")),
            Err(_) => Some(format!(
                "the database does not answer within {} s",
                PROBE_TIMEOUT.as_secs()
            )),
        }
    }
}
