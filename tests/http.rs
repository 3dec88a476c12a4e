//! The HTTP servers: LangGraph's rules for a create, its error shape, limits, and the admin routes.

use agent_sync::config::{ROBYN_DEV, SCOPE};
use serde_json::{Value, json};

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::worker::{exchange, request};
use crate::support::{Project, TestDatabase, TestWorker, eventually};

/// These are about the API, not about who is calling.
const DEV: &[(&str, &str)] = &[(ROBYN_DEV, "true")];

/// The API behaves the same over every store.
async fn both() -> Vec<TestWorker> {
    let db = TestDatabase::new().await;
    vec![
        TestWorker::start_with(DEV).await,
        TestWorker::start(&db, DEV).await,
    ]
}

#[tokio::test]
async fn a_created_assistant_has_the_official_shape_and_defaults() {
    for worker in both().await {
        let (status, body) = worker
            .create(json!({"graph_id": "agent", "unknown": "ignored"}))
            .await;
        assert_eq!(status, 200);
        let keys: Vec<&str> = body
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "assistant_id",
                "config",
                "context",
                "created_at",
                "description",
                "graph_id",
                "metadata",
                "name",
                "updated_at",
                "version"
            ]
        );
        assert_eq!(
            (
                &body["name"],
                &body["description"],
                &body["version"],
                &body["config"],
                &body["context"]
            ),
            (
                &json!("Untitled"),
                &Value::Null,
                &json!(1),
                &json!({}),
                &json!({})
            )
        );
        assert!(
            body["created_at"]
                .as_str()
                .is_some_and(|at| at.ends_with("+00:00") && at.contains('T'))
        );
        let path = format!(
            "/assistants/{}",
            body["assistant_id"].as_str().expect("an id")
        );
        assert_eq!(worker.request("GET", &path, None).await, (200, body));
        worker.stop().await;
    }
}

#[tokio::test]
async fn configurable_and_context_mirror_each_other_and_exclude_each_other() {
    for worker in both().await {
        let (_, body) = worker
            .create(json!({"graph_id": "a", "context": {"b": 1}, "config": {"tags": []}}))
            .await;
        assert_eq!(
            (&body["config"], &body["context"]),
            (
                &json!({"configurable": {"b": 1}, "tags": []}),
                &json!({"b": 1})
            )
        );
        let (_, body) = worker
            .create(json!({"graph_id": "a", "config": {"configurable": {"b": 1}}}))
            .await;
        assert_eq!(body["context"], json!({"b": 1}));
        let both =
            json!({"graph_id": "a", "context": {"b": 1}, "config": {"configurable": {"b": 1}}});
        let (status, body) = worker.create(both).await;
        assert_eq!(status, 400);
        assert!(body["detail"].as_str().is_some_and(|detail| {
            detail.starts_with("Cannot specify both configurable and context")
        }));
        worker.stop().await;
    }
}

#[tokio::test]
async fn bad_bodies_are_422_with_a_detail_and_make_nothing() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, DEV).await;
    for body in [
        json!([]),
        json!({}),
        json!({"graph_id": 1}),
        json!({"graph_id": null}),
        json!({"graph_id": "a", "config": null}),
        json!({"graph_id": "a", "config": {"configurable": 1}}),
        json!({"graph_id": "a", "config": {"tags": [1]}}),
        json!({"graph_id": "a", "config": {"recursion_limit": "ten"}}),
        json!({"graph_id": "a", "context": null}),
        json!({"graph_id": "a", "metadata": null}),
        json!({"graph_id": "a", "metadata": "x"}),
        json!({"graph_id": "a", "name": null}),
        json!({"graph_id": "a", "description": 1}),
        json!({"graph_id": "a", "if_exists": "update"}),
        json!({"graph_id": "a", "assistant_id": "x"}),
        json!({"graph_id": "a", "metadata": {"k\u{0}": 1}}),
    ] {
        let (status, answer) = worker.create(body.clone()).await;
        assert_eq!(status, 422, "{body}: {answer}");
        assert!(
            answer["detail"].is_string() && answer.as_object().is_some_and(|o| o.len() == 1),
            "{answer}"
        );
    }
    for text in ["", "{", "\u{0}", "{} {}"] {
        let (status, answer) = request(worker.api, "POST", "/assistants", Some(text)).await;
        assert_eq!(
            (status, answer),
            (422, json!({"detail": "Invalid JSON in request body"}))
        );
    }
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn values_that_postgres_cannot_hold_are_made_to_fit() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, DEV).await;
    let (status, body) = worker
        .create(json!({"graph_id": "a", "name": "n\u{0}", "description": null, "config": {"x": ["\u{0}"], "configurable": {}}}))
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        (&body["name"], &body["config"]["x"]),
        (&json!("n\u{fffd}"), &json!(["\u{fffd}"]))
    );
    worker.stop().await;
}

#[tokio::test]
async fn reserved_names_are_stripped_silently() {
    let worker = TestWorker::start_with(DEV).await;
    let (_, body) = worker
        .create(json!({
            "graph_id": "a",
            "config": {"configurable": {"langgraph_auth_user": 1, "__otel_traceparent__": 1, "kept": 1}, "metadata": {"run_id": 1}},
            "metadata": {"thread_id": 1, "assistant_id": 1, "run_id": 1, "kept": 1},
        }))
        .await;
    assert_eq!(
        body["config"],
        json!({"configurable": {"kept": 1}, "metadata": {}})
    );
    assert_eq!(body["metadata"], json!({"kept": 1, "owner": "dev"}));
    let context = json!({"langgraph_request_id": 1, "__dd_trace_headers__": 1, "kept": 1});
    let (_, body) = worker
        .create(json!({"graph_id": "a", "context": context}))
        .await;
    assert_eq!(body["context"], json!({"kept": 1}));
    worker.stop().await;
}

#[tokio::test]
async fn if_exists_decides_about_an_id_that_is_taken() {
    for worker in both().await {
        let id = "6f1f1f1f-0000-4000-8000-00000000beef";
        let body = json!({"graph_id": "a", "assistant_id": id, "name": "first"});
        let (status, created) = worker.create(body).await;
        assert_eq!((status, &created["assistant_id"]), (200, &json!(id)));
        let mut again = json!({"graph_id": "b", "assistant_id": id, "name": "second"});
        assert_eq!(
            worker.create(again.clone()).await,
            (
                409,
                json!({"detail": format!("Assistant {id} already exists")})
            )
        );
        again["if_exists"] = json!("do_nothing");
        assert_eq!(worker.create(again).await, (200, created));
        worker.stop().await;
    }
}

#[tokio::test]
async fn in_memory_nothing_is_synced() {
    let worker = TestWorker::start_with(&[("ROBYN_DEV", "true"), (SCOPE, "all")]).await;
    worker.ready().await;
    let agent = "a0000000-0000-4000-8000-000000000001";
    let (status, body) = worker
        .create(json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}}))
        .await;
    assert_eq!((status, &body["metadata"]), (200, &json!({"owner": "dev"})));
    worker.stop().await;

    let running = Running::start(&[], FREE_PORTS);
    running
        .line("DATABASE_URL is not set: assistants are kept in memory, nothing is synced")
        .await;
}

#[tokio::test]
async fn unknown_routes_and_methods() {
    let worker = TestWorker::start_with(DEV).await;
    assert_eq!(
        worker.request("GET", "/nowhere", None).await,
        (404, json!({"detail": "Not Found"}))
    );
    assert_eq!(
        worker.request("GET", "/assistants/agent", None).await.0,
        422
    );
    let missing = "/assistants/6f1f1f1f-0000-4000-8000-00000000beef";
    assert_eq!(
        worker.request("GET", missing, None).await,
        (404, json!({"detail": "Not Found"}))
    );
    let (status, head, _) = exchange(
        worker.api,
        "GET /assistants HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(status == 405 && head.contains("allow: post"), "{head}");
    for (path, methods) in [
        ("/ok", "get, head"),
        ("/info", "get, head"),
        ("/assistants/search", "post"),
        ("/assistants/count", "post"),
        (missing, "get, head, patch, delete"),
        (&format!("{missing}/versions"), "post"),
        (&format!("{missing}/latest"), "post"),
        (&format!("{missing}/schemas"), "get, head"),
        (&format!("{missing}/subgraphs/a"), "get, head"),
    ] {
        let asked = format!("OPTIONS {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (status, head, _) = exchange(worker.api, &asked).await;
        let allowed = format!("\r\nallow: {methods}\r\n");
        assert!(status == 405 && head.contains(&allowed), "{path}: {head}");
    }
    assert_eq!(request(worker.admin, "GET", "/nowhere", None).await.0, 404);
    assert_eq!(request(worker.admin, "POST", "/live", None).await.0, 405);
    worker.stop().await;
}

#[tokio::test]
async fn what_needs_a_body_says_so() {
    let worker = TestWorker::start_with(DEV).await;
    let one = "/assistants/6f1f1f1f-0000-4000-8000-00000000beef";
    for path in [
        "/assistants/search",
        "/assistants/count",
        &format!("{one}/versions"),
        &format!("{one}/latest"),
    ] {
        let invalid = json!({"detail": "Invalid JSON in request body"});
        let answer = request(worker.api, "POST", path, None).await;
        assert_eq!(answer, (422, invalid), "{path}");
    }
    for part in ["", "/schemas", "/graph", "/subgraphs"] {
        let path = format!("/assistants/agent{part}");
        let invalid = json!({"detail": "Invalid assistant ID: must be a UUID"});
        assert_eq!(
            worker.request("GET", &path, None).await,
            (422, invalid),
            "{path}"
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_slash_at_the_end_leads_to_the_path_without() {
    let worker = TestWorker::start_with(DEV).await;
    for (path, location) in [
        ("/assistants/", "/assistants"),
        ("/assistants/search/?a=%2F&b", "/assistants/search?a=%2f&b"),
        ("/assistants/x/latest//", "/assistants/x/latest"),
        ("/ok/?check_db=1", "/ok?check_db=1"),
    ] {
        for method in ["GET", "POST"] {
            let asked = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let (status, head, body) = exchange(worker.api, &asked).await;
            let moved = format!("\r\nlocation: {location}\r\n");
            assert!(status == 307 && head.contains(&moved), "{path}: {head}");
            assert_eq!(body, "");
        }
    }
    for path in [
        "/",
        "//",
        "//elsewhere.example/",
        "/nowhere/",
        "//assistants/",
    ] {
        assert_eq!(worker.request("GET", path, None).await.0, 404, "{path}");
    }
    worker.stop().await;
}

/// Whoever asks, and on either store.
#[tokio::test]
async fn how_it_is_and_what_it_is_can_be_asked_by_anybody() {
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let in_memory = TestWorker::start_with(&project.variables()).await;
    let stored = TestWorker::start(&db, &project.variables()).await;
    for (worker, skipped, healthy) in [
        (in_memory, json!({}), json!({})),
        (
            stored,
            json!({"postgres": "skipped"}),
            json!({"postgres": "healthy"}),
        ),
    ] {
        for (query, services) in [
            ("", &skipped),
            ("?check_db=0", &skipped),
            ("?check_db=1", &healthy),
            ("?a&check_db=1&b", &healthy),
        ] {
            let answer = worker.request("GET", &format!("/ok{query}"), None).await;
            let ok = json!({"ok": true, "services": services});
            assert_eq!(answer, (200, ok), "{query}");
        }
        let info = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "langgraph_py_version": null,
            "flags": {"assistants": true, "crons": false, "langsmith": false},
            "host": {"kind": "self-hosted", "project_id": null, "host_revision_id": null, "revision_id": null, "tenant_id": null},
        });
        assert_eq!(worker.request("GET", "/info", None).await, (200, info));
        for path in ["/ok", "/info"] {
            let answer = worker.request("HEAD", path, None).await;
            assert_eq!(answer, (200, json!("")), "{path}");
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn what_can_be_got_has_a_head() {
    for worker in both().await {
        let (_, made) = worker.create(json!({"graph_id": "g"})).await;
        let id = made["assistant_id"].as_str().expect("an id");
        for (part, expected) in [("", 200), ("/schemas", 200), ("/graph", 404)] {
            let asked = |method: &str| {
                format!(
                    "{method} /assistants/{id}{part} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: 1\r\n\r\n"
                )
            };
            let (status, got, body) = exchange(worker.api, &asked("GET")).await;
            let head = exchange(worker.api, &asked("HEAD")).await;
            assert_eq!((status, body.is_empty()), (expected, false), "{part}");
            let undated = |head: &str| head.split("\r\ndate").next().map(str::to_owned);
            assert_eq!((head.0, head.2.as_str()), (expected, ""), "{part}");
            assert_eq!(undated(&head.1), undated(&got), "{part}");
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn when_the_database_goes_away_the_api_says_503_and_when_to_come_back() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[("ROBYN_DEV", "true")]).await;
    let name: String = db.rows("select current_database()::text", &[]).await[0].get(0);
    let admin = TestDatabase::new().await;
    let away = |allowed: bool| {
        format!(
            "alter database {name} allow_connections {allowed};
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        )
    };
    admin.execute(&away(false)).await;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}});
    for body in [body.clone(), json!({"graph_id": "agent"})] {
        let body = body.to_string();
        let bytes = format!(
            "POST /assistants HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, head, text) = exchange(worker.api, &bytes).await;
        assert!(
            status == 503 && head.contains("retry-after: 5"),
            "{head} {text}"
        );
    }
    let healthy = async |query: &str| worker.request("GET", &format!("/ok{query}"), None).await;
    let skipped = json!({"ok": true, "services": {"postgres": "skipped"}});
    assert_eq!(healthy("").await, (200, skipped));
    let unhealthy = json!({"ok": false, "services": {"postgres": "unhealthy"}});
    assert_eq!(healthy("?check_db=1").await, (500, unhealthy));
    let (status, body_text) = request(worker.admin, "GET", "/ready", None).await;
    assert_eq!(status, 503, "{body_text}");
    assert_eq!(request(worker.admin, "GET", "/live", None).await.0, 200);
    admin.execute(&away(true)).await;
    worker.ready().await;
    eventually("the database answers again", || async {
        match healthy("?check_db=1").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually("the API works again", || async {
        match worker.create(body.clone()).await {
            (200, answer) if answer["assistant_id"] == json!(agent) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn requests_in_hand_are_answered_before_the_end() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let mut running = Running::serve(&db, &[("ROBYN_DEV", "true")]);
    let api = running.api().await;
    running.line("agent sync disabled").await;
    // What announced it, too: else that may be what waits.
    db.drained().await;
    let holder = db.hold_agent(agent).await;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}}).to_string();
    let asked = tokio::spawn(async move { request(api, "POST", "/assistants", Some(&body)).await });
    db.somebody_waits_for_an_agent().await;
    running.signal("-TERM");
    running.line("stopping").await;
    holder.batch_execute("commit").await.expect("released");
    let (status, answer) = asked.await.expect("answered");
    assert_eq!((status, &answer["assistant_id"]), (200, &json!(agent)));
    assert_eq!(running.ended().await, Some(0));
}

#[tokio::test]
async fn a_request_that_hangs_does_not_keep_the_worker_from_ending() {
    let mut running = Running::start(&[], &[FREE_PORTS, DEV].concat());
    let _client = running.request_in_hand().await;
    running.signal("-TERM");
    running.line("not everything was finished in 10 s").await;
    assert_eq!(running.ended().await, Some(0));
}
