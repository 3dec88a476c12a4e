//! A row of `public.agents` with its tools and its model, on a line each → what its assistant says.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::assert_survives_storing;
use crate::agent::{Agent, DecodeError, Row};
use crate::assistant::{Assistant, Content};
use crate::ids::AgentId;

const NEVER_FROM_THE_BAG: [&str; 9] = [
    "agent_tools",
    "assistant_id",
    "mcp_config",
    "model_name",
    "run_id",
    "supabase_organization_id",
    "system_prompt",
    "thread_id",
    "user_id",
];

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let agent = lines.next().unwrap_or_default().to_owned();
    let mut part = || lines.next().filter(|line| !line.is_empty());
    let row = Row {
        id: AgentId(Uuid::from_u128(7)),
        too_large: None,
        agent,
        tools: part().map(str::to_owned),
        model: part().map(str::to_owned),
    };

    match row.head() {
        Ok(head) => {
            // (serde takes an array for a struct, too.)
            if let Ok(raw) = serde_json::from_str::<Map<String, Value>>(&row.agent) {
                let active = raw.get("status").is_none_or(|status| status == "active")
                    && raw.get("deleted_at").is_none_or(Value::is_null);
                assert_eq!(head.is_active(), active);
            }
        }
        Err(error) => assert_says_no_value(&error),
    }
    match row.decode() {
        Ok(agent) => decoded(&row, agent),
        Err(error) => assert_says_no_value(&error),
    }
}

fn decoded(row: &Row, agent: Agent) {
    let object = |text: &str| {
        let fields = serde_json::from_str::<Map<String, Value>>(text);
        Value::Object(fields.expect("decoded already"))
    };
    let raw = object(&row.agent);
    let model = row.model.as_deref().map_or(Value::Null, object);
    let tools = row.tools.as_deref().map_or("[]", |tools| tools);
    let tools: Value = serde_json::from_str(tools).expect("decoded already");
    let content = Content::of(agent, "default");
    assert_eq!(content.config, expected(&raw, &tools, &model));
    assert_survives_storing(&content.config);
    let text = |column: &str| raw[column].as_str().map(str::to_owned);
    assert_eq!(content.name, text("name"));
    assert_eq!(content.description, text("description"));
    let graph = text("graph_id").filter(|graph| !graph.is_empty());
    assert_eq!(content.graph_id, graph.as_deref().unwrap_or("agent"));

    // Another spelling of the same row, with its tools in another order, is the same content.
    let reversed: Value = tools
        .as_array()
        .into_iter()
        .flatten()
        .rev()
        .cloned()
        .collect();
    let spelled = |value: &Value| {
        let text = format!("{value:#}");
        // What is of no interest to the mapping may have keys that cannot be kept.
        let read: Result<Value, _> = serde_json::from_str(&text);
        read.is_ok_and(|read| read == *value).then_some(text)
    };
    if let (Some(agent), Some(tools), Some(model)) =
        (spelled(&raw), spelled(&reversed), spelled(&model))
    {
        let respelled = Row {
            id: row.id,
            too_large: None,
            agent,
            tools: Some(tools),
            model: row.model.is_some().then_some(model),
        };
        let again = Content::of(respelled.decode().expect("as before"), "default");
        assert_eq!(
            hash(row.id, &content, "system"),
            hash(row.id, &again, "system")
        );
    }
    assert_ne!(
        hash(row.id, &content, "system"),
        hash(row.id, &content, "another")
    );
}

fn hash(agent_id: AgentId, content: &Content, owner: &str) -> Vec<u8> {
    let assistant = Assistant {
        id: agent_id.canonical(),
        agent_id,
        owner: owner.to_owned(),
        content,
    };
    assistant.hash()
}

fn expected(agent: &Value, tools: &Value, model: &Value) -> Value {
    let mut expected = Map::new();
    match &agent["sampling_params"] {
        Value::Object(bag) => expected.extend(bag.clone()),
        _ => {
            for column in ["temperature", "max_tokens"] {
                expected.insert(column.to_owned(), agent[column].clone());
            }
        }
    }
    for ours in NEVER_FROM_THE_BAG {
        expected.remove(ours);
    }
    expected.retain(|key, value| {
        !value.is_null() && !key.starts_with("__") && !key.starts_with("langgraph_auth_")
    });
    if let Some(id) = agent["organization_id"].as_str() {
        let id = Uuid::try_parse(id).expect("decoded already").to_string();
        expected.insert("supabase_organization_id".to_owned(), json!(id));
    }
    let model = match model["runtime_model_name"].as_str() {
        None | Some("") => "default",
        Some(name) => name,
    };
    expected.insert("model_name".to_owned(), json!(model));
    if agent["system_prompt"].is_string() {
        expected.insert("system_prompt".to_owned(), agent["system_prompt"].clone());
    }
    let none = Vec::new();
    let ids = agent["assistant_tool_ids"].as_array().unwrap_or(&none);
    let ids: Vec<&Value> = ids.iter().filter(|id| !id.is_null()).collect();
    if !ids.is_empty() {
        expected.insert("agent_tools".to_owned(), json!(ids));
    }
    let served = |tool: &&Value| {
        let is_set = |column: &str| tool[column].as_str().is_some_and(|text| !text.is_empty());
        is_set("endpoint_url") && is_set("tool_name")
    };
    let tools: Vec<&Value> = tools
        .as_array()
        .unwrap_or(&none)
        .iter()
        .filter(served)
        .collect();
    let mut urls: Vec<_> = tools
        .iter()
        .filter_map(|tool| tool["endpoint_url"].as_str())
        .collect();
    urls.sort_unstable();
    urls.dedup();
    let servers: Vec<Value> = urls
        .iter()
        .map(|url| {
            let of_url = || tools.iter().filter(|tool| tool["endpoint_url"] == *url);
            json!({
                "url": url,
                "name": of_url().filter_map(|tool| tool["tool_name"].as_str()).min(),
                "auth_required": of_url().any(|tool| tool["auth_required"] == true),
            })
        })
        .collect();
    if !servers.is_empty() {
        expected.insert("mcp_config".to_owned(), json!({ "servers": servers }));
    }
    json!({ "configurable": expected })
}

/// An error is made of words of ours and of positions: a value may be a prompt, or a secret.
fn assert_says_no_value(error: &DecodeError) {
    let text = error.to_string();
    let is_known = |table: &str| ["agents", "mcp_tools", "ai_models"].contains(&table);
    let found = [
        "null",
        "a boolean",
        "a number",
        "text",
        "an array",
        "an object",
    ];
    let wanted = [
        "text",
        "a boolean",
        "a finite number",
        "a JSON object",
        "an array of uuids",
    ];
    let columns = [
        "sampling_params",
        "temperature",
        "max_tokens",
        "name",
        "description",
        "graph_id",
        "system_prompt",
        "assistant_tool_ids",
        "tool_name",
        "endpoint_url",
        "auth_required",
        "runtime_model_name",
    ];
    let fits = match text.split_once(" is ") {
        Some((column, kinds)) => {
            let (table, column) = column.split_once('.').unwrap_or_default();
            let (a, b) = kinds.split_once(", expected ").unwrap_or_default();
            is_known(table)
                && columns.contains(&column)
                && found.contains(&a)
                && wanted.contains(&b)
        }
        None => {
            let digits = |c: char| c.is_ascii_digit();
            let without: String = text.chars().filter(|c| !digits(*c)).collect();
            ["agents", "mcp_tools", "ai_models"].iter().any(|table| {
                without == format!("the row of {table} cannot be read as JSON (line , column )")
                    || without == format!("{table}.sampling_params has a key that cannot be kept")
            })
        }
    };
    assert!(fits, "{text}");
}
