//! The body of a request → what is stored of it, and what an answer shows.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{assert_survives_storing, has_nul};
use crate::http::assistants::bare;
use crate::http::auth::{Caller, User};
use crate::http::body::{Extent, parse};
use crate::http::create::AssistantCreate;
use crate::http::fields::assistant_id;
use crate::http::patch;
use crate::http::search::AssistantSearch;
use crate::http::versions;
use crate::ids::AssistantId;
use crate::store::memory::Memory;
use crate::store::{Changed, Listed, New, Patch, Viewer};

/// Never what a client sends.
const OURS: [&str; 4] = [
    "owner",
    "supabase_agent_id",
    "supabase_organization_id",
    "synced_at",
];
const NOT_METADATA: [&str; 5] = [
    "assistant_id",
    "counters_since_delta_snapshot",
    "cron_id",
    "run_id",
    "thread_id",
];
const NOT_CONFIGURABLE: [&str; 15] = [
    "__after_seconds__",
    "__context_provided__",
    "__dd_trace_headers__",
    "__langsmith_example_id__",
    "__langsmith_project__",
    "__otel_traceparent__",
    "__otel_tracestate__",
    "__pregel_node_finished",
    "__request_start_time_ms__",
    "langgraph_auth_permissions",
    "langgraph_auth_user",
    "langgraph_auth_user_id",
    "langgraph_request_id",
    "supabase_agent_id",
    "supabase_organization_id",
];

type Object = Map<String, Value>;

pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = assistant_id(text)
    {
        let digits = |text: &str| text.replace(|c: char| !c.is_ascii_hexdigit(), "");
        let written = digits(text.strip_prefix("urn:uuid:").unwrap_or(text));
        assert_eq!(digits(&id.to_string()), written.to_lowercase());
    }
    let Ok(body) = parse(data) else {
        return;
    };
    let extent = Extent::of(data);
    let (depth, values) = extent_of(&body);
    assert!(depth <= extent.depth.min(100) && values <= extent.values.min(20_000));
    create(&body);
    search(&body);
    patched(&body);
    versions(&body);
    restored(&body);
}

fn user() -> Caller {
    Caller::User(User {
        id: Uuid::from_u128(1),
        claims: Map::new().into(),
    })
}

fn create(body: &Value) {
    let Ok(create) = AssistantCreate::parse(body.clone()) else {
        return;
    };
    let sent = body["metadata"].as_object().cloned().unwrap_or_default();
    let agent = sent.get("supabase_agent_id").filter(|id| !id.is_null());
    assert_eq!(create.agent, agent.map(without_nul));
    assert_configuration(&create.config, &create.context);
    let kept = kept(&sent, &[&OURS, &NOT_METADATA]);
    assert_eq!(create.metadata, kept);

    let caller = user();
    let id = AssistantId(Uuid::from_u128(2));
    let Ok(new) = bare(&caller, id, create.clone()) else {
        assert!(create.graph_id.is_none());
        return;
    };
    assert_new(&new, &kept, &caller.owner());
    let memory = Memory::default();
    let created = memory.create(new, OffsetDateTime::UNIX_EPOCH);
    let answer = created.expect("a free id").to_json();
    assert_survives_storing(&answer);
    assert!(!has_nul(&answer), "{answer}");

    // An answer that is sent back, without one of the two names of the same thing, is the same assistant.
    let mut back = answer;
    back.as_object_mut().expect("an object").remove("context");
    let again = AssistantCreate::parse(back).expect("an answer is a body");
    let differs = AssistantCreate {
        assistant_id: Some(id),
        agent: None,
        if_exists: again.if_exists,
        ..create
    };
    assert_eq!(again, differs);
}

fn assert_new(new: &New, kept: &Object, owner: &str) {
    let mut expected = kept.clone();
    expected.insert("owner".to_owned(), json!(owner));
    assert_eq!(new.metadata, expected);
    let texts = json!([new.graph_id, new.name, new.description]);
    assert!(!has_nul(&texts), "{texts}");
}

fn patched(body: &Value) {
    let Ok(patch) = patch::parse(body.clone()) else {
        return;
    };
    let sent = body["metadata"].as_object();
    assert_eq!(
        patch.metadata,
        sent.map(|sent| kept(sent, &[&OURS, &NOT_METADATA]))
    );
    if let (Some(config), Some(context)) = (&patch.config, &patch.context) {
        assert_configuration(config, context);
    }
    let (config, context) = (patch.config.as_ref(), patch.context.as_ref());
    let one_sided = [
        config.and_then(|config| config.get("configurable")?.as_object()),
        context,
    ];
    if !(config.is_some() && context.is_some()) {
        // Nothing of what has two names is changed under one of them only.
        assert!(one_sided.into_iter().flatten().all(Map::is_empty));
    }

    let (owner, id) = (user().owner(), AssistantId(Uuid::from_u128(2)));
    let ours = json!({"owner": owner, "supabase_agent_id": "a", "supabase_organization_id": "o", "synced_at": "s"});
    let stored = New {
        id,
        graph_id: "agent".to_owned(),
        config: Map::new(),
        context: Map::new(),
        metadata: ours.as_object().expect("an object").clone(),
        name: "before".to_owned(),
        description: None,
    };
    let memory = Memory::default();
    let now = OffsetDateTime::UNIX_EPOCH;
    memory.create(stored, now).expect("a free id");
    assert_eq!(
        memory.patch(id, "another", patch.clone(), now),
        Changed::NotTheirs
    );
    let after = match memory.patch(id, &owner, patch, now) {
        Changed::Done(after) => after,
        Changed::TooLarge => return,
        other => panic!("the owner may patch: {other:?}"),
    };
    for key in OURS {
        assert_eq!(after.metadata.get(key), ours.get(key), "{key}");
    }
    let after = after.to_json();
    assert_survives_storing(&after);
    assert!(!has_nul(&after), "{after}");
}

/// An assistant of `owner` with this metadata, and two patches: named after its three versions.
fn changed_twice(metadata: &Object, owner: &str) -> (Memory, AssistantId) {
    let (memory, id) = (Memory::default(), AssistantId(Uuid::from_u128(2)));
    let mut metadata = metadata.clone();
    metadata.insert("owner".to_owned(), json!(owner));
    let new = New {
        id,
        graph_id: "agent".to_owned(),
        config: Map::new(),
        context: Map::new(),
        metadata,
        name: "1".to_owned(),
        description: None,
    };
    let now = OffsetDateTime::UNIX_EPOCH;
    memory.create(new, now).expect("a free id");
    for name in ["2", "3"] {
        let patch = Patch {
            name: Some(name.to_owned()),
            ..Patch::default()
        };
        let patched = memory.patch(id, owner, patch, now);
        assert!(matches!(patched, Changed::Done(_) | Changed::TooLarge));
    }
    (memory, id)
}

fn versions(body: &Value) {
    let Ok(asked) = versions::parse(body.clone()) else {
        return;
    };
    assert!((1..=1000).contains(&asked.limit) && asked.offset >= 0);
    let metadata = json!(asked.metadata);
    assert_survives_storing(&metadata);
    assert!(!has_nul(&metadata), "{metadata}");
    let owner = user().owner();
    let (memory, id) = changed_twice(&asked.metadata, &owner);
    let finds_them = [None, Some(&json!(owner))].contains(&asked.metadata.get("owner"));
    let expected: Vec<i32> = [3, 2, 1]
        .into_iter()
        .filter(|_| finds_them)
        .skip(usize::try_from(asked.offset).expect("not negative"))
        .take(usize::try_from(asked.limit).expect("not negative"))
        .collect();
    let Some(Listed { found, .. }) = memory.versions(id, &asked) else {
        return;
    };
    let listed: Vec<i32> = found.iter().map(|found| found.assistant.version).collect();
    assert_eq!(listed, expected);
}

fn restored(body: &Value) {
    let Ok(version) = versions::parse_latest(body.clone()) else {
        return;
    };
    let sent = body.get("version").map(ToString::to_string);
    assert_eq!(version, sent.map(|sent| sent.parse().expect("a number")));
    let owner = user().owner();
    let (memory, id) = changed_twice(&Map::new(), &owner);
    let now = OffsetDateTime::UNIX_EPOCH;
    let wanted = version.unwrap_or_default();
    assert_eq!(
        memory.restore(id, "another", wanted, now),
        Changed::NotTheirs
    );
    match memory.restore(id, &owner, wanted, now) {
        Changed::Done(restored) => assert_eq!(restored.name, Some(wanted.to_string())),
        other => assert!(other == Changed::NoVersion && !(1..=3).contains(&wanted)),
    }
}

fn search(body: &Value) {
    let Ok(search) = AssistantSearch::parse(body.clone()) else {
        return;
    };
    let (filter, page) = (&search.filter, search.page);
    assert!((1..=1000).contains(&page.limit) && page.offset >= 0);
    let asked = json!([filter.metadata, filter.graph_id, filter.name]);
    assert_survives_storing(&asked);
    assert!(!has_nul(&asked), "{asked}");

    let viewer = Viewer {
        owner: user().owner(),
        agents: None,
    };
    let memory = Memory::default();
    for (n, owner) in [(1, viewer.owner.as_str()), (2, "another")] {
        let mut metadata = filter.metadata.clone();
        metadata.insert("owner".to_owned(), json!(owner));
        let new = New {
            id: AssistantId(Uuid::from_u128(n)),
            graph_id: filter.graph_id.clone().unwrap_or_default(),
            config: Map::new(),
            context: Map::new(),
            metadata,
            name: filter.name.clone().unwrap_or_default(),
            description: None,
        };
        memory.create(new, OffsetDateTime::UNIX_EPOCH);
    }
    let Some(Listed { found, more }) = memory.search(&viewer, filter, page, &search.select) else {
        return;
    };
    assert!(!more, "one is all there is");
    assert!(found.iter().all(|found| found.is_of(&viewer.owner)));
    let finds_itself = filter
        .metadata
        .get("owner")
        .is_none_or(|owner| *owner == json!(viewer.owner));
    assert_eq!(memory.count(&viewer, filter), i64::from(finds_itself));
    assert_eq!(found.len(), usize::from(finds_itself && page.offset == 0));
    let fields = body["select"].as_array().filter(|names| !names.is_empty());
    for found in found {
        let whole = found.assistant.to_json();
        let shown = search.selected(whole.clone());
        for (name, value) in whole.as_object().expect("an object") {
            let asked = fields.is_none_or(|fields| fields.contains(&json!(name)));
            assert_eq!(shown.get(name), asked.then_some(value));
        }
    }
}

/// What of an object is stored.
fn kept(sent: &Object, without: &[&[&str]]) -> Object {
    let Value::Object(mut kept) = without_nul(&Value::Object(sent.clone())) else {
        unreachable!("an object stays one")
    };
    for key in without.iter().copied().flatten() {
        kept.remove(*key);
    }
    kept
}

/// Postgres cannot hold NUL. (A key with one is refused.)
fn without_nul(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => items.iter().map(without_nul).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| {
                assert!(!key.contains('\0'), "{key:?}");
                (key.clone(), without_nul(value))
            });
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

fn assert_configuration(config: &Object, context: &Object) {
    let empty = Map::new();
    let configurable = match config.get("configurable") {
        None => &empty,
        Some(configurable) => configurable.as_object().expect("an object"),
    };
    assert_eq!(configurable, context, "one thing has two names");
    for key in NOT_CONFIGURABLE {
        assert!(!configurable.contains_key(key), "{key}");
    }
    if let Some(metadata) = config.get("metadata") {
        for key in OURS.iter().chain(&NOT_METADATA) {
            assert!(metadata.get(key).is_none(), "config.metadata.{key}");
        }
    }
    let all = json!([config, context]);
    assert!(!has_nul(&all), "{all}");
}

/// How deep a value is, and how many values it has, where an object counts as ten.
fn extent_of(value: &Value) -> (usize, usize) {
    let of_all = |depths: &mut dyn Iterator<Item = (usize, usize)>, own: usize| {
        depths.fold((1, own), |(depth, values), (deeper, more)| {
            (depth.max(deeper + 1), values + more)
        })
    };
    match value {
        Value::Array(items) => of_all(&mut items.iter().map(extent_of), 1),
        Value::Object(fields) => of_all(&mut fields.values().map(extent_of), 10),
        _ => (0, 1),
    }
}
