//! A user deletes an assistant that is synced: the row goes, and the ledger forgets it.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::Syncer;
use crate::database::{DEADLINE, Error, begin};
use crate::ids::{AgentId, AssistantId};
use crate::store::batch as assistants;
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
    /// Deletes the agent's assistant if it is this owner's. Then the agent counts as changed: where it is in scope, its
    /// canonical assistant returns as the system's.
    pub async fn release(
        &self,
        agent: AgentId,
        assistant: AssistantId,
        owner: &str,
    ) -> Result<Released, Error> {
        let releasing = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            tx.query_typed(
                sql!("lock_agents"),
                &[(&[agent].as_slice(), Type::UUID_ARRAY)],
            )
            .await?;
            let entries = ledger::read(&tx, &[], &[assistant]).await?;
            let theirs = entries.get(&assistant).is_some_and(|entry| {
                entry.agent_id == agent && entry.owner == owner && entry.content_hash.is_some()
            });
            if !theirs {
                return Ok(Released::NotTheirs);
            }
            if !assistants::delete(&tx, &[assistant]).await?.is_empty() {
                return Ok(Released::Busy);
            }
            ledger::forget(&tx, &[assistant]).await?;
            outbox::schedule(&tx, &[(agent, Duration::ZERO)]).await?;
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
}
