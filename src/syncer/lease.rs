//! Who holds which agents while their assistants are written outside the database: `agent_sync.leases`. There is no transaction around
//! that, so what keeps two workers from writing the same assistant at the same time is a row with an end.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::database::{Error, Transaction, column};
use crate::ids::AgentId;
use crate::sql;

/// How long agents are held without a word. A worker that dies keeps others from them for that long at most.
const TERM: Duration = Duration::from_secs(30);

/// How often whoever is at work says so.
pub(super) const RENEWAL: Duration = Duration::from_secs(10);

/// Agents that this sync holds.
#[derive(Debug)]
pub(super) struct Lease {
    holder: Uuid,
    pub agents: Vec<AgentId>,
}

impl Lease {
    /// Takes those of the agents that nobody holds, from when the transaction commits.
    pub async fn take(tx: &Transaction<'_>, agents: &[AgentId]) -> Result<Self, Error> {
        // One after the other, as in every door.
        tx.query_typed(sql!("lock_agents"), &[(&agents, Type::UUID_ARRAY)])
            .await?;
        let holder = Uuid::new_v4();
        let agents = held(tx, sql!("lease_take"), agents, holder).await?;
        Ok(Self { holder, agents })
    }

    /// Holds these for another term.
    ///
    /// # Errors
    /// Somebody else has one of them, since it took too long.
    pub async fn renew(&self, tx: &Transaction<'_>, agents: &[AgentId]) -> Result<(), Error> {
        let still = held(tx, sql!("lease_renew"), agents, self.holder).await?;
        match still.len() == agents.len() {
            true => Ok(()),
            false => Err(Error::Pool(format!(
                "nothing was heard of this worker for {} s, and another one has gone on with its agents",
                TERM.as_secs()
            ))),
        }
    }

    pub async fn give_back(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        tx.query_typed(sql!("lease_give_back"), &[(&self.holder, Type::UUID)])
            .await?;
        Ok(())
    }
}

/// The agents that somebody holds at the moment.
pub(super) async fn leased(client: &tokio_postgres::Client) -> Result<Vec<AgentId>, Error> {
    let rows = client.query_typed(sql!("leased"), &[]).await?;
    rows.iter().map(|row| column(row, "agent_id")).collect()
}

async fn held(
    tx: &Transaction<'_>,
    statement: &str,
    agents: &[AgentId],
    holder: Uuid,
) -> Result<Vec<AgentId>, Error> {
    let term = i64::try_from(TERM.as_millis()).unwrap_or(i64::MAX);
    let rows = tx
        .query_typed(
            statement,
            &[
                (&agents, Type::UUID_ARRAY),
                (&holder, Type::UUID),
                (&term, Type::INT8),
            ],
        )
        .await?;
    rows.iter().map(|row| column(row, "agent_id")).collect()
}
