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

use deadpool_postgres::Transaction;
use tokio::time::Instant;

use super::decide::{self, Existence};
use super::lease::{self, Lease};
use super::reach::{Reach, is_in_scope, shared_scope};
use super::work::Work;
use super::{Batch, Entrance, Outcome, Syncer};
use crate::database::{Error, Fault, begin};
use crate::ids::{AgentId, AssistantId};
use crate::outbox::{self, Claimed};
use crate::plan::{Existing, Observed};
use crate::retry::Backoff;
use crate::store::batch::Target;

/// How many agents are held at a time: what takes longer than a deadline is done again.
pub(super) const BATCH: usize = 50;

/// How long a request waits for an agent that is being synced.
const PATIENCE: Duration = Duration::from_secs(10);

impl Syncer {
    /// The agents that are being synced outside any transaction.
    pub async fn leased(&self, tx: &Transaction<'_>) -> Result<Vec<AgentId>, Error> {
        match self.place.beyond() {
            None => Ok(Vec::new()),
            Some(_) => lease::leased(tx).await,
        }
    }

    pub(super) async fn sync_beyond(
        &self,
        target: Target<'_>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        for agents in agents.chunks(BATCH) {
            self.place.check()?;
            let waits = matches!(entrance, Entrance::Request(_));
            let lease = self.lease(agents, waits).await?;
            let others = agents.iter().filter(|agent| !lease.agents.contains(agent));
            let others: Vec<AgentId> = others.copied().collect();
            batch.add(self.push(target, lease, None, entrance).await?);
            batch.add(self.postpone(&others).await?);
        }
        Ok(batch)
    }

    /// Of what the change loop has claimed.
    pub(super) async fn sync_claimed_beyond(
        &self,
        target: Target<'_>,
        tx: Transaction<'_>,
        claimed: &Claimed,
    ) -> Result<Batch, Error> {
        let lease = Lease::take(&tx, &claimed.agents()).await?;
        tx.commit().await?;
        self.push(target, lease, Some(claimed), Entrance::Change)
            .await
    }

    /// For somebody who waits for an agent that is being synced.
    pub(super) async fn lease_one(&self, agent: AgentId) -> Result<Option<Lease>, Error> {
        let lease = self.lease(&[agent], true).await?;
        Ok(Some(lease).filter(|lease| !lease.agents.is_empty()))
    }

    /// `waits`: for a while, if all of them are taken.
    async fn lease(&self, agents: &[AgentId], waits: bool) -> Result<Lease, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(250));
        loop {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let lease = Lease::take(&tx, agents).await?;
            tx.commit().await?;
            client.give_back();
            if !waits || !lease.agents.is_empty() || Instant::now() > deadline {
                return Ok(lease);
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Somebody else syncs these just now. Whatever he has read: they are looked at again.
    async fn postpone(&self, agents: &[AgentId]) -> Result<Batch, Error> {
        if agents.is_empty() {
            return Ok(Batch::default());
        }
        let mut work = Work::new(None, self.guard.counts());
        for agent in agents {
            work.postpone(*agent);
        }
        self.record(&mut work).await
    }

    /// Syncs agents that are held, and lets go of them.
    async fn push(
        &self,
        target: Target<'_>,
        lease: Lease,
        claimed: Option<&Claimed>,
        entrance: Entrance<'_>,
    ) -> Result<Batch, Error> {
        let mut left: HashSet<AgentId> = lease.agents.iter().copied().collect();
        let pushed = self.push_held(target, &lease, entrance, &mut left).await;
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        if let Some(claimed) = claimed {
            let held: HashSet<AgentId> = lease.agents.iter().copied().collect();
            outbox::settle(&tx, claimed, |agent| {
                held.contains(&agent) && !left.contains(&agent)
            })
            .await?;
        }
        lease.give_back(&tx).await?;
        tx.commit().await?;
        client.give_back();
        pushed
    }

    /// `left`: the agents that were not done with stay in there.
    async fn push_held(
        &self,
        target: Target<'_>,
        lease: &Lease,
        entrance: Entrance<'_>,
        left: &mut HashSet<AgentId>,
    ) -> Result<Batch, Error> {
        if lease.agents.is_empty() {
            return Ok(Batch::default());
        }
        let existing = self.existing(target, &lease.agents, entrance).await?;
        let mut batch = Batch::default();
        let mut chunks = vec![lease.agents.as_slice()];
        while let Some(chunk) = chunks.pop() {
            match self
                .push_chunk(target, lease, chunk, entrance, &existing)
                .await
            {
                Ok(Pushed {
                    part,
                    not_tried,
                    stopped,
                }) => {
                    left.retain(|agent| !chunk.contains(agent) || not_tried.contains(agent));
                    batch.add(part);
                    if let Some(error) = stopped {
                        // What was done is done.
                        self.finish(&batch).await?;
                        return Err(error);
                    }
                }
                Err(error)
                    if error.fault() == Fault::Data && !matches!(error, Error::Server { .. }) =>
                {
                    let &[agent] = chunk else {
                        let (before, after) = chunk.split_at(chunk.len() / 2);
                        chunks.extend([after, before]);
                        continue;
                    };
                    batch.add(self.fail(agent, &error).await?);
                    left.remove(&agent);
                }
                Err(error) => {
                    if error.is_schema_drift() || error.denial().is_some() {
                        self.source.outdated();
                    }
                    return Err(error);
                }
            }
        }
        Ok(batch)
    }

    /// Logs and writes back what was done.
    pub(super) async fn finish(&self, batch: &Batch) -> Result<(), Error> {
        let mut client = self.database.client().await?;
        self.committed(&mut client, batch).await;
        client.give_back();
        Ok(())
    }

    /// Which of the agents' assistants exist.
    async fn existing(
        &self,
        target: Target<'_>,
        agents: &[AgentId],
        entrance: Entrance<'_>,
    ) -> Result<HashMap<AssistantId, Existing>, Error> {
        let ids = decide::ids(agents, entrance.claim());
        let nothing = HashMap::new();
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        let Observed { entries, .. } =
            decide::observe(&tx, agents, &ids, Existence::Known(&nothing)).await?;
        tx.commit().await?;
        client.give_back();
        let all: HashSet<AssistantId> = ids.into_iter().chain(entries.keys().copied()).collect();
        let all: Vec<AssistantId> = all.into_iter().collect();
        let existing = target.observe(&all).await?;
        let mut observed = Observed { entries, existing };
        let others = observed.alternatives(agents);
        observed.existing.extend(target.observe(&others).await?);
        let is_gone = |entry: &crate::plan::Entry| {
            entry.content_hash.is_some() && !observed.existing.contains_key(&entry.assistant_id)
        };
        // A pass finds all that is gone anyway.
        if !matches!(entrance, Entrance::Pass) && observed.entries.values().any(is_gone) {
            self.place.is_lost();
        }
        Ok(observed.existing)
    }

    async fn push_chunk(
        &self,
        target: Target<'_>,
        lease: &Lease,
        agents: &[AgentId],
        entrance: Entrance<'_>,
        existing: &HashMap<AssistantId, Existing>,
    ) -> Result<Pushed, Error> {
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        lease.renew(&tx, agents).await?;
        let shape = self.source.shape(tx.client()).await?;
        let reach = Reach {
            shared: shared_scope(tx.client()).await?,
            own: &self.settings.scope,
        };
        let existence = Existence::Known(existing);
        let seen = self
            .look(&tx, &shape, agents, entrance.claim(), existence)
            .await?;
        let mut work = self.decide(&tx, &shape, &reach, &seen, entrance).await?;
        work.announce(&tx, &seen.observed).await?;
        tx.commit().await?;
        client.give_back();

        let stopped = work.carry_out(target, &seen.observed).await?;

        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        lease.renew(&tx, agents).await?;
        let retries = work.record(&tx).await?;
        tx.commit().await?;
        client.give_back();
        Ok(Pushed {
            not_tried: std::mem::take(&mut work.left),
            part: self.batch(work, &seen, retries),
            stopped,
        })
    }

    /// An agent that cannot even be read.
    async fn fail(&self, agent: AgentId, error: &Error) -> Result<Batch, Error> {
        let mut client = self.database.client().await?;
        let mut tx = begin(&mut client).await?;
        let shape = self.source.shape(tx.client()).await?;
        let reach = Reach {
            shared: shared_scope(tx.client()).await?,
            own: &self.settings.scope,
        };
        let in_scope = is_in_scope(&mut tx, &shape, &reach, agent).await?;
        tx.commit().await?;
        client.give_back();
        let mut work = Work::new(None, self.guard.counts());
        work.fail(agent, error.to_string(), in_scope);
        self.record(&mut work).await
    }

    /// Where nothing was seen, and nothing is to be written.
    async fn record(&self, work: &mut Work<'_>) -> Result<Batch, Error> {
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        let retries = work.record(&tx).await?;
        tx.commit().await?;
        client.give_back();
        let outcomes: Vec<(AgentId, Outcome)> = work.outcomes.drain().collect();
        Ok(Batch {
            outcomes,
            retries,
            ..Batch::default()
        })
    }
}

/// What came of some agents.
struct Pushed {
    part: Batch,
    /// The agents that were not come to.
    not_tried: HashSet<AgentId>,
    /// Why not.
    stopped: Option<Error>,
}
