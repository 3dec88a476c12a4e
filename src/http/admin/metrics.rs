//! `/metrics`: what is counted, and how things are, for Prometheus. OpenMetrics for whoever asks for it, the older text format for anybody
//! else.

use http_body_util::{Either, Full};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response};

use super::{Admin, Watched};
use crate::doorbell::Doorbell;
use crate::http::{Answer, Problem};
use crate::metrics::{Outbox, Readings, classic};
use crate::status::Agents;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Admin {
    pub(super) async fn metrics(&self, headers: &HeaderMap) -> Result<Answer, Problem> {
        let readings = self.readings().await;
        let text = self.watched.metrics.text(&readings);
        let text = text.map_err(|_| Problem::internal())?;
        let (text, kind) = match asks_for_openmetrics(headers) {
            true => (text, OPENMETRICS),
            false => (classic(&text), CLASSIC),
        };
        let mut answer = Response::new(Either::Left(Full::from(text)));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(answer)
    }

    async fn readings(&self) -> Readings {
        let status = self.status().await;
        let Watched {
            place,
            syncer,
            authenticator,
            upstreams,
            started_at,
            ..
        } = &self.watched;
        let doorbell = syncer.as_ref().map(|syncer| &syncer.doorbell);
        let is_reachable = |database: &crate::status::DatabaseStatus| database.reachable;
        Readings {
            version: status.version,
            started_at: *started_at,
            ready: status.worker.as_ref().is_some_and(|worker| worker.ready),
            database_up: status.database.as_ref().map(is_reachable),
            store_up: place.trouble().is_none(),
            outbox: status.outbox.as_ref().map(|outbox| Outbox {
                changes: outbox.depth,
                retries: outbox.retries,
                oldest_age_seconds: outbox.oldest_age_seconds,
            }),
            agents: status.agents.as_ref().map(by_state),
            listener: doorbell.map(Doorbell::state),
            listener_changes: doorbell.map_or(0, Doorbell::changes_of_state),
            round_trip: doorbell.and_then(Doorbell::round_trip),
            missed_doorbells: doorbell.map_or(0, Doorbell::missed_so_far),
            pools: syncer.as_ref().map_or(Vec::new(), |syncer| syncer.pools()),
            streams: match upstreams.as_slice() {
                [] => None,
                some => Some(some.iter().map(|upstream| upstream.streams()).sum()),
            },
            keys_age: authenticator.keys_age(),
        }
    }
}

fn by_state(agents: &Agents) -> Vec<(&'static str, i64)> {
    let Agents {
        failed,
        conflict,
        held,
        synced,
        removed,
    } = *agents;
    vec![
        ("failed", failed),
        ("conflict", conflict),
        ("held", held),
        ("synced", synced),
        ("removed", removed),
    ]
}

fn asks_for_openmetrics(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(ACCEPT).iter();
    asked.any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.contains("application/openmetrics-text"))
    })
}
