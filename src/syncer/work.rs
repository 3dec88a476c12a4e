//! Everything that one transaction has to write for its agents: planned first, then carried out set by set.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Transaction;
use tracing::warn;

use super::outcome::Outcome;
use crate::assistant::{Assistant, Content};
use crate::database::Error;
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::ledger::{self, Conflict, Failure, Written};
use crate::outbox;
use crate::plan::{self, Claim, Observed, State, Step, Wanted};
use crate::removals::Objection;
use crate::retry;
use crate::store::postgres::{self as assistants, How, Write};

#[derive(Default)]
pub struct Work<'a> {
    claim: Option<&'a Claim>,
    /// Whether removals count when the next ones are judged.
    counted: bool,
    writes: Vec<Write<'a>>,
    /// As they should be, though the ledger says that they failed.
    settled: Vec<AssistantId>,
    conflicts: Vec<Conflict>,
    /// What agents that are off have.
    off: Vec<Off>,
    /// Why those that stand are not removed.
    pub objection: Option<Objection>,
    forgotten: Vec<AssistantId>,
    failures: Vec<Failure>,
    busy: HashSet<AgentId>,
    /// Agents that had failed before.
    troubled: HashSet<AgentId>,
    /// The assistants that are there in the end.
    pub standing: HashSet<AssistantId>,
    pub outcomes: HashMap<AgentId, Outcome>,
}

/// An entry of the ledger whose agent is not active.
struct Off {
    agent: AgentId,
    assistant: AssistantId,
    /// An assistant of ours is there.
    stands: bool,
    /// The ledger says already that its removal is held.
    held: bool,
}

impl<'a> Work<'a> {
    pub fn new(claim: Option<&'a Claim>, counted: bool) -> Self {
        Self {
            claim,
            counted,
            ..Self::default()
        }
    }

    /// What must happen to the assistants of an active agent.
    pub fn plan(
        &mut self,
        agent: AgentId,
        content: &'a Content,
        wanted: Vec<Wanted>,
        observed: &Observed,
    ) {
        for entry in observed.entries_of(agent) {
            if entry.state == State::Failed {
                self.troubled.insert(agent);
            }
            let stale = entry.state == State::Conflict
                && !wanted.iter().any(|w| w.assistant_id == entry.assistant_id);
            if stale {
                self.forgotten.push(entry.assistant_id);
            }
        }
        for Wanted {
            assistant_id: id,
            owner,
        } in wanted
        {
            let assistant = Assistant {
                id,
                agent_id: agent,
                owner,
                content,
            };
            let content_hash = assistant.hash();
            let (how, outcome) = match plan::step(&assistant, &content_hash, observed) {
                Step::Create => (How::Insert, Outcome::Created),
                Step::Update => (How::Update, Outcome::Updated),
                Step::HandOver => (How::HandOver, Outcome::Updated),
                Step::Adopt => (How::Adopt, Outcome::Updated),
                Step::Keep { settle } => {
                    self.standing.insert(id);
                    if settle {
                        self.settled.push(id);
                    }
                    self.note(agent, Outcome::Skipped);
                    continue;
                }
                Step::Conflict { known } => {
                    let error = format!("assistant {id} exists and is not ours");
                    if !known {
                        warn!(%agent, assistant = %id, "conflict: the assistant exists and is not ours, it stays untouched");
                        self.conflicts.push(Conflict {
                            assistant_id: id,
                            agent_id: agent,
                            owner: assistant.owner,
                            error,
                        });
                    }
                    self.note(agent, Outcome::Conflict);
                    continue;
                }
            };
            self.note(agent, outcome);
            // A shared one takes nothing from a client.
            let foreign = self
                .claim
                .filter(|claim| claim.owner == assistant.owner && claim.owner != SYSTEM)
                .map(|claim| &claim.metadata);
            self.writes.push(Write {
                assistant,
                content_hash,
                how,
                foreign,
            });
        }
    }

    /// An agent that is not active, or not there, has no assistants. Their entries stay, so that they can return.
    pub fn remove(&mut self, agent: AgentId, observed: &Observed) {
        self.note(agent, Outcome::Nothing);
        for entry in observed.entries_of(agent) {
            match entry.state {
                State::Removed => continue,
                State::Conflict => self.forgotten.push(entry.assistant_id),
                State::Synced | State::Failed | State::Held => self.off.push(Off {
                    agent,
                    assistant: entry.assistant_id,
                    stands: entry.content_hash.is_some()
                        && observed.existing.contains_key(&entry.assistant_id),
                    held: entry.state == State::Held,
                }),
            }
            if entry.state == State::Failed {
                self.troubled.insert(agent);
            }
        }
    }

    /// The agents that lose assistants.
    pub fn losing(&self) -> Vec<AgentId> {
        let mut losing: Vec<_> = self
            .off
            .iter()
            .filter(|off| off.stands)
            .map(|off| off.agent)
            .collect();
        losing.dedup();
        losing
    }

    /// An agent whose data makes no sense.
    pub fn fail(&mut self, agent: AgentId, error: String, in_scope: bool) {
        self.note(agent, Outcome::Failed(error.clone()));
        self.failures.push(Failure {
            agent_id: agent,
            error,
            in_scope,
        });
    }

    /// An agent that has to wait for another session. No fault of its own, so the ledger does not count it.
    pub fn postpone(&mut self, agent: AgentId) {
        self.note(agent, Outcome::Busy);
        self.busy.insert(agent);
    }

    fn note(&mut self, agent: AgentId, outcome: Outcome) {
        let noted = self.outcomes.entry(agent).or_insert(Outcome::Nothing);
        if outcome.weight() > noted.weight() {
            *noted = outcome;
        }
    }

    /// Whether there is anything to write to a table that others write to, too.
    pub fn touches_assistants(&self) -> bool {
        !self.writes.is_empty() || self.off.iter().any(|off| off.stands)
    }

    /// Carries it out. Returns whether something was put back into the outbox.
    pub async fn write(&mut self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let mut row_hashes = assistants::write(tx, &self.writes).await?;
        let mut written = Vec::with_capacity(self.writes.len());
        for Write {
            assistant,
            content_hash,
            ..
        } in std::mem::take(&mut self.writes)
        {
            let Some(row_hash) = row_hashes.remove(&assistant.id) else {
                // Held by another session, or made, taken or deleted since we looked: look again.
                self.postpone(assistant.agent_id);
                continue;
            };
            self.standing.insert(assistant.id);
            written.push(Written {
                assistant_id: assistant.id,
                agent_id: assistant.agent_id,
                organization_id: assistant.content.organization_id,
                owner: assistant.owner,
                content_hash,
                row_hash,
            });
        }
        ledger::synced(tx, &written).await?;
        ledger::settled(tx, &self.settled).await?;
        self.remove_off(tx).await?;
        ledger::forget(tx, &self.forgotten).await?;
        ledger::in_conflict(tx, &self.conflicts).await?;
        self.schedule(tx).await
    }

    async fn remove_off(&mut self, tx: &Transaction<'_>) -> Result<(), Error> {
        let mut off = std::mem::take(&mut self.off);
        if let Some(objection) = self.objection {
            let mut held = Vec::new();
            off.retain(|off| {
                if off.stands {
                    self.note(off.agent, Outcome::Held);
                    held.extend((!off.held).then_some(off.assistant));
                }
                !off.stands
            });
            ledger::held(tx, &held, &objection.to_string()).await?;
        }
        let standing: Vec<_> = off
            .iter()
            .filter(|off| off.stands)
            .map(|off| off.assistant)
            .collect();
        let in_use = assistants::delete(tx, &standing).await?;
        let mut removed = Vec::with_capacity(off.len());
        for off in off {
            if in_use.contains(&off.assistant) {
                self.postpone(off.agent);
                continue;
            }
            removed.push(off.assistant);
            if off.stands {
                self.note(off.agent, Outcome::Removed);
            }
        }
        ledger::removed(tx, &removed, self.counted).await
    }

    /// Puts failed agents back into the outbox, each due after its backoff, and takes those out that have recovered. So
    /// a restart does not forget them, and whichever worker is there tries again.
    async fn schedule(&mut self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let failed = ledger::failed(tx, &self.failures).await?;
        let mut retries: Vec<_> = failed
            .iter()
            .map(|(agent, attempts)| (*agent, retry::agent_delay(*attempts)))
            .collect();
        retries.extend(
            self.busy
                .iter()
                .map(|agent| (*agent, retry::agent_delay(1))),
        );
        let settled: Vec<_> = self
            .troubled
            .iter()
            .copied()
            .chain(retries.iter().map(|(agent, _)| *agent))
            .collect();
        outbox::clear_retries(tx, &settled).await?;
        outbox::schedule(tx, &retries).await?;
        Ok(!retries.is_empty())
    }
}
