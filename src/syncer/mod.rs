//! Makes assistants equal to their agents. The startup pass, the change loop and the lazy sync all come through here.
//!
//! One order in every door, each step a later statement than the one before:
//!
//! 1. *claim* (the change loop only),
//! 2. *lock* the agents ([`Syncer::sync`] from here on),
//! 3. *decide reach and read*: a statement that waited for the lock and read in one go would read from a snapshot older
//!    than the lock, and could overwrite what another worker has just written,
//! 4. *write* assistants and ledger,
//! 5. *delete* what was claimed (the change loop only), *commit*,
//! 6. *write back* ([`crate::write_back`]), outside the transaction: it is the only lock that an editor could wait for.

mod outcome;
mod permission;
mod reach;
mod release;
mod work;

use deadpool_postgres::Transaction;
use tokio::sync::Semaphore;
use tokio_postgres::types::Type;

pub use outcome::{Batch, Outcome, Summary};
use permission::Subject;
pub use reach::stored_scope;
use reach::{Reach, is_in_scope, shared_scope};
pub use release::Released;
use work::Work;

use crate::access::{Access, Verdict};
use crate::agent::{DecodeError, Head};
use crate::assistant::Content;
use crate::config::{OnRemove, Settings};
use crate::database::{Client, DEADLINE, Database, Error, Fault, begin};
use crate::doorbell::Doorbell;
use crate::ids::{AgentId, AssistantId};
use crate::ledger;
use crate::plan::{self, Answer, Claim, Observed, Planned};
use crate::removals::{Guard, Removals};
use crate::source::{Shape, Source};
use crate::sql;
use crate::store::batch as assistants;
use crate::write_back::WriteBack;

/// How many agents of a batch may be refused for a reason that an operator has to mend (a missing privilege, say) while
/// none is written, before that is taken for everybody's trouble rather than theirs.
const SYSTEMIC: usize = 3;

/// How many lazy syncs run at a time: they may wait for an agent's lock, each with a connection in hand.
const REQUESTS: usize = 3;

#[derive(Debug)]
pub struct Syncer {
    pub database: Database,
    access: Access,
    pub source: Source,
    pub write_back: WriteBack,
    /// Wakes the change loop.
    pub doorbell: Doorbell,
    guard: Guard,
    settings: Settings,
    /// Requests leave connections to everybody else.
    requests: Semaphore,
}

/// Through which door agents come.
#[derive(Debug, Clone, Copy)]
pub enum Entrance<'a> {
    /// A pass, which comes to all of them.
    Pass,
    /// The change loop.
    Change,
    /// Lazy sync: somebody asks for an agent.
    Request(&'a Claim),
}

impl<'a> Entrance<'a> {
    fn claim(self) -> Option<&'a Claim> {
        match self {
            Self::Request(claim) => Some(claim),
            Self::Pass | Self::Change => None,
        }
    }
}

/// How far an attempt at a batch came before it failed.
enum Stage {
    Reading,
    Writing,
}

/// An active agent, mapped.
struct Active {
    head: Head,
    content: Content,
}

impl Syncer {
    pub fn new(database: Database, access: Access, settings: Settings) -> Self {
        let write_back = WriteBack::new(database.clone());
        Self {
            database,
            access,
            source: Source::default(),
            write_back,
            doorbell: Doorbell::default(),
            guard: Guard::new(settings.max_removals),
            settings,
            requests: Semaphore::new(REQUESTS),
        }
    }

    /// Syncs up to [`crate::database::BATCH`] agents in a transaction of its own: lock, read, write, commit, write back.
    pub async fn sync_now(
        &self,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Batch, Error> {
        self.database
            .within(DEADLINE, async {
                let _turn = match entrance {
                    Entrance::Request(_) => self.requests.acquire().await.ok(),
                    Entrance::Pass | Entrance::Change => None,
                };
                let mut client = self.database.client().await?;
                let mut tx = begin(&mut client).await?;
                let batch = self.sync(&mut tx, agents, entrance).await?;
                tx.commit().await?;
                self.committed(&mut client, &batch).await;
                client.give_back();
                Ok(batch)
            })
            .await
    }

    /// Locks the agents and makes their assistants what they should be, within the caller's transaction.
    ///
    /// An agent that the database refuses fails alone: the batch is halved around it, each half behind a savepoint. Any
    /// other error is the caller's, and so is the rollback.
    pub async fn sync(
        &self,
        tx: &mut Transaction<'_>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Batch, Error> {
        let shape = self.source.shape(tx.client()).await?;
        tx.query_typed(sql!("lock_agents"), &[(&agents, Type::UUID_ARRAY)])
            .await?;
        let reach = Reach {
            shared: shared_scope(tx.client()).await?,
            own: &self.settings.scope,
        };

        let (mut batch, mut failed) = (Batch::default(), Batch::default());
        let mut chunks = vec![agents];
        while let Some(chunk) = chunks.pop() {
            let savepoint = tx.savepoint("chunk").await?;
            let attempt = self.attempt(&savepoint, &shape, &reach, chunk, entrance);
            let (stage, error) = match attempt.await {
                Ok(part) => {
                    savepoint.commit().await?;
                    batch.add(part);
                    continue;
                }
                Err(stopped) => stopped,
            };
            let fault = error.fault();
            // What refuses a write may be a trigger or a constraint, whatever code it gives.
            let concerns_some = fault == Fault::Data
                || matches!(
                    (stage, fault),
                    (Stage::Writing, Fault::Setup | Fault::Locked)
                );
            if !concerns_some {
                // What could be read before, too: users that row-level security, or a missing grant, hides now.
                if error.is_schema_drift() || error.denial().is_some() {
                    self.source.outdated();
                }
                return Err(error);
            }
            savepoint.rollback().await?;
            let &[agent] = chunk else {
                let (left, right) = chunk.split_at(chunk.len() / 2);
                chunks.extend([right, left]);
                continue;
            };
            let systemic = failed.outcomes.len() + 1 >= SYSTEMIC && batch.outcomes.is_empty();
            if fault == Fault::Setup && systemic {
                return Err(error);
            }
            let mut work = Work::new(None, self.guard.counts());
            if fault == Fault::Locked {
                work.postpone(agent);
            } else {
                let in_scope = is_in_scope(tx, &shape, &reach, agent).await?;
                work.fail(agent, error.to_string(), in_scope);
            }
            let retries = work.write(tx).await?;
            failed.add(Batch {
                outcomes: work.outcomes.into_iter().collect(),
                retries,
                ..Batch::default()
            });
        }
        batch.add(failed);
        Ok(batch)
    }

    /// What follows the commit: the log, the bell, and the write-back on the same connection.
    pub async fn committed(&self, client: &mut Client, batch: &Batch) {
        batch.log();
        match batch.objection {
            Some(objection) => self.guard.held(objection),
            None if batch
                .outcomes
                .iter()
                .any(|(_, outcome)| *outcome == Outcome::Removed) =>
            {
                self.guard.let_go()
            }
            None => {}
        }
        if batch.retries {
            self.doorbell.ring();
        }
        self.write_back.run(client, &batch.write_back).await;
    }

    async fn attempt(
        &self,
        tx: &tokio_postgres::Transaction<'_>,
        shape: &Shape,
        reach: &Reach<'_>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Batch, (Stage, Error)> {
        let claim = entrance.claim();
        let reading = |e| (Stage::Reading, e);
        let writing = |e| (Stage::Writing, e);

        let mut ids: Vec<AssistantId> = agents.iter().map(|agent| agent.canonical()).collect();
        if let Some(claim) = claim {
            ids.extend(agents.iter().map(|agent| agent.copy_for(&claim.owner)));
            ids.extend(claim.assistant_id);
        }
        // Sent together, answered in this order.
        let (rows, mut observed) =
            futures::try_join!(shape.read(tx, agents), observe(tx, agents, &ids))
                .map_err(reading)?;
        let others = observed.alternatives(agents);
        if !others.is_empty() {
            observed.add(observe(tx, &[], &others).await.map_err(reading)?);
        }
        let reserved = self
            .names_another_agent(tx, shape, agents, claim)
            .await
            .map_err(reading)?;

        // The contents first: what is to be written borrows from them.
        let contents: Vec<(AgentId, Result<Option<Active>, DecodeError>)> = agents
            .iter()
            .map(|agent| {
                let active = rows.get(agent).map_or(Ok(None), |row| {
                    let head = row.head()?;
                    if !head.is_active() {
                        return Ok(None);
                    }
                    let content = Content::of(row.decode()?, &self.settings.default_model);
                    Ok(Some(Active { head, content }))
                });
                (*agent, active)
            })
            .collect();
        let mut work = Work::new(claim, self.guard.counts());
        let (mut answer, mut planned) = (None, Vec::new());
        for (agent, active) in &contents {
            match active {
                Ok(None) if self.settings.on_remove == OnRemove::Keep => {}
                Ok(None) => work.remove(*agent, &observed),
                Ok(Some(_)) if reserved => answer = Some(Answer::Taken),
                Ok(Some(active)) => {
                    let in_scope = reach.contains(active.head.organization_id);
                    let (wanted, answered) = plan::wanted(*agent, in_scope, claim, &observed);
                    answer = answered;
                    let steps = plan::steps(*agent, &active.content, wanted, &observed);
                    planned.push((*agent, steps));
                }
                Err(e) => {
                    let head = rows.get(agent).and_then(|row| row.head().ok());
                    let in_scope = reach.contains(head.and_then(|head| head.organization_id));
                    if in_scope || claim.is_some() || observed.entries_of(*agent).next().is_some() {
                        work.fail(*agent, e.to_string(), in_scope);
                    }
                }
            }
        }
        let mut subjects: Vec<Subject<'_>> = Vec::new();
        for Planned {
            assistant, step, ..
        } in planned.iter().flat_map(|(_, steps)| steps)
        {
            subjects.push(Subject {
                agent: assistant.agent_id,
                assistant: assistant.id,
                owner: &assistant.owner,
                organization_id: assistant.content.organization_id,
                is_written: step.writes(),
            });
        }
        // What stays as it is, because the agent is off or makes no sense, is its users' only as long as they may see the agent.
        for (agent, row) in &rows {
            let stays = observed
                .entries_of(*agent)
                .filter(|entry| entry.content_hash.is_some());
            let is_planned = planned.iter().any(|(planned, _)| planned == agent);
            let head = row.head().ok();
            subjects.extend(stays.filter(|_| !is_planned).map(|entry| Subject {
                agent: *agent,
                assistant: entry.assistant_id,
                owner: &entry.owner,
                organization_id: head.as_ref().and_then(|head| head.organization_id),
                is_written: false,
            }));
        }
        let permissions = self
            .permissions(tx, shape, &rows, &subjects, &observed, entrance)
            .await
            .map_err(reading)?;
        for subject in &subjects {
            if let Some(verdict) = permissions.refusal(subject.owner, subject.agent) {
                if claim.is_some_and(|claim| claim.owner == subject.owner) {
                    answer = None;
                }
                work.refuse(subject, verdict, &observed);
            }
        }
        for (agent, mut steps) in planned {
            let is_refused = |owner: &str| permissions.refusal(owner, agent).is_some();
            steps.retain(|planned| !is_refused(&planned.assistant.owner));
            work.plan(agent, steps, &observed);
        }
        let losing = work.losing();
        if !losing.is_empty() {
            // However small a part of the batch this is: the rest is among the pending changes.
            let removals = Removals {
                agents: &losing,
                batch: agents,
                pass: matches!(entrance, Entrance::Pass),
            };
            let judged = self.guard.objection(tx, shape, removals).await;
            work.objection = judged.map_err(reading)?;
        }
        if work.touches_assistants() {
            // Whoever else writes assistants may hold one for long. Only we wait for that, and not for long.
            tx.batch_execute("set local lock_timeout = '200ms'")
                .await
                .map_err(|e| writing(e.into()))?;
        }
        let retries = work.write(tx).await.map_err(writing)?;

        let mut batch = Batch {
            answer,
            objection: work.objection,
            retries,
            ..Batch::default()
        };
        for (agent, active) in &contents {
            if self.settings.write_back
                && let Ok(Some(active)) = active
                && let Some(named) = &active.head.langgraph_assistant_id
                && let Some(works) = work.working(*agent, named.as_deref())
                && named.as_deref() != Some(works.to_string().as_str())
            {
                batch.write_back.push((*agent, works));
            }
        }
        batch.outcomes = work.outcomes.into_iter().collect();
        Ok(batch)
    }

    /// Whether a claim names an id that is another agent's: its canonical assistant is not anybody's to take. Of an agent that
    /// the claimant may not have, nobody is told that it exists.
    async fn names_another_agent(
        &self,
        tx: &tokio_postgres::Transaction<'_>,
        shape: &Shape,
        agents: &[AgentId],
        claim: Option<&Claim>,
    ) -> Result<bool, Error> {
        match claim
            .and_then(|claim| claim.assistant_id)
            .map(|id| AgentId(id.0))
        {
            Some(named) if !agents.contains(&named) => {
                let rows = shape.read(tx, &[named]).await?;
                let identity = claim.and_then(|claim| claim.identity.as_ref());
                Ok(match identity {
                    Some(identity) => {
                        let verdict = self.verdict(shape, identity, named, &rows).await?;
                        !matches!(verdict, Verdict::Denied(_))
                    }
                    None => !rows.is_empty(),
                })
            }
            _ => Ok(false),
        }
    }
}

/// The ledger's entries of these agents and under these ids; and which of all those assistants exist.
async fn observe(
    tx: &tokio_postgres::Transaction<'_>,
    agents: &[AgentId],
    ids: &[AssistantId],
) -> Result<Observed, Error> {
    let entries = ledger::read(tx, agents, ids).await?;
    let ids: Vec<_> = ids.iter().chain(entries.keys()).copied().collect();
    let existing = assistants::observe(tx, &ids).await?;
    Ok(Observed { entries, existing })
}
