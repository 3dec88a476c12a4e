//! `/history`: the last hour.

use hyper::StatusCode;
use serde_json::json;
use time::OffsetDateTime;

use super::Admin;
use crate::activity::STEP;
use crate::http::{Answer, json_answer};

impl Admin {
    pub(super) fn history(&self) -> Answer {
        let samples = self.activity.history(OffsetDateTime::now_utc(), None);
        json_answer(
            StatusCode::OK,
            &json!({ "step_seconds": STEP.as_secs(), "samples": samples }),
        )
    }
}
