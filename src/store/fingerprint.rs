//! What an assistant says, as a hash that servers do not disagree about: its own metadata of ours, and everything that its agent
//! says. What may move freely (foreign metadata, `synced_at`, version and times) is not in it.
//!
//! Servers keep JSON in their own ways. The order of keys means nothing; `1.0`, `1` and `1e0` are one number, and numbers have the
//! precision of a double; what is empty may be missing; `context` may mirror `config.configurable`. (In
//! `langgraph_server.assistants` Postgres does the same for us: `agent_sync.fingerprint`.)

use serde_json::{Map, Number, Value, json};
use sha2::{Digest, Sha256};

use super::Assistant;
use super::batch::Write;

/// The name that servers give an assistant which has none.
pub const UNNAMED: &str = "Untitled";

/// What the metadata of an assistant says of its agent.
const OURS: [&str; 3] = ["supabase_agent_id", "supabase_organization_id", "owner"];

/// Of an assistant as it is.
pub fn of(assistant: &Assistant) -> Vec<u8> {
    hash(Said {
        graph_id: &assistant.graph_id,
        name: assistant.name.as_deref(),
        description: assistant.description.as_deref(),
        config: &assistant.config,
        context: &assistant.context,
        metadata: &assistant.metadata,
    })
}

/// Of one as it will be once this is written.
pub fn of_write(write: &Write<'_>) -> Vec<u8> {
    let content = write.assistant.content;
    let empty = Map::new();
    hash(Said {
        graph_id: &content.graph_id,
        name: content.name.as_deref(),
        description: content.description.as_deref(),
        config: content.config.as_object().unwrap_or(&empty),
        context: &empty,
        metadata: &write.metadata(),
    })
}

struct Said<'a> {
    graph_id: &'a str,
    name: Option<&'a str>,
    description: Option<&'a str>,
    config: &'a Map<String, Value>,
    context: &'a Map<String, Value>,
    metadata: &'a Map<String, Value>,
}

fn hash(said: Said<'_>) -> Vec<u8> {
    let config: Map<String, Value> = said
        .config
        .iter()
        .filter(|(key, value)| !is_default(key, value))
        .map(|(key, value)| (key.clone(), plain(value)))
        .collect();
    let context = plain_object(said.context);
    let is_mirror = config.get("configurable") == Some(&context);
    let context = Some(context).filter(|context| !is_mirror && !is_empty(context));
    let ours = OURS.map(|key| said.metadata.get(key).filter(|value| !value.is_null()));
    let text = json!([
        said.graph_id,
        said.name.filter(|name| !name.is_empty()).unwrap_or(UNNAMED),
        said.description.unwrap_or_default(),
        config,
        context,
        ours,
    ]);
    Sha256::digest(text.to_string()).to_vec()
}

/// What some servers add to a config, or leave out.
pub(super) fn is_default(key: &str, value: &Value) -> bool {
    match key {
        "recursion_limit" => matches!(value.as_i64(), Some(0 | 25)),
        _ => is_empty(value),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => plain_object(fields),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Number(number) => Value::String(plain_number(number)),
        other => other.clone(),
    }
}

fn plain_object(fields: &Map<String, Value>) -> Value {
    let fields = fields.iter();
    Value::Object(
        fields
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
    )
}

/// As a text that no other is taken for: databases keep no NUL.
fn plain_number(number: &Number) -> String {
    let text = number.to_string();
    match text.parse::<f64>() {
        Ok(double) if double.is_finite() => format!("\0{:e}", double + 0.0),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AssistantId;
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn assistant(config: Value) -> Assistant {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        Assistant {
            id: AssistantId(Uuid::nil()),
            graph_id: "agent".to_owned(),
            config: object(config),
            context: Map::new(),
            metadata: object(
                json!({"owner": "system", "supabase_agent_id": "a", "synced_at": "now"}),
            ),
            name: Some("A".to_owned()),
            description: None,
            version: 1,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn of_text(config: &str) -> Vec<u8> {
        of(&assistant(serde_json::from_str(config).expect("JSON")))
    }

    #[test]
    fn what_servers_write_in_their_own_ways_is_the_same() {
        for (one, other) in [
            (
                r#"{"configurable": {"a": 1, "b": 2}}"#,
                r#"{"configurable": {"b": 2.0, "a": 1e0}}"#,
            ),
            (
                r#"{"configurable": {"t": 0.70}}"#,
                r#"{"configurable": {"t": 7e-1}}"#,
            ),
            (
                r#"{"configurable": {"t": 0.12345678901234567890}}"#,
                r#"{"configurable": {"t": 0.12345678901234568}}"#,
            ),
            (
                r#"{"configurable": {"t": -0.0}}"#,
                r#"{"configurable": {"t": 0}}"#,
            ),
            (
                r#"{"configurable": {"a": 1}}"#,
                r#"{"configurable": {"a": 1}, "tags": [], "recursion_limit": 25}"#,
            ),
            (r#"{}"#, r#"{"configurable": {}, "tags": null}"#),
        ] {
            assert_eq!(of_text(one), of_text(other), "{one} and {other}");
        }
        let mut mirrored = assistant(json!({"configurable": {"a": 1}}));
        let plain = of(&mirrored);
        mirrored.context.insert("a".to_owned(), json!(1));
        mirrored.description = Some(String::new());
        mirrored
            .metadata
            .insert("supabase_organization_id".to_owned(), Value::Null);
        mirrored
            .metadata
            .insert("synced_at".to_owned(), json!("later"));
        mirrored.metadata.insert("theirs".to_owned(), json!(1));
        assert_eq!(of(&mirrored), plain);
    }

    #[test]
    fn what_says_something_else_is_another() {
        let one = of_text(r#"{"configurable": {"a": 1}}"#);
        for other in [
            r#"{"configurable": {"a": 2}}"#,
            r#"{"configurable": {"a": [1]}}"#,
            r#"{"configurable": {"a": 1, "b": null}}"#,
            r#"{"configurable": {"a": 1}, "tags": ["x"]}"#,
            r#"{"configurable": {"a": 1}, "recursion_limit": 3}"#,
        ] {
            assert_ne!(one, of_text(other), "{other}");
        }
        type Edit = fn(&mut Assistant);
        let edits: [Edit; 6] = [
            |a| a.graph_id.push('x'),
            |a| a.name = None,
            |a| a.description = Some("d".to_owned()),
            |a| _ = a.context.insert("b".to_owned(), json!(1)),
            |a| _ = a.metadata.insert("owner".to_owned(), json!("mallory")),
            |a| _ = a.metadata.remove("supabase_agent_id"),
        ];
        for (n, edit) in edits.into_iter().enumerate() {
            let mut edited = assistant(json!({"configurable": {"a": 1}}));
            edit(&mut edited);
            assert_ne!(one, of(&edited), "edit {n}");
        }
    }
}
