//! Golden pairs: an agent's rows, and the assistant that they map to. `tests/fixtures/mapping/*.json`.

use std::path::Path;

use agent_sync::agent::Row;
use agent_sync::assistant::{Assistant, Content};
use agent_sync::ids::{AgentId, SYSTEM};
use serde_json::{Value, json};

fn map(fixture: &Value) -> Value {
    let rows = &fixture["rows"];
    let text = |part: &str| rows.get(part).map(ToString::to_string);
    let id = AgentId(
        rows["agent"]["id"]
            .as_str()
            .expect("an id")
            .parse()
            .expect("a uuid"),
    );
    let row = Row {
        id,
        agent: text("agent").expect("an agent"),
        tools: text("tools"),
        model: text("model"),
        too_large: None,
    };
    match row.head().map(|head| head.is_active()) {
        Ok(false) => return json!({ "inactive": true }),
        Ok(true) => {}
        Err(e) => return json!({ "error": e.to_string() }),
    }
    let content = match row.decode() {
        Ok(agent) => Content::of(agent, "openai:gpt-4o"),
        Err(e) => return json!({ "error": e.to_string() }),
    };
    let assistant = Assistant {
        id: id.canonical(),
        agent_id: id,
        owner: SYSTEM.to_owned(),
        content: &content,
    };
    json!({
        "graph_id": content.graph_id,
        "name": content.name,
        "description": content.description,
        "config": content.config,
        "metadata": assistant.metadata(),
    })
}

#[test]
fn each_agent_maps_to_the_assistant_beside_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mapping");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let fixture: Value =
            serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        let mapped = map(&fixture);
        assert_eq!(
            mapped,
            fixture["assistant"],
            "{}:\n{mapped:#}",
            path.display()
        );
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} golden pairs were found");
}

/// As jsonb writes it, shorter keys first. Sorted, as the mapping writes it, it would not be read again.
#[test]
fn a_key_that_cannot_be_kept_fails_its_agent() {
    let bag = r#"{"x":[{"a":1,"$serde_json::private::Number":"canary"}]}"#;
    let row = Row {
        id: AgentId(uuid::Uuid::nil()),
        agent: format!(r#"{{"sampling_params":{bag}}}"#),
        tools: None,
        model: None,
        too_large: None,
    };
    let error = row.decode().expect_err("refused").to_string();
    assert_eq!(
        error,
        "agents.sampling_params has a key that cannot be kept"
    );
}
