//! What the store promises while others work on the same rows, and what it does not let grow.

use std::sync::Arc;

use agent_sync::config::{MAX_BODY, ROBYN_DEV};
use agent_sync::ids::AssistantId;
use agent_sync::store::memory::Memory;
use agent_sync::store::{Assistant, Filter, New, Order, Page, Store, Viewer};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{Project, TestDatabase, TestWorker, eventually};

/// How a client changes an assistant.
const WAYS: [(&str, &str); 3] = [("PATCH", ""), ("POST", "/latest"), ("DELETE", "")];

/// A worker, and a session beside it that holds a synced assistant of this user's.
struct Held {
    db: TestDatabase,
    worker: TestWorker,
    project: Project,
    user: Uuid,
    assistant: Uuid,
    holder: Client,
}

impl Held {
    async fn new() -> Self {
        let (db, project) = (TestDatabase::new().await, Project::new().await);
        let worker = TestWorker::start(&db, &project.variables()).await;
        let (user, assistant) = (Uuid::new_v4(), Uuid::new_v4());
        let body = json!({"graph_id": "g", "assistant_id": assistant});
        let made = worker.create_as(&project.token(user), body).await;
        assert_eq!(made.0, 200, "{made:?}");
        db.execute(&format!(
            "insert into agent_sync.ledger (assistant_id, agent_id, owner, state, content_hash)
             values ('{assistant}', '{assistant}', '{user}', 'synced', 'x')"
        ))
        .await;
        let holder = db.connect().await;
        holder
            .batch_execute(&format!(
                "begin; select from langgraph_server.assistants where id = '{assistant}' for update"
            ))
            .await
            .expect("held");
        Self {
            db,
            worker,
            project,
            user,
            assistant,
            holder,
        }
    }

    /// One of [`WAYS`] to change it.
    async fn ask(&self, user: Uuid, (method, part): (&str, &str)) -> (u16, Value) {
        let path = format!("/assistants/{}{part}", self.assistant);
        let body = json!({"metadata": {"graffiti": true}, "version": 1});
        let token = self.project.token(user);
        self.worker
            .request_as(&token, method, &path, Some(&body))
            .await
    }

    async fn somebody_waits_for_the_assistant(&self) {
        eventually("somebody waits for the assistant", || async {
            let waiting = "pg_stat_activity where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0";
            match self.db.count(waiting).await {
                0 => Err("nobody does".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn strangers_attempts_lock_nothing() {
    let held = Held::new().await;
    for way in WAYS {
        // Whoever wanted a lock would wait for the one that is held.
        let mut attempt = std::pin::pin!(held.ask(Uuid::new_v4(), way));
        tokio::select! {
            (status, _) = &mut attempt => assert_eq!(status, 404, "{way:?}"),
            () = held.somebody_waits_for_the_assistant() => panic!("a stranger's {way:?} waits for a lock"),
        }
    }
    held.worker.stop().await;
}

#[tokio::test]
async fn who_waits_while_an_assistant_changes_hands_neither_reads_nor_changes_it() {
    for way in WAYS {
        let held = Held::new().await;
        let id = held.assistant;
        let handing_over = format!(
            "update langgraph_server.assistants set config = '{{\"configurable\": {{\"system_prompt\": \"secret\"}}}}',
               metadata = '{{\"owner\": \"system\"}}' where id = '{id}';
             update agent_sync.ledger set owner = 'system' where assistant_id = '{id}';
             commit"
        );
        let (answer, ()) = tokio::join!(held.ask(held.user, way), async {
            held.somebody_waits_for_the_assistant().await;
            let handed_over = held.holder.batch_execute(&handing_over).await;
            handed_over.expect("handed over");
        });
        assert_eq!(answer.0, 404, "{way:?}: {answer:?}");
        assert!(!answer.1.to_string().contains("secret"), "{answer:?}");
        let left = held.db.assistant(id).await.expect("it is still there");
        assert_eq!(left["metadata"], json!({"owner": "system"}), "{way:?}");
        held.worker.stop().await;
    }
}

/// A worker on each store, which takes large bodies.
async fn workers(db: &TestDatabase) -> Vec<TestWorker> {
    let variables = [(ROBYN_DEV, "true"), (MAX_BODY, "4M")];
    vec![
        TestWorker::start_with(&variables).await,
        TestWorker::start(db, &variables).await,
    ]
}

fn assert_too_large(what: &str, (status, answer): (u16, Value)) {
    let detail = answer["detail"].as_str().unwrap_or_default();
    assert!(
        status == 422 && detail.contains("1 MiB"),
        "{what}: {status} {detail}"
    );
}

#[tokio::test]
async fn an_assistant_does_not_outgrow_a_mebibyte_patch_by_patch() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    for (n, worker) in workers(&db).await.into_iter().enumerate() {
        let (foreign, large) = (Uuid::new_v4(), "x".repeat(600_000));
        let mut ids = vec![foreign];
        let body = json!({"graph_id": "g", "assistant_id": foreign});
        assert_eq!(worker.create(body).await.0, 200);
        if n == 1 {
            let body = json!({"graph_id": "g", "metadata": {"supabase_agent_id": agent}});
            assert_eq!(worker.create(body).await.0, 200);
            ids.push(agent);
        }
        for id in ids {
            let path = format!("/assistants/{id}");
            let patch = async |body: Value| worker.request("PATCH", &path, Some(&body)).await;
            let first = patch(json!({"metadata": {"a": large}})).await;
            assert_eq!(first.0, 200, "{id}");
            let more = patch(json!({"metadata": {"b": large}})).await;
            assert_too_large("what is merged", more);
            let digits = patch(json!({"metadata": {"b": vec![1e300; 2000]}})).await;
            assert_too_large("many digits", digits);
            let read = worker.request("GET", &path, None).await;
            assert_eq!(read.1, first.1, "nothing has changed");
            let other = patch(json!({"metadata": {"a": null, "b": large}})).await;
            assert_eq!(other.0, 200, "{id}");
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn what_makes_an_assistant_of_more_than_a_mebibyte_is_refused() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let half = "x".repeat(600_000);
    for worker in workers(&db).await {
        for body in [
            json!({"graph_id": "g", "metadata": {"a": half, "b": half}}),
            json!({"graph_id": "g", "metadata": {"a": half}, "context": {"a": half}}),
            json!({"metadata": {"supabase_agent_id": agent, "a": half, "b": half}}),
        ] {
            assert_too_large("a create", worker.create(body).await);
        }
        // The context that it is given has a mirror in its config.
        let fits = json!({"graph_id": "g", "context": {"a": half}});
        assert_eq!(worker.create(fits).await.0, 200);
        let count = worker
            .request("POST", "/assistants/count", Some(&json!({})))
            .await;
        assert_eq!(count, (200, json!(1)));
        worker.stop().await;
    }
}

#[tokio::test]
async fn what_is_too_large_already_may_be_made_smaller() {
    let (db, id) = (TestDatabase::new().await, Uuid::new_v4());
    let worker = TestWorker::start(&db, &[(ROBYN_DEV, "true")]).await;
    let body = json!({"graph_id": "g", "assistant_id": id});
    assert_eq!(worker.create(body).await.0, 200);
    db.execute(
        "update langgraph_server.assistants
         set metadata = metadata || jsonb_build_object('a', repeat('x', 2000000), 'b', repeat('x', 2000000))",
    )
    .await;
    let path = format!("/assistants/{id}");
    let patch = async |body: Value| worker.request("PATCH", &path, Some(&body)).await;
    assert_too_large("more", patch(json!({"metadata": {"c": 1}})).await);
    assert_eq!(patch(json!({"metadata": {"a": null}})).await.0, 200);
    worker.stop().await;
}

#[tokio::test]
async fn a_page_that_is_too_large_is_refused_and_its_parts_are_not() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, &[(ROBYN_DEV, "true")]).await;
    let search = async |body: Value| {
        worker
            .request("POST", "/assistants/search", Some(&body))
            .await
    };
    assert_eq!(search(json!({})).await, (200, json!([])));
    db.execute(
        r#"insert into langgraph_server.assistants (id, graph_id, name, config, context, metadata)
         select gen_random_uuid(), 'g', to_char(n, 'FM00'), jsonb_build_object('configurable', jsonb_build_object('x', repeat('y', 1000000))),
           '{}', jsonb_build_object('owner', 'dev', 'n', n)
         from generate_series(1, 18) as n"#,
    )
    .await;
    for body in [
        json!({"limit": 1000}),
        json!({"limit": 17}),
        json!({"limit": 1000, "select": ["config"]}),
        // It is the config's mirror.
        json!({"limit": 1000, "select": ["context"]}),
    ] {
        let (status, answer) = search(body).await;
        let detail = "the page is larger than 16 MiB: ask for fewer assistants (limit) or fewer fields (select)";
        assert_eq!((status, answer["detail"].as_str()), (422, Some(detail)));
    }
    for (body, listed) in [
        (json!({"limit": 1}), 1),
        // What is beyond does not count.
        (json!({"limit": 16}), 16),
        (json!({"limit": 1000, "offset": 17}), 1),
        (json!({"limit": 1000, "offset": 18}), 0),
        (json!({"limit": 1000, "select": ["version"]}), 18),
    ] {
        let (status, answer) = search(body.clone()).await;
        let found = answer.as_array().map_or(0, Vec::len);
        assert_eq!((status, found), (200, listed), "{body}");
    }
    let some = json!({"limit": 1000, "select": ["name", "metadata"], "sort_by": "name", "sort_order": "asc"});
    let (_, some) = search(some).await;
    let last = json!({"name": "18", "metadata": {"n": 18, "owner": "dev"}});
    assert_eq!(some[17], last);
    worker.stop().await;
}

#[tokio::test]
async fn in_memory_a_page_that_is_too_large_is_refused_too() {
    let store = Store::Memory(Arc::new(Memory::default()));
    let object = |value: Value| value.as_object().cloned().expect("an object");
    for _ in 0..18 {
        let new = New {
            id: AssistantId(Uuid::new_v4()),
            graph_id: "g".to_owned(),
            config: object(json!({"x": "y".repeat(1_000_000)})),
            context: object(json!({})),
            metadata: object(json!({"owner": "dev"})),
            name: "n".to_owned(),
            description: None,
        };
        assert!(store.create(new).await.expect("created").is_some());
    }
    let viewer = Viewer {
        owner: "dev".to_owned(),
        agents: None,
    };
    for (limit, field, listed) in [
        (17, "config", None),
        (16, "config", Some((16, true))),
        (18, "metadata", Some((18, false))),
    ] {
        let page = Page {
            limit,
            offset: 0,
            order: Order::Id,
            ascending: true,
        };
        let (filter, fields) = (Filter::default(), [field]);
        let found = store.search(&viewer, &filter, page, &fields);
        let found = found.await.expect("searched");
        let found = found.map(|page| (page.found.len(), page.more));
        assert_eq!(found, listed, "{limit} {field}");
    }
}

#[tokio::test]
async fn each_field_can_be_selected_alone() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    for (n, worker) in workers(&db).await.into_iter().enumerate() {
        let mut body = json!({"graph_id": "g", "name": "n", "description": "d", "config": {"tags": ["t"]}, "context": {"c": 1}});
        if n == 1 {
            body["metadata"] = json!({"supabase_agent_id": agent});
        }
        let (status, made) = worker.create(body).await;
        assert_eq!(status, 200, "{made}");
        for (field, value) in made.as_object().expect("an object") {
            let search = json!({"select": [field]});
            let found = worker
                .request("POST", "/assistants/search", Some(&search))
                .await;
            assert_eq!(found, (200, json!([{ field: value }])));
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_page_of_many_small_objects_is_as_large_as_it_is_in_memory() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, &[(ROBYN_DEV, "true")]).await;
    db.execute(
        r#"insert into langgraph_server.assistants (id, config, metadata)
         select gen_random_uuid(), jsonb_build_object('x', (select jsonb_agg('{"": 0}'::jsonb) from generate_series(1, 60000))),
           '{"owner": "dev"}'
         from generate_series(1, 2)"#,
    )
    .await;
    for (limit, status) in [(2, 422), (1, 200)] {
        let body = json!({"limit": limit});
        let answer = worker.request("POST", "/assistants/search", Some(&body));
        assert_eq!(answer.await.0, status, "{limit}");
    }
    worker.stop().await;
}

#[test]
fn times_are_written_as_langgraphs_server_writes_them() {
    for (nanoseconds, written) in [
        (120_000_999, "2001-09-09T01:46:40.120000+00:00"),
        (1_000, "2001-09-09T01:46:40.000001+00:00"),
        (0, "2001-09-09T01:46:40+00:00"),
        (999, "2001-09-09T01:46:40+00:00"),
    ] {
        let at = OffsetDateTime::from_unix_timestamp(1_000_000_000)
            .and_then(|at| at.replace_nanosecond(nanoseconds))
            .expect("a time");
        let assistant = Assistant {
            id: AssistantId(Uuid::nil()),
            graph_id: "g".to_owned(),
            config: Default::default(),
            context: Default::default(),
            metadata: Default::default(),
            name: None,
            description: None,
            version: 1,
            created_at: at,
            updated_at: at,
        };
        assert_eq!(assistant.to_json()["updated_at"], written);
    }
}
