//! `GET /ok` and `GET /info`: what clients and load balancers ask before anybody says who they are.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::admin::PROBE_TIMEOUT;
use super::{Answer, json_answer};
use crate::database::Database;

/// How long an answer of the database's counts for whoever asks next. Anybody may ask, and each question takes a connection.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Health {
    /// `None` in in-memory mode.
    database: Option<Database>,
    /// When the database was asked last, and whether it answered.
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Health {
    pub fn new(database: Option<Database>) -> Self {
        Self {
            database,
            asked: Mutex::default(),
        }
    }

    /// That the process answers; with `check_db=1`, whether the database does.
    pub async fn ok(&self, query: Option<&str>) -> Answer {
        let (mut services, mut ok) = (Map::new(), true);
        if let Some(database) = &self.database {
            let health = if !query.is_some_and(asks_for_the_database) {
                "skipped"
            } else if self.answers(database).await {
                "healthy"
            } else {
                ok = false;
                "unhealthy"
            };
            services.insert("postgres".to_owned(), json!(health));
        }
        let status = match ok {
            true => StatusCode::OK,
            false => StatusCode::INTERNAL_SERVER_ERROR,
        };
        json_answer(status, &json!({ "ok": ok, "services": services }))
    }

    /// Who comes while it is being asked waits for that answer.
    async fn answers(&self, database: &Database) -> bool {
        let mut asked = self.asked.lock().await;
        if let Some((at, answered)) = *asked
            && at.elapsed() < FRESH
        {
            return answered;
        }
        let answered = match timeout(PROBE_TIMEOUT, database.check()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                warn!(%error, "the database does not answer");
                false
            }
            Err(_) => false,
        };
        *asked = Some((Instant::now(), answered));
        answered
    }
}

fn asks_for_the_database(query: &str) -> bool {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("check_db="));
    values.any(|value| value.parse().is_ok_and(|flag: u32| flag != 0))
}

/// With the official server's keys. What it says it can do is what we do.
pub fn info() -> Answer {
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "langgraph_py_version": null,
        "flags": { "assistants": true, "crons": false, "langsmith": false },
        "host": {
            "kind": "self-hosted",
            "project_id": null,
            "host_revision_id": null,
            "revision_id": null,
            "tenant_id": null,
        },
    });
    json_answer(StatusCode::OK, &info)
}
