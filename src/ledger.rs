//! `agent_sync.ledger`: which assistants are ours. Only the workers write it, under the agent's lock.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::database::{Error, Param, Session, Transaction, column};
use crate::ids::{AgentId, AssistantId};
use crate::plan::{Entry, RowVersion, State};
use crate::sql;

/// What is to be known of an assistant that is written.
#[derive(Debug)]
pub struct NewEntry {
    pub assistant_id: AssistantId,
    pub agent_id: AgentId,
    pub organization_id: Option<Uuid>,
    pub owner: String,
    pub content_hash: Vec<u8>,
    /// What its agent said, as a hash, where that is known.
    pub said: Option<Vec<u8>>,
}

/// An assistant that was just written, and its fingerprint.
#[derive(Debug)]
pub struct Written {
    pub entry: NewEntry,
    pub row_hash: Vec<u8>,
}

/// By what a pass sees that an assistant is as it should be, without a closer look.
#[derive(Debug)]
pub struct Marked {
    pub assistant_id: AssistantId,
    /// Of what the mapping reads of its agent ([`crate::source::Shape::look`]).
    pub source_hash: Vec<u8>,
    pub row_version: RowVersion,
}

/// An assistant that we should write and that somebody else has.
#[derive(Debug)]
pub struct Conflict {
    pub assistant_id: AssistantId,
    pub agent_id: AgentId,
    pub owner: String,
    pub error: String,
}

/// An agent that could not be synced.
#[derive(Debug)]
pub struct Failure {
    pub agent_id: AgentId,
    pub error: String,
    /// It is in scope: where it has no entry yet, it gets one that says so.
    pub in_scope: bool,
}

/// The entries of these agents, and those under these assistants' ids, whosever they are.
pub async fn read(
    session: Session<'_>,
    agents: &[AgentId],
    assistants: &[AssistantId],
) -> Result<HashMap<AssistantId, Entry>, Error> {
    let rows = session
        .query(
            sql!("ledger_read"),
            &[(&agents, Type::UUID_ARRAY), (&assistants, Type::UUID_ARRAY)],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let assistant_id = column(row, "assistant_id")?;
            let entry = Entry {
                assistant_id,
                agent_id: column(row, "agent_id")?,
                organization_id: column(row, "organization_id")?,
                owner: column(row, "owner")?,
                state: state(column(row, "state")?)?,
                content_hash: column(row, "content_hash")?,
                row_hash: column(row, "row_hash")?,
                source_hash: column(row, "source_hash")?,
                row_version: row_version(row)?,
            };
            Ok((assistant_id, entry))
        })
        .collect()
}

/// Entries, column by column, as `sql/queries/ledger_written.sql` takes them.
pub struct Columns<'a> {
    assistants: Vec<String>,
    agents: Vec<AgentId>,
    organizations: Vec<Option<Uuid>>,
    owners: Vec<&'a str>,
    content_hashes: Vec<&'a [u8]>,
    said: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    pub fn of(entries: impl Iterator<Item = &'a NewEntry> + Clone) -> Self {
        Self {
            assistants: entries
                .clone()
                .map(|e| e.assistant_id.to_string())
                .collect(),
            agents: entries.clone().map(|e| e.agent_id).collect(),
            organizations: entries.clone().map(|e| e.organization_id).collect(),
            owners: entries.clone().map(|e| e.owner.as_str()).collect(),
            content_hashes: entries.clone().map(|e| e.content_hash.as_slice()).collect(),
            said: entries.map(|e| e.said.as_deref()).collect(),
        }
    }

    /// `$1` to `$6`.
    pub fn params(&self) -> [Param<'_>; 6] {
        [
            (&self.assistants, Type::TEXT_ARRAY),
            (&self.agents, Type::UUID_ARRAY),
            (&self.organizations, Type::UUID_ARRAY),
            (&self.owners, Type::TEXT_ARRAY),
            (&self.content_hashes, Type::BYTEA_ARRAY),
            (&self.said, Type::BYTEA_ARRAY),
        ]
    }
}

/// A statement that writes assistants, and enters those that it has `written` into the ledger.
pub fn entering(writing: &str) -> String {
    format!("{writing}{}", sql!("ledger_written"))
}

static SYNCED: LazyLock<String> = LazyLock::new(|| entering(sql!("ledger_synced")));

/// These were just written, outside the database.
pub async fn synced(tx: &Transaction<'_>, written: &[Written]) -> Result<(), Error> {
    enter(tx, &SYNCED, written).await
}

/// These are about to be written there, and may be ours already, or not: an empty content hash leaves that open.
pub async fn intended(tx: &Transaction<'_>, written: &[Written]) -> Result<(), Error> {
    enter(tx, sql!("ledger_intended"), written).await
}

async fn enter(tx: &Transaction<'_>, statement: &str, written: &[Written]) -> Result<(), Error> {
    if written.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(written.iter().map(|w| &w.entry));
    let row_hashes: Vec<_> = written.iter().map(|w| w.row_hash.as_slice()).collect();
    let row_hashes: [Param<'_>; 1] = [(&row_hashes, Type::BYTEA_ARRAY)];
    let params = [&columns.params()[..], &row_hashes].concat();
    tx.execute_typed(statement, &params).await?;
    Ok(())
}

/// These are as they were left, and as they should be.
pub async fn marked(tx: &Transaction<'_>, marked: &[Marked]) -> Result<(), Error> {
    if marked.is_empty() {
        return Ok(());
    }
    let assistants: Vec<_> = marked.iter().map(|m| m.assistant_id).collect();
    let sources: Vec<_> = marked.iter().map(|m| m.source_hash.as_slice()).collect();
    let xmins: Vec<_> = marked.iter().map(|m| &m.row_version.xmin).collect();
    let ctids: Vec<_> = marked.iter().map(|m| &m.row_version.ctid).collect();
    tx.execute_typed(
        sql!("ledger_marked"),
        &[
            (&assistants, Type::UUID_ARRAY),
            (&sources, Type::BYTEA_ARRAY),
            (&xmins, Type::TEXT_ARRAY),
            (&ctids, Type::TEXT_ARRAY),
        ],
    )
    .await?;
    Ok(())
}

/// `row_xmin` and `row_ctid`, of an assistant or of the ledger.
pub fn row_version(row: &Row) -> Result<Option<RowVersion>, Error> {
    let (xmin, ctid): (Option<String>, Option<String>) =
        (column(row, "row_xmin")?, column(row, "row_ctid")?);
    let version = xmin.zip(ctid);
    Ok(version.map(|(xmin, ctid)| RowVersion { xmin, ctid }))
}

/// These are as they should be, though the ledger says that they failed.
pub async fn settled(tx: &Transaction<'_>, assistants: &[AssistantId]) -> Result<(), Error> {
    touch(tx, sql!("ledger_settled"), assistants).await
}

/// These were removed; their entries stay. `counted`: as far as the guard before removals is concerned.
pub async fn removed(
    tx: &Transaction<'_>,
    assistants: &[AssistantId],
    counted: bool,
) -> Result<(), Error> {
    if !assistants.is_empty() {
        tx.execute_typed(
            sql!("ledger_removed"),
            &[(&assistants, Type::UUID_ARRAY), (&counted, Type::BOOL)],
        )
        .await?;
    }
    Ok(())
}

/// These should be removed, and are not for now.
pub async fn held(
    tx: &Transaction<'_>,
    assistants: &[AssistantId],
    why: &str,
) -> Result<(), Error> {
    if !assistants.is_empty() {
        tx.execute_typed(
            sql!("ledger_held"),
            &[(&assistants, Type::UUID_ARRAY), (&why, Type::TEXT)],
        )
        .await?;
    }
    Ok(())
}

/// Nothing is known of these any more.
pub async fn forget(tx: &Transaction<'_>, assistants: &[AssistantId]) -> Result<(), Error> {
    touch(tx, sql!("ledger_forget"), assistants).await
}

async fn touch(
    tx: &Transaction<'_>,
    statement: &str,
    assistants: &[AssistantId],
) -> Result<(), Error> {
    if !assistants.is_empty() {
        tx.execute_typed(statement, &[(&assistants, Type::UUID_ARRAY)])
            .await?;
    }
    Ok(())
}

pub async fn in_conflict(tx: &Transaction<'_>, conflicts: &[Conflict]) -> Result<(), Error> {
    if conflicts.is_empty() {
        return Ok(());
    }
    let assistants: Vec<_> = conflicts.iter().map(|c| c.assistant_id).collect();
    let agents: Vec<_> = conflicts.iter().map(|c| c.agent_id).collect();
    let owners: Vec<_> = conflicts.iter().map(|c| c.owner.as_str()).collect();
    let errors: Vec<_> = conflicts.iter().map(|c| c.error.as_str()).collect();
    tx.execute_typed(
        sql!("ledger_conflict"),
        &[
            (&assistants, Type::UUID_ARRAY),
            (&agents, Type::UUID_ARRAY),
            (&owners, Type::TEXT_ARRAY),
            (&errors, Type::TEXT_ARRAY),
        ],
    )
    .await?;
    Ok(())
}

/// Marks agents as failed. Returns how many times in a row each has, but for those that the ledger has nothing to do
/// with (out of reach).
pub async fn failed(
    tx: &Transaction<'_>,
    failures: &[Failure],
) -> Result<Vec<(AgentId, i32)>, Error> {
    if failures.is_empty() {
        return Ok(Vec::new());
    }
    let agents: Vec<_> = failures.iter().map(|f| f.agent_id).collect();
    let errors: Vec<_> = failures.iter().map(|f| f.error.as_str()).collect();
    let in_scope: Vec<_> = failures.iter().map(|f| f.in_scope).collect();
    let rows = tx
        .query_typed(
            sql!("ledger_failed"),
            &[
                (&agents, Type::UUID_ARRAY),
                (&errors, Type::TEXT_ARRAY),
                (&in_scope, Type::BOOL_ARRAY),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((column(row, "agent_id")?, column(row, "attempts")?)))
        .collect()
}

pub fn state(name: &str) -> Result<State, Error> {
    Ok(match name {
        "synced" => State::Synced,
        "failed" => State::Failed,
        "held" => State::Held,
        "conflict" => State::Conflict,
        "removed" => State::Removed,
        other => {
            return Err(Error::Setup(format!(
                "agent_sync.ledger has a state `{other}` that this worker does not know"
            )));
        }
    })
}
