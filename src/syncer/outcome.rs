//! What became of the agents that were looked at.

use std::collections::HashMap;
use std::fmt;

use tracing::{error, info, warn};

use crate::ids::{AgentId, AssistantId};
use crate::plan::Answer;
use crate::removals::Objection;

/// Up to how many agents of a batch are named in the log at `info`.
const NAMED: usize = 10;

/// What became of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    Skipped,
    Removed,
    /// A user's assistant was removed, because that user may not have the agent any more.
    Revoked,
    /// It should be removed, and is not for now ([`crate::removals`]).
    Held,
    /// Somebody else has an assistant under the id.
    Conflict,
    /// Another session has the assistant's row: it is tried again in a moment.
    Busy,
    /// Why, fit for a log.
    Failed(String),
    /// Out of reach, or not active and without an assistant.
    Nothing,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Batch {
    pub outcomes: Vec<(AgentId, Outcome)>,
    /// What the claimant gets, if the agent is active and was synced.
    pub answer: Option<Answer>,
    /// What agents said that the claimant was asked about after they were read, and may have just as they were: as a hash.
    pub(super) permitted: HashMap<AgentId, Vec<u8>>,
    /// Agents whose row does not name the assistant that it should, and which that is.
    pub(super) write_back: Vec<(AgentId, AssistantId)>,
    /// What agents are called, as far as it is known, of which there is anything to tell.
    pub(super) names: HashMap<AgentId, String>,
    /// Why removals did not happen.
    pub(super) objection: Option<Objection>,
    /// Something was put back into the outbox, to fall due soon.
    pub(super) retries: bool,
}

/// Outcomes, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub created: usize,
    pub updated: usize,
    pub skipped: usize,
    pub failed: usize,
    pub removed: usize,
    pub held: usize,
    pub conflict: usize,
}

impl Outcome {
    /// Whether an assistant was written.
    pub fn is_effective(&self) -> bool {
        matches!(
            self,
            Self::Created | Self::Updated | Self::Removed | Self::Revoked
        )
    }

    /// Whether the agent's assistants are as they should be.
    pub fn is_up_to_date(&self) -> bool {
        self.is_effective() || *self == Self::Skipped
    }

    /// Whether there is anything to tell.
    pub fn is_newsworthy(&self) -> bool {
        !matches!(self, Self::Skipped | Self::Nothing)
    }

    /// How many there are of each but [`Self::Nothing`].
    pub(super) fn count(outcomes: &[(AgentId, Self)]) -> [(&'static str, usize); 9] {
        let mut counts = Self::WORDS.map(|word| (word, 0));
        for (_, outcome) in outcomes {
            let counted = counts.iter_mut().find(|(word, _)| *word == outcome.word());
            if let Some((_, count)) = counted {
                *count += 1;
            }
        }
        counts
    }

    /// Of an agent with several assistants, what weighs most is reported.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Skipped => 1,
            Self::Removed => 2,
            Self::Revoked => 3,
            Self::Updated => 4,
            Self::Created => 5,
            Self::Held => 6,
            Self::Conflict => 7,
            Self::Busy => 8,
            Self::Failed(_) => 9,
        }
    }

    /// Every [`Self::word`] but that of [`Self::Nothing`].
    pub const WORDS: [&'static str; 9] = [
        "created", "updated", "skipped", "removed", "revoked", "held", "conflict", "busy", "failed",
    ];

    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Skipped => "skipped",
            Self::Removed => "removed",
            Self::Revoked => "revoked",
            Self::Held => "held",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Failed(_) => "failed",
            Self::Nothing => "nothing",
        }
    }
}

impl Batch {
    pub(super) fn add(&mut self, part: Self) {
        self.outcomes.extend(part.outcomes);
        self.answer = self.answer.take().or(part.answer);
        self.permitted.extend(part.permitted);
        self.write_back.extend(part.write_back);
        self.names.extend(part.names);
        self.objection = self.objection.or(part.objection);
        self.retries |= part.retries;
    }

    pub(super) fn log(&self) {
        let mut effective = self
            .outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_effective());
        if self.outcomes.len() <= NAMED {
            effective.for_each(
                |(agent, outcome)| info!(%agent, outcome = outcome.word(), "agent synced"),
            );
        } else if effective.next().is_some() {
            info!("agents synced: {}", Summary::of(&self.outcomes));
        }
        for (agent, outcome) in &self.outcomes {
            match outcome {
                Outcome::Failed(error) => {
                    error!(%agent, error, "agent failed; it is tried again later, and at once when it is edited");
                }
                Outcome::Busy => {
                    warn!(%agent, "it cannot be synced just now: somebody else holds its assistant, its user cannot be asked about, or the place where it lives gives no clear \
                         answer; it is tried again in a moment");
                }
                _ => {}
            }
        }
    }
}

impl Summary {
    pub fn of(outcomes: &[(AgentId, Outcome)]) -> Self {
        let mut summary = Self::default();
        for (_, outcome) in outcomes {
            *match outcome {
                Outcome::Created => &mut summary.created,
                Outcome::Updated => &mut summary.updated,
                Outcome::Skipped => &mut summary.skipped,
                Outcome::Removed | Outcome::Revoked => &mut summary.removed,
                Outcome::Held => &mut summary.held,
                Outcome::Conflict => &mut summary.conflict,
                Outcome::Failed(_) | Outcome::Busy => &mut summary.failed,
                Outcome::Nothing => continue,
            } += 1;
        }
        summary
    }

    pub fn total(&self) -> usize {
        self.created
            + self.updated
            + self.skipped
            + self.failed
            + self.removed
            + self.held
            + self.conflict
    }

    /// Whether anything was written, or could not be.
    pub fn is_effective(&self) -> bool {
        self.total() > self.skipped
    }

    pub fn add(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.skipped += other.skipped;
        self.failed += other.failed;
        self.removed += other.removed;
        self.held += other.held;
        self.conflict += other.conflict;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            created,
            updated,
            skipped,
            failed,
            removed,
            held,
            conflict,
        } = self;
        let total = self.total();
        write!(
            f,
            "total={total} created={created} updated={updated} skipped={skipped} failed={failed}"
        )?;
        for (word, count) in [("removed", removed), ("held", held), ("conflict", conflict)] {
            if *count > 0 {
                write!(f, " {word}={count}")?;
            }
        }
        Ok(())
    }
}
