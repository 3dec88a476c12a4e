//! The API beyond lazy sync: reading, searching, changing and deleting what is one's own, on each store.

use agent_sync::config::ROBYN_DEV;
use serde_json::{Value, json};

use crate::support::server::Client;
use crate::support::{Project, TestDatabase, TestWorker};

const DEV: &[(&str, &str)] = &[(ROBYN_DEV, "true")];

/// A worker on each store.
async fn workers() -> Vec<TestWorker> {
    let db = TestDatabase::new().await;
    vec![
        TestWorker::start_with(DEV).await,
        TestWorker::start(&db, DEV).await,
    ]
}

async fn made(worker: &TestWorker, body: Value) -> Value {
    let (status, answer) = worker.create(body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn post(worker: &TestWorker, path: &str, body: Value) -> (u16, Value) {
    worker.request("POST", path, Some(&body)).await
}

#[tokio::test]
async fn a_patch_replaces_what_it_names_and_merges_metadata() {
    for worker in workers().await {
        let before = made(
            &worker,
            json!({"graph_id": "g", "name": "n", "description": "d", "metadata": {"a": 1, "nested": {"x": 1}},
                "config": {"tags": ["t"], "configurable": {"k": 1}}}),
        )
        .await;
        let path = format!(
            "/assistants/{}",
            before["assistant_id"].as_str().expect("an id")
        );
        let patch = async |body: Value| {
            let (status, answer) = worker.request("PATCH", &path, Some(&body)).await;
            assert_eq!(status, 200, "{answer}");
            answer
        };
        let after = patch(json!({"metadata": {"nested": {"y": 2}, "b": null}})).await;
        assert_eq!(
            after["metadata"],
            json!({"a": 1, "nested": {"y": 2}, "b": null, "owner": "dev"})
        );
        assert_eq!(after["version"], 2);
        for key in [
            "name",
            "description",
            "graph_id",
            "config",
            "context",
            "created_at",
        ] {
            assert_eq!(after[key], before[key], "{key}");
        }
        let after = patch(json!({"config": {"configurable": {"k": 2}}})).await;
        assert_eq!(
            (&after["config"], &after["context"]),
            (&json!({"configurable": {"k": 2}}), &json!({"k": 2}))
        );
        let after = patch(json!({"config": {}, "name": "", "description": ""})).await;
        assert_eq!(after["config"], json!({"configurable": {"k": 2}}));
        assert_eq!(
            (&after["name"], &after["description"]),
            (&json!(""), &json!(""))
        );
        let after = patch(json!({"context": {"c": 3}, "graph_id": "h"})).await;
        assert_eq!(
            (&after["config"], &after["context"], &after["graph_id"]),
            (
                &json!({"configurable": {"c": 3}}),
                &json!({"c": 3}),
                &json!("h")
            )
        );
        let after = patch(json!({"context": {}})).await;
        assert_eq!(
            (&after["config"], &after["context"], &after["version"]),
            (&json!({"configurable": {}}), &json!({}), &json!(6))
        );
        let (_, read) = worker.request("GET", &path, None).await;
        assert_eq!(read, after);
        for (body, status) in [
            (json!([]), 422),
            (json!({"description": null}), 422),
            (json!({"config": null}), 422),
            (
                json!({"config": {"configurable": {"a": 1}}, "context": {"b": 1}}),
                400,
            ),
        ] {
            assert_eq!(
                worker.request("PATCH", &path, Some(&body)).await.0,
                status,
                "{body}"
            );
        }
        assert_eq!(worker.request("GET", &path, None).await.1, after);
        worker.stop().await;
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone() {
    for worker in workers().await {
        let body = made(&worker, json!({"graph_id": "g"})).await;
        let id = body["assistant_id"].as_str().expect("an id").to_owned();
        let path = format!("/assistants/{id}");
        assert_eq!(
            worker.request("DELETE", &path, None).await,
            (204, json!(""))
        );
        // In the official server's words, which are not the same for both.
        let missing = |what: &str| (404, json!({"detail": format!("{what} {id} not found")}));
        assert_eq!(
            worker.request("DELETE", &path, None).await,
            missing("Assistant with ID")
        );
        assert_eq!(
            worker.request("PATCH", &path, Some(&json!({}))).await,
            missing("Assistant")
        );
        assert_eq!(worker.request("GET", &path, None).await.0, 404);
        for method in ["PATCH", "DELETE", "GET"] {
            assert_eq!(
                worker
                    .request(method, "/assistants/agent", Some(&json!({})))
                    .await
                    .0,
                422
            );
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_search_filters_sorts_pages_and_selects() {
    for worker in workers().await {
        for (name, graph, metadata) in [
            ("Bravo", "one", json!({"team": {"name": "x", "size": 3}})),
            (
                "alpha",
                "two",
                json!({"team": {"name": "x", "size": 4}, "tags": ["p", "q"]}),
            ),
            ("Charlie", "two", json!({})),
        ] {
            made(
                &worker,
                json!({"graph_id": graph, "name": name, "metadata": metadata}),
            )
            .await;
        }
        let search = async |body: Value| {
            let (status, answer) = post(&worker, "/assistants/search", body.clone()).await;
            assert_eq!(status, 200, "{answer}");
            let names: Vec<String> = answer
                .as_array()
                .expect("an array")
                .iter()
                .map(|found| found["name"].as_str().expect("a name").to_owned())
                .collect();
            let (_, count) = post(&worker, "/assistants/count", body).await;
            (names.join(" "), count.as_i64().expect("a number"))
        };
        for (body, names, count) in [
            (json!({}), "Charlie alpha Bravo", 3),
            (
                json!({"sort_by": "name", "sort_order": "asc"}),
                "alpha Bravo Charlie",
                3,
            ),
            (json!({"sort_by": "name"}), "Charlie Bravo alpha", 3),
            (
                json!({"sort_by": "created_at", "sort_order": "asc"}),
                "Bravo alpha Charlie",
                3,
            ),
            (
                json!({"sort_by": "graph_id", "sort_order": "asc", "limit": 1}),
                "Bravo",
                3,
            ),
            (json!({"limit": 1, "offset": 1}), "alpha", 3),
            (json!({"offset": 3}), "", 3),
            (json!({"name": "L"}), "Charlie alpha", 2),
            (json!({"name": "%"}), "", 0),
            (json!({"graph_id": "two"}), "Charlie alpha", 2),
            (
                json!({"metadata": {"team": {"name": "x"}}}),
                "alpha Bravo",
                2,
            ),
            (json!({"metadata": {"tags": ["q"]}}), "alpha", 1),
            (
                json!({"metadata": {"owner": "dev"}}),
                "Charlie alpha Bravo",
                3,
            ),
            (json!({"metadata": {"owner": "alice"}}), "", 0),
        ] {
            assert_eq!(
                search(body.clone()).await,
                (names.to_owned(), count),
                "{body}"
            );
        }
        let some = json!({"select": ["name", "graph_id"], "limit": 1});
        assert_eq!(
            post(&worker, "/assistants/search", some).await.1,
            json!([{"name": "Charlie", "graph_id": "two"}])
        );
        for body in [
            json!({"limit": 0}),
            json!({"limit": 1001}),
            json!({"limit": "10"}),
            json!({"offset": -1}),
            json!({"sort_by": "owner"}),
            json!({"sort_order": "ASC"}),
            json!({"select": ["password"]}),
            json!({"metadata": null}),
        ] {
            assert_eq!(
                post(&worker, "/assistants/search", body.clone()).await.0,
                422,
                "{body}"
            );
        }
        worker.stop().await;
    }
}

/// As the official server says it: the total is none, and there is a next page only where there is something on it.
#[tokio::test]
async fn a_search_says_whether_there_is_more() {
    for worker in workers().await {
        let mut client = Client::connect(worker.api).await;
        let mut search = async |limit: i64, offset: i64| {
            let body = json!({"limit": limit, "offset": offset, "select": ["version"]});
            let page = client.post("/assistants/search", &body.to_string()).await;
            let found: Vec<Value> = serde_json::from_str(&page.body).expect("an array");
            let header = |name| {
                page.header(name)
                    .map(|value| value.parse().expect("a number"))
            };
            let [total, next] = ["x-pagination-total", "x-pagination-next"].map(header);
            (found.len(), total, next)
        };
        assert_eq!(search(10, 0).await, (0, Some(0), None));
        for _ in 0..3 {
            made(&worker, json!({"graph_id": "g"})).await;
        }
        for (limit, offset, expected) in [
            (1, 0, (1, Some(2), Some(1))),
            (2, 0, (2, Some(3), Some(2))),
            (1, 1, (1, Some(3), Some(2))),
            (3, 0, (3, Some(3), None)),
            (1, 2, (1, Some(3), None)),
            (1000, 1, (2, Some(3), None)),
            (5, 3, (0, Some(3), None)),
            (5, 7, (0, Some(7), None)),
            (1000, i64::MAX, (0, Some(i64::MAX), None)),
        ] {
            assert_eq!(search(limit, offset).await, expected, "{limit} {offset}");
        }
        worker.stop().await;
    }
}

/// A user may see the agent, but not its tools: the store finds its assistant, and it is not shown.
#[tokio::test]
async fn what_is_not_shown_takes_its_place_on_the_page_and_hides_no_next_one() {
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let (organization, user) = db.organization().await;
    let (hidden, shown) = (db.agent("a").await, db.agent("b").await);
    db.execute(&format!(
        "drop policy \"users manage tools\" on public.mcp_tools;
         insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{hidden}', 't', 'https://t.example');
         insert into public.agent_mcp_tools values ('{hidden}', '{hidden}');
         update public.agents set organization_id = '{organization}'"
    ))
    .await;
    let variables = [
        ("AGENT_SYNC_SCOPE", "all"),
        ("AGENT_SYNC_AUTHORIZE", "source"),
    ];
    let variables = [&project.variables(), &variables[..]].concat();
    let worker = TestWorker::start(&db, &variables).await;
    let page = async |offset: i64| {
        let body = json!({"limit": 1, "offset": offset, "sort_by": "name", "sort_order": "asc", "select": ["assistant_id"]});
        let (token, body) = (project.token(user), body.to_string());
        let asked = format!(
            "POST /assistants/search HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let said = Client::connect(worker.api).await.ask(asked).await;
        let found: Value = serde_json::from_str(&said.body).expect("an array");
        (found, said.header("x-pagination-next").map(str::to_owned))
    };
    assert_eq!(page(0).await, (json!([]), Some("1".to_owned())));
    assert_eq!(page(1).await, (json!([{"assistant_id": shown}]), None));
    worker.stop().await;
}

/// A runtime's own assistants may have ids that no request can name.
#[tokio::test]
async fn what_cannot_be_asked_for_is_not_found_either() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, DEV).await;
    db.execute(
        r#"insert into langgraph_server.assistants (id, graph_id, metadata, created_at)
           select id, 'g', '{"owner": "dev"}', now()
           from unnest(array['mine', 'a0000000-0000-4000-8000-00000000000A', 'a0000000000040008000000000000001']) as id"#,
    )
    .await;
    let one = made(&worker, json!({"graph_id": "g"})).await;
    let body = json!({"limit": 1, "sort_by": "created_at", "sort_order": "asc"});
    assert_eq!(
        post(&worker, "/assistants/search", body).await,
        (200, json!([one]))
    );
    let all = post(&worker, "/assistants/count", json!({})).await;
    assert_eq!(all, (200, json!(1)));
    worker.stop().await;
}

#[tokio::test]
async fn what_is_ours_to_say_cannot_be_said_by_a_client() {
    for worker in workers().await {
        let forged = json!({"owner": "system", "supabase_agent_id": "x", "supabase_organization_id": "y", "synced_at": "z", "mine": 1});
        let bag = json!({"supabase_organization_id": "y", "supabase_agent_id": "x", "mine": 1});
        let body = json!({"graph_id": "g", "metadata": forged, "config": {"configurable": bag, "metadata": forged}});
        let created = made(&worker, body).await;
        let path = format!(
            "/assistants/{}",
            created["assistant_id"].as_str().expect("an id")
        );
        let patch = json!({"metadata": forged, "context": bag});
        let (_, patched) = worker.request("PATCH", &path, Some(&patch)).await;
        for answer in [&created, &patched] {
            assert_eq!(answer["metadata"], json!({"mine": 1, "owner": "dev"}));
            assert_eq!(answer["config"]["configurable"], json!({"mine": 1}));
            assert_eq!(answer["context"], json!({"mine": 1}));
        }
        assert_eq!(created["config"]["metadata"], json!({"mine": 1}));
        worker.stop().await;
    }
}

/// A synced assistant says what its agent says; its owner may add metadata, and may let go of it.
#[tokio::test]
async fn a_synced_assistant_is_its_agents_but_for_the_metadata_of_its_owner() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, DEV).await;
    let agent = db.agent("a").await;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}});
    let synced = made(&worker, body.clone()).await;
    let path = format!("/assistants/{agent}");
    for patch in [
        json!({"name": "mine"}),
        json!({"graph_id": "mine"}),
        json!({"description": "mine"}),
        json!({"config": {"configurable": {"system_prompt": "mine"}}}),
        json!({"context": {"system_prompt": "mine"}, "metadata": {"a": 1}}),
    ] {
        let (status, answer) = worker.request("PATCH", &path, Some(&patch)).await;
        let detail = answer["detail"].as_str().expect("a detail");
        assert!(
            status == 409
                && detail.contains("edit the agent")
                && detail.contains(&agent.to_string()),
            "{answer}"
        );
    }
    assert_eq!(worker.request("GET", &path, None).await.1, synced);
    let mine = json!({"metadata": {"mine": 1, "owner": "system"}});
    let (status, patched) = worker.request("PATCH", &path, Some(&mine)).await;
    assert_eq!((status, &patched["metadata"]["mine"]), (200, &json!(1)));
    assert_eq!(patched["metadata"]["owner"], "dev");
    db.execute("update public.agents set system_prompt = 'new'")
        .await;
    db.prompted(agent, "new").await;
    let (_, read) = worker.request("GET", &path, None).await;
    assert_eq!(read["metadata"]["mine"], 1);

    assert_eq!(worker.request("DELETE", &path, None).await.0, 204);
    db.drained().await;
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    assert!(db.assistant(agent).await.is_none());
    let again = made(&worker, body).await;
    assert_eq!(
        (
            &again["assistant_id"],
            &again["version"],
            &again["metadata"]["mine"]
        ),
        (&json!(agent), &json!(1), &Value::Null)
    );
    worker.stop().await;
}

#[tokio::test]
async fn what_is_everybodys_is_nobodys_to_change() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let all = [DEV, &[("AGENT_SYNC_SCOPE", "all")]].concat();
    let worker = TestWorker::start(&db, &all).await;
    let path = format!("/assistants/{agent}");
    let before = worker.request("GET", &path, None).await;
    assert_eq!(
        (before.0, &before.1["metadata"]["owner"]),
        (200, &json!("system"))
    );
    let patch = json!({"metadata": {"mine": 1}});
    assert_eq!(worker.request("PATCH", &path, Some(&patch)).await.0, 409);
    assert_eq!(worker.request("DELETE", &path, None).await.0, 409);
    assert_eq!(worker.request("GET", &path, None).await, before);
    assert_eq!(
        post(&worker, "/assistants/count", json!({})).await,
        (200, json!(1))
    );
    worker.stop().await;
}
