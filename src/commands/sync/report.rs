//! What a sync says on standard output: its summary; with `--json` one document, agent by agent as the pass goes, so that there may be any
//! number of them. Agents that were as they should be are only counted.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::ids::AgentId;
use crate::syncer::{Forecast, Outcome, Summary};

pub(super) struct Report {
    document: Option<Document>,
    pub summary: Summary,
    /// An agent was named of which nothing is known.
    pub has_unknown: bool,
}

impl Report {
    pub fn begin(json: bool) -> Self {
        Self {
            document: json.then(Document::begin),
            summary: Summary::default(),
            has_unknown: false,
        }
    }

    /// What became of an agent.
    pub fn tell(&mut self, agent: AgentId, outcome: &Outcome) {
        self.summary.add(Summary::of(&[(agent, outcome.clone())]));
        let error = match outcome {
            Outcome::Skipped | Outcome::Nothing => return,
            Outcome::Failed(error) => Some(error.as_str()),
            Outcome::Busy => Some(BUSY),
            _ => None,
        };
        if let Some(document) = &mut self.document {
            document.add(&json!({
                "agent_id": agent,
                "outcome": outcome.word(),
                "error": error,
                "why": null,
            }));
        }
    }

    /// Of an agent that was named, that there was nothing to do.
    pub fn tell_of_nothing(&mut self, forecast: &Forecast) {
        self.has_unknown |= !forecast.is_known;
        let (agent, why) = (forecast.agent, forecast.why.as_deref());
        match &mut self.document {
            Some(document) => document.add(&json!({
                "agent_id": agent,
                "outcome": forecast.outcome.word(),
                "error": null,
                "why": why,
            })),
            None => {
                _ = print(&format!(
                    "Agent {agent}: {}",
                    why.unwrap_or("nothing to do")
                ))
            }
        }
    }

    pub fn so_far(&self) -> [(usize, &'static str); 7] {
        let Summary {
            created,
            updated,
            skipped,
            failed,
            removed,
            held,
            conflict,
        } = self.summary;
        [
            (failed, "failed"),
            (held, "held"),
            (conflict, "in conflict"),
            (created, "created"),
            (updated, "updated"),
            (removed, "removed"),
            (skipped, "unchanged"),
        ]
    }

    /// `error`: why it did not come to its end.
    pub fn end(&mut self, error: Option<&str>) {
        let summary = &self.summary;
        match self.document.take() {
            Some(document) => {
                let Summary {
                    created,
                    updated,
                    skipped,
                    failed,
                    removed,
                    held,
                    conflict,
                } = summary;
                document.end(&[
                    (
                        "summary",
                        json!({
                            "total": summary.total(), "created": created, "updated": updated, "skipped": skipped,
                            "failed": failed, "removed": removed, "held": held, "conflict": conflict,
                        }),
                    ),
                    ("error", json!(error)),
                ]);
            }
            None if error.is_some() && summary.total() == 0 => {}
            None => _ = print(&format!("Sync summary: {summary}")),
        }
    }
}

/// Why an agent of which nothing can be said now counts as failed.
pub(super) const BUSY: &str = "it cannot be told just now: somebody else holds its assistant, its user cannot be asked about, or the place where \
     it lives gives no clear answer";

/// `{"agents": […], …}`, written as it comes, a line an agent.
pub(super) struct Document {
    is_first: bool,
    /// Somebody reads it.
    pub is_read: bool,
}

impl Document {
    pub fn begin() -> Self {
        Self {
            is_first: true,
            is_read: print("{\"agents\": ["),
        }
    }

    pub fn add(&mut self, agent: &Value) {
        let comma = if self.is_first { "" } else { "," };
        self.is_first = false;
        self.is_read &= print(&format!("{comma}{agent}"));
    }

    pub fn end(self, rest: &[(&str, Value)]) {
        let rest = rest
            .iter()
            .map(|(name, value)| format!(", {}: {value}", json!(name)));
        print(&format!("]{}}}", rest.collect::<String>()));
    }
}

/// A line to standard output. `false`: nobody reads it (any more), as with `| head`. That is no reason to panic, or to stop in the middle
/// of a sync.
pub(super) fn print(line: &str) -> bool {
    writeln!(io::stdout(), "{line}").is_ok()
}
