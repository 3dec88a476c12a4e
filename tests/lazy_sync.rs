//! Lazy sync: an assistant that names an agent comes back with the agent's whole configuration.

use agent_sync::config::{ROBYN_DEV, SCOPE};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Project, TestDatabase, TestWorker, eventually};

const DEV: &[(&str, &str)] = &[(ROBYN_DEV, "true")];
const REFUND_DESK: &str = "a0000000-0000-4000-8000-000000000001";

async fn demo(variables: &[(&str, &str)]) -> (TestDatabase, TestWorker) {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let worker = TestWorker::start(&db, variables).await;
    (db, worker)
}

fn naming(agent: &str) -> Value {
    json!({"graph_id": "ignored", "name": "ignored", "config": {"tags": ["ignored"]}, "metadata": {"supabase_agent_id": agent, "color": "blue"}})
}

#[tokio::test]
async fn the_answer_is_the_agents_assistant_with_its_mcp_servers() {
    let (db, worker) = demo(DEV).await;
    let (status, body) = worker.create(naming(REFUND_DESK)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["assistant_id"], REFUND_DESK);
    assert_eq!(body["graph_id"], "agent");
    assert_eq!(body["name"], "Refund Desk");
    assert_eq!(body["version"], 1);
    let expected = json!({
        "supabase_organization_id": "0a000000-0000-4000-8000-000000000001",
        "model_name": "anthropic:claude-sonnet-4-5",
        "system_prompt": "You handle refund requests for Harbour Outfitters. Check the order before you promise anything.",
        "temperature": 0.2,
        "max_tokens": 1200,
        "mcp_config": {"servers": [
            {"name": "refund_order", "url": "https://mcp.harbour.example/orders", "auth_required": true}
        ]},
    });
    assert_eq!(body["config"], json!({"configurable": expected}));
    assert_eq!(body["context"], expected);
    let metadata = &body["metadata"];
    assert_eq!(metadata["supabase_agent_id"], REFUND_DESK);
    assert_eq!(
        metadata["supabase_organization_id"],
        "0a000000-0000-4000-8000-000000000001"
    );
    assert_eq!(metadata["owner"], "dev");
    assert_eq!(
        metadata["color"], "blue",
        "keys that are not ours are kept on an assistant that the request makes"
    );
    assert!(
        metadata["synced_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );

    // GET shows the same; asked again it is the same assistant, not a second one and not a new version.
    let path = format!("/assistants/{REFUND_DESK}");
    assert_eq!(
        worker.request("GET", &path, None).await,
        (200, body.clone())
    );
    assert_eq!(worker.create(naming(REFUND_DESK)).await, (200, body));
    assert_eq!(db.count("langgraph_server.assistants").await, 1);
    assert_eq!(
        db.count("public.agents where langgraph_assistant_id = id::text")
            .await,
        1
    );
    worker.stop().await;
}

/// One more than a user may have of an agent is made as if the request named none.
#[tokio::test]
async fn who_has_ten_assistants_of_an_agent_gets_one_without_it() {
    let (db, worker) = demo(DEV).await;
    for n in 1..=11 {
        let mut body = naming(REFUND_DESK);
        body["assistant_id"] = json!(Uuid::new_v4());
        let (status, made) = worker.create(body.clone()).await;
        assert_eq!(
            (status, &made["assistant_id"]),
            (200, &body["assistant_id"])
        );
        let name = if n <= 10 { "Refund Desk" } else { "ignored" };
        assert_eq!(made["name"], name, "{n}");
    }
    assert_eq!(db.count("agent_sync.ledger").await, 10);
    worker.stop().await;
}

#[tokio::test]
async fn a_lazily_synced_agent_is_kept_in_step_from_then_on() {
    let (db, worker) = demo(DEV).await;
    worker.create(naming(REFUND_DESK)).await;
    db.execute("update public.agents set system_prompt = 'edited' where name in ('Refund Desk', 'Gear Advisor')").await;
    db.prompted(REFUND_DESK.parse().unwrap(), "edited").await;
    assert_eq!(
        db.count("langgraph_server.assistants").await,
        1,
        "out of scope and never asked for: dropped"
    );
    let metadata = db
        .assistant(REFUND_DESK.parse().unwrap())
        .await
        .expect("an assistant")["metadata"]
        .clone();
    assert_eq!(
        (&metadata["owner"], &metadata["color"]),
        (&json!("dev"), &json!("blue"))
    );

    db.execute("update public.agents set status = 'disabled' where name = 'Refund Desk'")
        .await;
    let path = format!("/assistants/{REFUND_DESK}");
    eventually("the assistant is gone", || async {
        match worker.request("GET", &path, None).await {
            (404, body) if body == json!({"detail": "Not Found"}) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    db.execute("update public.agents set status = 'active' where name = 'Refund Desk'")
        .await;
    eventually("the assistant is back, and still its owner's", || async {
        let (status, body) = worker.request("GET", &path, None).await;
        if status == 200 && body["metadata"]["owner"] == "dev" {
            Ok(())
        } else {
            Err(format!("{status} {body}"))
        }
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn what_changed_while_nobody_looked_is_in_the_answer() {
    let (db, worker) = demo(DEV).await;
    worker.create(naming(REFUND_DESK)).await;
    worker.stop().await;
    db.execute("update public.agents set name = 'Renamed' where name = 'Refund Desk'; truncate agent_sync.outbox").await;
    let worker = TestWorker::start(&db, DEV).await;
    let (_, body) = worker.create(naming(REFUND_DESK)).await;
    assert_eq!(
        (&body["name"], &body["version"]),
        (&json!("Renamed"), &json!(2))
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_shared_assistant_of_the_systems_is_the_answer_and_takes_nothing_from_a_client() {
    let (db, worker) = demo(&[(ROBYN_DEV, "1"), (SCOPE, "all")]).await;
    let (status, body) = worker.create(naming(REFUND_DESK)).await;
    assert_eq!(
        (status, &body["metadata"]["owner"], &body["version"]),
        (200, &json!("system"), &json!(1))
    );
    assert!(body["metadata"].get("color").is_none());
    assert_eq!(db.differences().await, Vec::<String>::new());
    worker.stop().await;
}

#[tokio::test]
async fn a_named_id_is_the_assistants_id() {
    let (db, worker) = demo(DEV).await;
    let id = Uuid::new_v4().to_string();
    let mut body = naming(REFUND_DESK);
    // Python's uuid.UUID is lenient, and so are we.
    body["assistant_id"] = json!(format!("{{{}}}", id.to_uppercase()));
    let (status, created) = worker.create(body.clone()).await;
    assert_eq!(
        (status, created["assistant_id"].as_str()),
        (200, Some(id.as_str())),
        "{created}"
    );
    assert_eq!(created["name"], "Refund Desk");
    assert_eq!(
        created["config"]["configurable"]["mcp_config"]["servers"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(
        db.count("langgraph_server.assistants").await,
        1,
        "never a second, bare one"
    );

    let (status, refused) = worker.create(body.clone()).await;
    assert_eq!(
        (status, refused),
        (
            409,
            json!({"detail": format!("Assistant {id} already exists")})
        )
    );
    body["if_exists"] = json!("raise");
    assert_eq!(worker.create(body.clone()).await.0, 409);
    body["if_exists"] = json!("do_nothing");
    assert_eq!(worker.create(body).await, (200, created));

    db.execute("update public.agents set name = 'Renamed' where name = 'Refund Desk'")
        .await;
    eventually("it is kept in step", || async {
        let assistant = db
            .assistant(id.parse().unwrap())
            .await
            .expect("an assistant");
        if assistant["name"] == "Renamed" {
            Ok(())
        } else {
            Err(assistant.to_string())
        }
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn the_agents_own_id_named_when_it_exists_already() {
    let (_db, worker) = demo(&[(ROBYN_DEV, "yes"), (SCOPE, "all")]).await;
    let mut body = naming(REFUND_DESK);
    body["assistant_id"] = json!(REFUND_DESK);
    assert_eq!(worker.create(body.clone()).await.0, 409);
    body["if_exists"] = json!("do_nothing");
    let (status, answer) = worker.create(body).await;
    assert_eq!(
        (status, &answer["metadata"]["owner"]),
        (200, &json!("system"))
    );
    worker.stop().await;
}

#[tokio::test]
async fn an_id_that_somebody_elses_assistant_has_stays_theirs() {
    let (db, worker) = demo(DEV).await;
    let id = Uuid::new_v4();
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, graph_id, config, metadata)
         values ('{id}', 'agent', '{{\"configurable\": {{\"secret\": 1}}}}', '{{\"owner\": \"somebody\"}}')"
    ))
    .await;
    let before = db.assistant(id).await;
    let mut body = naming(REFUND_DESK);
    body["assistant_id"] = json!(id);
    for if_exists in ["raise", "do_nothing"] {
        body["if_exists"] = json!(if_exists);
        let (status, answer) = worker.create(body.clone()).await;
        assert_eq!(status, 409);
        assert!(!answer.to_string().contains("secret"));
    }
    assert_eq!(db.assistant(id).await, before);
    worker.stop().await;
}

#[tokio::test]
async fn whatever_keeps_the_agent_away_the_assistant_is_made_from_the_body_alone() {
    let (db, worker) = demo(DEV).await;
    db.execute(
        "update public.agents set sampling_params = '\"undecodable\"' where name = 'Stock Watcher'",
    )
    .await;
    let cases = [
        (json!("not-a-uuid"), "not an uuid"),
        (json!(17), "not even text"),
        (json!(Uuid::new_v4()), "no such agent"),
        (json!("a0000000-0000-4000-8000-000000000004"), "a draft"),
        (json!("a0000000-0000-4000-8000-000000000008"), "deleted"),
        (
            json!("a0000000-0000-4000-8000-000000000003"),
            "a sync that fails",
        ),
    ];
    let count = cases.len();
    for (agent, case) in cases {
        let (status, body) = worker
            .create(json!({
                "graph_id": "agent", "name": "mine", "config": {"configurable": {"x": 1}, "tags": ["t"]},
                "metadata": {
                    "supabase_agent_id": agent, "supabase_organization_id": "forged", "owner": "system",
                    "synced_at": "forged", "color": "blue",
                },
            }))
            .await;
        assert_eq!(status, 200, "{case}: {body}");
        assert_eq!(body["name"], "mine", "{case}");
        assert_eq!(
            body["config"],
            json!({"configurable": {"x": 1}, "tags": ["t"]}),
            "{case}"
        );
        assert_eq!(
            body["metadata"],
            json!({"owner": "dev", "color": "blue"}),
            "{case}: no link to an agent"
        );
    }
    assert_eq!(
        db.count("langgraph_server.assistants").await,
        i64::try_from(count).unwrap()
    );
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn with_the_gate_closed_nothing_of_an_agent_comes_out() {
    let project = Project::new().await;
    let (db, worker) = demo(&project.variables()).await;
    let token = project.token(Uuid::new_v4());
    let (status, body) = worker.create_as(&token, naming(REFUND_DESK)).await;
    assert_eq!((status, &body["name"]), (200, &json!("ignored")));
    assert_ne!(body["assistant_id"], REFUND_DESK);
    assert!(!body.to_string().contains("Harbour"));
    assert!(body["metadata"].get("supabase_agent_id").is_none());
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn an_agent_that_comes_into_scope_becomes_the_systems() {
    let (db, worker) = demo(DEV).await;
    worker.create(naming(REFUND_DESK)).await;
    worker.stop().await;
    let worker = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    let assistant = db
        .assistant(REFUND_DESK.parse().unwrap())
        .await
        .expect("an assistant");
    assert_eq!(
        (&assistant["metadata"]["owner"], &assistant["version"]),
        (&json!("system"), &json!(2))
    );
    worker.stop().await;
}

#[tokio::test]
async fn many_who_ask_at_once_get_one_assistant() {
    let (db, worker) = demo(DEV).await;
    let answers =
        futures::future::join_all((0..16).map(|_| worker.create(naming(REFUND_DESK)))).await;
    for (status, body) in &answers {
        assert_eq!(
            (*status, &body["assistant_id"], &body["version"]),
            (200, &json!(REFUND_DESK), &json!(1)),
            "{body}"
        );
    }
    assert_eq!(db.versions().await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn what_a_client_sends_along_is_kept_once_and_never_on_a_shared_assistant() {
    let (db, worker) = demo(DEV).await;
    worker.create(naming(REFUND_DESK)).await;
    let mut again = naming(REFUND_DESK);
    again["metadata"]["color"] = json!("red");
    db.execute("update public.agents set name = 'Renamed' where name = 'Refund Desk'")
        .await;
    let (_, body) = worker.create(again).await;
    assert_eq!(
        (&body["name"], &body["metadata"]["color"]),
        (&json!("Renamed"), &json!("blue"))
    );
    worker.stop().await;

    // The scope covers the agent, but the request comes before anybody has made its assistant.
    let (db, worker) = demo(&[(ROBYN_DEV, "true"), (SCOPE, "all")]).await;
    worker.stop().await;
    db.execute("delete from langgraph_server.assistants; delete from agent_sync.ledger")
        .await;
    let syncer = agent_sync::syncer::Syncer::new(
        db.pool(),
        agent_sync::access::Access::open(),
        agent_sync::config::Settings::default(),
    );
    let claim = agent_sync::plan::Claim {
        owner: "system".to_owned(),
        identity: None,
        assistant_id: None,
        if_exists: agent_sync::plan::IfExists::Raise,
        metadata: serde_json::Map::from_iter([("color".to_owned(), json!("blue"))]),
    };
    for owner in ["alice", "system"] {
        let claim = agent_sync::plan::Claim {
            owner: owner.to_owned(),
            identity: None,
            ..claim.clone()
        };
        let agent = agent_sync::ids::AgentId(REFUND_DESK.parse().unwrap());
        syncer
            .sync_now(&[agent], agent_sync::syncer::Entrance::Request(&claim))
            .await
            .expect("synced");
        let assistant = db.assistant(agent.0).await.expect("an assistant");
        assert_eq!(assistant["metadata"]["owner"], "system");
        assert!(
            assistant["metadata"].get("color").is_none(),
            "asked for by {owner}"
        );
        db.execute("delete from langgraph_server.assistants; delete from agent_sync.ledger")
            .await;
    }
}

#[tokio::test]
async fn an_assistant_that_another_session_holds_is_503_not_a_second_one() {
    let (db, worker) = demo(DEV).await;
    worker.create(naming(REFUND_DESK)).await;
    let holder = db.connect().await;
    holder
        .batch_execute("begin; select * from langgraph_server.assistants for update")
        .await
        .expect("held");
    db.execute("update public.agents set name = 'Renamed' where name = 'Refund Desk'")
        .await;
    let (status, body) = worker.create(naming(REFUND_DESK)).await;
    assert_eq!(
        (status, body),
        (503, json!({"detail": "Service Unavailable"}))
    );
    holder.batch_execute("commit").await.expect("released");
    let (status, body) = worker.create(naming(REFUND_DESK)).await;
    assert_eq!((status, &body["name"]), (200, &json!("Renamed")));
    assert_eq!(db.count("langgraph_server.assistants").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_skipped_lazy_sync_is_warned_about_and_null_names_nobody() {
    let db = TestDatabase::new().await;
    let running = crate::support::binary::Running::serve(&db, DEV);
    running.line("agent sync disabled").await;
    let api = running.api().await;
    for agent in ["null", "\"no-uuid\""] {
        let body =
            format!(r#"{{"graph_id": "agent", "metadata": {{"supabase_agent_id": {agent}}}}}"#);
        let (status, _) =
            crate::support::worker::request(api, "POST", "/assistants", Some(&body)).await;
        assert_eq!(status, 200);
    }
    let line = running.line("lazy sync skipped").await;
    assert!(line.contains("WARN") && line.contains("no-uuid"), "{line}");
    assert_eq!(running.output().matches("lazy sync skipped").count(), 1);
}

#[tokio::test]
async fn a_lazy_sync_that_was_cut_off_is_503_and_makes_nothing() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[(ROBYN_DEV, "true")]).await;
    // What announced it, too: else that may be what waits.
    db.drained().await;
    let _holder = db.hold_agent(agent).await;
    let api = worker.api;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}}).to_string();
    let asked = tokio::spawn(async move {
        crate::support::worker::request(api, "POST", "/assistants", Some(&body)).await
    });
    db.somebody_waits_for_an_agent().await;
    // As statement_timeout does it, only sooner.
    db.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'advisory' and datname = current_database()").await;
    assert_eq!(asked.await.expect("answered").0, 503);
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
    worker.stop().await;
}
