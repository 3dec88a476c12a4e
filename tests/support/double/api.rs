//! The official assistants API, as far as the worker uses it. Facts that clients rely on: what is refused, what is kept, what is a version.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Map, Number, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Seen;

#[derive(Default)]
pub struct Api {
    pub assistants: BTreeMap<Uuid, Stored>,
    /// Those that it has forgotten.
    pub lost: Vec<Stored>,
    /// `None`: any.
    pub graphs: Option<Vec<String>>,
    /// What `/info` says besides.
    pub revision: u64,
}

pub struct Stored {
    pub now: Value,
    pub versions: Vec<Value>,
}

/// A status, headers and a body.
pub struct Reply(pub u16, pub Vec<(&'static str, String)>, pub String);

impl Api {
    /// Does what a request asks for.
    pub fn handle(&mut self, seen: &Seen) -> Reply {
        let body = &seen.body;
        let path: Vec<&str> = seen.path.trim_matches('/').split('/').collect();
        match (seen.method.as_str(), path.as_slice()) {
            ("GET", ["ok"]) => ok(&json!({"ok": true})),
            ("GET", ["info"]) => ok(&json!({
                "version": "0.16.7", "langgraph_py_version": "1.2.22", "flags": {"assistants": true},
                "host": {"kind": "self-hosted", "revision_id": self.revision},
            })),
            ("POST", ["assistants"]) => self.create(&object(body)),
            ("POST", ["assistants", "search"]) => self.search(&object(body)),
            ("POST", ["assistants", "count"]) => ok(&json!(self.matching(&object(body)).len())),
            (method, ["assistants", id, rest @ ..]) => match Uuid::try_parse(id) {
                Ok(id) => self.one(method, id, rest, body),
                Err(_) => detail(422, "Invalid assistant ID: must be a UUID"),
            },
            _ => detail(404, "Not Found"),
        }
    }

    fn one(&mut self, method: &str, id: Uuid, rest: &[&str], body: &Value) -> Reply {
        let missing = || detail(404, &format!("Assistant with ID {id} not found"));
        match (method, rest) {
            ("GET", []) => match self.assistants.get(&id) {
                Some(stored) => ok(&stored.now),
                None => detail(404, "Not Found"),
            },
            ("PATCH", []) => {
                let body = object(body);
                if let Some(wrong) = wrong(&body).or_else(|| self.unknown_graph(&body)) {
                    return wrong;
                }
                if body.get("description").is_some_and(Value::is_null) {
                    return detail(422, r#"null is not of type "string""#);
                }
                match self.assistants.get_mut(&id) {
                    Some(stored) => {
                        stored.patch(&body);
                        ok(&stored.now)
                    }
                    None => missing(),
                }
            }
            ("DELETE", []) => match self.assistants.remove(&id) {
                Some(_) => Reply(204, Vec::new(), String::new()),
                None => missing(),
            },
            ("POST", ["versions"]) => match self.assistants.get(&id) {
                Some(stored) => ok(&stored.versions.iter().rev().cloned().collect()),
                None => missing(),
            },
            _ => detail(405, "Method Not Allowed"),
        }
    }

    fn create(&mut self, body: &Map<String, Value>) -> Reply {
        if let Some(wrong) = wrong(body).or_else(|| self.unknown_graph(body)) {
            return wrong;
        }
        if !body.contains_key("graph_id") {
            return detail(422, r#""graph_id" is a required property"#);
        }
        let id = body.get("assistant_id").and_then(Value::as_str);
        let id = id.map_or_else(Uuid::new_v4, |id| Uuid::try_parse(id).expect("a uuid"));
        if let Some(stored) = self.assistants.get(&id) {
            return match body.get("if_exists").and_then(Value::as_str) {
                Some("do_nothing") => ok(&stored.now),
                _ => detail(409, &format!("Assistant {id} already exists")),
            };
        }
        let made = create(id, body.clone());
        let reply = ok(&made.now);
        self.assistants.insert(id, made);
        reply
    }

    fn unknown_graph(&self, body: &Map<String, Value>) -> Option<Reply> {
        let (known, graph) = (self.graphs.as_ref()?, body.get("graph_id")?.as_str()?);
        let is_known = known.iter().any(|known| known == graph);
        (!is_known).then(|| {
            detail(
                404,
                &format!("Graph '{graph}' not found. Expected one of: {known:?}"),
            )
        })
    }

    fn matching(&self, body: &Map<String, Value>) -> Vec<&Value> {
        let metadata = body.get("metadata").and_then(Value::as_object);
        let contains = |assistant: &Value| {
            let mut wanted = metadata.into_iter().flatten();
            wanted.all(|(key, value)| assistant["metadata"].get(key) == Some(value))
        };
        let all = self.assistants.values().map(|stored| &stored.now);
        all.filter(|assistant| contains(assistant)).collect()
    }

    fn search(&self, body: &Map<String, Value>) -> Reply {
        if let Some(unknown) = self.unknown_graph(body) {
            return unknown;
        }
        // For each of its graphs a server has an assistant of its own.
        let of_its_own = json!({"created_by": "system"});
        if let (Some(graphs), Some(wanted)) = (&self.graphs, body.get("metadata"))
            && *wanted == of_its_own
        {
            let is_wanted = |graph: &&String| body.get("graph_id").is_none_or(|id| id == *graph);
            let made = graphs.iter().filter(is_wanted);
            let made = made.map(|graph| json!({"graph_id": graph, "metadata": of_its_own}));
            return ok(&json!(made.collect::<Vec<_>>()));
        }
        let number = |name: &str, default: u64| {
            let number = body.get(name).and_then(Value::as_u64).unwrap_or(default);
            usize::try_from(number).expect("small")
        };
        let found = self.matching(body).into_iter();
        let page: Vec<&Value> = found
            .skip(number("offset", 0))
            .take(number("limit", 10))
            .collect();
        ok(&json!(page))
    }
}

/// What the official server refuses.
fn wrong(body: &Map<String, Value>) -> Option<Reply> {
    let full = |value: Option<&Value>| {
        value
            .and_then(Value::as_object)
            .is_some_and(|o| !o.is_empty())
    };
    let configurable = body
        .get("config")
        .and_then(|config| config.get("configurable"));
    if full(configurable) && full(body.get("context")) {
        return Some(detail(400, "Cannot specify both configurable and context."));
    }
    let typed = [
        ("config", "object"),
        ("context", "object"),
        ("metadata", "object"),
        ("name", "string"),
        ("graph_id", "string"),
    ];
    typed.iter().find_map(|(name, kind)| {
        let value = body.get(*name)?;
        let fits = if *kind == "object" {
            value.is_object()
        } else {
            value.is_string()
        };
        (!fits).then(|| detail(422, &format!("{value} is not of type \"{kind}\"")))
    })
}

pub fn create(id: Uuid, body: Map<String, Value>) -> Stored {
    let now = now();
    let mut stored = Stored {
        now: json!({
            "assistant_id": id, "graph_id": null, "config": {}, "context": {}, "metadata": {}, "name": "Untitled",
            "description": null, "version": 0, "created_at": now, "updated_at": now,
        }),
        versions: Vec::new(),
    };
    stored.patch(&body);
    stored.now["updated_at"] = stored.now["created_at"].clone();
    stored
}

impl Stored {
    pub fn patch(&mut self, body: &Map<String, Value>) {
        let stored = &mut self.now;
        for field in ["graph_id", "name", "description"] {
            if let Some(value) = body.get(field) {
                stored[field] = value.clone();
            }
        }
        if let Some(Value::Object(metadata)) = body.get("metadata") {
            object_mut(&mut stored["metadata"]).extend(metadata.clone());
        }
        // As a server does whose JSON went through protobuf: all numbers are doubles, and what is empty is gone.
        if let Some(Value::Object(config)) = body.get("config")
            && !config.is_empty()
        {
            let kept = config
                .iter()
                .filter(|(_, value)| **value != json!({}) && **value != json!([]));
            stored["config"] = kept
                .map(|(key, value)| (key.clone(), plain(value)))
                .collect();
            let configurable = stored["config"].get("configurable").cloned();
            stored["context"] = configurable.unwrap_or_else(|| json!({}));
        }
        if let Some(context) = body.get("context") {
            stored["context"] = plain(context);
            stored["config"]["configurable"] = plain(context);
        }
        let version = self.versions.len() + 1;
        stored["version"] = json!(version);
        stored["updated_at"] = json!(now());
        self.versions.push(stored.clone());
    }
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Number(number) => {
            let double: f64 = number.to_string().parse().expect("a number");
            Number::from_f64(double).map_or(Value::Null, Value::Number)
        }
        other => other.clone(),
    }
}

fn ok(body: &Value) -> Reply {
    Reply(StatusCode::OK.as_u16(), Vec::new(), body.to_string())
}

fn detail(status: u16, detail: &str) -> Reply {
    Reply(status, Vec::new(), json!({ "detail": detail }).to_string())
}

pub fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

pub fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("an object")
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("a time")
}
