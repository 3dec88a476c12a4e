//! Which agents are in scope: what all workers on the database share, and what this one was started with.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::database::{Error, Session, Transaction, column, migrations};
use crate::ids::AgentId;
use crate::scope::Scope;
use crate::source::Shape;
use crate::sql;

/// Whether an agent that could not be synced is in scope. One that cannot even be read is not.
pub(super) async fn is_in_scope(
    tx: &Transaction<'_>,
    shape: &Shape,
    reach: &Reach<'_>,
    agent: AgentId,
) -> Result<bool, Error> {
    tx.batch_execute("savepoint scope").await?;
    let row = shape
        .read(tx, &[agent])
        .await
        .ok()
        .and_then(|mut rows| rows.remove(&agent));
    tx.batch_execute("rollback to savepoint scope; release savepoint scope")
        .await?;
    Ok(row
        .and_then(|row| row.head().ok())
        .is_some_and(|head| reach.contains(head.organization_id)))
}

/// The scope that all workers on this database share; `None` where no worker has stored one yet.
pub async fn stored_scope(client: &tokio_postgres::Client) -> Result<Option<Scope>, Error> {
    let rows = client
        .query_typed("select scope from agent_sync.settings", &[])
        .await?;
    rows.first().map(scope).transpose()
}

/// The scope to go by, as long as the schema is one that this worker knows: a newer worker, which has migrated it, may
/// keep rules that this one would break.
pub(super) async fn shared_scope(session: Session<'_>) -> Result<Scope, Error> {
    let rows = session.query(sql!("shared_settings"), &[]).await?;
    let [row] = rows.as_slice() else {
        return Err(Error::Setup("an answer without a row".to_owned()));
    };
    let version = column(row, "version")?;
    if version > migrations::LATEST {
        return Err(Error::Newer(version));
    }
    scope(row)
}

fn scope(row: &Row) -> Result<Scope, Error> {
    let text: &str = column(row, "scope")?;
    text.parse()
        .map_err(|e| Error::Setup(format!("agent_sync.settings: {e}")))
}

/// Which agents are in scope.
pub(super) struct Reach<'a> {
    /// What all workers on the database share.
    pub shared: Scope,
    pub own: &'a Scope,
}

impl Reach<'_> {
    pub fn contains(&self, organization: Option<Uuid>) -> bool {
        self.shared.contains(organization) || self.own.contains(organization)
    }
}
