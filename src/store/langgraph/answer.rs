//! Assistants as LangGraph servers show them. What is missing, or otherwise than expected, is taken as empty.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::assistant::METADATA_KEYS;
use crate::ids::{AssistantId, SYSTEM};
use crate::plan::Existing;
use crate::store::{self, fingerprint};

/// What a server says of one assistant.
#[derive(Debug)]
pub struct Assistant {
    /// `None`: none of ours, they are uuids.
    pub id: Option<AssistantId>,
    /// All of it, as it came.
    pub json: Value,
}

impl Assistant {
    /// `None`: this is no assistant.
    pub fn parse(body: &[u8]) -> Option<Self> {
        Self::of(serde_json::from_slice(body).ok()?)
    }

    pub fn of(json: Value) -> Option<Self> {
        let id = json.get("assistant_id")?.as_str()?;
        Some(Self {
            id: Uuid::try_parse(id).ok().map(AssistantId),
            json,
        })
    }

    /// Whether it says that it was synced just then.
    pub fn has(&self, stamp: &str) -> bool {
        self.json
            .pointer("/metadata/synced_at")
            .is_some_and(|at| at == stamp)
    }

    pub fn existing(&self) -> Existing {
        let object = |name: &str| -> Map<String, Value> {
            let object = self.json.get(name).and_then(Value::as_object);
            object.cloned().unwrap_or_default()
        };
        let text = |name: &str| -> Option<String> {
            let text = self.json.get(name).and_then(Value::as_str);
            text.map(str::to_owned)
        };
        let metadata = object("metadata");
        // Made by the server itself, for one of its graphs: never ours to take, whatever else it says.
        let is_servers = metadata.get("created_by").is_some_and(|by| by == SYSTEM);
        let owner = metadata.get("owner").and_then(Value::as_str);
        let foreign = metadata
            .iter()
            .filter(|(key, value)| !value.is_null() && !METADATA_KEYS.contains(&key.as_str()));
        Existing {
            owner: owner.filter(|_| !is_servers).map(str::to_owned),
            foreign: foreign.map(|(key, _)| key.clone()).collect(),
            row_version: None,
            row_hash: fingerprint::of(&store::Assistant {
                id: self.id.unwrap_or(AssistantId(Uuid::nil())),
                graph_id: text("graph_id").unwrap_or_default(),
                config: object("config"),
                context: object("context"),
                name: text("name"),
                description: text("description"),
                metadata,
                version: 0,
                created_at: OffsetDateTime::UNIX_EPOCH,
                updated_at: OffsetDateTime::UNIX_EPOCH,
            }),
        }
    }
}
