//! What is told of a batch that stands: to the log, to those who count, and to whoever watches. Here, and nowhere else.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Batch, Entrance, Outcome, Syncer};
use crate::activity::{Agent, Told};
use crate::ids::AgentId;
use crate::outbox::Claimed;

/// Through which door a batch came, and since when it has been in hand.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    door: &'static str,
    /// Through the change loop: the edits that it is about.
    pub(super) claimed: Option<&'a Claimed>,
    began: Instant,
}

impl<'a> Origin<'a> {
    /// Now.
    pub fn of(entrance: Entrance<'_>) -> Self {
        Self {
            door: entrance.word(),
            claimed: None,
            began: Instant::now(),
        }
    }

    pub fn of_claimed(claimed: &'a Claimed) -> Self {
        Self {
            door: Entrance::Change.word(),
            claimed: Some(claimed),
            began: claimed.at,
        }
    }

    /// How long the edits of an agent have waited. Nobody has waited for a retry.
    fn delays(&self, agent: AgentId) -> impl Iterator<Item = Duration> {
        let took = self.began.elapsed();
        let changes = self.claimed.and_then(|claimed| claimed.changes.get(&agent));
        let edits = changes.into_iter().flatten().filter(|change| !change.retry);
        edits.map(move |edit| edit.age + took)
    }
}

impl Syncer {
    /// Agents that were seen at once to be as they should be.
    pub(super) fn tell_unchanged(&self, agents: usize, origin: &Origin<'_>) {
        let counts = [(Outcome::Skipped.word(), agents)];
        let took = origin.began.elapsed();
        self.metrics.batch(origin.door, &counts, &[], took);
    }

    pub(super) fn tell(&self, batch: &Batch, origin: &Origin<'_>) {
        batch.log();
        let counts = Outcome::count(&batch.outcomes);
        let reached = batch.outcomes.iter().filter(|(_, o)| o.is_up_to_date());
        let delays: Vec<Duration> = reached.flat_map(|(a, _)| origin.delays(*a)).collect();
        let newsworthy = batch.outcomes.iter().filter(|(_, o)| o.is_newsworthy());
        let took = origin.began.elapsed();
        self.metrics.batch(origin.door, &counts, &delays, took);
        self.activity.told(&Told {
            at: OffsetDateTime::now_utc(),
            door: origin.door,
            agents: newsworthy
                .map(|(agent, outcome)| Agent {
                    id: *agent,
                    name: batch.names.get(agent).map(String::as_str),
                    outcome: outcome.word(),
                    is_effective: outcome.is_effective(),
                    delay: match outcome.is_up_to_date() {
                        true => origin.delays(*agent).max(),
                        false => None,
                    },
                    error: match outcome {
                        Outcome::Failed(error) => Some(error),
                        _ => None,
                    },
                })
                .collect(),
            counts: &counts,
            delays: &delays,
        });
    }
}
