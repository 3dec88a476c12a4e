//! Where assistants live. Clients reach single assistants through [`Store`]; the syncer writes the assistants of
//! agents in batches, in the transaction that also moves the ledger and the outbox ([`postgres::Assistants`]).

pub mod memory;
pub mod postgres;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::database;
use crate::ids::AssistantId;

/// An assistant as the LangGraph API shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assistant {
    pub id: AssistantId,
    pub graph_id: String,
    pub config: Map<String, Value>,
    pub context: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub version: i32,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// An assistant that a client makes, complete but for what the store adds.
#[derive(Debug, Clone, PartialEq)]
pub struct New {
    pub id: AssistantId,
    pub graph_id: String,
    pub config: Map<String, Value>,
    pub context: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub name: String,
    pub description: Option<String>,
}

#[derive(Debug)]
pub enum Store {
    Memory(memory::Memory),
    Postgres(database::Database),
}

impl Store {
    pub async fn get(&self, id: AssistantId) -> Result<Option<Assistant>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.get(id)),
            Self::Postgres(database) => postgres::get(database, id).await,
        }
    }

    /// `None`: the id is taken, and what stands there is untouched.
    pub async fn create(&self, new: New) -> Result<Option<Assistant>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.create(new, OffsetDateTime::now_utc())),
            Self::Postgres(database) => postgres::create(database, new).await,
        }
    }
}

impl Assistant {
    /// The ten keys that every answer of the Assistants API has.
    ///
    /// The official server mirrors `config.configurable` into an empty `context`. A synced row does not carry it twice.
    pub fn to_json(&self) -> Value {
        let mirrored = match self.config.get("configurable") {
            Some(Value::Object(configurable)) if self.context.is_empty() => configurable,
            _ => &self.context,
        };
        json!({
            "assistant_id": self.id,
            "graph_id": self.graph_id,
            "config": self.config,
            "context": mirrored,
            "metadata": self.metadata,
            "name": self.name.as_deref().unwrap_or("Untitled"),
            "description": self.description,
            "version": self.version,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
        })
    }
}

/// RFC 3339 with microseconds and `+00:00`, as the official server writes it.
fn timestamp(at: OffsetDateTime) -> String {
    let format = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00"
    );
    at.to_offset(time::UtcOffset::UTC)
        .format(format)
        .unwrap_or_default()
}
