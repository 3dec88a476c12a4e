//! What an assistant says, as a document to be compared with what it would say: without what may move freely, and without what a place
//! adds of its own.
//!
//! Metadata that is not ours is its client's, and nobody else's to read: of that, only the names are in it.

use serde_json::{Map, Number, Value, json};

use super::Place;
use super::batch::{How, Write};
use super::fingerprint::{UNNAMED, is_default};
use crate::assistant::METADATA_KEYS;

/// What stands for metadata that is not ours.
const NOT_SHOWN: &str = "(not shown)";

/// What it says now: an assistant as the API shows it, or as much of it as there is in the table.
pub fn now(place: &Place, assistant: &Value) -> Value {
    let object = |name: &str| {
        assistant
            .get(name)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let text = |name: &str| assistant.get(name).and_then(Value::as_str);
    let metadata = object("metadata").into_iter().map(|(key, value)| {
        let shown = match METADATA_KEYS.contains(&key.as_str()) {
            true => value,
            false => json!(NOT_SHOWN),
        };
        (key, shown)
    });
    document(
        place,
        Said {
            graph_id: text("graph_id"),
            name: text("name"),
            description: text("description"),
            config: object("config"),
            context: object("context"),
            metadata: metadata.collect(),
        },
    )
}

/// What it would say after this write, where it says this `now`.
pub fn then(place: &Place, write: &Write<'_>, now: Option<&Value>) -> Value {
    let content = write.assistant.content;
    let mut metadata = write.metadata();
    if write.how == How::Update
        && let Some(Value::Object(before)) = now.and_then(|now| now.get("metadata"))
    {
        let foreign = before
            .iter()
            .filter(|(key, _)| !METADATA_KEYS.contains(&key.as_str()));
        metadata.extend(foreign.map(|(key, value)| (key.clone(), value.clone())));
    }
    document(
        place,
        Said {
            graph_id: Some(&content.graph_id),
            name: content.name.as_deref(),
            description: content.description.as_deref(),
            config: content.config.as_object().cloned().unwrap_or_default(),
            context: Map::new(),
            metadata,
        },
    )
}

struct Said<'a> {
    graph_id: Option<&'a str>,
    name: Option<&'a str>,
    description: Option<&'a str>,
    config: Map<String, Value>,
    context: Map<String, Value>,
    metadata: Map<String, Value>,
}

fn document(place: &Place, said: Said<'_>) -> Value {
    let Said {
        graph_id,
        mut name,
        mut description,
        mut config,
        mut context,
        mut metadata,
    } = said;
    metadata.retain(|key, value| key != "synced_at" && !value.is_null());
    if let Place::Server(_) = place {
        // As in fingerprint.rs: what servers do not agree about is no difference.
        name = name.filter(|name| !name.is_empty()).or(Some(UNNAMED));
        description = description.filter(|description| !description.is_empty());
        config.retain(|key, value| !is_default(key, value));
        config.values_mut().for_each(doubles);
        context.values_mut().for_each(doubles);
        if config.get("configurable").and_then(Value::as_object) == Some(&context) {
            context.clear();
        }
    }
    let texts = [
        ("graph_id", graph_id),
        ("name", name),
        ("description", description),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), json!(text?))));
    let objects = [
        ("config", config),
        ("context", context),
        ("metadata", metadata),
    ];
    let objects = objects.into_iter().filter(|(_, fields)| !fields.is_empty());
    let objects = objects.map(|(name, fields)| (name.to_owned(), Value::Object(fields)));
    Value::Object(texts.chain(objects).collect())
}

/// Numbers as they are in JavaScript, and in most servers.
fn doubles(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let double = number.to_string().parse().ok();
            let plain = double.and_then(|double: f64| match double as i64 {
                whole if whole as f64 == double => Some(whole.into()),
                _ => Number::from_f64(double),
            });
            *number = plain.unwrap_or_else(|| number.clone());
        }
        Value::Array(items) => items.iter_mut().for_each(doubles),
        Value::Object(fields) => fields.values_mut().for_each(doubles),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use hyper::HeaderMap;

    use super::*;
    use crate::config::LangGraph;
    use crate::store::langgraph::Server;

    fn server() -> Place {
        let config = LangGraph {
            url: "http://127.0.0.1:1".parse().expect("a url"),
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(1),
        };
        Place::Server(Arc::new(Server::new(&config)))
    }

    #[test]
    fn what_servers_do_not_agree_about_is_left_out_and_what_a_table_has_is_told() {
        let said = json!({
            "graph_id": "agent", "name": "", "description": "", "version": 3,
            "config": {"configurable": {"top_p": 1, "big": 12345678901234567890_u64, "t": 0.5}, "tags": [], "recursion_limit": 25},
            "context": {"top_p": 1.0, "big": 12345678901234567890_u64, "t": 5e-1},
            "metadata": {"owner": "system", "synced_at": "now", "theirs": "canary", "supabase_organization_id": null},
        });
        let metadata = json!({"owner": "system", "theirs": "(not shown)"});
        assert_eq!(
            now(&server(), &said),
            json!({
                "graph_id": "agent", "name": "Untitled", "metadata": metadata,
                "config": {"configurable": {"top_p": 1, "big": 12345678901234567890.0, "t": 0.5}},
            })
        );
        let told = now(&Place::Table, &said);
        for part in ["graph_id", "name", "description", "config", "context"] {
            assert_eq!(told[part], said[part]);
        }
        assert_eq!(told["metadata"], metadata);
        assert_eq!(
            now(&server(), &json!({"config": "odd"})),
            json!({"name": "Untitled"})
        );
    }
}
