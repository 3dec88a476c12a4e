//! The assistants of agents in `langgraph_server.assistants`, the table of a LangGraph runtime that shares the database: written in the
//! transaction that moves the ledger and the outbox, too.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::batch::{Answer, Answers, How, Stands, Write};
use crate::assistant;
use crate::database::{Error, Param, Session, Transaction, column};
use crate::ids::AssistantId;
use crate::ledger::{self, Columns, row_version};
use crate::plan::Existing;
use crate::sql;

/// How many bytes of assistants one statement carries, but for one that is larger all by itself. Their contents are in
/// memory a few times over while it is sent, and a connection keeps as much for the next one.
const AT_ONCE: usize = 512 << 10;

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
            metadata: Value::Object(write.metadata()).to_string(),
        }
    }

    fn bytes(&self) -> usize {
        let content = self.write.assistant.content;
        let texts = [&content.name, &content.description].into_iter().flatten();
        self.config.len() + self.metadata.len() + texts.map(String::len).sum::<usize>()
    }
}

/// Which of these assistants exist, whoever made them.
pub async fn observe(
    session: Session<'_>,
    ids: &[AssistantId],
) -> Result<HashMap<AssistantId, Existing>, Error> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = session
        .query(sql!("assistants_observe"), &[(&ids, Type::TEXT_ARRAY)])
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                id(row)?,
                Existing {
                    owner: column(row, "owner")?,
                    row_hash: column(row, "row_hash")?,
                    // The statement that updates a row sees for itself.
                    foreign: Vec::new(),
                    row_version: row_version(row)?,
                },
            ))
        })
        .collect()
}

/// The same where nothing of ours is installed yet, and perhaps no runtime's table either. What they say is nothing that we have left.
pub async fn observe_foreign(
    tx: &Transaction<'_>,
    ids: &[AssistantId],
) -> Result<HashMap<AssistantId, Existing>, Error> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = tx
        .query_typed(sql!("assistants_owners"), &[(&ids, Type::TEXT_ARRAY)])
        .await?;
    let existing = |row: &Row| -> Result<Existing, Error> {
        Ok(Existing {
            owner: column(row, "owner")?,
            row_hash: Vec::new(),
            foreign: Vec::new(),
            row_version: None,
        })
    };
    rows.iter()
        .map(|row| Ok((id(row)?, existing(row)?)))
        .collect()
}

/// What each of these says, as JSON: the fields that a write sets.
pub async fn said(
    tx: &Transaction<'_>,
    ids: &[AssistantId],
) -> Result<HashMap<AssistantId, Value>, Error> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = tx
        .query_typed(sql!("assistants_said"), &[(&ids, Type::TEXT_ARRAY)])
        .await?;
    rows.iter()
        .map(|row| {
            // There may be anything in it that somebody else has written.
            let said = serde_json::from_str(column(row, "said")?);
            Ok((id(row)?, said.unwrap_or_default()))
        })
        .collect()
}

static INSERT: LazyLock<String> = LazyLock::new(|| ledger::entering(sql!("assistants_insert")));
static UPDATE: LazyLock<String> = LazyLock::new(|| ledger::entering(sql!("assistants_update")));

/// What another session holds, or has made, taken or deleted meanwhile, is missing from the answers. What is written is in the ledger, too:
/// one statement does both, so that nobody has to be told in between which version of a row it has become.
pub async fn write(session: Session<'_>, writes: &[Write<'_>]) -> Result<Answers<Stands>, Error> {
    let mut written = Answers::default();
    for insert in [true, false] {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for write in writes {
            if (write.how == How::Insert) != insert {
                continue;
            }
            let next = Sent::of(write);
            if bytes + next.bytes() > AT_ONCE {
                send(session, insert, &std::mem::take(&mut batch), &mut written).await?;
                bytes = 0;
            }
            bytes += next.bytes();
            batch.push(next);
        }
        send(session, insert, &batch, &mut written).await?;
    }
    Ok(written)
}

async fn send(
    session: Session<'_>,
    insert: bool,
    batch: &[Sent<'_>],
    written: &mut Answers<Stands>,
) -> Result<(), Error> {
    if batch.is_empty() {
        return Ok(());
    }
    let writes: Vec<&Write<'_>> = batch.iter().map(|sent| sent.write).collect();
    let entries: Vec<_> = writes.iter().map(|w| w.entry()).collect();
    let entries = Columns::of(entries.iter());
    let contents: Vec<&assistant::Content> = writes.iter().map(|w| w.assistant.content).collect();
    let graphs: Vec<_> = contents.iter().map(|c| c.graph_id.as_str()).collect();
    let names: Vec<_> = contents.iter().map(|c| c.name.as_deref()).collect();
    let descriptions: Vec<_> = contents.iter().map(|c| c.description.as_deref()).collect();
    let configs: Vec<_> = batch.iter().map(|sent| sent.config.as_str()).collect();
    let metadata: Vec<_> = batch.iter().map(|sent| sent.metadata.as_str()).collect();
    let fresh: Vec<_> = writes.iter().map(|w| w.how != How::Update).collect();
    let adopt: Vec<_> = writes.iter().map(|w| w.how == How::Adopt).collect();
    let mut params: Vec<Param<'_>> = entries.params().into();
    params.extend([
        (&graphs as _, Type::TEXT_ARRAY),
        (&names as _, Type::TEXT_ARRAY),
        (&descriptions as _, Type::TEXT_ARRAY),
        (&configs as _, Type::TEXT_ARRAY),
        (&metadata as _, Type::TEXT_ARRAY),
    ]);
    let statement = if insert {
        &INSERT
    } else {
        params.extend([
            (&fresh as _, Type::BOOL_ARRAY),
            (&adopt as _, Type::BOOL_ARRAY),
        ]);
        &UPDATE
    };
    for row in session.query(statement, &params).await? {
        let stands = Stands {
            row_hash: column(&row, "row_hash")?,
            is_noted: true,
            untouched: false,
        };
        written.answers.insert(id(&row)?, Answer::Done(stands));
    }
    Ok(())
}

/// What another session holds is missing from the answers.
pub async fn delete(tx: &Transaction<'_>, ids: &[AssistantId]) -> Result<Answers<()>, Error> {
    let mut deleted = Answers::default();
    if ids.is_empty() {
        return Ok(deleted);
    }
    let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = tx
        .query_typed(sql!("assistants_delete"), &[(&texts, Type::TEXT_ARRAY)])
        .await?;
    let held: HashSet<AssistantId> = rows.iter().map(id).collect::<Result<_, _>>()?;
    let gone = ids.iter().filter(|id| !held.contains(id));
    deleted.answers = gone.map(|id| (*id, Answer::Done(()))).collect();
    Ok(deleted)
}

/// We only ever ask for ids that are uuids.
fn id(row: &Row) -> Result<AssistantId, Error> {
    let text: &str = column(row, "id")?;
    Uuid::try_parse(text)
        .map(AssistantId)
        .map_err(|e| Error::Setup(format!("langgraph_server.assistants: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What statements write out, so that none has to parse a function, says what the function says.
    #[test]
    fn the_fingerprint_is_the_same_wherever_it_is_written() {
        let of = |text: &str| {
            let from = text.find("pg_catalog.sha256(").expect("a fingerprint");
            let length = text[from..].find("'UTF8'))").expect("its end");
            let words: Vec<_> = text[from..from + length].split_whitespace().collect();
            words.join(" ").replace("( ", "(").replace(" )", ")")
        };
        let function = of(include_str!("../../sql/migrations/0001_agent_sync.sql"));
        for statement in [sql!("assistants_insert"), sql!("assistants_update")] {
            assert_eq!(of(statement).replace("a.", ""), function);
        }
    }
}
