//! `/live` (the process answers) and `/ready` (the first pass has ended, and the database answers with a schema that this worker
//! knows). Liveness never depends on the database: restarting the worker does not mend it.

use hyper::StatusCode;
use serde_json::json;

use super::{Admin, PROBE_TIMEOUT};
use crate::database::Error;
use crate::http::{Answer, json_answer};

impl Admin {
    pub(super) fn live(&self) -> Answer {
        json_answer(StatusCode::OK, &json!({ "live": true }))
    }

    pub(super) async fn ready(&self) -> Answer {
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
