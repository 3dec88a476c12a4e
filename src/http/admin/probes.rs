//! `/live` (the process answers) and `/ready` (the first pass has ended, and the database answers with a schema that this worker
//! knows). Liveness never depends on the database: restarting the worker does not mend it.

use hyper::StatusCode;
use serde_json::json;

use super::{Admin, PROBE_TIMEOUT, Watched};
use crate::database::Error;
use crate::http::{Answer, json_answer};

impl Admin {
    pub(super) fn live(&self) -> Answer {
        json_answer(StatusCode::OK, &json!({ "live": true }))
    }

    pub(super) async fn ready(&self) -> Answer {
        let reasons = self.not_ready().await;
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

    /// Why not.
    pub(super) async fn not_ready(&self) -> Vec<String> {
        let readiness = &self.watched.readiness;
        let pending = readiness.pending();
        let unreachable = self.unreachable(pending.is_none()).await;
        // Where the database is away, so is the change loop.
        let stuck = unreachable.or_else(|| self.stuck());
        let reasons = [pending, stuck, readiness.callers_unknown()];
        reasons.into_iter().flatten().collect()
    }

    /// Why changes do not reach their assistants: where those live, or the change loop.
    pub(super) fn stuck(&self) -> Option<String> {
        let Watched {
            place, readiness, ..
        } = &self.watched;
        let trouble = place.trouble().map(|trouble| trouble.to_string());
        trouble.or_else(|| readiness.stuck())
    }

    async fn unreachable(&self, is_set_up: bool) -> Option<String> {
        let database = self.watched.database.as_ref()?;
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
