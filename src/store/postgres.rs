//! `langgraph_server.assistants`, the table of a LangGraph runtime that shares the database, as clients use it: one assistant at a
//! time. What the ledger says of each is read along.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::{
    Assistant, Changed, Filter, Found, Listed, New, Order, Page, Patch, Synced, Versions, Viewer,
};
use crate::database::{DEADLINE, Database, Error, Param, Transaction, begin, column};
use crate::ids::AssistantId;
use crate::sql;

const MAX_PAGE: i64 = super::weight::MAX_PAGE as i64;

pub async fn get(database: &Database, id: AssistantId) -> Result<Option<Found>, Error> {
    let params = [(&id.to_string() as _, Type::TEXT)];
    let rows = read(database, sql!("assistant_get"), &params).await?;
    rows.first().map_or(Ok(None), found)
}

async fn read(
    database: &Database,
    statement: &str,
    params: &[Param<'_>],
) -> Result<Vec<Row>, Error> {
    let reading = async {
        let client = database.client().await?;
        let rows = client.query_typed(statement, params).await?;
        client.give_back();
        Ok(rows)
    };
    database.within(DEADLINE, reading).await
}

pub async fn create(database: &Database, new: New) -> Result<Option<Assistant>, Error> {
    let writing = async {
        let mut client = database.client().await?;
        let tx = begin(&mut client).await?;
        // The times are the database's.
        let new = new.at(OffsetDateTime::UNIX_EPOCH);
        let sent = Sent::of(&new);
        let row = tx
            .query_typed_opt(sql!("assistant_create"), &sent.params())
            .await?;
        let created = row.map(|row| decode(new.id, &row)).transpose()?;
        tx.commit().await?;
        client.give_back();
        Ok(created)
    };
    database.within(DEADLINE, writing).await
}

/// Does this to an assistant, in a transaction in which nobody else changes it, if it is this owner's.
async fn change<T>(
    database: &Database,
    id: AssistantId,
    owner: &str,
    change: impl AsyncFnOnce(&Transaction<'_>, Found) -> Result<Changed<T>, Error>,
) -> Result<Changed<T>, Error> {
    let writing = async {
        let mut client = database.client().await?;
        let tx = begin(&mut client).await?;
        let changed = match take(&tx, id, owner).await? {
            Some(found) => change(&tx, found).await?,
            None => Changed::NotTheirs,
        };
        tx.commit().await?;
        client.give_back();
        Ok(changed)
    };
    database.within(DEADLINE, writing).await
}

/// The assistant, held until the transaction ends, if it is this owner's: read only once it is held, for it may have changed hands
/// while this waited.
async fn take(tx: &Transaction<'_>, id: AssistantId, owner: &str) -> Result<Option<Found>, Error> {
    let id = id.to_string();
    let taking = [(&id as _, Type::TEXT), (&owner as _, Type::TEXT)];
    let taken = tx.query_typed_opt(sql!("assistant_take"), &taking).await?;
    if taken.is_none() {
        return Ok(None);
    }
    let row = tx
        .query_typed_opt(sql!("assistant_get"), &[(&id, Type::TEXT)])
        .await?;
    let found = row.map_or(Ok(None), |row| found(&row))?;
    Ok(found.filter(|found| found.is_of(owner)))
}

pub async fn patch(
    database: &Database,
    id: AssistantId,
    owner: &str,
    patch: Patch,
) -> Result<Changed<Assistant>, Error> {
    change(database, id, owner, async |tx, found| match found {
        Found {
            synced: Some(synced),
            ..
        } if !patch.is_metadata_only() => Ok(Changed::Synced(synced.agent)),
        Found { mut assistant, .. } => match patch.apply(&mut assistant) {
            true => write(tx, &assistant, None).await.map(Changed::Done),
            false => Ok(Changed::TooLarge),
        },
    })
    .await
}

/// Makes it what it was in one of its versions. Its number goes back to that one's, and no other comes into being.
pub async fn restore(
    database: &Database,
    id: AssistantId,
    owner: &str,
    version: i64,
) -> Result<Changed<Assistant>, Error> {
    change(database, id, owner, async |tx, found| {
        if let Some(synced) = found.synced {
            return Ok(Changed::Synced(synced.agent));
        }
        let statement = of_versions(sql!("versions_get"));
        let params = [
            (&id.to_string() as _, Type::TEXT),
            (&version as _, Type::INT8),
        ];
        let Some(row) = tx.query_typed_opt(&statement, &params).await? else {
            return Ok(Changed::NoVersion);
        };
        let restored = decode(id, &row)?;
        let written = write(tx, &restored, Some(restored.version)).await?;
        Ok(Changed::Done(written))
    })
    .await
}

/// Writes an assistant that is taken, as a new version or as one that it has had.
async fn write(
    tx: &Transaction<'_>,
    assistant: &Assistant,
    becomes: Option<i32>,
) -> Result<Assistant, Error> {
    let sent = Sent::of(assistant);
    let becomes = [(&becomes as _, Type::INT4)];
    let params: Vec<Param<'_>> = sent.params().into_iter().chain(becomes).collect();
    let row = tx.query_typed_one(sql!("assistant_write"), &params).await?;
    decode(assistant.id, &row)
}

pub async fn delete(
    database: &Database,
    id: AssistantId,
    owner: &str,
) -> Result<Changed<()>, Error> {
    change(database, id, owner, async |tx, found| {
        if let Some(synced) = found.synced {
            return Ok(Changed::Synced(synced.agent));
        }
        tx.execute_typed(sql!("assistant_delete"), &[(&id.to_string(), Type::TEXT)])
            .await?;
        Ok(Changed::Done(()))
    })
    .await
}

/// What is sent of an assistant.
struct Sent<'a> {
    id: String,
    graph_id: &'a str,
    config: Json<&'a Map<String, Value>>,
    context: Json<&'a Map<String, Value>>,
    metadata: Json<&'a Map<String, Value>>,
    name: Option<&'a str>,
    description: Option<&'a str>,
}

impl<'a> Sent<'a> {
    fn of(assistant: &'a Assistant) -> Self {
        Self {
            id: assistant.id.to_string(),
            graph_id: &assistant.graph_id,
            config: Json(&assistant.config),
            context: Json(&assistant.context),
            metadata: Json(&assistant.metadata),
            name: assistant.name.as_deref(),
            description: assistant.description.as_deref(),
        }
    }

    /// In the order in which the statements name them.
    fn params(&self) -> [Param<'_>; 7] {
        [
            (&self.id, Type::TEXT),
            (&self.graph_id, Type::TEXT),
            (&self.config, Type::JSONB),
            (&self.context, Type::JSONB),
            (&self.metadata, Type::JSONB),
            (&self.name, Type::TEXT),
            (&self.description, Type::TEXT),
        ]
    }
}

pub async fn search(
    database: &Database,
    viewer: &Viewer,
    filter: &Filter,
    page: Page,
    fields: &[&str],
) -> Result<Option<Listed>, Error> {
    let statement = format!(
        "with found as (\n{}), page as (\n{})\n{}",
        sql!("assistants_found"),
        sql!("assistants_search"),
        page_statement()
    );
    let order = match page.order {
        Order::Id => "id",
        Order::CreatedAt => "created_at",
        Order::UpdatedAt => "updated_at",
        Order::Name => "name",
        Order::GraphId => "graph_id",
    };
    let paging: [Param<'_>; 5] = [
        (&order, Type::TEXT),
        (&page.ascending, Type::BOOL),
        (&page.limit, Type::INT8),
        (&page.offset, Type::INT8),
        (&fields, Type::TEXT_ARRAY),
    ];
    listed(&select(database, &statement, viewer, filter, &paging).await?)
}

/// Of one that does not exist there are none.
pub async fn versions(
    database: &Database,
    id: AssistantId,
    asked: &Versions,
) -> Result<Option<Listed>, Error> {
    let page = format!(
        ", page as (\n{})\n{}",
        sql!("versions_search"),
        page_statement()
    );
    let statement = of_versions(&page);
    let params: [Param<'_>; 4] = [
        (&id.to_string(), Type::TEXT),
        (&Json(&asked.metadata), Type::JSONB),
        (&asked.limit, Type::INT8),
        (&asked.offset, Type::INT8),
    ];
    listed(&read(database, &statement, &params).await?)
}

/// Deletes what is left of assistants that are gone.
pub async fn sweep_versions(database: &Database) -> Result<(), Error> {
    let sweeping = async {
        let mut client = database.client().await?;
        let tx = begin(&mut client).await?;
        tx.execute_typed(sql!("versions_sweep"), &[]).await?;
        tx.commit().await?;
        client.give_back();
        Ok(())
    };
    database.within(DEADLINE, sweeping).await
}

/// A statement about the versions of an assistant.
fn of_versions(rest: &str) -> String {
    format!(
        "with versions as (\n{})\n{rest}",
        sql!("assistant_versions")
    )
}

/// To be a part of another.
fn page_statement() -> String {
    sql!("assistants_page").replace(":most", &MAX_PAGE.to_string())
}

/// What a statement that ends in [`page_statement`] comes to.
fn listed(rows: &[Row]) -> Result<Option<Listed>, Error> {
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let bytes: Option<i64> = column(first, "bytes")?;
    if bytes.is_some_and(|bytes| bytes > MAX_PAGE) {
        return Ok(None);
    }
    let more = column(first, "more")?;
    let found = rows.iter().filter_map(|row| found(row).transpose());
    Ok(Some(Listed {
        found: found.collect::<Result<_, _>>()?,
        more,
    }))
}

pub async fn count(database: &Database, viewer: &Viewer, filter: &Filter) -> Result<i64, Error> {
    let found = sql!("assistants_found");
    let statement = format!("with found as (\n{found})\nselect count(*) as count from found");
    let rows = select(database, &statement, viewer, filter, &[]).await?;
    rows.first().map_or(Ok(0), |row| column(row, "count"))
}

/// Runs a statement about what assistants_found.sql finds. It may have parameters of its own.
async fn select(
    database: &Database,
    statement: &str,
    viewer: &Viewer,
    filter: &Filter,
    more: &[Param<'_>],
) -> Result<Vec<Row>, Error> {
    let agents: Option<(Vec<_>, Vec<_>)> = viewer
        .agents
        .as_ref()
        .map(|agents| agents.iter().copied().unzip());
    let (agents, organizations) = agents.unzip();
    let metadata = json!(filter.metadata);
    let finding: [Param<'_>; 6] = [
        (&viewer.owner, Type::TEXT),
        (&agents, Type::UUID_ARRAY),
        (&organizations, Type::UUID_ARRAY),
        (&metadata, Type::JSONB),
        (&filter.graph_id, Type::TEXT),
        (&filter.name, Type::TEXT),
    ];
    let params: Vec<Param<'_>> = finding.into_iter().chain(more.iter().cloned()).collect();
    read(database, statement, &params).await
}

/// `None`: there is none, or its id is no uuid, so it was not made through the API, and cannot be asked for there.
fn found(row: &Row) -> Result<Option<Found>, Error> {
    let id: Option<&str> = column(row, "id")?;
    let Some(id) = id.and_then(|id| Uuid::try_parse(id).ok()).map(AssistantId) else {
        return Ok(None);
    };
    let synced = match column(row, "agent_id")? {
        Some(agent) => Some(Synced {
            agent,
            organization_id: column(row, "organization_id")?,
            content_hash: column(row, "content_hash")?,
        }),
        None => None,
    };
    Ok(Some(Found {
        assistant: decode(id, row)?,
        owner: column(row, "owner")?,
        synced,
    }))
}

fn decode(id: AssistantId, row: &Row) -> Result<Assistant, Error> {
    let object = |name: &str| -> Result<Map<String, Value>, Error> {
        Ok(match column::<Option<Json<Value>>>(row, name)? {
            Some(Json(Value::Object(object))) => object,
            _ => Map::new(),
        })
    };
    let at = |name: &str| -> Result<OffsetDateTime, Error> {
        Ok(column::<Option<OffsetDateTime>>(row, name)?.unwrap_or(OffsetDateTime::UNIX_EPOCH))
    };
    Ok(Assistant {
        id,
        graph_id: column::<Option<String>>(row, "graph_id")?.unwrap_or_default(),
        config: object("config")?,
        context: object("context")?,
        metadata: object("metadata")?,
        name: column(row, "name")?,
        description: column(row, "description")?,
        version: column::<Option<i32>>(row, "version")?.unwrap_or(1),
        created_at: at("created_at")?,
        updated_at: at("updated_at")?,
    })
}
