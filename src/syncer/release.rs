//! A user deletes an assistant that is synced: the row goes, and the ledger forgets it.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::Syncer;
use crate::database::{DEADLINE, Error, Transaction, begin};
use crate::ids::{AgentId, AssistantId};
use crate::plan::Entry;
use crate::store::batch::{Answers, Counted, Target};
use crate::{ledger, outbox, sql};

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    Done,
    /// It is not that owner's, or not there any more.
    NotTheirs,
    /// Another session holds the row.
    Busy,
}

impl Syncer {
    /// The agent that an assistant is kept equal to, and whose it is, as the ledger has it.
    pub async fn entry(&self, assistant: AssistantId) -> Result<Option<(AgentId, String)>, Error> {
        let reading = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let mut entries = ledger::read((&tx).into(), &[], &[assistant]).await?;
            tx.commit().await?;
            client.give_back();
            let entry = entries.remove(&assistant).filter(Entry::may_stand);
            Ok(entry.map(|entry| (entry.agent_id, entry.owner)))
        };
        self.database.within(DEADLINE, reading).await
    }

    /// Deletes the agent's assistant if it is this owner's. Then the agent counts as changed: where it is in scope, its
    /// canonical assistant returns as the system's.
    pub async fn release(
        &self,
        agent: AgentId,
        assistant: AssistantId,
        owner: &str,
    ) -> Result<Released, Error> {
        let releasing = async {
            if let Some(target) = self.beyond() {
                return self.release_beyond(target, agent, assistant, owner).await;
            }
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            tx.query_typed(
                sql!("lock_agents"),
                &[(&[agent].as_slice(), Type::UUID_ARRAY)],
            )
            .await?;
            if !is_theirs(&tx, agent, assistant, owner).await? {
                return Ok(Released::NotTheirs);
            }
            if !self
                .counted(Target::Table((&tx).into()))
                .delete(&[assistant])
                .await?
                .is_done(assistant)
            {
                return Ok(Released::Busy);
            }
            forget(&tx, agent, assistant).await?;
            tx.commit().await?;
            client.give_back();
            Ok(Released::Done)
        };
        let released = self.database.within(DEADLINE, releasing).await?;
        if released == Released::Done {
            self.doorbell.ring();
        }
        Ok(released)
    }

    async fn release_beyond(
        &self,
        target: Counted<'_>,
        agent: AgentId,
        assistant: AssistantId,
        owner: &str,
    ) -> Result<Released, Error> {
        let Some(lease) = self.lease_one(agent).await? else {
            return Ok(Released::Busy);
        };
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        let is_theirs = is_theirs(&tx, agent, assistant, owner).await?;
        tx.commit().await?;
        client.give_back();
        let deleted = match is_theirs {
            true => target.delete(&[assistant]).await?,
            false => Answers::default(),
        };
        let is_done = deleted.is_done(assistant);
        let mut client = self.database.client().await?;
        let tx = begin(&mut client).await?;
        if is_done {
            forget(&tx, agent, assistant).await?;
        }
        lease.give_back(&tx).await?;
        tx.commit().await?;
        client.give_back();
        match (is_theirs, is_done, deleted.stopped) {
            (_, _, Some(stopped)) => Err(stopped),
            (false, ..) => Ok(Released::NotTheirs),
            (true, true, None) => Ok(Released::Done),
            (true, false, None) => Ok(Released::Busy),
        }
    }
}

async fn is_theirs(
    tx: &Transaction<'_>,
    agent: AgentId,
    assistant: AssistantId,
    owner: &str,
) -> Result<bool, Error> {
    let entries = ledger::read(tx.into(), &[], &[assistant]).await?;
    Ok(entries.get(&assistant).is_some_and(|entry| {
        entry.agent_id == agent && entry.owner == owner && entry.content_hash.is_some()
    }))
}

async fn forget(tx: &Transaction<'_>, agent: AgentId, assistant: AssistantId) -> Result<(), Error> {
    ledger::forget(tx, &[assistant]).await?;
    outbox::schedule(tx, &[(agent, Duration::ZERO)]).await
}
