//! Properties of what is pure: scope parsing, the mapping, hashing.

use std::collections::BTreeSet;

use agent_sync::agent::{Agent, Row, Tool};
use agent_sync::assistant::{Assistant, Content, MAPPING_VERSION};
use agent_sync::ids::AgentId;
use agent_sync::retry;
use agent_sync::scope::Scope;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zé\"\\\\]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_]{1,8}",
        Just("model_name".to_owned()),
        Just("system_prompt".to_owned()),
        Just("mcp_config".to_owned()),
        Just("supabase_organization_id".to_owned()),
        Just("thread_id".to_owned()),
        "langgraph_auth_[a-z]{1,4}",
        "__[a-z]{1,4}",
    ]
}

prop_compose! {
    fn agent()(
        organization in any::<Option<u128>>(),
        name in "[a-z ]{0,8}",
        graph_id in prop::option::of("[a-z]{0,5}"),
        system_prompt in prop::option::of(".{0,20}"),
        bag in prop::collection::btree_map(key(), json_value(), 0..6),
        tools in prop::collection::vec(("[a-c]?", "[u-w]?", any::<bool>()), 0..6),
        model_name in prop::option::of("[a-z:]{0,6}"),
    ) -> Agent {
        let non_empty = |text: String| Some(text).filter(|text| !text.is_empty());
        Agent {
            organization_id: organization.map(Uuid::from_u128),
            name: Some(name),
            graph_id,
            system_prompt,
            sampling_params: bag.into_iter().collect(),
            tools: tools
                .into_iter()
                .map(|(name, url, auth_required)| Tool { name: non_empty(name), endpoint_url: non_empty(url), auth_required })
                .collect(),
            model_name,
            ..Agent::default()
        }
    }
}

fn hash(agent: Agent, owner: &str) -> Vec<u8> {
    let id = AgentId(Uuid::from_u128(7));
    let content = Content::of(agent, "default");
    Assistant {
        id: id.canonical(),
        agent_id: id,
        owner: owner.to_owned(),
        content: &content,
    }
    .hash()
}

/// The same object with its keys inserted in the opposite order.
fn reversed(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .rev()
                .map(|(key, value)| (key, reversed(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(reversed).collect()),
        other => other,
    }
}

proptest! {
    #[test]
    fn a_scope_survives_being_written_and_read(ids in prop::collection::btree_set(any::<u128>(), 0..5)) {
        let ids: BTreeSet<Uuid> = ids.into_iter().map(Uuid::from_u128).collect();
        let scope = if ids.is_empty() { Scope::All } else { Scope::Organizations(ids) };
        prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
    }

    #[test]
    fn a_scope_forgives_case_blanks_duplicates_and_order(
        ids in prop::collection::vec(any::<u128>(), 1..5),
        blanks in prop::collection::vec("[ \t]{0,2}", 20),
        upper in any::<bool>(),
    ) {
        let mut blanks = blanks.iter().cycle();
        let mut blank = || blanks.next().cloned().unwrap_or_default();
        let messy: String = ids.iter().rev().chain(&ids)
            .map(|id| format!("{}org{}:{}{}{},", blank(), blank(), blank(), Uuid::from_u128(*id), blank()))
            .collect();
        let messy = if upper { messy.to_uppercase() } else { messy };
        let expected = Scope::Organizations(ids.into_iter().map(Uuid::from_u128).collect());
        prop_assert_eq!(messy.parse::<Scope>(), Ok(expected));
    }

    #[test]
    fn whatever_is_no_scope_is_an_error_that_names_the_entry(entry in "[a-z0-9:-]{1,20}") {
        prop_assume!(!["none", "all"].contains(&entry.as_str()));
        prop_assume!(entry.parse::<Scope>().is_err());
        let error = format!("org:{}, {entry}", Uuid::nil()).parse::<Scope>().unwrap_err();
        prop_assert_eq!(&error.entry, &entry);
        prop_assert!(error.to_string().contains(&entry));
    }

    #[test]
    fn the_hash_is_that_of_the_content_not_of_its_spelling(agent in agent()) {
        let mut respelled = agent.clone();
        respelled.sampling_params = respelled.sampling_params.into_iter().rev().map(|(k, v)| (k, reversed(v))).collect();
        respelled.sampling_params.extend([("absent".to_owned(), Value::Null)]);
        respelled.tools.reverse();
        prop_assume!(!agent.sampling_params.contains_key("absent"));
        prop_assert_eq!(hash(agent, "system"), hash(respelled, "system"));
    }

    #[test]
    fn what_all_assistants_of_an_agent_share_is_hashed_once(agent in agent(), owners in prop::collection::vec(".*", 1..4)) {
        let id = AgentId(Uuid::from_u128(7));
        let content = Content::of(agent, "default");
        let hashed = content.hashed();
        for owner in owners {
            let assistant = Assistant { id: id.canonical(), agent_id: id, owner, content: &content };
            let whole = json!([MAPPING_VERSION, content.graph_id, content.name, content.description, content.config, assistant.metadata()]);
            let expected = Sha256::digest(whole.to_string()).to_vec();
            prop_assert_eq!(&assistant.hash_after(hashed.clone()), &expected);
            prop_assert_eq!(assistant.hash(), expected);
        }
    }

    #[test]
    fn every_part_of_the_content_moves_the_hash(agent in agent()) {
        let before = hash(agent.clone(), "system");
        prop_assert_ne!(&before, &hash(agent.clone(), "somebody"));
        let changed = |change: fn(&mut Agent)| {
            let mut agent = agent.clone();
            change(&mut agent);
            hash(agent, "system")
        };
        prop_assert_ne!(&before, &changed(|a| a.name = Some("NEW".into())));
        prop_assert_ne!(&before, &changed(|a| a.description = Some("NEW".into())));
        prop_assert_ne!(&before, &changed(|a| a.graph_id = Some("NEW".into())));
        prop_assert_ne!(&before, &changed(|a| a.system_prompt = Some("NEW prompt that is longer than any".into())));
        prop_assert_ne!(&before, &changed(|a| a.model_name = Some("NEW".into())));
        prop_assert_ne!(&before, &changed(|a| a.organization_id = Some(Uuid::from_u128(42))));
        prop_assert_ne!(&before, &changed(|a| a.assistant_tool_ids = vec!["NEW".into()]));
        prop_assert_ne!(&before, &changed(|a| _ = a.sampling_params.insert("NEW".into(), json!(1))));
        prop_assert_ne!(&before, &changed(|a| a.tools.push(Tool {
            name: Some("NEW".into()), endpoint_url: Some("NEW".into()), auth_required: false,
        })));
    }

    #[test]
    fn the_bag_never_sets_what_is_ours(agent in agent()) {
        let content = Content::of(agent.clone(), "default");
        let configurable = content.config["configurable"].as_object().unwrap();
        let ours = ["supabase_organization_id", "model_name", "system_prompt", "agent_tools", "mcp_config"];
        prop_assert_eq!(configurable.get("supabase_organization_id").cloned(), agent.organization_id.map(|id| json!(id)));
        prop_assert_eq!(configurable.get("system_prompt").cloned(), agent.system_prompt.clone().map(Value::from));
        let model = agent.model_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
        prop_assert_eq!(&configurable["model_name"], &json!(model));
        for (key, value) in configurable {
            prop_assert!(!value.is_null());
            prop_assert!(!key.starts_with("__") && !key.starts_with("langgraph_auth_") && key != "thread_id");
            prop_assert!(ours.contains(&key.as_str()) || agent.sampling_params.get(key) == Some(value));
        }
    }

    #[test]
    fn any_json_object_for_a_row_is_decoded_or_refused_without_a_panic(row in json_value(), tools in json_value()) {
        let row = Row {
            id: AgentId(Uuid::nil()),
            agent: json!({"status": "active", "name": row, "sampling_params": tools, "assistant_tool_ids": row}).to_string(),
            tools: Some(json!([{"tool_name": row}]).to_string()),
            model: Some(tools.to_string()),
            too_large: None,
        };
        let _ = row.head();
        let _ = row.decode();
    }

    #[test]
    fn the_delay_of_a_failing_agent_grows_and_stays_within_its_bounds(failures in 1i32..1000) {
        let delay = retry::agent_delay(failures).as_secs_f64();
        let nominal = 2f64.powi(failures.min(20) - 1).min(300.0);
        prop_assert!(delay >= nominal * 0.79 && delay <= nominal * 1.21, "{delay} after {failures}");
    }
}

#[test]
fn scopes_in_all_their_spellings() {
    for (text, scope) in [
        ("", Scope::None),
        (" , ", Scope::None),
        ("None", Scope::None),
        ("none,NONE", Scope::None),
        (" ALL ", Scope::All),
        ("all, all,", Scope::All),
    ] {
        assert_eq!(text.parse::<Scope>(), Ok(scope), "{text:?}");
    }
    let id = Uuid::nil();
    for (text, entry) in [
        (format!("all,org:{id}"), "all"),
        (format!("org:{id},none"), "none"),
        ("org:".to_owned(), "org:"),
        (
            format!("organization:{id}"),
            "organization:00000000-0000-0000-0000-000000000000",
        ),
        ("none,all".to_owned(), "none"),
    ] {
        assert_eq!(text.parse::<Scope>().unwrap_err().entry, entry, "{text}");
    }
}

#[test]
fn objects_are_sorted_by_key() {
    // A crate that switched serde_json's `preserve_order` on would quietly make every hash depend on spelling.
    let map: Map<String, Value> = [("b".to_owned(), json!(1)), ("a".to_owned(), json!(2))]
        .into_iter()
        .collect();
    assert_eq!(Value::Object(map).to_string(), r#"{"a":2,"b":1}"#);
}

#[test]
fn the_hash_of_a_known_agent_moves_only_with_the_mappings_version() {
    let id = AgentId(Uuid::from_u128(1));
    let content = Content::of(
        Agent {
            name: Some("a".into()),
            ..Default::default()
        },
        "m",
    );
    let assistant = Assistant {
        id: id.canonical(),
        agent_id: id,
        owner: "system".to_owned(),
        content: &content,
    };
    let hex: String = assistant
        .hash()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        (agent_sync::assistant::MAPPING_VERSION, hex.as_str()),
        (
            1,
            "7860f8a53dfe6b85dcf6e7dc3328302514d13935d3adc389d9487f7fbe08373c"
        )
    );
}
