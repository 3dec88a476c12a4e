//! Syncs agents whose assistants live outside the database: on a LangGraph server, or in memory. The same reading, deciding and recording
//! as in a transaction, but what is done outside cannot be rolled back, and takes as long as it takes:
//!
//! 1. *lease* the agents and commit (the change loop leaves what it has claimed in the outbox),
//! 2. look which assistants exist,
//! 3. *read and decide*; say in the ledger what is going to be made; commit,
//! 4. *write* assistants,
//! 5. *record* in the ledger what was answered; commit,
//! 6. *delete* what was claimed of agents that are done with, give the lease back, commit.
//!
//! Whatever is cut off in between stays due, and the next sync looks first: what it finds as it should be it leaves alone.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::decide::{self, Existence, Records};
use super::lease::{self, Lease};
use super::reach::{Reach, is_in_scope, shared_scope};
use super::work::Work;
use super::{Batch, Entrance, Origin, Syncer};
use crate::database::{DEADLINE, Error, Fault, Transaction, begin};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::ledger;
use crate::outbox::{self, Claimed};
use crate::plan::{Entry, Existing, Observed};
use crate::retry::{self, Backoff};
use crate::store::batch::{Counted, Sight, Unseen};

/// How many agents are held at a time: the others wait until all of them are done with.
pub(super) const BATCH: usize = 50;

/// How long agents are waited for that somebody else syncs just now.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is tried to say that agents are done with.
const ATTEMPTS: u32 = 3;

impl Syncer {
    /// The agents that are being synced outside any transaction.
    pub async fn leased(&self, client: &tokio_postgres::Client) -> Result<Vec<AgentId>, Error> {
        match self.place.beyond() {
            None => Ok(Vec::new()),
            Some(_) => lease::leased(client).await,
        }
    }

    /// A deadline for work in the database. Where assistants live elsewhere, each [`Syncer::step`] has one instead: what is done there takes
    /// as long as it takes, and is not called off in the middle.
    pub async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match self.place.beyond() {
            None => self.database.within(DEADLINE, work).await,
            Some(_) => work.await,
        }
    }

    /// Work with the database alone. It ends when connections turn out to be dead.
    pub async fn step<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let work = Box::pin(work);
        tokio::select! {
            done = self.database.within(DEADLINE, work) => done,
            () = self.doorbell.dies() => Err(self.database.lost()),
        }
    }

    pub(super) async fn sync_beyond(
        &self,
        target: Counted<'_>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
        origin: Origin<'_>,
    ) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        for agents in agents.chunks(BATCH) {
            let deadline = Instant::now() + PATIENCE;
            let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(250));
            let mut rest = agents.to_vec();
            loop {
                self.place.check()?;
                let lease = self.lease(&rest).await?;
                rest.retain(|agent| !lease.agents.contains(agent));
                if !lease.agents.is_empty() {
                    let part = self.push(target, lease, entrance, origin).await?;
                    self.finish(&part, origin).await?;
                    batch.add(part);
                }
                if rest.is_empty() || Instant::now() > deadline {
                    break;
                }
                tokio::time::sleep(backoff.pause()).await;
            }
            if !rest.is_empty() {
                let passing = || Unseen::Unknown(retry::agent_delay(1));
                let part = self
                    .put_off(rest.iter().map(|agent| (*agent, passing())))
                    .await?;
                self.finish(&part, origin).await?;
                batch.add(part);
            }
        }
        Ok(batch)
    }

    /// Of what the change loop has claimed.
    pub(super) async fn sync_claimed_beyond(
        &self,
        target: Counted<'_>,
        tx: Transaction<'_>,
        claimed: &Claimed,
    ) -> Result<Batch, Error> {
        let taking = async {
            let lease = Lease::take(&tx, &claimed.agents()).await?;
            tx.commit().await?;
            Ok(lease)
        };
        let lease = self.step(taking).await?;
        let origin = Origin::of_claimed(claimed);
        self.push(target, lease, Entrance::Change, origin).await
    }

    /// For somebody who waits for an agent that is being synced. `None`: for too long.
    pub(super) async fn lease_one(&self, agent: AgentId) -> Result<Option<Lease>, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(250));
        loop {
            let lease = self.lease(&[agent]).await?;
            if !lease.agents.is_empty() {
                return Ok(Some(lease));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Those of the agents that nobody holds.
    async fn lease(&self, agents: &[AgentId]) -> Result<Lease, Error> {
        self.step(async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let lease = Lease::take(&tx, agents).await?;
            tx.commit().await?;
            client.give_back();
            Ok(lease)
        })
        .await
    }

    /// Agents that nothing can be said about now.
    async fn put_off(
        &self,
        agents: impl Iterator<Item = (AgentId, Unseen)>,
    ) -> Result<Batch, Error> {
        let mut work = Work::new(None, self.guard.counts());
        for (agent, why) in agents {
            match why {
                Unseen::Refused(why) => {
                    let in_scope = self.step(self.in_scope(agent)).await?;
                    work.fail(agent, why, in_scope);
                }
                Unseen::Unknown(after) => work.postpone_for(agent, after),
            }
        }
        let recording = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let retries = work.record(&tx).await?;
            tx.commit().await?;
            client.give_back();
            Ok(retries)
        };
        let retries = self.step(recording).await?;
        Ok(Batch {
            outcomes: work.outcomes.into_iter().collect(),
            retries,
            ..Batch::default()
        })
    }

    async fn in_scope(&self, agent: AgentId) -> Result<bool, Error> {
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        let shape = self.source.shape(&tx).await?;
        let reach = Reach {
            shared: shared_scope((&tx).into()).await?,
            own: &self.settings.scope,
        };
        let in_scope = is_in_scope(&tx, &shape, &reach, agent).await?;
        tx.commit().await?;
        client.give_back();
        Ok(in_scope)
    }

    /// Syncs agents that are held, and lets go of them.
    async fn push(
        &self,
        target: Counted<'_>,
        lease: Lease,
        entrance: Entrance<'_>,
        origin: Origin<'_>,
    ) -> Result<Batch, Error> {
        let mut left: HashSet<AgentId> = lease.agents.iter().copied().collect();
        // It may take longer than a term.
        let pushing = Box::pin(self.push_held(target, &lease, entrance, origin, &mut left));
        let pushed = tokio::select! {
            pushed = pushing => pushed,
            never = self.keep(&lease) => never,
        };
        let done: HashSet<AgentId> = {
            let held = lease.agents.iter().copied();
            held.filter(|agent| !left.contains(agent)).collect()
        };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut attempt = 1;
        loop {
            let ending = async {
                let mut client = self.database.client().await?;
                let tx = begin(&mut client).await?;
                if let Some(claimed) = origin.claimed {
                    outbox::settle((&tx).into(), claimed, |agent| done.contains(&agent)).await?;
                }
                lease.give_back(&tx).await?;
                tx.commit().await?;
                client.give_back();
                Ok(())
            };
            match self.step(ending).await {
                Ok(()) => return pushed,
                Err(error) if attempt >= ATTEMPTS => return pushed.and(Err(error)),
                Err(_) => tokio::time::sleep(backoff.pause()).await,
            }
            attempt += 1;
        }
    }

    /// Says again and again that these are held. For ever.
    async fn keep<T>(&self, lease: &Lease) -> T {
        loop {
            tokio::time::sleep(lease::RENEWAL).await;
            let renewing = async {
                let mut client = self.database.client().await?;
                let tx = begin(&mut client).await?;
                lease.renew(&tx, &lease.agents).await?;
                tx.commit().await?;
                client.give_back();
                Ok(())
            };
            if let Err(error) = self.step(renewing).await {
                debug!(%error, "could not renew a lease");
            }
        }
    }

    /// `left`: the agents that were not done with stay in there.
    async fn push_held(
        &self,
        target: Counted<'_>,
        lease: &Lease,
        entrance: Entrance<'_>,
        origin: Origin<'_>,
        left: &mut HashSet<AgentId>,
    ) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        if lease.agents.is_empty() {
            return Ok(batch);
        }
        let reading = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let ids = decide::ids(&lease.agents, entrance.claim());
            let entries = ledger::read((&tx).into(), &lease.agents, &ids).await?;
            tx.commit().await?;
            client.give_back();
            Ok(entries)
        };
        let entries = self.step(reading).await?;
        let finding = self.find(target, &lease.agents, entrance, entries);
        let Found { existing, unseen } = finding.await?;
        if !unseen.is_empty() {
            let put_off = unseen.iter().map(|(agent, why)| (*agent, why.clone()));
            batch.add(self.put_off(put_off).await?);
            left.retain(|agent| !unseen.contains_key(agent));
        }
        let seen = lease
            .agents
            .iter()
            .filter(|agent| !unseen.contains_key(agent));
        let seen: Vec<AgentId> = seen.copied().collect();
        let mut chunks = vec![seen.as_slice()];
        while let Some(chunk) = chunks.pop().filter(|chunk| !chunk.is_empty()) {
            let pushing = Box::pin(self.push_chunk(target, lease, chunk, entrance, &existing));
            let error = match pushing.await {
                Ok(Pushed {
                    part,
                    not_tried,
                    stopped,
                }) => {
                    left.retain(|agent| !chunk.contains(agent) || not_tried.contains(agent));
                    batch.add(part);
                    match stopped {
                        None => continue,
                        Some(error) => error,
                    }
                }
                Err(error) if error.fault() == Fault::Data => {
                    let &[agent] = chunk else {
                        let (before, after) = chunk.split_at(chunk.len() / 2);
                        chunks.extend([after, before]);
                        continue;
                    };
                    let failed = std::iter::once((agent, Unseen::Refused(error.to_string())));
                    batch.add(self.put_off(failed).await?);
                    left.remove(&agent);
                    continue;
                }
                Err(error) => {
                    if error.is_schema_drift() || error.denial().is_some() {
                        self.source.outdated();
                    }
                    error
                }
            };
            // What was done is done.
            self.finish(&batch, origin).await?;
            return Err(error);
        }
        Ok(batch)
    }

    /// Tells of what was done, and writes back.
    async fn finish(&self, batch: &Batch, origin: Origin<'_>) -> Result<(), Error> {
        self.step(async {
            let mut client = self.database.client().await?;
            self.committed(&mut client, batch, origin).await;
            client.give_back();
            Ok(())
        })
        .await
    }

    /// Which of the agents' assistants exist. `entries`: what the ledger says of them.
    pub(super) async fn find(
        &self,
        target: Counted<'_>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
        entries: HashMap<AssistantId, Entry>,
    ) -> Result<Found, Error> {
        let ids = decide::ids(agents, entrance.claim());
        let all: HashSet<AssistantId> = ids.iter().chain(entries.keys()).copied().collect();
        let all: Vec<AssistantId> = all.into_iter().collect();
        let Sight {
            existing,
            mut unseen,
        } = target.observe(&all).await?;
        let mut observed = Observed { entries, existing };
        let others = target.observe(&observed.alternatives(agents)).await?;
        observed.existing.extend(others.existing);
        unseen.extend(others.unseen);
        let is_gone = |entry: &Entry| {
            let id = &entry.assistant_id;
            entry.content_hash.is_some()
                && !observed.existing.contains_key(id)
                && !unseen.contains_key(id)
        };
        // A pass finds all that is gone anyway.
        if !matches!(entrance, Entrance::Pass) && observed.entries.values().any(is_gone) {
            self.place.is_lost();
        }
        let concerns = |agent: AgentId, id: AssistantId| {
            let entry = observed.entries.get(&id);
            let is_its = id == agent.canonical() || id == agent.copy_for(SYSTEM);
            is_its || entry.is_some_and(|entry| entry.agent_id == agent)
        };
        let mut unseen_agents = HashMap::new();
        for (id, why) in unseen {
            let of = agents.iter().copied();
            let of = of.filter(|agent| concerns(*agent, id) || entrance.claim().is_some());
            unseen_agents.extend(of.map(|agent| (agent, why.clone())));
        }
        Ok(Found {
            existing: observed.existing,
            unseen: unseen_agents,
        })
    }

    async fn push_chunk(
        &self,
        target: Counted<'_>,
        lease: &Lease,
        agents: &[AgentId],
        entrance: Entrance<'_>,
        existing: &HashMap<AssistantId, Existing>,
    ) -> Result<Pushed, Error> {
        let looking = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            lease.renew(&tx, agents).await?;
            let shape = self.source.shape(&tx).await?;
            let shared = shared_scope((&tx).into()).await?;
            let records = Records::of(Existence::Known(existing));
            let claim = entrance.claim();
            let seen = self
                .look((&tx).into(), &shape, agents, claim, records)
                .await?;
            tx.commit().await?;
            client.give_back();
            Ok((shape, shared, seen))
        };
        let (shape, shared, seen) = self.step(looking).await?;
        let deciding = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let reach = Reach {
                shared,
                own: &self.settings.scope,
            };
            let work = self.decide(&tx, &shape, &reach, &seen, entrance).await?;
            work.announce(&tx, &seen.observed).await?;
            tx.commit().await?;
            client.give_back();
            Ok(work)
        };
        let mut work = self.step(deciding).await?;

        let stopped = work.carry_out(target, &seen.observed).await?;

        let recording = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            lease.renew(&tx, agents).await?;
            let retries = work.record(&tx).await?;
            tx.commit().await?;
            client.give_back();
            Ok(retries)
        };
        let retries = self.step(recording).await?;
        Ok(Pushed {
            not_tried: std::mem::take(&mut work.left),
            part: self.batch(work, &seen, retries),
            stopped,
        })
    }
}

/// What is known of some agents' assistants.
pub(super) struct Found {
    pub existing: HashMap<AssistantId, Existing>,
    /// Agents of one of whose assistants it cannot be told whether it is there.
    pub unseen: HashMap<AgentId, Unseen>,
}

/// What came of some agents.
struct Pushed {
    part: Batch,
    /// The agents that were not come to.
    not_tried: HashSet<AgentId>,
    /// Why not.
    stopped: Option<Error>,
}
