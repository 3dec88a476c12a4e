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

use std::collections::{HashMap, HashSet};
use std::fmt;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;
use tracing::{error, info, warn};

use crate::agent::{DecodeError, Head};
use crate::assistant::{Assistant, Content};
use crate::changes::outbox;
use crate::database::{Client, Database, Error, Fault, begin, column};
use crate::ids::{AgentId, AssistantId};
use crate::ledger::{self, Conflict, Failure, Written};
use crate::plan::{self, Answer, Claim, Observed, State, Step};
use crate::retry;
use crate::scope::Scope;
use crate::source::{Shape, Source};
use crate::sql;
use crate::store::postgres::{self as assistants, How, Write};
use crate::write_back::WriteBack;

/// The most agents that one transaction locks. Advisory locks live in a table of fixed size that all sessions of the
/// cluster share.
pub const BATCH: usize = 500;

/// Up to how many agents of a batch are named in the log at `info`.
const NAMED: usize = 10;

#[derive(Debug)]
pub struct Syncer {
    pub database: Database,
    pub source: Source,
    pub write_back: WriteBack,
    default_model: String,
}

/// What became of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    Skipped,
    Removed,
    /// Somebody else has an assistant under the id.
    Conflict,
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
    /// Agents whose row does not name their canonical assistant, which stands.
    write_back: Vec<AgentId>,
}

/// Outcomes, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub created: usize,
    pub updated: usize,
    pub skipped: usize,
    pub failed: usize,
    pub removed: usize,
    pub conflict: usize,
}

impl Syncer {
    pub fn new(database: Database, default_model: String) -> Self {
        let write_back = WriteBack::new(database.clone());
        Self {
            database,
            source: Source::default(),
            write_back,
            default_model,
        }
    }

    /// Syncs up to [`BATCH`] agents in a transaction of its own: lock, read, write, commit, write back.
    pub async fn sync_now(
        &self,
        agents: &[AgentId],
        claim: Option<&Claim>,
    ) -> Result<Batch, Error> {
        let mut client = self.database.client().await?;
        let mut tx = begin(&mut client).await?;
        let batch = self.sync(&mut tx, agents, claim).await?;
        tx.commit().await?;
        self.committed(&mut client, &batch).await;
        Ok(batch)
    }

    /// Locks the agents and makes their assistants what they should be, within the caller's transaction.
    ///
    /// An agent whose data the database refuses fails alone: the batch is halved around it, each half behind a
    /// savepoint. Any other error is the caller's, and so is the rollback.
    pub async fn sync(
        &self,
        tx: &mut Transaction<'_>,
        agents: &[AgentId],
        claim: Option<&Claim>,
    ) -> Result<Batch, Error> {
        let shape = self.source.shape(&self.database).await?;
        tx.query_typed(sql!("lock_agents"), &[(&agents, Type::UUID_ARRAY)])
            .await?;
        let scope = stored_scope(&**tx).await?.unwrap_or_default();

        let mut batch = Batch::default();
        let mut chunks = vec![agents];
        while let Some(chunk) = chunks.pop() {
            let savepoint = tx.savepoint("chunk").await?;
            match self.attempt(&savepoint, &shape, &scope, chunk, claim).await {
                Ok(part) => {
                    savepoint.commit().await?;
                    batch.outcomes.extend(part.outcomes);
                    batch.write_back.extend(part.write_back);
                    batch.answer = batch.answer.or(part.answer);
                }
                Err(e) if e.fault() == Fault::Data => {
                    savepoint.rollback().await?;
                    if let &[agent] = chunk {
                        let in_scope = is_in_scope(tx, &shape, &scope, agent).await?;
                        fail(
                            tx,
                            &[Failure {
                                agent_id: agent,
                                error: e.to_string(),
                                in_scope,
                            }],
                        )
                        .await?;
                        batch.outcomes.push((agent, Outcome::Failed(e.to_string())));
                    } else {
                        let (left, right) = chunk.split_at(chunk.len() / 2);
                        chunks.extend([left, right]);
                    }
                }
                Err(e) => {
                    if e.is_schema_drift() {
                        self.source.outdated();
                    }
                    return Err(e);
                }
            }
        }
        Ok(batch)
    }

    /// What follows the commit: the log, and the write-back on the same connection.
    pub async fn committed(&self, client: &mut Client, batch: &Batch) {
        batch.log();
        self.write_back.run(client, &batch.write_back).await;
    }

    async fn attempt(
        &self,
        tx: &tokio_postgres::Transaction<'_>,
        shape: &Shape,
        scope: &Scope,
        agents: &[AgentId],
        claim: Option<&Claim>,
    ) -> Result<Batch, Error> {
        let mut ids: Vec<AssistantId> = agents.iter().map(|agent| agent.canonical()).collect();
        if let Some(claim) = claim {
            ids.extend(agents.iter().map(|agent| agent.copy_for(&claim.owner)));
            ids.extend(claim.assistant_id);
        }
        // Sent together, answered in this order.
        let (rows, entries) =
            futures::try_join!(shape.read(tx, agents), ledger::read(tx, agents, &ids))?;
        ids.extend(entries.keys());
        let existing = assistants::observe(tx, &ids).await?;
        let observed = Observed { entries, existing };

        let mut batch = Batch::default();
        let mut work = Work {
            claim,
            ..Work::default()
        };
        // The contents first: what is to be written borrows from them.
        let read: Vec<(AgentId, Result<Option<Active>, DecodeError>)> = agents
            .iter()
            .map(|agent| {
                let Some(row) = rows.get(agent) else {
                    return (*agent, Ok(None));
                };
                let active = row.head().and_then(|head| {
                    head.is_active()
                        .then(|| {
                            Ok(Active {
                                content: Content::of(row.decode()?, &self.default_model),
                                head,
                            })
                        })
                        .transpose()
                });
                (*agent, active)
            })
            .collect();
        for (agent, active) in &read {
            match active {
                Ok(None) => work.remove(*agent, &observed),
                Ok(Some(active)) => {
                    let in_scope = scope.contains(active.head.organization_id);
                    let (wanted, answer) = plan::wanted(*agent, in_scope, claim, &observed);
                    batch.answer = answer;
                    work.plan(*agent, &active.content, wanted, &observed);
                }
                Err(e) => {
                    let head = rows.get(agent).and_then(|row| row.head().ok());
                    let in_scope = scope.contains(head.and_then(|head| head.organization_id));
                    work.failures.push(Failure {
                        agent_id: *agent,
                        error: e.to_string(),
                        in_scope,
                    });
                    if in_scope || observed.entries_of(*agent).next().is_some() || claim.is_some() {
                        work.note(*agent, Outcome::Failed(e.to_string()));
                    }
                }
            }
        }
        work.write(tx).await?;
        let unnamed =
            |(agent, active): &(AgentId, Result<Option<Active>, DecodeError>)| match active {
                Ok(Some(active)) => {
                    active.head.needs_write_back(*agent)
                        && work.standing.contains(&agent.canonical())
                }
                _ => false,
            };
        batch.write_back = read
            .iter()
            .filter(|read| unnamed(read))
            .map(|(agent, _)| *agent)
            .collect();
        batch.outcomes = work.outcomes.into_iter().collect();
        Ok(batch)
    }
}

/// An active agent, mapped.
struct Active {
    head: Head,
    content: Content,
}

impl Head {
    fn needs_write_back(&self, agent: AgentId) -> bool {
        match &self.langgraph_assistant_id {
            Some(id) => id.as_deref() != Some(agent.to_string().as_str()),
            None => false,
        }
    }
}

/// Everything that a batch has to write.
#[derive(Default)]
struct Work<'a> {
    claim: Option<&'a Claim>,
    writes: Vec<Write<'a>>,
    settled: Vec<AssistantId>,
    conflicts: Vec<Conflict>,
    deleted: Vec<AssistantId>,
    removed: Vec<AssistantId>,
    forgotten: Vec<AssistantId>,
    failures: Vec<Failure>,
    /// The assistants that are there in the end.
    standing: HashSet<AssistantId>,
    outcomes: HashMap<AgentId, Outcome>,
}

impl<'a> Work<'a> {
    /// What must happen to the assistants of an active agent.
    fn plan(
        &mut self,
        agent: AgentId,
        content: &'a Content,
        wanted: Vec<plan::Wanted>,
        observed: &Observed,
    ) {
        let stale = observed
            .entries_of(agent)
            .filter(|entry| entry.state == State::Conflict)
            .map(|e| e.assistant_id);
        self.forgotten
            .extend(stale.filter(|id| !wanted.iter().any(|w| w.assistant_id == *id)));
        for plan::Wanted {
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
            let (how, outcome) = match plan::step(agent, id, &content_hash, observed) {
                Step::Create => (How::Insert, Outcome::Created),
                Step::Update => (How::Update, Outcome::Updated),
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
                        warn!(%agent, assistant = %id, "conflict: the assistant exists and is not ours; it stays untouched");
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
            let foreign = self
                .claim
                .filter(|claim| claim.owner == assistant.owner)
                .map(|claim| &claim.metadata);
            self.writes.push(Write {
                assistant,
                content_hash,
                how,
                foreign,
            });
        }
    }

    /// An agent that is not active, or not there, has no assistants.
    fn remove(&mut self, agent: AgentId, observed: &Observed) {
        for entry in observed.entries_of(agent) {
            let id = entry.assistant_id;
            match entry.state {
                State::Removed => {}
                State::Conflict => self.forgotten.push(id),
                State::Synced | State::Failed | State::Held => {
                    self.removed.push(id);
                    if entry.content_hash.is_some() {
                        self.deleted.push(id);
                        self.note(agent, Outcome::Removed);
                    }
                }
            }
        }
        self.note(agent, Outcome::Nothing);
    }

    /// Of an agent with several assistants, what weighs most is reported.
    fn note(&mut self, agent: AgentId, outcome: Outcome) {
        let noted = self.outcomes.entry(agent).or_insert(Outcome::Nothing);
        if outcome.weight() > noted.weight() {
            *noted = outcome;
        }
    }

    async fn write(&mut self, tx: &tokio_postgres::Transaction<'_>) -> Result<(), Error> {
        let mut row_hashes = assistants::write(tx, &self.writes).await?;
        let mut written = Vec::with_capacity(self.writes.len());
        for Write {
            assistant,
            content_hash,
            ..
        } in std::mem::take(&mut self.writes)
        {
            match row_hashes.remove(&assistant.id) {
                Some(row_hash) => {
                    self.standing.insert(assistant.id);
                    written.push(Written {
                        assistant_id: assistant.id,
                        agent_id: assistant.agent_id,
                        owner: assistant.owner,
                        content_hash,
                        row_hash,
                    });
                }
                None => {
                    let error = format!(
                        "assistant {} was changed by somebody else at the same moment",
                        assistant.id
                    );
                    self.note(assistant.agent_id, Outcome::Failed(error.clone()));
                    self.failures.push(Failure {
                        agent_id: assistant.agent_id,
                        error,
                        in_scope: true,
                    });
                }
            }
        }
        assistants::delete(tx, &self.deleted).await?;
        ledger::synced(tx, &written).await?;
        ledger::settled(tx, &self.settled).await?;
        ledger::removed(tx, &self.removed).await?;
        ledger::forget(tx, &self.forgotten).await?;
        ledger::in_conflict(tx, &self.conflicts).await?;
        fail(tx, &self.failures).await
    }
}

/// Notes failures in the ledger and puts each agent back into the outbox, due after its backoff. So a restart does not
/// forget them, and whichever worker is there tries again.
async fn fail(tx: &tokio_postgres::Transaction<'_>, failures: &[Failure]) -> Result<(), Error> {
    let attempts = ledger::failed(tx, failures).await?;
    let retries: Vec<_> = attempts
        .into_iter()
        .map(|(agent, attempts)| (agent, retry::agent_delay(attempts)))
        .collect();
    outbox::schedule(tx, &retries).await
}

/// Whether an agent that could not be synced is in scope. One that cannot even be read is not.
async fn is_in_scope(
    tx: &mut Transaction<'_>,
    shape: &Shape,
    scope: &Scope,
    agent: AgentId,
) -> Result<bool, Error> {
    let savepoint = tx.savepoint("scope").await?;
    let row = shape
        .read(&savepoint, &[agent])
        .await
        .ok()
        .and_then(|mut rows| rows.remove(&agent));
    savepoint.rollback().await?;
    Ok(row
        .and_then(|row| row.head().ok())
        .is_some_and(|head| scope.contains(head.organization_id)))
}

/// The scope that all workers on this database share; `None` where no worker has stored one yet.
pub async fn stored_scope(
    client: &impl tokio_postgres::GenericClient,
) -> Result<Option<Scope>, Error> {
    let rows = client
        .query_typed("select scope from agent_sync.settings", &[])
        .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let text: &str = column(row, "scope")?;
    text.parse()
        .map(Some)
        .map_err(|e| Error::Setup(format!("agent_sync.settings: {e}")))
}

impl Outcome {
    fn weight(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Skipped => 1,
            Self::Removed => 2,
            Self::Updated => 3,
            Self::Created => 4,
            Self::Conflict => 5,
            Self::Failed(_) => 6,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Skipped => "skipped",
            Self::Removed => "removed",
            Self::Conflict => "conflict",
            Self::Failed(_) => "failed",
            Self::Nothing => "nothing",
        }
    }
}

impl Batch {
    fn log(&self) {
        let mut effective = self.outcomes.iter().filter(|(_, outcome)| {
            matches!(
                outcome,
                Outcome::Created | Outcome::Updated | Outcome::Removed
            )
        });
        if self.outcomes.len() <= NAMED {
            effective.for_each(
                |(agent, outcome)| info!(%agent, outcome = outcome.word(), "agent synced"),
            );
        } else if effective.next().is_some() {
            info!(outcomes = %Summary::of(&self.outcomes), "agents synced");
        }
        for (agent, outcome) in &self.outcomes {
            if let Outcome::Failed(error) = outcome {
                error!(%agent, error, "agent failed; it is tried again later, and at once when it is edited");
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
                Outcome::Removed => &mut summary.removed,
                Outcome::Conflict => &mut summary.conflict,
                Outcome::Failed(_) => &mut summary.failed,
                Outcome::Nothing => continue,
            } += 1;
        }
        summary
    }

    pub fn total(&self) -> usize {
        self.created + self.updated + self.skipped + self.failed + self.removed + self.conflict
    }

    pub fn add(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.skipped += other.skipped;
        self.failed += other.failed;
        self.removed += other.removed;
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
            conflict,
        } = self;
        let total = self.total();
        write!(
            f,
            "total={total} created={created} updated={updated} skipped={skipped} failed={failed}"
        )?;
        for (word, count) in [("removed", removed), ("conflict", conflict)] {
            if *count > 0 {
                write!(f, " {word}={count}")?;
            }
        }
        Ok(())
    }
}
