//! The admin server: who is answered what, and the stream of what happens.

use std::sync::Arc;
use std::time::Duration;

use agent_sync::activity::{Activity, Agent, Told};
use agent_sync::config::{
    ADMIN_ADDR, Config, DATABASE_URL, Limits, ROBYN_DEV, SCOPE, UPSTREAM, Variables,
};
use agent_sync::http;
use agent_sync::http::admin::{Admin, Watched, agents::Agents};
use agent_sync::http::auth::Authenticator;
use agent_sync::ids::AgentId;
use agent_sync::status::Subject;
use agent_sync::store::Place;
use futures::future::join_all;
use serde_json::json;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::binary::{self, Ended};
use crate::support::server::Client;
use crate::support::sse::EventSource;
use crate::support::worker::{exchange, request};
use crate::support::{Project, TestDatabase, TestWorker, eventually, uuid};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

const ROUTES: &[&str] = &[
    "/live", "/ready", "/metrics", "/status", "/events", "/history",
];

async fn asked(worker: &TestWorker, method: &str, path: &str, headers: &str) -> (u16, String) {
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    let mut client = Client::connect(worker.admin).await;
    client.send(request).await;
    let head = client.head().await.to_ascii_lowercase();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.expect("a status"), head)
}

#[tokio::test]
async fn every_route_answers_get_and_head_and_no_other_method_or_path() {
    let worker = TestWorker::start_with(&[]).await;
    worker.ready().await;
    for path in ROUTES {
        for method in ["GET", "HEAD"] {
            let (status, head) = asked(&worker, method, path, "").await;
            assert_eq!(status, 200, "{method} {path}: {head}");
            assert!(head.contains("cache-control: no-store"), "{head}");
            assert!(!head.contains("access-control"), "{head}");
        }
        for method in ["POST", "DELETE", "OPTIONS"] {
            let (status, head) = asked(&worker, method, path, "").await;
            assert_eq!(status, 405, "{method} {path}");
            assert!(head.contains("\r\nallow: get, head\r\n"), "{head}");
        }
    }
    for path in ["/nowhere", "/live/", "/LIVE", "//live", "/assistants"] {
        for method in ["GET", "POST"] {
            assert_eq!(asked(&worker, method, path, "").await.0, 404, "{path}");
        }
    }
    let (_, _, body) = exchange(
        worker.admin,
        "HEAD /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(body, "");
    worker.stop().await;
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let worker = TestWorker::start_with(&[]).await;
    let framed =
        "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: iframe\r\n";
    for path in ROUTES.iter().chain(&["/nowhere"]) {
        for headers in ["sec-fetch-site: cross-site\r\n", framed] {
            let (status, _) = asked(&worker, "GET", path, headers).await;
            assert_eq!(status, 403, "{path}");
        }
    }
    // A link to it is none of theirs.
    let followed = "cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document";
    for site in ["same-origin", "same-site", "none", followed] {
        let header = format!("sec-fetch-site: {site}\r\n");
        let (status, _) = asked(&worker, "GET", "/live", &header).await;
        assert_eq!(status, 200, "{site}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn an_edit_is_heard_of_as_it_happens_and_a_client_that_returns_misses_nothing() {
    let db = TestDatabase::new().await;
    let (organization, _) = db.organization().await;
    let worker = TestWorker::start(&db, ALL).await;
    let mut events = EventSource::open(worker.admin, None).await;
    assert!(
        events.head.contains("content-type: text/event-stream\r\n"),
        "{}",
        events.head
    );
    let agent = uuid(1);
    db.execute(&format!(
        "insert into public.agents (id, organization_id, name, status) values ('{agent}', '{organization}', 'Support', 'active')"
    ))
    .await;
    let created = events.next().await;
    let delay = created.data["delay_seconds"].as_f64().expect("a delay");
    assert!(delay > 0.0 && delay < 60.0, "{delay}");
    let at = created.data["at"].as_str().expect("a time");
    assert!(at.ends_with("+00:00") && at.starts_with("20"), "{at}");
    assert_eq!(
        (created.kind.as_str(), &created.data),
        (
            "sync",
            &json!({
                "at": at, "agent_id": agent, "name": "Support", "outcome": "created", "door": "change",
                "delay_seconds": delay, "error": null,
            })
        )
    );
    // Another one is on its way while nobody listens.
    drop(events);
    db.execute("update public.agents set sampling_params = '7'")
        .await;
    eventually("it failed", || async {
        match db.count("agent_sync.ledger where state = 'failed'").await {
            1 => Ok(()),
            n => Err(format!("{n} failed")),
        }
    })
    .await;
    let mut events = EventSource::open(worker.admin, created.id).await;
    let failed = events.next().await;
    assert_eq!(failed.id, created.id.map(|id| id + 1));
    assert_eq!(failed.data["outcome"], "failed");
    assert_eq!(failed.data["delay_seconds"], json!(null));
    let error = failed.data["error"].as_str().expect("an error");
    assert!(error.contains("agents.sampling_params"), "{error}");
    // A newcomer sees both.
    let mut newcomer = EventSource::open(worker.admin, None).await;
    assert_eq!(newcomer.next().await, created);
    assert_eq!(newcomer.next().await, failed);
    worker.stop().await;
}

#[tokio::test]
async fn a_pass_over_many_agents_is_one_event() {
    let db = TestDatabase::new().await;
    let (organization, _) = db.organization().await;
    db.execute(&format!(
        "insert into public.agents (organization_id, name, status) select '{organization}', 'Agent ' || n, 'active' from generate_series(1, 21) as n"
    ))
    .await;
    db.forget_edits().await;
    let worker = TestWorker::start(&db, ALL).await;
    let event = EventSource::open(worker.admin, None).await.next().await;
    assert_eq!(event.kind, "summary");
    assert_eq!(event.data["door"], "pass");
    assert_eq!(event.data["counts"]["created"], 21);
    assert_eq!(event.data["counts"]["failed"], 0);
    let (status, history) = request(worker.admin, "GET", "/history", None).await;
    assert_eq!((status, &history["step_seconds"]), (200, &json!(30)));
    let samples = history["samples"].as_array().expect("samples");
    let synced: i64 = samples.iter().filter_map(|s| s["synced"].as_i64()).sum();
    assert_eq!(synced, 21, "{history}");
    worker.stop().await;
}

#[tokio::test]
async fn streams_leave_room_for_probes_and_end_when_the_worker_stops() {
    let worker = TestWorker::start_with(&[]).await;
    worker.ready().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(EventSource::open(worker.admin, None).await);
    }
    let (status, head) = asked(&worker, "GET", "/events", "").await;
    assert_eq!(status, 503, "{head}");
    assert!(head.contains("retry-after: 1\r\n"), "{head}");
    // However many connections stand idle.
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(Client::connect(worker.admin).await);
        assert_eq!(request(worker.admin, "GET", "/live", None).await.0, 200);
    }
    // Whoever leaves makes room.
    drop(streams.pop());
    eventually("there is room for another", || async {
        match asked(&worker, "HEAD", "/events", "").await.0 {
            200 => {}
            status => return Err(status.to_string()),
        }
        let (status, _) = asked(&worker, "GET", "/events", "").await;
        (status == 200).then_some(()).ok_or(status.to_string())
    })
    .await;
    let ends = async {
        for mut stream in streams {
            assert_eq!(stream.at_last().await, None, "a clean end");
        }
    };
    tokio::join!(worker.stop(), ends);
}

/// An admin server without a worker.
fn admin(activity: &Arc<Activity>, stop: &CancellationToken) -> Admin {
    let config = Config::from_variables(&Variables::new()).expect("a configuration");
    let watched = Watched {
        readiness: Arc::default(),
        database: None,
        subject: Subject::new(&config, None),
        place: Place::default(),
        syncer: None,
        authenticator: Arc::new(Authenticator::new(&config.authentication, false)),
        upstreams: Vec::new(),
        activity: activity.clone(),
        agents: Agents::new(None),
        metrics: Arc::default(),
        started_at: OffsetDateTime::UNIX_EPOCH,
    };
    Admin::new(watched, stop.clone())
}

#[tokio::test(start_paused = true)]
async fn the_history_gets_a_sample_every_half_minute() {
    let (activity, stop) = (Arc::new(Activity::default()), CancellationToken::new());
    let keeping = tokio::spawn(Arc::new(admin(&activity, &stop)).keep_history(stop.clone()));
    let samples = || activity.history(OffsetDateTime::UNIX_EPOCH, None).len();
    for (seconds, expected) in [(29, 1), (2, 2), (28, 2), (2, 3), (7200, 121)] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(samples(), expected, "after {seconds} s more");
    }
    stop.cancel();
    keeping.await.expect("it ends");
}

/// Of what does not fit into the buffers in between, somebody who reads nothing is told later that it was lost.
#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_neither_the_worker_nor_its_end() {
    let (activity, stop) = (Arc::new(Activity::default()), CancellationToken::new());
    let admin = admin(&activity, &stop);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    // No deadline of the server's helps.
    let limits = Limits {
        answer_timeout: Duration::from_secs(600),
        ..Limits::default()
    };
    let run = tokio::spawn(http::serve(listener, Arc::new(admin), limits, stop.clone()));
    let mut slow = EventSource::open(address, None).await;
    let deaf = EventSource::open(address, None).await;
    // 20 MB, more than any socket takes.
    let (error, events) = ("x".repeat(500), 30_000);
    for n in 0..events {
        activity.told(&Told {
            at: OffsetDateTime::UNIX_EPOCH,
            door: "change",
            agents: vec![Agent {
                id: AgentId(uuid(n)),
                name: None,
                outcome: "failed",
                is_effective: false,
                delay: None,
                error: Some(&error),
            }],
            counts: &[],
            delays: &[],
        });
        tokio::task::yield_now().await;
    }
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < events {
        let event = slow.next().await;
        match event.kind.as_str() {
            "lost" => lost += u128::from(event.data["events"].as_u64().expect("a number")),
            _ => heard += 1,
        }
    }
    assert!(heard > 0 && lost > 0, "{heard} heard, {lost} lost");
    stop.cancel();
    let stopping = tokio::time::timeout(Duration::from_secs(10), run).await;
    stopping.expect("it stops at once").expect("no panic");
    drop(deaf);
}

#[tokio::test]
async fn the_status_of_a_running_worker_says_what_only_it_knows() {
    let db = TestDatabase::new().await;
    let (agent, project) = (db.agent("a").await, Project::new().await);
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = upstream.local_addr().expect("an address");
    let url = format!("http://{address}");
    let variables = [&project.variables()[..], ALL, &[(UPSTREAM, &url)]].concat();
    let worker = TestWorker::start(&db, &variables).await;
    let status = || async { request(worker.admin, "GET", "/status", None).await.1 };
    eventually("it listens", || async {
        let status = status().await;
        let listens =
            status["worker"]["listener"] == "listening" && status["worker"]["ready"] == true;
        listens.then_some(()).ok_or(status.to_string())
    })
    .await;
    let said = status().await;
    assert_eq!(
        (&said["health"], &said["reasons"]),
        (&json!("healthy"), &json!([])),
        "{said}"
    );
    assert_eq!(
        (&said["scope"], &said["store"]),
        (&json!("all"), &json!("postgres"))
    );
    assert_eq!(
        (&said["agents"]["synced"], &said["outbox"]["depth"]),
        (&json!(1), &json!(0))
    );
    let told = &said["worker"];
    assert!(told["round_trip_seconds"].as_f64() > Some(0.0), "{told}");
    assert!(told["keys_age_seconds"].as_f64() > Some(0.0), "{told}");
    assert!(
        told["started_at"]
            .as_str()
            .is_some_and(|at| at.starts_with("20")),
        "{told}"
    );
    assert_eq!(
        (&told["missed_doorbells"], &told["upstream"]),
        (&json!(0), &json!(null)),
        "{told}"
    );

    // What is known of the upstream is what came of the last request.
    let says = async |expected: &str| {
        eventually(
            &format!("the upstream is said to be {expected}"),
            || async {
                let said = status().await["worker"]["upstream"].to_string();
                said.contains(expected).then_some(()).ok_or(said)
            },
        )
        .await;
    };
    let answering = async {
        let (stream, _) = upstream.accept().await.expect("asked");
        let mut server = Client { stream };
        server.head().await;
        server
            .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await;
    };
    let asking = worker.request("GET", "/threads", None);
    assert_eq!(tokio::join!(asking, answering).0.0, 200);
    says("reachable").await;
    drop(upstream);
    assert_eq!(worker.request("GET", "/threads", None).await.0, 502);
    says("it cannot be reached: ").await;

    // Somebody has to look at an agent.
    db.execute("update public.agents set sampling_params = '7'")
        .await;
    eventually("it says so", || async {
        let said = status().await;
        let troubled = &said["troubled"][0]["agent_id"];
        (said["health"] == "degraded" && *troubled == json!(agent))
            .then_some(())
            .ok_or(said.to_string())
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn however_many_ask_the_database_is_asked_once_in_a_while() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    let asked = || async {
        let of = "pg_stat_statements where query like '%as oldest_age_seconds%' and query not like '%pg_stat_statements%'
             and dbid = (select oid from pg_database where datname = current_database())";
        let rows = db
            .rows(
                &format!("select coalesce(sum(calls), 0)::bigint from {of}"),
                &[],
            )
            .await;
        rows[0].get::<_, i64>(0)
    };
    db.execute("create extension if not exists pg_stat_statements")
        .await;
    let before = asked().await;
    let asking = (0..60).map(|n| {
        let path = ["/status", "/metrics", "/history"][n % 3];
        async move { request(worker.admin, "GET", path, None).await.0 }
    });
    let answers = join_all(asking).await;
    // Of more than sixteen at a time, some are told to come back.
    assert!(
        answers.iter().all(|status| [200, 503].contains(status)),
        "{answers:?}"
    );
    assert!(
        answers.iter().filter(|status| **status == 200).count() >= 16,
        "{answers:?}"
    );
    let times = asked().await - before;
    assert!(times <= 5, "asked {times} times");
    worker.stop().await;
}

/// As a container's health check runs it.
async fn health(args: &[&str], address: &str) -> Ended {
    // Whatever else is wrong with the configuration.
    let variables = [(ADMIN_ADDR, address), (SCOPE, "?"), (DATABASE_URL, "?")];
    binary::run(&[&["health"], args].concat(), &variables).await
}

#[tokio::test]
async fn health_says_in_one_line_and_by_its_exit_code_how_a_worker_is() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    let (own, port) = (worker.admin.to_string(), worker.admin.port());
    for address in [
        &own,
        &format!("0.0.0.0:{port}"),
        &format!("[::]:{port}"),
        &format!("localhost:{port}"),
    ] {
        for (args, word) in [(&[][..], "ready\n"), (&["--live"][..], "live\n")] {
            let ended = health(args, address).await;
            let said = (ended.code, ended.stdout.as_str(), ended.stderr.as_str());
            assert_eq!(said, (Some(0), word, ""), "{address}");
        }
    }
    worker.stop().await;
    for args in [&[][..], &["--live"][..]] {
        let ended = health(args, &own).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(1), ""),
            "{ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(
            ended.stderr.contains("does not answer at 127.0.0.1:"),
            "{ended:?}"
        );
        assert!(ended.stderr.contains("Connection refused"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_worker_that_is_not_ready_is_alive_and_health_says_why() {
    let nowhere = "postgresql://postgres@127.0.0.1:1/none";
    let worker = TestWorker::start_with(&[(DATABASE_URL, nowhere)]).await;
    let address = worker.admin.to_string();
    let ended = health(&["--live"], &address).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = health(&[], &address).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.starts_with("agent-sync: not ready: "),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("the database does not answer"),
        "{ended:?}"
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    worker.stop().await;
}

#[tokio::test]
async fn health_knows_what_is_no_admin_server_and_what_cannot_be_asked() {
    let api = TestWorker::start_with(&[(ROBYN_DEV, "true")]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let silent_at = silent.local_addr().expect("an address").to_string();
    for (address, why) in [
        (api.api.to_string().as_str(), "is no agent-sync"),
        (silent_at.as_str(), "no answer within 5 s"),
        ("127.0.0.1:0", "has port 0"),
        ("nonsense", "is not an address"),
    ] {
        let ended = health(&[], address).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
        assert!(ended.stderr.contains(ADMIN_ADDR), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    api.stop().await;
}
