//! The guard before removals: when many assistants are about to go at once, it is more likely that somebody is about to
//! lose them by mistake (a wrong `update`, a restore, an empty table) than that all those agents are really gone.
//!
//! Counted are agents, over ten minutes: those whose assistants went, those that are held, and those that would be next.
//! If there are too many, none goes: they are *held*, and stay as they are until their agents return, an operator lets
//! them go, or a later pass finds that they are few.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio_postgres::types::Type;
use tracing::error;

use crate::config::MAX_REMOVALS;
use crate::database::{Error, Transaction, column};
use crate::ids::AgentId;
use crate::source::Shape;

/// `AGENT_SYNC_MAX_REMOVALS`: how many agents may lose their assistants within ten minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MaxRemovals {
    /// [`FEW`], or a fifth of the agents that have an assistant of ours, whichever is more.
    #[default]
    Share,
    AtMost(u32),
    Unlimited,
}

/// So many may always go.
const FEW: i64 = 10;

impl MaxRemovals {
    /// Where `ours` agents have an assistant. `None`: any number.
    fn of(self, ours: i64) -> Option<i64> {
        match self {
            Self::Share => Some(FEW.max(ours / 5)),
            Self::AtMost(limit) => Some(limit.into()),
            Self::Unlimited => None,
        }
    }
}

/// Why removals are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objection {
    /// How many agents would lose their assistants.
    would_go: i64,
    why: Why,
    /// None was held before.
    first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    TooMany { ours: i64, limit: i64 },
    SourceIsEmpty,
}

/// What it takes to judge whether some removals may happen.
#[derive(Debug, Clone, Copy)]
pub struct Removals<'a> {
    /// Agents that are about to lose their assistants.
    pub agents: &'a [AgentId],
    /// All agents of the batch.
    pub batch: &'a [AgentId],
    /// Whether all other agents are going to be looked at, too.
    pub pass: bool,
}

#[derive(Debug)]
pub struct Guard {
    max: MaxRemovals,
    /// How many removals were said to be held.
    said: AtomicI64,
}

impl Guard {
    pub fn new(max: MaxRemovals) -> Self {
        Self {
            max,
            said: AtomicI64::new(0),
        }
    }

    /// Whether what is removed now counts when the next removals are judged. What an operator allows does not.
    pub fn counts(&self) -> bool {
        self.max != MaxRemovals::Unlimited
    }

    /// Whether there is anything to be said against these removals. Called under the agents' locks. What another worker
    /// removes at this moment is seen either as gone or, until it commits, as a pending change.
    pub async fn objection(
        &self,
        tx: &Transaction<'_>,
        shape: &Shape,
        removals: Removals<'_>,
    ) -> Result<Option<Objection>, Error> {
        let Some(least) = self.max.of(0) else {
            return Ok(None);
        };
        let row = tx
            .query_typed_one(
                shape.weigh_removals(),
                &[
                    (&removals.agents, Type::UUID_ARRAY),
                    (&removals.batch, Type::UUID_ARRAY),
                    (&removals.pass, Type::BOOL),
                    (&least, Type::INT8),
                ],
            )
            .await?;
        let would_go = column(&row, "would_go")?;
        let first = !column::<bool>(&row, "some_are_held")?;
        let why = |why| {
            Ok(Some(Objection {
                would_go,
                why,
                first,
            }))
        };
        // One agent that was the last is one edit of somebody's; a pass that finds nothing at all was shown nothing.
        let at_once: i64 = column(&row, "at_once")?;
        if column(&row, "source_is_empty")? && (at_once > 1 || removals.pass) {
            return why(Why::SourceIsEmpty);
        }
        let ours = column::<Option<i64>>(&row, "ours")?.unwrap_or_default();
        match self.max.of(ours) {
            Some(limit) if would_go > limit => why(Why::TooMany { ours, limit }),
            _ => Ok(None),
        }
    }

    /// Says so, once for each time that it gets worse. What was said before is over where none was held any more: agents
    /// came back, or an operator let them go through another process.
    pub fn held(&self, objection: Objection) {
        if objection.first {
            self.let_go();
        }
        if self.said.swap(objection.would_go, Ordering::Relaxed) < objection.would_go {
            error!("{objection}");
        }
    }

    /// Removals went through: the next objection is a new one.
    pub fn let_go(&self) {
        self.said.store(0, Ordering::Relaxed);
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { would_go, why, .. } = self;
        write!(
            f,
            "removals are held, nothing is removed: {would_go} agents would lose their assistants within 10 minutes, "
        )?;
        match why {
            Why::TooMany { ours, limit } => write!(
                f,
                "of {ours} that have one, and {MAX_REMOVALS} allows {limit}"
            )?,
            Why::SourceIsEmpty => f.write_str("and public.agents reads as empty")?,
        }
        f.write_str(
            ". If that is what you want: agent-sync sync --allow-removals, in this worker's environment (with --scope \
             org:<uuid>, for one organization)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_ten_or_a_fifth_may_go() {
        let share = MaxRemovals::default();
        assert_eq!(
            [0, 49, 50, 54, 55, 1000].map(|ours| share.of(ours)),
            [10, 10, 10, 10, 11, 200].map(Some)
        );
        assert_eq!(MaxRemovals::AtMost(0).of(1000), Some(0));
        assert_eq!(MaxRemovals::Unlimited.of(1000), None);
    }
}
