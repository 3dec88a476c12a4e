//! The fields of the bodies that clients send, with the official server's rules for each. Unknown ones are ignored.

use hyper::StatusCode;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Problem;
use crate::agent::UNREADABLE_KEY;
use crate::assistant::METADATA_KEYS;
use crate::ids::AssistantId;

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

/// Which agent an assistant is made from, and whose that is, is ours to say, wherever a runtime might look for it.
const OURS: [&str; 2] = ["supabase_agent_id", "supabase_organization_id"];

type Object = Map<String, Value>;

/// An assistant may not be larger than [`crate::store::weight::MAX_ASSISTANT`].
pub fn too_large() -> Problem {
    Problem::unprocessable("config, context and metadata must not be larger than 1 MiB together")
}

/// The body of a create that gets no agent: it names none any more, nowhere.
pub fn unlink(mut create: Value) -> Value {
    let mut clean = |at: &str, keys: &[&str]| {
        if let Some(Value::Object(object)) = create.pointer_mut(at) {
            strip(object, keys);
        }
    };
    clean("/metadata", &METADATA_KEYS);
    clean("/config/metadata", &METADATA_KEYS);
    for configurable in ["/config/configurable", "/context"] {
        clean(configurable, &OURS);
    }
    create
}

pub struct Fields(Object);

impl Fields {
    pub fn of(body: Value) -> Result<Self, Problem> {
        match body {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(Problem::unprocessable(
                "The request body must be a JSON object",
            )),
        }
    }

    /// `config` and `context`, mirrored.
    pub fn configuration(&mut self) -> Result<(Option<Object>, Option<Object>), Problem> {
        let (mut config, mut context) = (self.object("config")?, self.object("context")?);
        if let Some(config) = &mut config {
            check_config(config)?;
            if let Some(Value::Object(configurable)) = config.get_mut("configurable") {
                strip(configurable, &RESERVED_CONFIGURABLE);
                strip(configurable, &OURS);
            }
            if let Some(Value::Object(metadata)) = config.get_mut("metadata") {
                strip(metadata, &RESERVED_METADATA);
                strip(metadata, &METADATA_KEYS);
            }
        }
        if let Some(context) = &mut context {
            strip(context, &RESERVED_CONFIGURABLE);
            strip(context, &OURS);
        }
        mirror(&mut config, &mut context)?;
        Ok((config, context))
    }

    /// `metadata` without the keys that are ours to set, and the agent that it names.
    pub fn metadata(&mut self) -> Result<(Option<Object>, Option<Value>), Problem> {
        let mut metadata = self.object("metadata")?;
        let agent = metadata
            .as_ref()
            .and_then(|metadata| metadata.get("supabase_agent_id"))
            .filter(|agent| !agent.is_null())
            .cloned();
        if let Some(metadata) = &mut metadata {
            strip(metadata, &RESERVED_METADATA);
            strip(metadata, &METADATA_KEYS);
        }
        Ok((metadata, agent))
    }

    /// Absent is `None`; null is refused.
    pub fn object(&mut self, name: &str) -> Result<Option<Object>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Object(object)) => storable(object).map(Some),
            Some(_) => Err(Problem::unprocessable(format!("{name} must be an object"))),
        }
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(without_nul(text))),
            Some(_) => Err(Problem::unprocessable(format!("{name} must be a string"))),
        }
    }

    pub fn nullable_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        if self.0.get(name).is_some_and(Value::is_null) {
            return Ok(None);
        }
        self.text(name)
    }

    /// One of these words.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let known = words.iter().find(|(word, _)| *word == text);
        match known {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<_> = words
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                Err(Problem::unprocessable(format!(
                    "{name} must be one of {}",
                    words.join(" or ")
                )))
            }
        }
    }

    /// A whole number within these bounds.
    pub fn number(&mut self, name: &str, least: i64, most: i64) -> Result<Option<i64>, Problem> {
        let Some(value) = self.0.remove(name) else {
            return Ok(None);
        };
        match value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Problem::unprocessable(format!(
                "{name} must be an integer from {least} to {most}"
            ))),
        }
    }

    /// How many of a list are asked for.
    pub fn limit(&mut self) -> Result<i64, Problem> {
        Ok(self.number("limit", 1, 1000)?.unwrap_or(10))
    }

    /// After how many of them.
    pub fn offset(&mut self) -> Result<i64, Problem> {
        Ok(self.number("offset", 0, i64::MAX)?.unwrap_or(0))
    }

    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let wrong = || Problem::unprocessable(format!("{name} must be an array of strings"));
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong()),
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }
}

/// An assistant's id as clients may write it: Python's `uuid.UUID` takes upper case, `urn:uuid:`, braces, and hyphens or none.
pub fn assistant_id(text: &str) -> Result<AssistantId, Problem> {
    let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let digits = text.trim_matches(['{', '}']).replace('-', "");
    Uuid::try_parse(&digits)
        .map(AssistantId)
        .map_err(|_| Problem::unprocessable("Invalid assistant ID: must be a UUID"))
}

fn check_config(config: &Object) -> Result<(), Problem> {
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
fn mirror(config: &mut Option<Object>, context: &mut Option<Object>) -> Result<(), Problem> {
    let configurable = match config
        .as_ref()
        .and_then(|config| config.get("configurable"))
    {
        Some(Value::Object(configurable)) if !configurable.is_empty() => Some(configurable.clone()),
        _ => None,
    };
    let given = context.as_ref().filter(|context| !context.is_empty());
    match (configurable, given) {
        (Some(_), Some(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "Cannot specify both configurable and context. Prefer setting context alone. Context was introduced in \
             LangGraph 0.6.0 and is the long term planned replacement for configurable.",
        )),
        (Some(configurable), None) => {
            *context = Some(configurable);
            Ok(())
        }
        (None, Some(context)) => {
            config
                .get_or_insert_default()
                .insert("configurable".to_owned(), Value::Object(context.clone()));
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

fn strip(object: &mut Object, keys: &[&str]) {
    object.retain(|key, _| !keys.contains(&key.as_str()));
}

/// Postgres cannot hold NUL: in a value it becomes U+FFFD, in a key it is refused, as on the official server.
fn storable(object: Object) -> Result<Object, Problem> {
    let pairs = object.into_iter().map(|(key, value)| {
        if key.contains('\0') {
            return Err(Problem::unprocessable("Keys must not contain NUL"));
        }
        if key == UNREADABLE_KEY {
            return Err(Problem::unprocessable(format!("No key may be {key}")));
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
