//! A worker that keeps the assistants of a database's agents in its own memory.

use agent_sync::config::{ROBYN_DEV, SCOPE, STORE};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::binary::run;
use crate::support::{Project, TestDatabase, TestWorker, eventually};

const MEMORY: (&str, &str) = (STORE, "memory");

async fn get(worker: &TestWorker, id: Uuid) -> (u16, Value) {
    worker
        .request("GET", &format!("/assistants/{id}"), None)
        .await
}

async fn prompted(worker: &TestWorker, id: Uuid, prompt: &str) {
    eventually("the assistant has the prompt", || async {
        let (_, assistant) = get(worker, id).await;
        match assistant["config"]["configurable"]["system_prompt"] == prompt {
            true => Ok(()),
            false => Err(assistant.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn assistants_are_made_kept_in_step_removed_and_made_anew_by_the_next_worker() {
    let db = TestDatabase::new().await;
    let (kept, edited, gone) = (
        db.agent("kept").await,
        db.agent("edited").await,
        db.agent("gone").await,
    );
    let variables = [MEMORY, (SCOPE, "all"), (ROBYN_DEV, "true")];
    let worker = TestWorker::start(&db, &variables).await;
    for id in [kept, edited, gone] {
        assert_eq!(get(&worker, id).await.0, 200);
    }
    assert_eq!(db.count("langgraph_server.assistants").await, 0);

    db.execute(&format!(
        "update public.agents set system_prompt = 'Be brief.' where id = '{edited}';
         update public.agents set status = 'disabled' where id = '{gone}'"
    ))
    .await;
    prompted(&worker, edited, "Be brief.").await;
    db.drained().await;
    assert_eq!(get(&worker, gone).await.0, 404);
    let (_, assistant) = get(&worker, kept).await;
    assert_eq!(assistant["version"], 1, "nothing was written: {assistant}");
    assert_eq!(db.count("agent_sync.leases").await, 0);
    worker.stop().await;

    let worker = TestWorker::start(&db, &variables).await;
    prompted(&worker, edited, "Be brief.").await;
    assert_eq!(get(&worker, kept).await.0, 200);
    assert_eq!(get(&worker, gone).await.0, 404);
    worker.stop().await;
}

#[tokio::test]
async fn users_see_and_change_what_is_theirs() {
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let (organization, member) = db.organization().await;
    let agent = db.agent("a").await;
    db.execute(&format!(
        "update public.agents set organization_id = '{organization}'"
    ))
    .await;
    let worker =
        TestWorker::start(&db, &[&[MEMORY], project.variables().as_slice()].concat()).await;
    let (member, stranger) = (project.token(member), project.token(Uuid::new_v4()));

    let body = json!({"metadata": {"supabase_agent_id": agent, "mine": 1}, "graph_id": "g"});
    let (status, made) = worker.create_as(&member, body.clone()).await;
    assert_eq!((status, &made["assistant_id"]), (200, &json!(agent)));
    assert_eq!(
        made["config"]["configurable"]["system_prompt"],
        "You are a."
    );
    let (status, bare) = worker.create_as(&stranger, body).await;
    assert_eq!(status, 200);
    assert!(bare["config"]["configurable"].is_null(), "{bare}");

    let path = format!("/assistants/{agent}");
    for (method, body) in [("GET", None), ("PATCH", Some(json!({}))), ("DELETE", None)] {
        let answer = worker
            .request_as(&stranger, method, &path, body.as_ref())
            .await;
        assert_eq!(answer.0, 404, "{method}");
    }
    let patch = async |body: Value| {
        worker
            .request_as(&member, "PATCH", &path, Some(&body))
            .await
    };
    assert_eq!(patch(json!({"name": "mine"})).await.0, 409);
    assert_eq!(patch(json!({"metadata": {"mine": 2}})).await.0, 200);
    let search = json!({"metadata": {"mine": 2}});
    let found = async |token: &str| {
        let path = "/assistants/search";
        let (_, found) = worker.request_as(token, "POST", path, Some(&search)).await;
        found.as_array().map(Vec::len)
    };
    assert_eq!(
        (found(&member).await, found(&stranger).await),
        (Some(1), Some(0))
    );
    let latest = format!("{path}/latest");
    let version = json!({"version": 1});
    let answer = worker
        .request_as(&member, "POST", &latest, Some(&version))
        .await;
    assert_eq!(answer.0, 409, "{answer:?}");

    // Access lost, assistant lost.
    db.execute("delete from public.organization_members").await;
    db.execute("update public.agents set name = 'b'").await;
    db.drained().await;
    assert_eq!(worker.request_as(&member, "GET", &path, None).await.0, 404);
    worker.stop().await;
}

#[tokio::test]
async fn the_owner_may_delete_and_ask_again() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[MEMORY, (ROBYN_DEV, "true")]).await;
    let body = json!({"metadata": {"supabase_agent_id": agent}, "graph_id": "g"});
    for _ in 0..2 {
        let (status, made) = worker.create(body.clone()).await;
        assert_eq!((status, &made["version"]), (200, &json!(1)), "{made}");
        let path = format!("/assistants/{agent}");
        assert_eq!(worker.request("DELETE", &path, None).await.0, 204);
        assert_eq!(get(&worker, agent).await.0, 404);
        assert_eq!(db.count("agent_sync.ledger").await, 0);
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_pass_of_another_process_is_refused() {
    let db = TestDatabase::new().await;
    let ran = run(&["sync"], &[("DATABASE_URL", &db.url), MEMORY]).await;
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("AGENT_SYNC_STORE=memory"), "{ran:?}");
}
