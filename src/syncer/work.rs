//! Everything that has to be written for some agents: planned first, then carried out where assistants live, then recorded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::outcome::Outcome;
use super::permission::Subject;
use crate::access::Verdict;
use crate::database::{Error, Transaction};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::ledger::{self, Conflict, Failure, Marked, NewEntry, Written};
use crate::outbox;
use crate::plan::{Answer as Given, Claim, Observed, Planned, State, Step};
use crate::removals::Objection;
use crate::retry;
use crate::store::batch::{Answer, Answers, Counted, How, Stands, Write};
use crate::store::fingerprint;

#[derive(Default)]
pub struct Work<'a> {
    claim: Option<&'a Claim>,
    /// Whether removals count when the next ones are judged.
    counted: bool,
    pub(super) writes: Vec<Write<'a>>,
    written: Vec<Written>,
    /// What the agents at hand said, where that was asked for.
    sources: Option<&'a HashMap<AgentId, Vec<u8>>>,
    /// Whether it is noted by what the next pass, or glance, sees that there is nothing to do.
    marks: bool,
    marked: Vec<Marked>,
    /// As they should be, though the ledger says that they failed.
    settled: Vec<AssistantId>,
    conflicts: Vec<Conflict>,
    /// Assistants that should be ours and are somebody else's, whether or not that is known already.
    pub(super) not_ours: Vec<(AgentId, AssistantId)>,
    /// What agents that are off have.
    pub(super) off: Vec<Off>,
    /// What users have who may not have the agent any more. Nothing holds these.
    pub(super) revoked: Vec<Off>,
    /// Why those that stand are not removed.
    pub objection: Option<Objection>,
    held: Vec<AssistantId>,
    removed: Vec<AssistantId>,
    forgotten: Vec<AssistantId>,
    failures: Vec<Failure>,
    busy: HashMap<AgentId, Duration>,
    /// Agents that were not come to. They stay due as they are.
    pub left: HashSet<AgentId>,
    /// Agents that had failed before.
    troubled: HashSet<AgentId>,
    in_scope: HashSet<AgentId>,
    /// The assistants that are there in the end, and their owners.
    standing: HashMap<AgentId, BTreeMap<AssistantId, String>>,
    /// Agents whose own id somebody else's assistant has.
    squatted: HashSet<AgentId>,
    /// What the claimant gets.
    pub given: Option<Given>,
    /// What agents said that the claimant may have, as it was read.
    pub permitted: HashMap<AgentId, Vec<u8>>,
    pub outcomes: HashMap<AgentId, Outcome>,
}

/// An entry of the ledger whose assistant is to go.
pub(super) struct Off {
    pub agent: AgentId,
    pub assistant: AssistantId,
    /// An assistant of ours is there.
    pub stands: bool,
    /// The ledger says already that its removal is held.
    held: bool,
    /// Why, where it is not for the agent's sake.
    pub why: Option<String>,
}

impl<'a> Work<'a> {
    pub fn new(claim: Option<&'a Claim>, counted: bool) -> Self {
        Self {
            claim,
            counted,
            ..Self::default()
        }
    }

    /// The same, given what the agents said. `marks`: a pass or a request, which come again.
    pub fn of_sources(self, sources: &'a HashMap<AgentId, Vec<u8>>, marks: bool) -> Self {
        Self {
            sources: Some(sources),
            marks,
            ..self
        }
    }

    /// What must happen to the assistants of an active agent.
    pub fn plan(
        &mut self,
        agent: AgentId,
        in_scope: bool,
        planned: Vec<Planned<'a>>,
        observed: &Observed,
    ) {
        if in_scope {
            self.in_scope.insert(agent);
        }
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
            let how = match step {
                Step::Create => How::Insert,
                Step::Update => How::Update,
                Step::HandOver => How::HandOver,
                Step::Adopt => How::Adopt,
                Step::Keep { settle } => {
                    if self.marks {
                        self.marked.extend(self.mark(agent, id, observed));
                    }
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
                    self.not_ours.push((agent, id));
                    if !known {
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
                said: self
                    .sources
                    .and_then(|said| said.get(&agent))
                    .map(Vec::as_slice),
            });
        }
    }

    /// Unless that is what is noted already.
    fn mark(&self, agent: AgentId, id: AssistantId, observed: &Observed) -> Option<Marked> {
        let source = self.sources?.get(&agent)?;
        let row_version = observed.existing.get(&id)?.row_version.as_ref()?;
        let entry = observed.entries.get(&id)?;
        let source_hash = source_hash(
            source,
            entry.content_hash.as_deref()?,
            entry.row_hash.as_deref()?,
        );
        let is_noted = entry.source_hash.as_ref() == Some(&source_hash)
            && entry.row_version.as_ref() == Some(row_version);
        (!is_noted).then(|| Marked {
            assistant_id: id,
            source_hash,
            row_version: row_version.clone(),
        })
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
        self.revoked.push(Off {
            agent,
            assistant: id,
            stands: observed.stands(entry),
            held: false,
            why: Some(why.clone()),
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
                    stands: observed.stands(entry),
                    held: entry.state == State::Held,
                    why: None,
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
        self.postpone_for(agent, retry::agent_delay(1));
    }

    pub fn postpone_for(&mut self, agent: AgentId, after: Duration) {
        self.note(agent, Outcome::Busy);
        let busy = self.busy.entry(agent).or_default();
        *busy = after.max(*busy);
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

    /// Says in the ledger what is about to be written for the first time, where that is not in the transaction in which it is written.
    /// Should nobody ever hear what came of it, it is known as ours all the same.
    pub async fn announce(&self, tx: &Transaction<'_>, observed: &Observed) -> Result<(), Error> {
        let mut intended = Vec::new();
        for write in &self.writes {
            let id = write.assistant.id;
            let entry = observed.entries.get(&id);
            if entry.is_some_and(|entry| entry.content_hash.is_some()) {
                continue;
            }
            let stands = entry.is_some_and(|entry| observed.stands(entry));
            let (content_hash, row_hash) = match observed.existing.get(&id).filter(|_| stands) {
                // It says just what was announced before, so it is ours whatever is sent now. It says nothing that an agent could say again.
                Some(row) => (b"announced".to_vec(), row.row_hash.clone()),
                None => (Vec::new(), fingerprint::of_write(write)),
            };
            let entry = NewEntry {
                content_hash,
                ..write.entry()
            };
            intended.push(Written { entry, row_hash });
        }
        ledger::intended(tx, &intended).await
    }

    /// Writes and deletes assistants. Returns why not all of it was tried.
    pub async fn carry_out(
        &mut self,
        target: Counted<'_>,
        observed: &Observed,
    ) -> Result<Option<Error>, Error> {
        for off in self.revoked.iter().filter(|off| off.stands) {
            let (agent, assistant, why) = (off.agent, off.assistant, &off.why);
            info!(%agent, %assistant, why, "access lost: the user's assistant goes");
        }
        let answers = target.write(&self.writes, &observed.existing).await?;
        let stopped = self.were_written(answers, observed);
        let standing = self.going();
        let deleted = match stopped {
            None => target.delete(&standing).await?,
            stopped => Answers {
                stopped,
                ..Answers::default()
            },
        };
        Ok(self.were_deleted(deleted))
    }

    /// Takes in what came of the writes. Returns why not all of it was tried.
    pub(super) fn were_written(
        &mut self,
        answers: Answers<Stands>,
        observed: &Observed,
    ) -> Option<Error> {
        let Answers {
            mut answers,
            stopped,
        } = answers;
        for write in std::mem::take(&mut self.writes) {
            let (agent, id) = (write.assistant.agent_id, write.assistant.id);
            match answers.remove(&id) {
                Some(Answer::Done(stands)) => {
                    self.stands(agent, id, write.assistant.owner.clone());
                    self.note(
                        agent,
                        match (stands.untouched, write.how) {
                            (true, _) => Outcome::Skipped,
                            (false, How::Insert) => Outcome::Created,
                            (false, _) => Outcome::Updated,
                        },
                    );
                    if !stands.is_noted {
                        self.written.push(Written {
                            entry: write.entry(),
                            row_hash: stands.row_hash,
                        });
                    }
                }
                Some(Answer::Refused(why)) => {
                    if !observed.entries.contains_key(&id) {
                        self.forgotten.push(id);
                    }
                    let in_scope = self.in_scope.contains(&agent);
                    self.fail(agent, why, in_scope);
                }
                None if stopped.is_some() => self.leave(agent),
                // Held by another session, or made, taken or deleted since we looked: look again.
                None => self.postpone(agent),
                Some(Answer::Unknown(after)) => self.postpone_for(agent, after),
            }
        }
        stopped
    }

    /// The assistants that are to be deleted, now that it is clear whether any are held.
    pub(super) fn going(&mut self) -> Vec<AssistantId> {
        if self.objection.is_some() {
            let (held, off): (Vec<Off>, Vec<Off>) = std::mem::take(&mut self.off)
                .into_iter()
                .partition(|off| off.stands);
            for off in held {
                self.note(off.agent, Outcome::Held);
                self.held.extend((!off.held).then_some(off.assistant));
            }
            self.off = off;
        }
        let standing = self
            .off
            .iter()
            .chain(&self.revoked)
            .filter(|off| off.stands);
        standing.map(|off| off.assistant).collect()
    }

    /// Takes in what came of that. Returns why not all of it was tried.
    pub(super) fn were_deleted(&mut self, deleted: Answers<()>) -> Option<Error> {
        let (off, revoked) = (
            std::mem::take(&mut self.off),
            std::mem::take(&mut self.revoked),
        );
        self.removed = self.gone(off, &deleted, Outcome::Removed);
        let revoked = self.gone(revoked, &deleted, Outcome::Revoked);
        self.forgotten.extend(revoked);
        deleted.stopped
    }

    /// Those that are not there any more.
    fn gone(&mut self, off: Vec<Off>, deleted: &Answers<()>, outcome: Outcome) -> Vec<AssistantId> {
        let mut gone = Vec::with_capacity(off.len());
        for off in off {
            match deleted.answers.get(&off.assistant) {
                _ if !off.stands => {}
                Some(Answer::Done(())) => self.note(off.agent, outcome.clone()),
                Some(Answer::Refused(why)) => {
                    self.fail(off.agent, why.clone(), false);
                    continue;
                }
                None if deleted.stopped.is_some() => {
                    self.leave(off.agent);
                    continue;
                }
                // Another session holds it.
                None => {
                    self.postpone(off.agent);
                    continue;
                }
                Some(Answer::Unknown(after)) => {
                    self.postpone_for(off.agent, *after);
                    continue;
                }
            }
            gone.push(off.assistant);
        }
        gone
    }

    fn leave(&mut self, agent: AgentId) {
        self.left.insert(agent);
    }

    /// Writes into the ledger what it does not have yet. Returns whether something was put back into the outbox.
    pub async fn record(&mut self, tx: &Transaction<'_>) -> Result<bool, Error> {
        ledger::synced(tx, &self.written).await?;
        ledger::settled(tx, &self.settled).await?;
        ledger::marked(tx, &self.marked).await?;
        if let Some(objection) = self.objection {
            ledger::held(tx, &self.held, &objection.to_string()).await?;
        }
        ledger::removed(tx, &self.removed, self.counted).await?;
        ledger::forget(tx, &self.forgotten).await?;
        for conflict in &self.conflicts {
            let (agent, assistant) = (conflict.agent_id, conflict.assistant_id);
            warn!(%agent, %assistant, "conflict: the assistant exists and is not ours, it stays untouched");
        }
        ledger::in_conflict(tx, &self.conflicts).await?;
        self.schedule(tx).await
    }

    /// Puts failed agents back into the outbox, each due after its backoff, and takes those out that have recovered. So
    /// a restart does not forget them, and whichever worker is there tries again.
    async fn schedule(&mut self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let failed = ledger::failed(tx, &self.failures).await?;
        let mut retries: Vec<_> = failed
            .iter()
            .map(|(agent, attempts)| (*agent, retry::agent_delay(*attempts)))
            .collect();
        retries.extend(self.busy.iter().map(|(agent, after)| (*agent, *after)));
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

/// As look_over.sql has it.
fn source_hash(source: &[u8], content_hash: &[u8], row_hash: &[u8]) -> Vec<u8> {
    let hash = Sha256::new_with_prefix(source);
    let hash = hash.chain_update(content_hash).chain_update(row_hash);
    hash.finalize().to_vec()
}
