//! After a dry run has said what a sync would do, a sync does just that, and then there is nothing left to do.

use std::collections::BTreeMap;

use agent_sync::access::Access;
use agent_sync::assistant::METADATA_KEYS;
use agent_sync::config::{MAX_REMOVALS, Settings};
use agent_sync::ids::AgentId;
use agent_sync::plan::{Claim, IfExists};
use agent_sync::store::Place;
use agent_sync::store::langgraph::Server;
use agent_sync::syncer::{Entrance, Syncer};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Setting, document};
use crate::support::dice::Dice;
use crate::support::edits::edit_at_random;

/// How many removals each round allows; and whether an operator allows all of them anyway. Unset: only where all agents are one batch, as
/// the limit is a share of those that have an assistant, and each batch makes that more.
const ROUNDS: [(&str, bool); 6] = [
    ("1000", false),
    ("5", false),
    ("0", false),
    ("unlimited", false),
    ("", false),
    ("0", true),
];

/// The seed of this run; `SEED=n` replays another.
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok();
    seed.and_then(|seed| seed.parse().ok())
        .unwrap_or(20_261_123)
}

#[tokio::test]
async fn what_a_dry_run_says_of_a_table_a_sync_does_and_then_nothing_is_left() {
    comes_about(&Setting::table().await, seed()).await;
}

#[tokio::test]
async fn what_a_dry_run_says_of_a_server_a_sync_does_and_then_nothing_is_left() {
    comes_about(&Setting::server().await, seed() + 1).await;
}

/// Again and again: random edits, things that happen behind our back, a dry run, a sync, and another dry run.
async fn comes_about(setting: &Setting, seed: u64) {
    let db = &setting.db;
    db.execute(agent_sync::demo::DATA).await;
    let mut dice = Dice::nth(0, seed);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for (round, (limit, is_allowed)) in (0..).zip(ROUNDS) {
        println!("seed {seed}, round {round}");
        edit_at_random(&db.superuser_url, seed + round, 2, 40, 0).await;
        meddle(setting, &mut dice, round).await;
        let allow: &[&str] = if is_allowed {
            &["--allow-removals"]
        } else {
            &[]
        };
        let args = [&["--scope", "all", "--json"], allow].concat();
        let limit = match setting.server {
            Some(_) if limit.is_empty() => "5",
            _ => limit,
        };
        let variables = [(MAX_REMOVALS, limit)];

        let before = assistants(setting).await;
        let planning = [&args[..], &["--dry-run"]].concat();
        let plan = setting.sync_with(&planning, &variables).await;
        assert_eq!(assistants(setting).await, before);
        let synced = setting.sync_with(&args, &variables).await;
        assert_eq!(plan.code, synced.code, "{plan:?} {synced:?}");
        let (plan, report) = (document(&plan), document(&synced));
        assert_eq!(planned(&plan), done(&report), "seed {seed}, round {round}");
        assert_same_counts(&plan, &report);
        let after = assistants(setting).await;
        assert_fields(&plan, &before, &after);
        for action in planned(&plan).into_values() {
            *seen.entry(action).or_default() += 1;
        }

        let again = setting.sync_with(&planning, &variables).await;
        let again = document(&again);
        let left = |action: &str| again["summary"][action].as_u64();
        assert_eq!(
            ["create", "update", "remove"].map(left),
            [Some(0); 3],
            "seed {seed}, round {round}: {again}"
        );
        for troubled in ["held", "failed", "conflict"] {
            assert_eq!(again["summary"][troubled], plan["summary"][troubled]);
        }
    }
    println!("{seen:?}");
    for action in ["create", "update", "remove", "held", "failed", "conflict"] {
        assert!(seen.contains_key(action), "no {action} in {seen:?}");
    }
}

/// What the plan says of each agent that is to be touched, or would be if it could.
fn planned(plan: &Value) -> BTreeMap<String, String> {
    let agents = plan["agents"].as_array().expect("agents").iter();
    let said = agents.map(|agent| (text(&agent["agent_id"]), text(&agent["action"])));
    // Its row is to name its assistant, that is all.
    said.filter(|(_, action)| action != "unchanged").collect()
}

/// What a sync says that it has done, in the plan's words.
fn done(report: &Value) -> BTreeMap<String, String> {
    let agents = report["agents"].as_array().expect("agents").iter();
    let action = |outcome: &str| {
        match outcome {
            "created" => "create",
            "updated" => "update",
            "removed" | "revoked" => "remove",
            "busy" => "failed",
            other => other,
        }
        .to_owned()
    };
    agents
        .map(|agent| (text(&agent["agent_id"]), action(&text(&agent["outcome"]))))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn assert_same_counts(plan: &Value, report: &Value) {
    for (planned, done) in [
        ("create", "created"),
        ("update", "updated"),
        ("remove", "removed"),
        ("unchanged", "skipped"),
        ("conflict", "conflict"),
        ("held", "held"),
        ("failed", "failed"),
    ] {
        assert_eq!(
            plan["summary"][planned], report["summary"][done],
            "{planned}"
        );
    }
}

/// What the plan says of single fields is what has changed in the assistants, as far as they hold nothing else.
fn assert_fields(plan: &Value, before: &BTreeMap<Uuid, Value>, after: &BTreeMap<Uuid, Value>) {
    for agent in plan["agents"].as_array().expect("agents") {
        for assistant in agent["assistants"].as_array().expect("assistants") {
            let id: Uuid = text(&assistant["assistant_id"]).parse().expect("a uuid");
            match assistant["action"].as_str() {
                Some("create" | "update") => {}
                Some("remove") => {
                    assert!(before.contains_key(&id) && !after.contains_key(&id));
                    continue;
                }
                _ => {
                    assert_eq!(before.get(&id), after.get(&id), "{assistant}");
                    continue;
                }
            }
            let old = before.get(&id).map(scalars).unwrap_or_default();
            let new = scalars(&after[&id]);
            let mut changed: BTreeMap<&str, (Value, Value)> = BTreeMap::new();
            for path in old.keys().chain(new.keys()) {
                let side = |fields: &BTreeMap<String, Value>| {
                    fields.get(path).cloned().unwrap_or_default()
                };
                if side(&old) != side(&new) {
                    changed.insert(path, (side(&old), side(&new)));
                }
            }
            let fields = assistant["fields"].as_array().expect("fields").iter();
            let told: BTreeMap<&str, (Value, Value)> = fields
                .map(|field| {
                    let path = field["path"].as_str().expect("a path");
                    (path, (plain(&field["before"]), plain(&field["after"])))
                })
                .filter(|(path, _)| old.contains_key(*path) || new.contains_key(*path))
                .collect();
            assert_eq!(told, changed, "{assistant}");
        }
    }
}

/// The parts of an assistant that hold nothing else and are short enough to be told as they are.
fn scalars(assistant: &Value) -> BTreeMap<String, Value> {
    let mut scalars = BTreeMap::new();
    let mut add = |path: String, value: &Value| {
        if !(value.is_null() || value.is_array() || value.is_object() || value == "") {
            scalars.insert(path, plain(value));
        }
    };
    for name in ["name", "graph_id", "description"] {
        add(name.to_owned(), &assistant[name]);
    }
    for (key, value) in assistant["config"]["configurable"]
        .as_object()
        .expect("configurable")
    {
        add(format!("config.configurable.{key}"), value);
    }
    for key in ["owner", "supabase_agent_id", "supabase_organization_id"] {
        add(format!("metadata.{key}"), &assistant["metadata"][key]);
    }
    // Of what is not ours, only that it is there.
    let metadata = assistant["metadata"].as_object().into_iter().flatten();
    let foreign =
        metadata.filter(|(key, value)| !METADATA_KEYS.contains(&key.as_str()) && !value.is_null());
    scalars.extend(foreign.map(|(key, _)| (format!("metadata.{key}"), json!("(not shown)"))));
    scalars
}

/// 1 and 1.0 are one number to servers.
fn plain(value: &Value) -> Value {
    value.as_f64().map_or(value.clone(), Value::from)
}

/// All that exist, wherever they live.
async fn assistants(setting: &Setting) -> BTreeMap<Uuid, Value> {
    let all: Vec<Value> = match &setting.server {
        Some(server) => server.assistants(),
        None => {
            // Not there before the first sync.
            let there = "select to_regclass('langgraph_server.assistants') is not null";
            if !setting.db.rows(there, &[]).await[0].get::<_, bool>(0) {
                return BTreeMap::new();
            }
            let statement = "select to_jsonb(a) || jsonb_build_object('assistant_id', id) from langgraph_server.assistants a";
            let rows = setting.db.rows(statement, &[]).await;
            rows.iter().map(|row| row.get(0)).collect()
        }
    };
    let id = |assistant: &Value| text(&assistant["assistant_id"]).parse().expect("a uuid");
    all.into_iter()
        .map(|assistant| (id(&assistant), assistant))
        .collect()
}

/// What happens besides edits: users ask for agents; somebody edits, deletes and makes assistants where they live; data stops making
/// sense, and makes sense again.
async fn meddle(setting: &Setting, dice: &mut Dice, round: u64) {
    let db = &setting.db;
    let active =
        "select id from public.agents where status = 'active' and deleted_at is null order by id";
    let active: Vec<Uuid> = db
        .rows(active, &[])
        .await
        .iter()
        .map(|row| row.get(0))
        .collect();
    if round > 0 {
        let syncer = syncer(setting);
        for _ in 0..4 {
            let claim = Claim {
                owner: dice.pick(&["alice", "bob"]).to_owned(),
                identity: None,
                assistant_id: None,
                if_exists: IfExists::DoNothing,
                metadata: Map::from_iter([("theirs".to_owned(), json!("mine"))]),
            };
            let agent = AgentId(dice.pick(&active));
            syncer
                .sync_now(&[agent], Entrance::Request(&claim))
                .await
                .expect("synced");
        }
    }
    let bag = match round {
        1 => r#"["no bag"]"#,
        _ => dice.pick(&[r#"["no bag"]"#, r#"{"top_p": 0.1}"#]),
    };
    let (one, other) = (dice.pick(&active), dice.pick(&active));
    db.execute(&format!(
        "update public.agents set sampling_params = '{bag}' where id = '{one}';
         update public.agents set status = 'active', deleted_at = null where id = '{other}'"
    ))
    .await;
    if round == 2 {
        // Nothing may go in this one.
        db.execute(
            "update public.agents set status = 'disabled' where id in (
               select l.agent_id from agent_sync.ledger as l join public.agents as a on a.id = l.agent_id
               where a.status = 'active' and l.content_hash is not null order by l.agent_id limit 5)",
        )
        .await;
    }
    let ours: Vec<Uuid> = assistants(setting).await.into_keys().collect();
    if ours.is_empty() {
        return;
    }
    let (edited, deleted) = (dice.pick(&ours), dice.pick(&ours));
    // As after a crash between a write and what is noted of it.
    db.execute(
        "update agent_sync.ledger set content_hash = 'another' where hashtext(assistant_id::text) % 5 = 0 and content_hash is not null",
    )
    .await;
    let (squatted, adopted) = (Uuid::new_v4(), Uuid::new_v4());
    let agents = [squatted, adopted]
        .map(|id| format!("('{id}', 'found {id}', 'active')"))
        .join(", ");
    db.execute(&format!(
        "insert into public.agents (id, name, status) values {agents}"
    ))
    .await;
    let found = |owner: &str| json!({"graph_id": "g", "name": "theirs", "metadata": {"owner": owner, "theirs": 1}, "config": {"configurable": {"a": 1}}});
    match &setting.server {
        Some(server) => {
            server.patch(
                edited,
                json!({"name": "edited", "config": {"configurable": {"a": 1}, "tags": ["t"]}}),
            );
            server.delete(deleted);
            server.put(squatted, found("mallory"));
            server.put(adopted, found("system"));
        }
        None => {
            db.execute(&format!(
                "update langgraph_server.assistants set name = 'edited', config = config || '{{\"tags\": [\"t\"]}}' where id = '{edited}';
                 delete from langgraph_server.assistants where id = '{deleted}'"
            ))
            .await;
            for (id, owner) in [(squatted, "mallory"), (adopted, "system")] {
                db.execute(&format!(
                    "insert into langgraph_server.assistants (id, graph_id, name, config, metadata)
                     select '{id}', f->>'graph_id', f->>'name', f->'config', f->'metadata' from (select '{}'::jsonb as f) as f",
                    found(owner)
                ))
                .await;
            }
        }
    }
}

pub fn syncer(setting: &Setting) -> Syncer {
    let syncer = Syncer::new(setting.db.pool(), Access::open(), Settings::default());
    match &setting.server {
        None => syncer,
        Some(server) => {
            let server = Server::new(&server.config());
            syncer.writing_to(Place::Server(server.into()))
        }
    }
}
