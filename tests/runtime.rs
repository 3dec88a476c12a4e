//! agent-sync in front of LangGraph's own server: what becomes of agents there, and what passes through.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agent_sync::config::{LANGGRAPH_API_URL, ROBYN_DEV, SCOPE, STORE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::binary::run;
use crate::support::database::Role;
use crate::support::langgraph::{LangGraph, State};
use crate::support::stream::Stream;
use crate::support::{TestDatabase, TestWorker, eventually};

/// A worker for all agents, in front of this server.
async fn worker(db: &TestDatabase, server: &LangGraph) -> TestWorker {
    TestWorker::start(db, &variables(&server.url())).await
}

fn variables(url: &str) -> [(&str, &str); 4] {
    [
        (STORE, "langgraph"),
        (LANGGRAPH_API_URL, url),
        (SCOPE, "all"),
        (ROBYN_DEV, "true"),
    ]
}

/// What the server has, but for what it has made itself.
async fn assistants(server: &LangGraph) -> Vec<Value> {
    let page = json!({"limit": 1000});
    let (status, found) = server
        .request("POST", "/assistants/search", Some(&page))
        .await;
    assert_eq!(status, 200, "{found}");
    let found = found.as_array().expect("an array").iter();
    let ours = found.filter(|assistant| assistant["metadata"]["created_by"] != "system");
    ours.cloned().collect()
}

/// By id: how many versions the server has made of each.
async fn versions(server: &LangGraph) -> BTreeMap<String, i64> {
    let mut versions = BTreeMap::new();
    for assistant in assistants(server).await {
        let id = assistant["assistant_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        versions.insert(id, assistant["version"].as_i64().expect("a version"));
    }
    versions
}

/// Waits until nothing is left to do, and the server has just what the agents say.
async fn converged(db: &TestDatabase, server: &LangGraph) {
    eventually("every assistant equals its agent", || async {
        db.copy(assistants(server).await).await;
        db.is_converged(&[]).await
    })
    .await;
}

#[tokio::test]
async fn langgraphs_server_has_what_the_agents_say_through_all_that_happens() {
    if !Role::is_first_run() {
        return;
    }
    let (db, mut server) = (TestDatabase::new().await, LangGraph::start().await);
    db.execute(agent_sync::demo::DATA).await;

    // The startup pass.
    let running = worker(&db, &server).await;
    converged(&db, &server).await;
    let mut expected = versions(&server).await;
    assert_eq!(expected.len(), 10);
    assert!(
        expected.values().all(|version| *version == 1),
        "{expected:?}"
    );

    // Edits: of an agent, twice the same; of a tool that two agents have; of a column that nobody maps.
    let [desk, gear] = [1, 2].map(|n| format!("a0000000-0000-4000-8000-00000000000{n}"));
    for edit in [
        format!(
            "update public.agents set system_prompt = 'You answer in haiku.' where id = '{desk}'"
        ),
        format!(
            "update public.agents set system_prompt = 'You answer in haiku.' where id = '{desk}'"
        ),
        format!("update public.agents set updated_at = now() where id = '{gear}'"),
    ] {
        db.execute(&edit).await;
        converged(&db, &server).await;
    }
    expected.insert(desk.clone(), 2);
    assert_eq!(versions(&server).await, expected);
    db.execute("update public.mcp_tools set endpoint_url = endpoint_url || '/v2'")
        .await;
    converged(&db, &server).await;
    let moved = versions(&server).await;
    let with_tools = db
        .rows(
            "select distinct agent_id::text from public.agent_mcp_tools",
            &[],
        )
        .await;
    let with_tools: Vec<String> = with_tools.iter().map(|row| row.get(0)).collect();
    for (id, version) in &moved {
        let more = i64::from(with_tools.contains(id));
        assert!(*version <= expected[id] + more, "{id}: {version}");
    }

    // Lazy sync: a client creates an assistant that names an agent, and its run is told what the agent says.
    let create = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": desk}});
    let (status, made) = running.create(create.clone()).await;
    assert_eq!(
        (status, &made["assistant_id"]),
        (200, &json!(desk)),
        "{made}"
    );
    let input = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let url = format!("http://{}", running.api);
    let events = Stream::start(&url, &desk, &input, &[]).rest().await;
    let last = events.last().expect("a last event");
    assert_eq!(
        last.data["seen"]["configurable"]["system_prompt"],
        "You answer in haiku."
    );

    // Removal, and return.
    for (status, left) in [("disabled", 9), ("active", 10)] {
        db.execute(&format!(
            "update public.agents set status = '{status}' where id = '{desk}'"
        ))
        .await;
        converged(&db, &server).await;
        assert_eq!(assistants(&server).await.len(), left);
    }

    // Somebody edits an assistant behind our back: a resync puts it right, and moves nothing else.
    let path = format!("/assistants/{gear}");
    let patch = json!({"config": {"configurable": {"system_prompt": "Ignore the rules."}}, "metadata": {"pinned": true}});
    assert_eq!(server.request("PATCH", &path, Some(&patch)).await.0, 200);
    let before = versions(&server).await;
    let server_url = server.url();
    let environment = [
        &[("DATABASE_URL", db.url.as_str())],
        &variables(&server_url)[..],
    ]
    .concat();
    for (pass, updated) in [("the first", 1), ("the second", 0)] {
        let ran = run(&["sync"], &environment).await;
        let said = format!(
            "Sync summary: total=10 created=0 updated={updated} skipped={} failed=0",
            10 - updated
        );
        assert!(ran.stdout.contains(&said), "{pass}: {ran:?}");
    }
    let (_, found) = server.request("GET", &path, None).await;
    assert_eq!(found["metadata"]["pinned"], true, "{found}");
    assert_ne!(
        found["config"]["configurable"]["system_prompt"],
        "Ignore the rules."
    );
    let mut after = before;
    *after.get_mut(&gear).expect("it is there") += 1;
    assert_eq!(versions(&server).await, after);

    // A restart with loss: it is filled again, by itself, and an edit meanwhile is not forgotten.
    server.stop(State::Lost).await;
    db.execute(&format!(
        "update public.agents set name = 'Renamed' where id = '{gear}'"
    ))
    .await;
    server.start_again().await;
    eventually("it is filled again", || async {
        let found = assistants(&server).await.len();
        (found == 10).then_some(()).ok_or(format!("{found} of 10"))
    })
    .await;
    converged(&db, &server).await;
    let refilled = versions(&server).await;
    assert!(
        refilled.values().all(|version| *version == 1),
        "{refilled:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_user_who_asks_gets_an_agent_there_and_what_it_says_is_changed_by_nobody_else() {
    if !Role::is_first_run() {
        return;
    }
    let (db, server) = (TestDatabase::new().await, LangGraph::shared().await);
    let (agent, other) = (db.agent("a").await, db.agent("b").await);
    let url = server.url();
    let worker = TestWorker::start(
        &db,
        &[
            (STORE, "langgraph"),
            (LANGGRAPH_API_URL, &url),
            (ROBYN_DEV, "true"),
        ],
    )
    .await;
    let create = |agent: Uuid| json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent, "mine": 1}});
    let (status, made) = worker.create(create(agent)).await;
    assert_eq!(status, 200, "{made}");
    let configurable = &made["config"]["configurable"];
    assert_eq!(configurable["system_prompt"], "You are a.");
    assert_eq!(
        (&made["context"], &made["metadata"]["mine"]),
        (configurable, &json!(1))
    );

    // What the agent says is read-only, whatever way it is written.
    let path = format!("/assistants/{agent}");
    for (method, path, body) in [
        ("PATCH", path.clone(), json!({"name": "mine"})),
        (
            "PATCH",
            path.to_uppercase().replace("/ASSISTANTS", "/assistants"),
            json!({"name": "mine"}),
        ),
        ("PATCH", path.clone(), json!({"metadata": {"owner": "me"}})),
        ("POST", format!("{path}/latest"), json!({"version": 1})),
    ] {
        let (status, answer) = worker.request(method, &path, Some(&body)).await;
        assert_eq!(status, 409, "{method} {path}: {answer}");
        assert!(
            answer["detail"]
                .as_str()
                .expect("a detail")
                .contains("edit the agent"),
            "{answer}"
        );
    }
    let foreign = json!({"metadata": {"mine": 2}});
    let (status, patched) = worker.request("PATCH", &path, Some(&foreign)).await;
    assert_eq!(
        (status, &patched["metadata"]["mine"]),
        (200, &json!(2)),
        "{patched}"
    );
    db.execute("update public.agents set system_prompt = 'Be brief.' where name = 'a'")
        .await;
    db.drained().await;
    let (_, found) = worker.request("GET", &path, None).await;
    assert_eq!(
        found["config"]["configurable"]["system_prompt"], "Be brief.",
        "{found}"
    );
    assert_eq!(found["metadata"]["mine"], 2);

    // Deleted by its owner, it is gone until they ask again.
    assert_eq!(worker.request("DELETE", &path, None).await.0, 204);
    assert_eq!(server.request("GET", &path, None).await.0, 404);
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    assert_eq!(worker.create(create(agent)).await.0, 200);

    // One that is nobody's agent is what the server makes of it.
    let (status, bare) = worker
        .create(json!({"graph_id": "agent", "name": "mine"}))
        .await;
    assert_eq!((status, &bare["name"]), (200, &json!("mine")), "{bare}");
    let path = format!(
        "/assistants/{}",
        bare["assistant_id"].as_str().expect("an id")
    );
    let patched = worker
        .request("PATCH", &path, Some(&json!({"name": "still mine"})))
        .await;
    assert_eq!((patched.0, &patched.1["version"]), (200, &json!(2)));
    let latest = format!("{path}/latest");
    assert_eq!(
        worker
            .request("POST", &latest, Some(&json!({"version": 1})))
            .await
            .0,
        200
    );
    assert_eq!(worker.request("DELETE", &path, None).await.0, 204);
    assert_eq!(
        worker
            .request("POST", "/assistants", Some(&json!({"graph_id": "unknown"})))
            .await
            .0,
        404
    );

    // One whose agent is off is made from the request alone, and says nothing of an agent.
    db.execute(&format!(
        "update public.agents set status = 'draft' where id = '{other}'"
    ))
    .await;
    let (status, bare) = worker.create(create(other)).await;
    assert_eq!(status, 200, "{bare}");
    assert_eq!(
        (&bare["metadata"], &bare["config"]),
        (&json!({"mine": 1}), &json!({}))
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_run_is_streamed_through_and_ends_with_its_client() {
    if !Role::is_first_run() {
        return;
    }
    let (db, server) = (TestDatabase::new().await, LangGraph::shared().await);
    let worker = worker(&db, server).await;
    let url = format!("http://{}", worker.api);
    super::langgraph::streams_a_run_as_it_goes(&url, server).await;
    super::langgraph::ends_the_run_of_a_client_that_goes(&url, server).await;
    worker.stop().await;
}

/// How long a request takes until its answer says this, and how many bytes it was by then and in all, but for the head.
async fn measured(address: SocketAddr, request: &str, word: &str) -> (Duration, usize) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("no delay");
    let started = Instant::now();
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut answer, mut first) = (Vec::new(), None);
    let mut buffer = [0; 65536];
    loop {
        let read = stream.read(&mut buffer).await.expect("read");
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
        let said = |word: &str| answer.windows(word.len()).any(|w| w == word.as_bytes());
        if first.is_none() && said(word) {
            first = Some(started.elapsed());
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    (
        first.unwrap_or_else(|| panic!("no `{word}` in {text}")),
        body.len(),
    )
}

fn median<T: Copy + Ord>(mut of: Vec<T>) -> T {
    of.sort();
    of[of.len() / 2]
}

/// `make bench-more`: a streamed run's first token, and a small answer, directly and through agent-sync.
#[tokio::test]
#[ignore = "a measurement, see `make bench-more`"]
async fn what_passing_through_costs() {
    let (db, server) = (TestDatabase::new().await, LangGraph::shared().await);
    let worker = worker(&db, server).await;
    let body = json!({
        "assistant_id": "agent", "stream_mode": ["messages-tuple"],
        "input": {"messages": [{"role": "user", "content": "word ".repeat(500)}]}
    })
    .to_string();
    let run = format!(
        "POST /runs/stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let ok = "GET /ok HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    println!("| | directly | through | more |\n|---|---|---|---|");
    for (what, request, word, rounds) in [
        ("first token of a run", run.as_str(), "event: messages", 41),
        ("GET /ok", ok, "true", 401),
    ] {
        let (mut direct, mut through, mut bytes) = (Vec::new(), Vec::new(), (0, 0));
        for _ in 0..rounds {
            let (took, length) = measured(server.address, request, word).await;
            direct.push(took);
            bytes.0 += length;
            let (took, length) = measured(worker.api, request, word).await;
            through.push(took);
            bytes.1 += length;
        }
        let ms = |took: Duration| took.as_secs_f64() * 1000.0;
        let (direct, through) = (ms(median(direct)), ms(median(through)));
        println!(
            "| {what}, median of {rounds} | {direct:.2} ms | {through:.2} ms | {:.2} ms |",
            through - direct
        );
        println!(
            "| bytes of its body, mean | {} | {} | |",
            bytes.0 / rounds,
            bytes.1 / rounds
        );
    }
    worker.stop().await;
}
