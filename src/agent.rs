//! An agent as the database has it: a row of `public.agents` with its tools and its model.
//!
//! Rows come as JSON objects. A column that is missing is the same as one that is null (but for `status`, see
//! [`Head::is_active`]); one of an unexpected type fails that agent alone. Errors name the column and the kind of
//! thing found there, never the value: it may be a prompt, or a secret.

use serde::Deserialize;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use crate::ids::AgentId;

/// Where it comes first in an object, serde_json (with `arbitrary_precision`) takes the object for a number, or for no JSON; and
/// jsonb has an order of its own. What has such a key might never be read again.
pub const UNREADABLE_KEY: &str = "$serde_json::private::Number";

/// How many bytes an agent may be, as JSON with its tools and its model. A batch of them is in memory at once, and whoever has an
/// assistant of it has a copy.
pub const LARGEST: i64 = 1 << 20;

/// The columns of a [`Head`].
pub const HEAD: [&str; 5] = [
    "id",
    "organization_id",
    "status",
    "deleted_at",
    "langgraph_assistant_id",
];

/// What a batch read brings for one agent, not yet decoded beyond its [`Head`].
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub id: AgentId,
    /// The row of `public.agents`, a JSON object. Of an agent that is too large, its [`HEAD`] at most.
    pub agent: String,
    /// The rows of `public.mcp_tools` that the agent is linked to, a JSON array.
    pub tools: Option<String>,
    /// The row of `public.ai_models` behind the agent's engine, a JSON object.
    pub model: Option<String>,
    /// Its size in bytes, when that is more than [`LARGEST`].
    pub too_large: Option<i64>,
}

/// What decides whether an agent is to have an assistant at all. Decoded on its own, so that an agent whose other
/// columns make no sense can still be switched off.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Head {
    #[serde(default)]
    pub organization_id: Option<Uuid>,
    #[serde(default = "active")]
    status: Option<String>,
    #[serde(default)]
    deleted_at: Option<serde::de::IgnoredAny>,
    /// The write-back, where the column exists: the outer `None` is a missing column.
    #[serde(default, deserialize_with = "present")]
    pub langgraph_assistant_id: Option<Option<String>>,
}

/// An active agent, decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Agent {
    pub organization_id: Option<Uuid>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub graph_id: Option<String>,
    pub system_prompt: Option<String>,
    /// `sampling_params`, or where that is null or missing what the older columns say.
    pub sampling_params: Map<String, Value>,
    pub assistant_tool_ids: Vec<String>,
    pub tools: Vec<Tool>,
    /// `runtime_model_name` of the agent's model.
    pub model_name: Option<String>,
}

/// A row of `public.mcp_tools`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tool {
    pub name: Option<String>,
    pub endpoint_url: Option<String>,
    pub auth_required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{table}.{column} is {found}, expected {expected}")]
    Type {
        table: &'static str,
        column: &'static str,
        found: &'static str,
        expected: &'static str,
    },
    #[error("{table}.{column} has a key that cannot be kept")]
    Key {
        table: &'static str,
        column: &'static str,
    },
    #[error("the row of {table} cannot be read as JSON (line {line}, column {column})")]
    Json {
        table: &'static str,
        line: usize,
        column: usize,
    },
    #[error(
        "the agent is too large: {0} bytes as JSON with its tools and its model, and at most {LARGEST} are synced"
    )]
    TooLarge(i64),
}

impl Head {
    /// `status = 'active' and deleted_at is null`. Where there is no column `status` at all, every agent is active.
    pub fn is_active(&self) -> bool {
        self.status.as_deref() == Some("active") && self.deleted_at.is_none()
    }
}

impl Row {
    pub fn head(&self) -> Result<Head, DecodeError> {
        json("agents", &self.agent)
    }

    /// What to call it, whatever else its row says.
    pub fn name(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            name: Option<String>,
        }
        serde_json::from_str::<Named>(&self.agent).ok()?.name
    }

    pub fn decode(&self) -> Result<Agent, DecodeError> {
        if let Some(bytes) = self.too_large {
            return Err(DecodeError::TooLarge(bytes));
        }
        let mut row = Columns::parse("agents", &self.agent)?;
        let sampling_params = match row.object("sampling_params")? {
            Some(bag) if has_unreadable_field(&bag) => {
                return Err(DecodeError::Key {
                    table: "agents",
                    column: "sampling_params",
                });
            }
            Some(bag) => bag,
            None => ["temperature", "max_tokens"]
                .into_iter()
                .filter_map(|column| {
                    Some(
                        row.number(column)
                            .transpose()?
                            .map(|n| (column.to_owned(), Value::Number(n))),
                    )
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Agent {
            organization_id: self.head()?.organization_id,
            name: row.text("name")?,
            description: row.text("description")?,
            graph_id: row.text("graph_id")?,
            system_prompt: row.text("system_prompt")?,
            sampling_params,
            assistant_tool_ids: row.texts("assistant_tool_ids")?,
            tools: self.tools()?,
            model_name: match &self.model {
                Some(model) => Columns::parse("ai_models", model)?.text("runtime_model_name")?,
                None => None,
            },
        })
    }

    fn tools(&self) -> Result<Vec<Tool>, DecodeError> {
        let rows: Vec<Map<String, Value>> = match &self.tools {
            Some(tools) => json("mcp_tools", tools)?,
            None => Vec::new(),
        };
        rows.into_iter()
            .map(|row| {
                let mut row = Columns {
                    table: "mcp_tools",
                    row,
                };
                Ok(Tool {
                    name: row.text("tool_name")?,
                    endpoint_url: row.text("endpoint_url")?,
                    auth_required: row.boolean("auth_required")?.unwrap_or(false),
                })
            })
            .collect()
    }
}

/// The columns of one row, each taken out once.
struct Columns {
    table: &'static str,
    row: Map<String, Value>,
}

impl Columns {
    fn parse(table: &'static str, text: &str) -> Result<Self, DecodeError> {
        Ok(Self {
            table,
            row: json(table, text)?,
        })
    }

    fn take<T>(
        &mut self,
        column: &'static str,
        expected: &'static str,
        convert: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Result<Option<T>, DecodeError> {
        match self.row.remove(column) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => convert(value).map(Some).map_err(|value| DecodeError::Type {
                table: self.table,
                column,
                found: kind(&value),
                expected,
            }),
        }
    }

    fn text(&mut self, column: &'static str) -> Result<Option<String>, DecodeError> {
        self.take(column, "text", |value| match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    fn boolean(&mut self, column: &'static str) -> Result<Option<bool>, DecodeError> {
        self.take(column, "a boolean", |value| value.as_bool().ok_or(value))
    }

    /// Postgres writes NaN and the infinities as text: they are not numbers to JSON, nor to any model.
    fn number(&mut self, column: &'static str) -> Result<Option<Number>, DecodeError> {
        self.take(column, "a finite number", |value| match value {
            Value::Number(number) => Ok(number),
            other => Err(other),
        })
    }

    fn object(&mut self, column: &'static str) -> Result<Option<Map<String, Value>>, DecodeError> {
        self.take(column, "a JSON object", |value| match value {
            Value::Object(object) => Ok(object),
            other => Err(other),
        })
    }

    fn texts(&mut self, column: &'static str) -> Result<Vec<String>, DecodeError> {
        let found = self.take(column, "an array of uuids", |value| match value {
            Value::Array(items) if items.iter().all(|item| item.is_string() || item.is_null()) => {
                Ok(items)
            }
            other => Err(other),
        })?;
        let texts = found.into_iter().flatten().filter_map(|item| match item {
            Value::String(text) => Some(text),
            _ => None,
        });
        Ok(texts.collect())
    }
}

fn json<'a, T: Deserialize<'a>>(table: &'static str, text: &'a str) -> Result<T, DecodeError> {
    serde_json::from_str(text).map_err(|e| DecodeError::Json {
        table,
        line: e.line(),
        column: e.column(),
    })
}

fn has_unreadable_key(value: &Value) -> bool {
    match value {
        Value::Object(fields) => has_unreadable_field(fields),
        Value::Array(items) => items.iter().any(has_unreadable_key),
        _ => false,
    }
}

fn has_unreadable_field(fields: &Map<String, Value>) -> bool {
    fields.contains_key(UNREADABLE_KEY) || fields.values().any(has_unreadable_key)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn active() -> Option<String> {
    Some("active".to_owned())
}

fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
