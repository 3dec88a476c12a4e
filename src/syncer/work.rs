//! Everything that one transaction has to write for its agents: planned first, then carried out set by set.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::Transaction;
use tracing::{info, warn};

use super::outcome::Outcome;
use super::permission::Subject;
use crate::access::Verdict;
use crate::database::Error;
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::ledger::{self, Conflict, Failure, Written};
use crate::outbox;
use crate::plan::{Claim, Observed, Planned, State, Step};
use crate::removals::Objection;
use crate::retry;
use crate::store::batch::{self as assistants, How, Write};

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
    /// What users have who may not have the agent any more. Nothing holds these.
    revoked: Vec<Off>,
    /// Why those that stand are not removed.
    pub objection: Option<Objection>,
    forgotten: Vec<AssistantId>,
    failures: Vec<Failure>,
    busy: HashSet<AgentId>,
    /// Agents that had failed before.
    troubled: HashSet<AgentId>,
    /// The assistants that are there in the end, and their owners.
    standing: HashMap<AgentId, BTreeMap<AssistantId, String>>,
    /// Agents whose own id somebody else's assistant has.
    squatted: HashSet<AgentId>,
    pub outcomes: HashMap<AgentId, Outcome>,
}

/// An entry of the ledger whose assistant is to go.
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
    pub fn plan(&mut self, agent: AgentId, planned: Vec<Planned<'a>>, observed: &Observed) {
        for entry in observed.entries_of(agent) {
            if entry.state == State::Failed {
                self.troubled.insert(agent);
            }
            let stale = entry.state == State::Conflict
                && !planned.iter().any(|p| p.assistant.id == entry.assistant_id);
            if stale {
                self.forgotten.push(entry.assistant_id);
            }
        }
        for Planned {
            assistant,
            content_hash,
            step,
        } in planned
        {
            let id = assistant.id;
            let (how, outcome) = match step {
                Step::Create => (How::Insert, Outcome::Created),
                Step::Update => (How::Update, Outcome::Updated),
                Step::HandOver => (How::HandOver, Outcome::Updated),
                Step::Adopt => (How::Adopt, Outcome::Updated),
                Step::Keep { settle } => {
                    self.stands(agent, id, assistant.owner);
                    if settle {
                        self.settled.push(id);
                    }
                    self.note(agent, Outcome::Skipped);
                    continue;
                }
                Step::Conflict { known } => {
                    if id == agent.canonical() {
                        self.squatted.insert(agent);
                    }
                    if !known {
                        warn!(%agent, assistant = %id, "conflict: the assistant exists and is not ours, it stays untouched");
                        self.conflicts.push(Conflict {
                            assistant_id: id,
                            agent_id: agent,
                            owner: assistant.owner,
                            error: format!("assistant {id} exists and is not ours"),
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

    /// A user who may not have the agent loses the assistant, and asks again should that change. Where it cannot be told, the
    /// assistant stays as it is.
    pub fn refuse(&mut self, subject: &Subject<'_>, verdict: &Verdict, observed: &Observed) {
        let Subject {
            agent,
            assistant: id,
            owner,
            ..
        } = *subject;
        let why = match verdict {
            Verdict::Granted => return,
            Verdict::Different | Verdict::Unknown { passing: true, .. } => {
                return self.postpone(agent);
            }
            Verdict::Unknown { why, .. } => {
                return self.fail(agent, format!("access of user {owner}: {why}"), false);
            }
            Verdict::Denied(why) => why,
        };
        // Whatever the guard says of the others.
        self.off.retain(|off| off.assistant != id);
        self.note(agent, Outcome::Nothing);
        let Some(entry) = observed.entries.get(&id) else {
            return;
        };
        let stands = entry.content_hash.is_some() && observed.existing.contains_key(&id);
        if stands {
            info!(%agent, assistant = %id, %owner, why, "access lost: the user's assistant goes");
        }
        self.revoked.push(Off {
            agent,
            assistant: id,
            stands,
            held: false,
        });
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
        let going = self.off.iter().chain(&self.revoked).any(|off| off.stands);
        going || !self.writes.is_empty()
    }

    /// The assistant that an agent's row is to name: the canonical one, or in the place of one that is squatted what
    /// everybody can use; failing that the one that it names already, or any.
    pub fn working(&self, agent: AgentId, named: Option<&str>) -> Option<AssistantId> {
        let standing = self.standing.get(&agent)?;
        let canonical = agent.canonical();
        if standing.contains_key(&canonical) {
            return Some(canonical);
        }
        let systems = standing.iter().find(|(_, owner)| *owner == SYSTEM);
        let named = standing
            .iter()
            .find(|(id, _)| Some(id.to_string().as_str()) == named);
        let best = systems.or(named).or(standing.iter().next())?;
        self.squatted.contains(&agent).then_some(*best.0)
    }

    fn stands(&mut self, agent: AgentId, assistant: AssistantId, owner: String) {
        let standing = self.standing.entry(agent).or_default();
        standing.insert(assistant, owner);
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
            self.stands(assistant.agent_id, assistant.id, assistant.owner.clone());
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
        self.remove_revoked(tx).await?;
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
        let removed = self.delete(tx, off, Outcome::Removed).await?;
        ledger::removed(tx, &removed, self.counted).await
    }

    async fn remove_revoked(&mut self, tx: &Transaction<'_>) -> Result<(), Error> {
        let revoked = std::mem::take(&mut self.revoked);
        let removed = self.delete(tx, revoked, Outcome::Revoked).await?;
        ledger::forget(tx, &removed).await
    }

    /// Deletes what stands. Returns what is not there any more; the rest another session holds.
    async fn delete(
        &mut self,
        tx: &Transaction<'_>,
        off: Vec<Off>,
        outcome: Outcome,
    ) -> Result<Vec<AssistantId>, Error> {
        let standing = off.iter().filter(|off| off.stands);
        let standing: Vec<_> = standing.map(|off| off.assistant).collect();
        let in_use = assistants::delete(tx, &standing).await?;
        let mut gone = Vec::with_capacity(off.len());
        for off in off {
            if in_use.contains(&off.assistant) {
                self.postpone(off.agent);
                continue;
            }
            gone.push(off.assistant);
            if off.stands {
                self.note(off.agent, outcome.clone());
            }
        }
        Ok(gone)
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
