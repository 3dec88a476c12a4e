//! The body of `POST /assistants`: LangGraph's `AssistantCreate`, with the official server's defaults and rules.
//! Unknown fields are ignored.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::Problem;
use crate::assistant::METADATA_KEYS;
use crate::ids::AssistantId;
use crate::plan::IfExists;

/// Names that the official server strips silently from metadata.
const RESERVED_METADATA: [&str; 5] = [
    "thread_id",
    "assistant_id",
    "run_id",
    "cron_id",
    "counters_since_delta_snapshot",
];

/// Names that the official server strips silently from `config.configurable` and `context`.
const RESERVED_CONFIGURABLE: [&str; 13] = [
    "langgraph_auth_user",
    "langgraph_auth_user_id",
    "langgraph_auth_permissions",
    "langgraph_request_id",
    "__langsmith_project__",
    "__langsmith_example_id__",
    "__request_start_time_ms__",
    "__after_seconds__",
    "__otel_traceparent__",
    "__otel_tracestate__",
    "__dd_trace_headers__",
    "__pregel_node_finished",
    "__context_provided__",
];

#[derive(Debug, Clone, PartialEq)]
pub struct AssistantCreate {
    /// Required by the official server. Not needed where the agent says it.
    pub graph_id: Option<String>,
    pub assistant_id: Option<AssistantId>,
    pub config: Map<String, Value>,
    pub context: Map<String, Value>,
    /// Without the keys that are ours to set.
    pub metadata: Map<String, Value>,
    /// `metadata.supabase_agent_id` as it was sent.
    pub agent: Option<Value>,
    pub if_exists: IfExists,
    pub name: String,
    pub description: Option<String>,
}

impl AssistantCreate {
    pub fn parse(body: Value) -> Result<Self, Problem> {
        let Value::Object(fields) = body else {
            return Err(Problem::unprocessable(
                "The request body must be a JSON object",
            ));
        };
        let mut fields = Fields(fields);
        let mut config = fields.object("config")?;
        check_config(&config)?;
        let mut context = fields.object("context")?;
        let mut metadata = fields.object("metadata")?;

        if let Some(Value::Object(configurable)) = config.get_mut("configurable") {
            strip(configurable, &RESERVED_CONFIGURABLE);
        }
        if let Some(Value::Object(metadata)) = config.get_mut("metadata") {
            strip(metadata, &RESERVED_METADATA);
        }
        strip(&mut context, &RESERVED_CONFIGURABLE);
        strip(&mut metadata, &RESERVED_METADATA);
        mirror(&mut config, &mut context)?;

        let agent = metadata
            .get("supabase_agent_id")
            .filter(|agent| !agent.is_null())
            .cloned();
        strip(&mut metadata, &METADATA_KEYS);
        Ok(Self {
            graph_id: fields.text("graph_id")?,
            assistant_id: fields
                .text("assistant_id")?
                .map(|id| assistant_id(&id))
                .transpose()?,
            config,
            context,
            metadata,
            agent,
            if_exists: match fields.text("if_exists")?.as_deref() {
                None | Some("raise") => IfExists::Raise,
                Some("do_nothing") => IfExists::DoNothing,
                Some(_) => {
                    return Err(Problem::unprocessable(
                        "if_exists must be one of \"raise\" or \"do_nothing\"",
                    ));
                }
            },
            name: fields
                .text("name")?
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "Untitled".to_owned()),
            description: fields.nullable_text("description")?,
        })
    }
}

/// An assistant's id as clients may write it: Python's `uuid.UUID` takes upper case, no hyphens, braces and `urn:uuid:`.
pub fn assistant_id(text: &str) -> Result<AssistantId, Problem> {
    Uuid::try_parse(text)
        .map(AssistantId)
        .map_err(|_| Problem::unprocessable("Invalid assistant ID: must be a UUID"))
}

fn check_config(config: &Map<String, Value>) -> Result<(), Problem> {
    let wrong = |field: &str, expected: &str| {
        Err(Problem::unprocessable(format!(
            "config.{field} must be {expected}"
        )))
    };
    match config.get("configurable") {
        None | Some(Value::Object(_)) => {}
        Some(_) => return wrong("configurable", "an object"),
    }
    match config.get("tags") {
        None => {}
        Some(Value::Array(tags)) if tags.iter().all(Value::is_string) => {}
        Some(_) => return wrong("tags", "an array of strings"),
    }
    match config.get("recursion_limit") {
        None => Ok(()),
        Some(limit) if limit.is_i64() || limit.is_u64() => Ok(()),
        Some(_) => wrong("recursion_limit", "an integer"),
    }
}

/// `config.configurable` and `context` are two names of the same thing: one given is copied to the other.
fn mirror(
    config: &mut Map<String, Value>,
    context: &mut Map<String, Value>,
) -> Result<(), Problem> {
    let configurable = match config.get("configurable") {
        Some(Value::Object(configurable)) if !configurable.is_empty() => configurable.clone(),
        _ => Map::new(),
    };
    match (configurable.is_empty(), context.is_empty()) {
        (false, false) => Err(Problem::new(
            hyper::StatusCode::BAD_REQUEST,
            "Cannot specify both configurable and context. Prefer setting context alone. Context was introduced in \
             LangGraph 0.6.0 and is the long term planned replacement for configurable.",
        )),
        (false, true) => {
            *context = configurable;
            Ok(())
        }
        (true, false) => {
            config.insert("configurable".to_owned(), Value::Object(context.clone()));
            Ok(())
        }
        (true, true) => Ok(()),
    }
}

fn strip(object: &mut Map<String, Value>, keys: &[&str]) {
    object.retain(|key, _| !keys.contains(&key.as_str()));
}

struct Fields(Map<String, Value>);

impl Fields {
    /// Absent is empty; null is not.
    fn object(&mut self, name: &str) -> Result<Map<String, Value>, Problem> {
        match self.0.remove(name) {
            None => Ok(Map::new()),
            Some(Value::Object(object)) => storable(object),
            Some(_) => Err(Problem::unprocessable(format!("{name} must be an object"))),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(without_nul(text))),
            Some(_) => Err(Problem::unprocessable(format!("{name} must be a string"))),
        }
    }

    fn nullable_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        if self.0.get(name).is_some_and(Value::is_null) {
            return Ok(None);
        }
        self.text(name)
    }
}

/// Postgres cannot hold NUL: in a value it becomes U+FFFD, in a key it is refused, as on the official server.
fn storable(object: Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    let pairs = object.into_iter().map(|(key, value)| {
        if key.contains('\0') {
            return Err(Problem::unprocessable("Keys must not contain NUL"));
        }
        Ok((key, storable_value(value)?))
    });
    pairs.collect()
}

fn storable_value(value: Value) -> Result<Value, Problem> {
    Ok(match value {
        Value::Object(object) => Value::Object(storable(object)?),
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .map(storable_value)
                .collect::<Result<_, _>>()?,
        ),
        Value::String(text) => Value::String(without_nul(text)),
        other => other,
    })
}

fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}
