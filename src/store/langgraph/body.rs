//! The bodies that are sent. All fields, each time: servers disagree about what is left out. `stamp`: when that is, for `synced_at`.

use serde_json::{Map, Value, json};

use crate::plan::Existing;
use crate::store::batch::{How, Write};
use crate::store::fingerprint::UNNAMED;

/// Of `POST /assistants`.
pub fn create(write: &Write<'_>, stamp: &str) -> Value {
    let mut body = common(write, stamp, write.metadata());
    body.insert("assistant_id".to_owned(), json!(write.assistant.id));
    body.insert("if_exists".to_owned(), json!("do_nothing"));
    // Where there is none, some servers take no null.
    if let Some(description) = &write.assistant.content.description {
        body.insert("description".to_owned(), json!(description));
    }
    Value::Object(body)
}

/// Of `PATCH /assistants/{id}`, of one that was found like this.
pub fn patch(write: &Write<'_>, stamp: &str, found: &Existing) -> Value {
    let mut metadata = write.metadata();
    // Servers merge metadata key by key, and none can be taken away but by null.
    metadata
        .entry("supabase_organization_id")
        .or_insert(Value::Null);
    if write.how != How::Update {
        metadata.extend(found.foreign.iter().map(|key| (key.clone(), Value::Null)));
    }
    let mut body = common(write, stamp, metadata);
    // Null is refused.
    let description = write.assistant.content.description.as_deref();
    body.insert(
        "description".to_owned(),
        json!(description.unwrap_or_default()),
    );
    Value::Object(body)
}

fn common(write: &Write<'_>, stamp: &str, mut metadata: Map<String, Value>) -> Map<String, Value> {
    let content = write.assistant.content;
    let name = content.name.as_deref().filter(|name| !name.is_empty());
    metadata.insert("synced_at".to_owned(), json!(stamp));
    // Never the context: it mirrors the config, and both together are refused.
    [
        ("graph_id", json!(content.graph_id)),
        ("name", json!(name.unwrap_or(UNNAMED))),
        ("config", content.config.clone()),
        ("metadata", Value::Object(metadata)),
    ]
    .into_iter()
    .map(|(field, value)| (field.to_owned(), value))
    .collect()
}
