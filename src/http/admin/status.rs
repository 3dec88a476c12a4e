//! `/status`: how things are. Scrapers and who asks for the history go by the same answer: however many ask, the database is asked once in
//! a while.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Admin, Watched};
use crate::doorbell::{Doorbell, State};
use crate::http::{Answer, json_answer};
use crate::status::{Listener, Running, Status, Worker};
use crate::store::timestamp;

/// How long an answer counts for whoever asks next.
const FRESH: Duration = Duration::from_secs(3);

/// The last answer, and when it was given. Who comes while it is being asked for waits for that one.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<(Instant, Arc<Status>)>>);

impl Admin {
    pub(super) async fn tell_status(&self) -> Answer {
        let status = self.status().await;
        json_answer(StatusCode::OK, &json!(*status))
    }

    /// How things are, or were a moment ago.
    pub(super) async fn status(&self) -> Arc<Status> {
        let mut known = self.known.0.lock().await;
        if let Some((at, status)) = known.as_ref()
            && at.elapsed() < FRESH
        {
            return status.clone();
        }
        let gathering = Status::gather(&self.watched.subject, Some(self.running()));
        let (mut status, not_ready) = tokio::join!(gathering, self.not_ready());
        if let Some(worker) = &mut status.worker {
            worker.ready = not_ready.is_empty();
        }
        let status = Arc::new(status);
        *known = Some((Instant::now(), status.clone()));
        status
    }

    /// What only the worker knows.
    fn running(&self) -> Running {
        let Watched {
            readiness,
            syncer,
            authenticator,
            upstreams,
            started_at,
            ..
        } = &self.watched;
        let doorbell = syncer.as_ref().map(|syncer| &syncer.doorbell);
        Running {
            worker: Worker {
                started_at: timestamp(*started_at),
                // Asked for elsewhere.
                ready: false,
                listener: doorbell.map(|doorbell| listener(doorbell.state())),
                round_trip_seconds: doorbell
                    .and_then(Doorbell::round_trip)
                    .map(|round_trip| round_trip.as_secs_f64()),
                missed_doorbells: doorbell.map_or(0, Doorbell::missed_so_far),
                keys_age_seconds: authenticator.keys_age().map(|age| age.as_secs_f64()),
                upstream: upstreams.first().and_then(|upstream| upstream.condition()),
            },
            pending: readiness.pending(),
            stuck: self.stuck(),
            trouble: readiness.callers_unknown().into_iter().collect(),
        }
    }
}

fn listener(state: State) -> Listener {
    match state {
        State::Listening => Listener::Listening,
        State::CatchingUp => Listener::CatchingUp,
        State::Connecting => Listener::Connecting,
        State::PollingOnly => Listener::PollingOnly,
    }
}
