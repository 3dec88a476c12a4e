//! `/history`: the last hour.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use super::Admin;
use crate::activity::STEP;
use crate::http::{Answer, json_answer};
use crate::status::Outbox;

impl Admin {
    pub(super) async fn history(&self) -> Answer {
        let depth = self.status().await.outbox.as_ref().and_then(depth);
        let now = OffsetDateTime::now_utc();
        let samples = self.watched.activity.history(now, depth);
        json_answer(
            StatusCode::OK,
            &json!({ "step_seconds": STEP.as_secs(), "samples": samples }),
        )
    }

    /// Takes a sample every half minute, until `shutdown` is called.
    pub async fn keep_history(self: Arc<Self>, shutdown: CancellationToken) {
        let mut steps = interval_at(Instant::now() + STEP, STEP);
        loop {
            tokio::select! {
                _ = steps.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let depth = tokio::select! {
                depth = self.outbox_depth() => depth,
                () = shutdown.cancelled() => return,
            };
            let activity = &self.watched.activity;
            activity.sample(OffsetDateTime::now_utc(), depth);
        }
    }

    /// Only that: a whole status would be most of what a worker at rest asks.
    async fn outbox_depth(&self) -> Option<u64> {
        depth(&self.watched.subject.outbox().await?)
    }
}

fn depth(outbox: &Outbox) -> Option<u64> {
    u64::try_from(outbox.depth).ok()
}
