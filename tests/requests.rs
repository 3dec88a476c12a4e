//! Every request: its id in the answer and in the log, panics, and what is no request at all.

use std::io::Write;
use std::sync::{Arc, Mutex};

use agent_sync::config::Limits;
use agent_sync::telemetry;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use crate::support::binary::Running;
use crate::support::server::{Client, TestServer};
use crate::support::{TestDatabase, TestWorker, eventually};

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let worker = TestWorker::start_with(&[("ROBYN_DEV", "true")]).await;
    let missing = "/assistants/6f1f1f1f-0000-4000-8000-00000000beef";
    for (address, path, status) in [
        (worker.admin, "/live", 200),
        (worker.admin, "/nowhere", 404),
        (worker.api, missing, 404),
        (worker.api, "/assistants", 405),
    ] {
        let mut client = Client::connect(address).await;
        client
            .send(format!(
                "HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let mut all = String::new();
        client
            .stream
            .read_to_string(&mut all)
            .await
            .expect("an answer");
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{all}");
        assert!(
            all.ends_with("\r\n\r\n") && all.matches("\r\n\r\n").count() == 1,
            "{all}"
        );
    }
    worker.stop().await;
}

/// hyper answers these itself, before there is a request.
#[tokio::test]
async fn what_is_not_http_is_answered_without_a_word_and_closed() {
    let server = TestServer::start(Limits::default()).await;
    let headers = |n: usize| (0..n).map(|i| format!("x-{i}: x\r\n")).collect::<String>();
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nhost: x\r\n{rest}\r\n");
    for (text, status) in [
        ("\u{0}\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        ("GET /\r\n\r\n".to_owned(), 400),
        (get("no colon\r\n"), 400),
        (get("content-length: 1\r\ncontent-length: 2\r\n"), 400),
        (get("transfer-encoding: identity\r\n"), 400),
        (get(&headers(100)), 431),
        (get(&format!("x: {}\r\n", "x".repeat(70_000))), 431),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), 431),
    ] {
        let mut client = server.client().await;
        let said = client.ask(&text).await;
        let start = &text[..text.len().min(60)];
        assert_eq!((said.status, said.body.as_str()), (status, ""), "{start}");
        assert_eq!(client.closed().await, 0, "{start}");
    }
    assert_eq!(
        server.client().await.ask(get(&headers(99))).await.status,
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn every_answer_has_the_request_s_id() {
    let server = TestServer::start(Limits {
        max_requests: 1,
        ..Limits::default()
    })
    .await;
    let longest = "x".repeat(128);
    let ask = |id: &[u8]| {
        [
            b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: ",
            id,
            b"\r\n\r\n",
        ]
        .concat()
    };
    let mut client = server.client().await;
    for id in ["abc", "!~\"}{", longest.as_str()] {
        let said = client.ask(ask(id.as_bytes())).await;
        assert_eq!(said.header("x-request-id"), Some(id), "{said:?}");
    }
    let too_long = "x".repeat(129);
    let mut made = Vec::new();
    for id in ["", "a b", "a\tb", "h\u{fc}", too_long.as_str()] {
        let said = client.ask(ask(id.as_bytes())).await;
        let id = said.header("x-request-id").expect("an id").to_owned();
        let uuid: Uuid = id.parse().expect("an uuid");
        assert_eq!(uuid.get_version_num(), 4);
        made.push(id);
    }
    made.dedup();
    assert_eq!(made.len(), 5);
    let _held = server.held().await;
    let said = client.ask(ask(b"mine")).await;
    assert_eq!(
        (said.status, said.header("x-request-id")),
        (503, Some("mine"))
    );

    let worker = TestWorker::start_with(&[("ROBYN_DEV", "true")]).await;
    let large = "x".repeat(2 << 20);
    for (method, path, body, status) in [
        ("GET", "/nowhere", "", 404),
        ("PUT", "/assistants", "", 405),
        ("POST", "/assistants", "[]", 422),
        ("POST", "/assistants", large.as_str(), 413),
    ] {
        let length = body.len();
        let said = Client::connect(worker.api)
            .await
            .ask(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ncontent-length: {length}\r\n\r\n{body}"))
            .await;
        assert_eq!(
            (said.status, said.header("x-request-id")),
            (status, Some("mine"))
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn every_line_logged_for_a_request_has_its_id_and_nothing_of_its_contents() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let request = |id: &str, agent: Uuid| {
        let body = json!({"graph_id": "a", "config": {"configurable": {"k": "body-secret"}}, "metadata": {"supabase_agent_id": agent}})
            .to_string();
        format!(
            "POST /assistants?q=query-secret HTTP/1.1\r\nhost: x\r\nx-request-id: {id}\r\nauthorization: Bearer head-secret\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for format in ["text", "json"] {
        let running = Running::serve(
            &db,
            &[
                ("ROBYN_DEV", "true"),
                ("AGENT_SYNC_LOG", "agent_sync=debug"),
                ("AGENT_SYNC_LOG_FORMAT", format),
            ],
        );
        let api = running.api_in(format).await;
        eventually("lazy sync works", || async {
            let said = Client::connect(api)
                .await
                .ask(request("before", agent))
                .await;
            (said.status == 200).then_some(()).ok_or(said.body)
        })
        .await;
        // One that only this request syncs.
        let agent = db.agent("b").await;
        let said = Client::connect(api)
            .await
            .ask(request("the-id", agent))
            .await;
        assert_eq!(said.status, 200, "{said:?}");
        eventually("both lines are there", || async {
            let output = running.output();
            let mine = |word: &str| {
                let has = |line: &&str| line.contains(word) && line.contains("the-id");
                output.lines().find(has).map(ToOwned::to_owned)
            };
            match (mine("agent synced"), mine("answered")) {
                (Some(_), Some(answered)) => {
                    for said in ["POST", "/assistants", "200", "duration_ms"] {
                        assert!(answered.contains(said), "{answered}");
                    }
                    Ok(())
                }
                _ => Err(output),
            }
        })
        .await;
        assert!(
            !running.output().contains("-secret"),
            "{}",
            running.output()
        );
    }
    // A filter of warnings keeps the id, too.
    let variables = [
        ("ROBYN_DEV", "true"),
        ("AGENT_SYNC_LOG", "info,agent_sync::http=warn"),
    ];
    let running = Running::serve(&db, &variables);
    let api = running.api().await;
    let nobodys = uuid::Uuid::new_v4();
    let said = Client::connect(api)
        .await
        .ask(request("the-id", nobodys))
        .await;
    assert_eq!(said.status, 200, "{said:?}");
    let line = running.line("lazy sync skipped").await;
    assert!(line.contains("the-id"), "{line}");
}

/// What this thread logs.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lines").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_panic_is_one_500_and_one_line_and_everything_goes_on() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    // While there is only one subscriber, a line that another thread, which has none, reaches first is off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    // As the binary logs panics, on this thread: the others are tests.
    let (here, others) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == here {
            telemetry::log_panic(panic);
        } else {
            others(panic);
        }
    }));

    let server = TestServer::start(Limits {
        max_requests: 1,
        ..Limits::default()
    })
    .await;
    let mut client = server.client().await;
    for path in ["/panic", "/panic-later?secret"] {
        let said = client
            .ask(format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nx-request-id: the-id\r\n\r\n"
            ))
            .await;
        assert_eq!(said.detail(), (500, "Internal Server Error".to_owned()));
        assert_eq!(said.header("x-request-id"), Some("the-id"));
    }
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(server.client().await.get("/").await.status, 200);
    server.stop().await;

    let logged = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("text");
    let panics: Vec<&str> = logged
        .lines()
        .filter(|line| line.contains("panicked"))
        .collect();
    assert_eq!((panics.len(), logged.lines().count()), (2, 2), "{logged}");
    assert!(
        panics
            .iter()
            .all(|line| line.contains("the-id") && line.contains("tests/support/server.rs:"))
    );
    assert!(panics[0].contains("a plain one"), "{logged}");
    assert!(!logged.contains("secret"), "{logged}");
}
