//! The server under attack: its limits and deadlines.

use std::time::Duration;

use agent_sync::config::{Config, Limits, Variables};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::server::{Client, LARGE, Said, TestServer};
use crate::support::{TestDatabase, TestWorker};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

/// With no deadline that a test could meet by accident.
fn limits() -> Limits {
    Limits {
        head_timeout: LONG,
        body_timeout: LONG,
        answer_timeout: LONG,
        ..Limits::default()
    }
}

fn is_overload(said: &Said) {
    assert_eq!(
        said.detail(),
        (503, "Too many requests at a time".to_owned())
    );
    assert_eq!(said.header("retry-after"), Some("1"), "{said:?}");
}

#[tokio::test]
async fn a_body_may_have_its_limit_and_no_byte_more() {
    let server = TestServer::start(Limits {
        max_body: 100,
        ..limits()
    })
    .await;
    let too_large = (413, "Request body too large (limit: 100 bytes)".to_owned());
    let fits = format!("\"{}\"", "x".repeat(98));
    let over = format!("\"{}\"", "x".repeat(99));
    let mut client = server.client().await;
    assert_eq!(client.post("/echo", &fits).await.body, fits);
    assert_eq!(client.post("/echo", &over).await.detail(), too_large);
    // Chunked, it has no length to look at beforehand; and small chunks add up.
    let chunked = |body: &str| {
        let chunks: String = body.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
        format!(
            "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
        )
    };
    let mut client = server.client().await;
    assert_eq!(client.ask(chunked(&fits)).await.body, fits);
    assert_eq!(client.ask(chunked(&over)).await.detail(), too_large);
    // Who asks first need not send it.
    let head =
        "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 101\r\n\r\n";
    assert_eq!(server.client().await.ask(head).await.detail(), too_large);
    server.stop().await;
}

/// Most clients send all before they look at the answer, and do not look any more when sending fails.
#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = TestServer::start(limits()).await;
    let length = 12 * 1024 * 1024;
    for (path, status) in [("/echo", 413), ("/elsewhere", 200)] {
        let mut client = server.client().await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
            ))
            .await;
        let sent = client.stream.write_all(&vec![b'x'; length]).await;
        sent.expect("all is taken");
        assert_eq!(client.answer().await.status, status);
        client.closed().await;
    }
    // An endless one is cut off.
    let mut client = server.client().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let sending = async { while client.stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), sending)
        .await
        .expect("cut off");
    server.stop().await;
}

#[tokio::test]
async fn a_head_has_a_deadline_and_so_has_an_idle_connection() {
    let server = TestServer::start(Limits {
        // Enough for those who do ask.
        head_timeout: Duration::from_secs(2),
        ..limits()
    })
    .await;
    let mut silent = server.client().await;
    let mut used = server.client().await;
    assert_eq!(used.get("/").await.status, 200);
    let mut half = server.client().await;
    half.send("GET / HTTP/1.1\r\nhost: x\r\n").await;
    let mut dripping = server.client().await;
    assert_eq!(silent.closed().await, 0);
    assert_eq!(used.closed().await, 0);
    assert_eq!(half.closed().await, 0);
    assert_eq!(dripping.drip("GET / HTTP/1.1\r\nhost: x\r\nx: ").await, 0);
    // A request in hand is none of them.
    let mut held = server.held().await;
    server.client().await.closed().await;
    server.let_go();
    assert_eq!(held.answer().await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_body_has_a_deadline_however_it_trickles() {
    let server = TestServer::start(Limits {
        body_timeout: SHORT,
        ..limits()
    })
    .await;
    let mut client = server.client().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        .await;
    let mut dripping = server.client().await;
    dripping
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        .await;
    let timed_out = (408, "The request body took too long".to_owned());
    assert_eq!(client.answer().await.detail(), timed_out);
    client.closed().await;
    assert!(dripping.drip("x").await > 0);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_not_waited_for() {
    let server = TestServer::start(limits()).await;
    let mut client = server.client().await;
    let said = client
        .ask("POST /elsewhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
        .await;
    assert_eq!(said.status, 200);
    client.closed().await;
    server.stop().await;
}

/// Else its client would send its next request there.
#[tokio::test]
async fn an_answer_says_so_when_its_connection_ends_with_it() {
    let server = TestServer::start(limits()).await;
    let mut client = server.client().await;
    assert_eq!(client.post("/echo", "1").await.header("connection"), None);
    assert_eq!(client.get("/unknown").await.header("connection"), None);
    let head = "POST /unknown HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n";
    let said = client.ask(head).await;
    assert_eq!(said.header("connection"), Some("close"), "{said:?}");
    client.send("1").await;
    assert_eq!(client.closed().await, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_let_go() {
    let server = TestServer::start(Limits {
        // The slow one takes part of it far more often, and all of it takes longer.
        answer_timeout: Duration::from_secs(1),
        ..limits()
    })
    .await;
    let request = "GET /large HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut deaf = server.client().await;
    deaf.send(request).await;
    let mut slow = server.client().await;
    slow.send(request).await;
    for client in [&deaf, &slow] {
        let begun = client.stream.peek(&mut [0]).await;
        assert_eq!(begun.expect("its beginning"), 1);
    }
    let reading = tokio::spawn(async move {
        let (mut taken, mut some) = (0, vec![0; 128 * 1024]);
        loop {
            match slow.stream.read(&mut some).await {
                Ok(n) if n > 0 => taken += n,
                _ => return taken,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    // It does not stop before both have ended.
    server.stop().await;
    let taken = reading.await.expect("ended");
    assert!(taken < LARGE, "{taken}");
    drop(deaf);
}

#[tokio::test]
async fn when_all_connections_are_taken_the_longest_idle_one_gives_way() {
    let server = TestServer::start(Limits {
        max_connections: 2,
        ..limits()
    })
    .await;
    let (mut first, mut second) = (server.client().await, server.client().await);
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(second.get("/").await.status, 200);
    assert_eq!(first.get("/").await.status, 200);
    let mut third = server.client().await;
    assert_eq!(third.get("/").await.status, 200);
    assert_eq!(second.closed().await, 0);
    assert_eq!(first.get("/").await.status, 200);
    // A head that does not come to its end counts as idle.
    third.send("GET / HTTP/1.1\r\n").await;
    let mut fourth = server.client().await;
    assert_eq!(fourth.get("/").await.status, 200);
    assert_eq!(third.closed().await, 0);
    assert_eq!(first.get("/").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_keep_nobody_out_however_many() {
    let server = TestServer::start(Limits {
        max_connections: 20,
        ..limits()
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(server.client().await);
        assert_eq!(server.client().await.get("/").await.status, 200);
    }
    for client in &mut idle[..150] {
        assert_eq!(client.closed().await, 0);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let server = TestServer::start(Limits {
        max_connections: 2,
        ..limits()
    })
    .await;
    let mut working = [server.held().await, server.held().await];
    let mut refused = server.client().await;
    let said = refused.get("/").await;
    is_overload(&said);
    assert!(said.header("x-request-id").is_some(), "{said:?}");
    assert_eq!(refused.closed().await, 0);
    // Those who do not even ask are let go soon, or at once when there are many of them.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(server.client().await);
    }
    is_overload(&server.client().await.get("/").await);
    for client in &mut silent {
        assert_eq!(client.closed().await, 0);
    }
    server.let_go();
    server.let_go();
    for client in &mut working {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(server.client().await.get("/").await.status, 200);
    server.stop().await;
}

/// A pool of connections does not look at those that it has put aside.
#[tokio::test]
async fn clients_that_stay_do_not_hold_up_the_end() {
    let server = TestServer::start(limits()).await;
    let (mut used, mut posted) = (server.client().await, server.client().await);
    assert_eq!(used.get("/").await.status, 200);
    assert_eq!(posted.post("/echo", "{}").await.status, 200);
    let started = std::time::Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(4));
    drop((used, posted));
}

#[tokio::test]
async fn a_request_too_many_is_told_when_to_come_back() {
    let server = TestServer::start(Limits {
        max_requests: 1,
        ..limits()
    })
    .await;
    let mut held = server.held().await;
    let mut client = server.client().await;
    is_overload(&client.get("/").await);
    server.let_go();
    assert_eq!(held.answer().await.status, 200);
    // The connection is as good as before.
    assert_eq!(client.get("/").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_request_whose_body_does_not_come_gives_way_to_others() {
    let server = TestServer::start(Limits {
        max_requests: 2,
        ..limits()
    })
    .await;
    let head =
        "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let mut slow = [server.client().await, server.client().await];
    for client in &mut slow {
        // It says "continue" once it waits for the body.
        assert_eq!(client.ask(head).await.status, 100);
    }
    assert_eq!(server.client().await.get("/").await.status, 200);
    is_overload(&slow[0].answer().await);
    slow[0].closed().await;
    assert_eq!(slow[1].ask("{}").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn an_attack_on_the_api_makes_no_probe_fail() {
    let db = TestDatabase::new().await;
    let one = [
        ("AGENT_SYNC_MAX_CONNECTIONS", "1"),
        ("AGENT_SYNC_MAX_REQUESTS", "1"),
        ("AGENT_SYNC_MAX_BODY", "1k"),
        ("ROBYN_DEV", "true"),
    ];
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &one).await;
    let (status, _) = worker.create(json!({"graph_id": "x".repeat(2000)})).await;
    assert_eq!(status, 413);
    // What announced it, too: else that may be what waits.
    db.drained().await;
    let holder = db.hold_agent(agent).await;
    let body = json!({"graph_id": "a", "metadata": {"supabase_agent_id": agent}}).to_string();
    let mut held = Client::connect(worker.api).await;
    held.send(format!(
        "POST /assistants HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    db.somebody_waits_for_an_agent().await;
    is_overload(&Client::connect(worker.api).await.get("/").await);
    for path in ["/live", "/ready"] {
        let said = Client::connect(worker.admin).await.get(path).await;
        assert_eq!(said.status, 200, "{said:?}");
    }
    holder.batch_execute("commit").await.expect("released");
    assert_eq!(held.answer().await.status, 200);
    worker.stop().await;
}

#[tokio::test]
async fn json_is_neither_too_deep_nor_too_wide() {
    let server = TestServer::start(limits()).await;
    let mut client = server.client().await;
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let wide = |n: usize| format!("[{}0]", "0,".repeat(n - 2));
    let objects = |n: usize| {
        deep(n)
            .replace('[', "{\"a\":")
            .replace(":}", ":0}")
            .replace(']', "}")
    };
    assert_eq!(client.post("/echo", &deep(100)).await.body, deep(100));
    let mixed = objects(100).replace(":}", ":0}");
    assert_eq!(client.post("/echo", &mixed).await.body, mixed);
    assert_eq!(client.post("/echo", &wide(20_000)).await.status, 200);
    for (body, detail) in [
        (
            deep(101),
            "The request body is nested too deeply (limit: 100 levels)",
        ),
        (
            "[".repeat(1_000_000),
            "The request body is nested too deeply (limit: 100 levels)",
        ),
        (
            wide(20_001),
            "The request body has too many values (limit: 20000, where an object counts as 10)",
        ),
        (
            format!("[{}[]]", "[],".repeat(300_000)),
            "The request body has too many values (limit: 20000, where an object counts as 10)",
        ),
        ("\u{0}".to_owned(), "Invalid JSON in request body"),
    ] {
        assert_eq!(
            client.post("/echo", &body).await.detail(),
            (422, detail.to_owned())
        );
    }
    server.stop().await;
}

#[test]
fn the_limits_come_from_the_environment() {
    let read = |name: &str, value: &str| {
        let variables: Variables = [(name.to_owned(), value.to_owned())].into();
        Config::from_variables(&variables).map(|config| config.limits)
    };
    let body = |value| read("AGENT_SYNC_MAX_BODY", value).map(|limits| limits.max_body);
    assert_eq!(body(""), Ok(1024 * 1024));
    assert_eq!(body("1000"), Ok(1000));
    assert_eq!(body("512k"), Ok(512 * 1024));
    assert_eq!(body("2M"), Ok(2 * 1024 * 1024));
    for wrong in [
        "0",
        "-1",
        "1.5M",
        "M",
        "1G",
        "99999999999999999999",
        "18446744073709551615k",
    ] {
        let said = body(wrong).expect_err(wrong).to_string();
        assert!(
            said.contains("AGENT_SYNC_MAX_BODY") && said.contains(wrong),
            "{said}"
        );
    }
    let most = |name: &str, value| read(name, value).map(|l| (l.max_connections, l.max_requests));
    assert_eq!(most("AGENT_SYNC_MAX_CONNECTIONS", "7"), Ok((7, 64)));
    assert_eq!(most("AGENT_SYNC_MAX_REQUESTS", "7"), Ok((768, 7)));
    for name in ["AGENT_SYNC_MAX_CONNECTIONS", "AGENT_SYNC_MAX_REQUESTS"] {
        assert!(read(name, "0").is_err() && read(name, "many").is_err());
    }
}
