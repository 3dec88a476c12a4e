//! The assistants of agents in `langgraph_server.assistants`, written in batches by the syncer, in the transaction that moves the
//! ledger and the outbox, too.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use crate::assistant;
use crate::database::{Error, Param, column};
use crate::ids::AssistantId;
use crate::plan::Existing;
use crate::sql;

/// How many bytes of assistants one statement carries, but for one that is larger all by itself. Their contents are in
/// memory a few times over while it is sent, and the server has a limit for messages.
const AT_ONCE: usize = 16 << 20;

/// An assistant of an agent, about to be written.
#[derive(Debug)]
pub struct Write<'a> {
    pub assistant: assistant::Assistant<'a>,
    pub content_hash: Vec<u8>,
    pub how: How,
    /// Metadata that the client who has this assistant made sent along. Counts on an insert only.
    pub foreign: Option<&'a Map<String, Value>>,
}

impl Write<'_> {
    fn metadata(&self) -> Value {
        let mut metadata = self.assistant.metadata();
        if let (How::Insert, Some(foreign), Value::Object(ours)) =
            (self.how, self.foreign, &mut metadata)
        {
            let kept = foreign
                .iter()
                .filter(|(key, _)| !assistant::METADATA_KEYS.contains(&key.as_str()));
            ours.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
        }
        metadata
    }
}

/// What is sent of a [`Write`].
struct Sent<'a> {
    write: &'a Write<'a>,
    config: String,
    metadata: String,
}

impl<'a> Sent<'a> {
    fn of(write: &'a Write<'a>) -> Self {
        Self {
            write,
            config: write.assistant.content.config.to_string(),
            metadata: write.metadata().to_string(),
        }
    }

    fn bytes(&self) -> usize {
        let content = self.write.assistant.content;
        let texts = [&content.name, &content.description].into_iter().flatten();
        self.config.len() + self.metadata.len() + texts.map(String::len).sum::<usize>()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Insert,
    Update,
    /// To another owner: metadata that is not ours goes.
    HandOver,
    /// Takes the id of a row that an older runtime made, and nothing else of it.
    Adopt,
}

/// Which of these assistants exist, whoever made them.
pub async fn observe(
    tx: &Transaction<'_>,
    ids: &[AssistantId],
) -> Result<HashMap<AssistantId, Existing>, Error> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = tx
        .query_typed(sql!("assistants_observe"), &[(&ids, Type::TEXT_ARRAY)])
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                id(row)?,
                Existing {
                    owner: column(row, "owner")?,
                    row_hash: column(row, "row_hash")?,
                },
            ))
        })
        .collect()
}

/// Writes assistants. Returns the fingerprints of the rows as they now are. One that is missing was not written: another
/// session holds the row, or somebody made, took or deleted it since it was observed.
pub async fn write(
    tx: &Transaction<'_>,
    writes: &[Write<'_>],
) -> Result<HashMap<AssistantId, Vec<u8>>, Error> {
    let mut hashes = HashMap::new();
    for insert in [true, false] {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for write in writes {
            if (write.how == How::Insert) != insert {
                continue;
            }
            let next = Sent::of(write);
            if bytes + next.bytes() > AT_ONCE {
                send(tx, insert, &std::mem::take(&mut batch), &mut hashes).await?;
                bytes = 0;
            }
            bytes += next.bytes();
            batch.push(next);
        }
        send(tx, insert, &batch, &mut hashes).await?;
    }
    Ok(hashes)
}

async fn send(
    tx: &Transaction<'_>,
    insert: bool,
    batch: &[Sent<'_>],
    hashes: &mut HashMap<AssistantId, Vec<u8>>,
) -> Result<(), Error> {
    if batch.is_empty() {
        return Ok(());
    }
    let writes: Vec<&Write<'_>> = batch.iter().map(|sent| sent.write).collect();
    let ids: Vec<_> = writes.iter().map(|w| w.assistant.id.to_string()).collect();
    let contents: Vec<&assistant::Content> = writes.iter().map(|w| w.assistant.content).collect();
    let graphs: Vec<_> = contents.iter().map(|c| c.graph_id.as_str()).collect();
    let names: Vec<_> = contents.iter().map(|c| c.name.as_deref()).collect();
    let descriptions: Vec<_> = contents.iter().map(|c| c.description.as_deref()).collect();
    let configs: Vec<_> = batch.iter().map(|sent| sent.config.as_str()).collect();
    let metadata: Vec<_> = batch.iter().map(|sent| sent.metadata.as_str()).collect();
    let fresh: Vec<_> = writes.iter().map(|w| w.how != How::Update).collect();
    let adopt: Vec<_> = writes.iter().map(|w| w.how == How::Adopt).collect();
    let mut params: Vec<Param<'_>> = vec![
        (&ids, Type::TEXT_ARRAY),
        (&graphs, Type::TEXT_ARRAY),
        (&names, Type::TEXT_ARRAY),
        (&descriptions, Type::TEXT_ARRAY),
        (&configs, Type::TEXT_ARRAY),
        (&metadata, Type::TEXT_ARRAY),
    ];
    let statement = if insert {
        sql!("assistants_insert")
    } else {
        params.extend([
            (&fresh as _, Type::BOOL_ARRAY),
            (&adopt as _, Type::BOOL_ARRAY),
        ]);
        sql!("assistants_update")
    };
    for row in tx.query_typed(statement, &params).await? {
        hashes.insert(id(&row)?, column(&row, "row_hash")?);
    }
    Ok(())
}

/// Deletes assistants that the ledger says are ours. Returns those that another session holds; they are still there.
pub async fn delete(
    tx: &Transaction<'_>,
    ids: &[AssistantId],
) -> Result<HashSet<AssistantId>, Error> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = tx
        .query_typed(sql!("assistants_delete"), &[(&ids, Type::TEXT_ARRAY)])
        .await?;
    rows.iter().map(id).collect()
}

/// We only ever ask for ids that are uuids.
fn id(row: &Row) -> Result<AssistantId, Error> {
    let text: &str = column(row, "id")?;
    Uuid::try_parse(text)
        .map(AssistantId)
        .map_err(|e| Error::Setup(format!("langgraph_server.assistants: {e}")))
}
