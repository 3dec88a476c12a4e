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
//!
//! Where assistants live outside the database, the transaction falls into several ([`beyond`]), and a lease takes the lock's place.

mod beyond;
mod decide;
mod forecast;
mod glance;
mod lease;
mod look;
mod outcome;
mod permission;
mod preview;
mod reach;
mod release;
mod report;
mod work;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_postgres::types::Type;

use decide::{Existence, Records, Seen};
pub use forecast::{Change, Forecast, Preview, Verb};
pub use glance::Glance;
pub use look::Overview;
pub use outcome::{Batch, Outcome, Summary};
pub use reach::stored_scope;
use reach::{Reach, is_in_scope, shared_scope};
pub use release::Released;
pub use report::Origin;
use work::Work;

use crate::access::Access;
use crate::activity::Activity;
use crate::config::Settings;
use crate::database::kept::Kept;
use crate::database::{Client, Database, Error, Fault, Param, Session, Transaction, begin};
use crate::doorbell::Doorbell;
use crate::ids::AgentId;
use crate::metrics::{Connections, Metrics, StoreCalls};
use crate::outbox::{self, Claimed};
use crate::plan::Claim;
use crate::removals::Guard;
use crate::retry::SYSTEMIC;
use crate::scope::Scope;
use crate::source::{Shape, Source};
use crate::sql;
use crate::store::Place;
use crate::store::batch::{Counted, Target};
use crate::write_back::WriteBack;

/// How many lazy syncs run at a time: they may wait for an agent's lock, each with a connection in hand.
const REQUESTS: usize = 3;

/// Up to how many agents a transaction uses statements that its session keeps.
const FEW: usize = 8;

#[derive(Debug)]
pub struct Syncer {
    pub database: Database,
    access: Access,
    pub source: Source,
    pub write_back: WriteBack,
    /// Wakes the change loop.
    pub doorbell: Doorbell,
    /// Told of what was synced.
    activity: Arc<Activity>,
    pub metrics: Arc<Metrics>,
    calls: StoreCalls,
    guard: Guard,
    settings: Settings,
    place: Place,
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

    /// Every [`Self::word`].
    const WORDS: [&'static str; 3] = ["pass", "change", "request"];

    fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Change => "change",
            Self::Request(_) => "request",
        }
    }
}

/// How far an attempt at a batch came before it failed.
enum Stage {
    Reading,
    Writing,
}

impl Syncer {
    pub fn new(database: Database, access: Access, settings: Settings) -> Self {
        let write_back = WriteBack::new(database.clone());
        let metrics = Arc::<Metrics>::default();
        Self {
            database,
            access,
            source: Source::default(),
            write_back,
            doorbell: Doorbell::default(),
            activity: Arc::default(),
            calls: metrics.store(Place::Table.word()),
            metrics,
            guard: Guard::new(settings.max_removals),
            settings,
            place: Place::Table,
            requests: Semaphore::new(REQUESTS),
        }
    }

    /// The same, for assistants that live elsewhere.
    pub fn writing_to(self, place: Place) -> Self {
        Self {
            calls: self.metrics.store(place.word()),
            place,
            ..self
        }
    }

    /// The same, telling these what was synced. After [`Self::writing_to`].
    pub fn telling(self, activity: Arc<Activity>, metrics: Arc<Metrics>) -> Self {
        metrics.begin(&Entrance::WORDS, &Outcome::WORDS);
        let calls = metrics.store(self.place.word());
        self.place.count_on(&calls);
        Self {
            activity,
            calls,
            metrics,
            ..self
        }
    }

    /// Where assistants live.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The same, where it is not in the database.
    fn beyond(&self) -> Option<Counted<'_>> {
        self.place.beyond().map(|target| self.counted(target))
    }

    fn counted<'a>(&'a self, target: Target<'a>) -> Counted<'a> {
        Counted {
            target,
            calls: &self.calls,
        }
    }

    /// The worker's connections, by what they are for.
    pub fn pools(&self) -> Vec<(&'static str, Connections)> {
        let mut pools = vec![("worker", self.database.connections())];
        pools.extend(self.access.connections().map(|pool| ("access", pool)));
        pools
    }

    /// How many agents are synced together at most.
    pub fn batch_size(&self) -> usize {
        match self.place.beyond() {
            None => crate::database::BATCH,
            Some(_) => beyond::BATCH,
        }
    }

    /// How many batches at once, each on a connection of its own: while we work out the one, the server works on the other. A LangGraph
    /// server is asked about several assistants at a time as it is.
    pub fn batches_together(&self) -> usize {
        match self.place.beyond() {
            None => 2,
            Some(_) => 1,
        }
    }

    /// Syncs up to [`crate::database::BATCH`] agents in a transaction of its own: lock, read, write, commit, write back.
    pub async fn sync_now(
        &self,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Batch, Error> {
        let origin = Origin::of(entrance);
        self.in_time(async {
            let _turn = match entrance {
                Entrance::Request(_) => self.requests.acquire().await.ok(),
                Entrance::Pass | Entrance::Change => None,
            };
            if let Some(target) = self.beyond() {
                return self.sync_beyond(target, agents, entrance, origin).await;
            }
            let keeper = &self.database.keeper;
            let kept = !keeper.is_given_up();
            // (A sync is much to carry about: it stays where it is.)
            match Box::pin(self.sync_here(agents, entrance, origin)).await {
                // Once more, without what was not there.
                Err(_) if kept && keeper.is_given_up() => {
                    Box::pin(self.sync_here(agents, entrance, origin)).await
                }
                synced => synced,
            }
        })
        .await
    }

    async fn sync_here(
        &self,
        agents: &[AgentId],
        entrance: Entrance<'_>,
        origin: Origin<'_>,
    ) -> Result<Batch, Error> {
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        let kept = match agents.len() <= FEW {
            true => self.database.keeper.of(&tx).await?,
            false => None,
        };
        let batch = self.sync(&tx, kept.as_deref(), agents, entrance).await?;
        tx.commit().await?;
        self.committed(&mut client, &batch, origin).await;
        client.give_back();
        Ok(batch)
    }

    /// Syncs the agents of changes that this transaction has claimed, and takes those off the outbox. `kept`: what its session
    /// keeps.
    pub async fn sync_claimed(
        &self,
        tx: Transaction<'_>,
        kept: Option<&Kept>,
        claimed: &Claimed,
    ) -> Result<Batch, Error> {
        if let Some(target) = self.beyond() {
            return Box::pin(self.sync_claimed_beyond(target, tx, claimed)).await;
        }
        let agents = claimed.agents();
        let kept = kept.filter(|_| agents.len() <= FEW);
        let batch = Box::pin(self.sync(&tx, kept, &agents, Entrance::Change)).await?;
        // Not before: what is pending is looked at when removals are weighed.
        outbox::settle_last(tx, kept, claimed).await?;
        Ok(batch)
    }

    /// Locks the agents and makes their assistants what they should be, within the caller's transaction. `kept`: what its session keeps.
    ///
    /// An agent that the database refuses fails alone: the batch is halved around it, each half behind a savepoint. Any
    /// other error is the caller's, and so is the rollback.
    pub async fn sync(
        &self,
        tx: &Transaction<'_>,
        kept: Option<&Kept>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Batch, Error> {
        let shape = self.source.shape(tx).await?;
        // Sent together, answered in this order, as much of what follows is.
        let session = Session::new(tx, kept);
        let (shared, seen) = futures::join!(
            self.lock(session, agents),
            self.look_behind(session, &shape, agents, entrance),
        );
        let reach = Reach {
            shared: shared?,
            own: &self.settings.scope,
        };

        let (mut batch, mut failed) = (Batch::default(), Batch::default());
        let (mut chunks, mut seen) = (vec![agents], Some(seen));
        while let Some(chunk) = chunks.pop() {
            let session = Session::new(tx, kept);
            let seen = match seen.take() {
                Some(seen) => seen,
                None => self.look_behind(session, &shape, chunk, entrance).await,
            };
            let attempt = self.attempt(session, &shape, &reach, seen, entrance);
            let (stage, error) = match attempt.await {
                Ok(part) => {
                    // That of the last one ends with the transaction.
                    if !chunks.is_empty() {
                        tx.batch_execute("release savepoint chunk").await?;
                    }
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
            tx.batch_execute("rollback to savepoint chunk; release savepoint chunk")
                .await?;
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
            let retries = work.record(tx).await?;
            failed.add(Batch {
                outcomes: work.outcomes.into_iter().collect(),
                retries,
                ..Batch::default()
            });
        }
        batch.add(failed);
        Ok(batch)
    }

    /// What follows the commit: everybody is told, the bell rings, and the write-back, on the same connection.
    pub async fn committed(&self, client: &mut Client, batch: &Batch, origin: Origin<'_>) {
        self.tell(batch, &origin);
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

    /// Locks the agents. Returns the scope that all workers share, as it is from then on.
    async fn lock(&self, session: Session<'_>, agents: &[AgentId]) -> Result<Scope, Error> {
        let locking: [Param<'_>; 1] = [(&agents, Type::UUID_ARRAY)];
        let (locked, shared) = futures::join!(
            session.query(sql!("lock_agents"), &locking),
            shared_scope(session),
        );
        locked?;
        shared
    }

    /// Looks at agents behind a savepoint.
    async fn look_behind(
        &self,
        session: Session<'_>,
        shape: &Shape,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Seen, Error> {
        let records = Records::of(Existence::In(self.counted(Target::Table(session))));
        let savepoint = session.savepoint();
        let (begun, seen) = futures::join!(
            session.tx.batch_execute(&savepoint),
            self.look(session, shape, agents, entrance.claim(), records),
        );
        begun?;
        seen
    }

    /// Does what follows from it. Neither the savepoint is released here, nor is it rolled back to.
    async fn attempt(
        &self,
        session: Session<'_>,
        shape: &Arc<Shape>,
        reach: &Reach<'_>,
        seen: Result<Seen, Error>,
        entrance: Entrance<'_>,
    ) -> Result<Batch, (Stage, Error)> {
        let tx = session.tx;
        let table = self.counted(Target::Table(session));
        let seen = seen.map_err(|e| (Stage::Reading, e))?;
        let work = self.decide(tx, shape, reach, &seen, entrance).await;
        let mut work = work.map_err(|e| (Stage::Reading, e))?;
        let writing = async {
            if work.touches_assistants() {
                // Whoever else writes assistants may hold one for long. Only we wait for that, and not for long.
                let (set, carried_out) = futures::join!(
                    tx.batch_execute("set local lock_timeout = '200ms'"),
                    work.carry_out(table, &seen.observed),
                );
                set?;
                carried_out?;
            } else {
                work.carry_out(table, &seen.observed).await?;
            }
            work.record(tx).await
        };
        let retries = writing.await.map_err(|e| (Stage::Writing, e))?;
        Ok(self.batch(work, &seen, retries))
    }

    /// What came of it, and what is to be written back.
    fn batch(&self, work: Work<'_>, seen: &Seen, retries: bool) -> Batch {
        let mut write_back = Vec::new();
        if self.settings.write_back {
            for (agent, named) in seen.named() {
                if let Some(works) = work.working(agent, named)
                    && named != Some(works.to_string().as_str())
                {
                    write_back.push((agent, works));
                }
            }
        }
        let names = seen.names().filter(|(agent, _)| {
            let outcome = work.outcomes.get(agent);
            outcome.is_some_and(Outcome::is_newsworthy)
        });
        Batch {
            names: names
                .map(|(agent, name)| (agent, name.to_owned()))
                .collect(),
            answer: work.given,
            permitted: work.permitted,
            objection: work.objection,
            outcomes: work.outcomes.into_iter().collect(),
            write_back,
            retries,
        }
    }
}
