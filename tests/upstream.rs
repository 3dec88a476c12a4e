//! In front of another server: what goes on to it and what comes back, and what is said when it does not answer.

use std::sync::Arc;

use agent_sync::config::{
    Config, DATABASE_URL, LANGGRAPH_API_URL, Limits, ROBYN_DEV, STORE, SUPABASE_JWT_SECRET,
    UPSTREAM, Variables,
};
use agent_sync::http::upstream::Upstream;
use agent_sync::http::{self, Answer, Body, Handle, Problem, read_json};
use bytes::Bytes;
use hyper::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::server::{Client, Said};
use crate::support::worker::request;
use crate::support::{Front, TestWorker};

const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// The lines of a head, sorted but for the first.
fn lines(head: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    lines
}

/// What a client is told without the upstream hearing of it.
async fn not_passed(front: &Front, text: &str) -> Said {
    let said = front.client().await.ask(text).await;
    let (mut client, mut upstream) = front.asked("/the-first-that-is-passed").await;
    upstream.send(DONE).await;
    assert_eq!(client.answer().await.status, 200);
    said
}

#[tokio::test]
async fn a_request_goes_on_as_it_is_and_so_does_its_answer() {
    for prefix in ["", "/a%2Fb/c"] {
        let front = Front::with(&format!("{prefix}/"), &[(ROBYN_DEV, "true")], |_| ()).await;
        let mut client = front.client().await;
        let path = "/threads//%61%2fb/./x?q=%20+&q=/?&&";
        client
            .send(format!(
                "PROPFIND {path} HTTP/1.1\r\nHost: front:1\r\nAuthorization: Bearer canary\r\nX-Api-Key: key\r\ncookie: a=1\r\n\
                 cookie: b=2\r\nx-request-id: mine\r\nContent-Length: 9\r\n\r\n{{\"no json"
            ))
            .await;
        let mut upstream = front.accept().await;
        let head = upstream.head().await;
        assert_eq!(
            lines(&head),
            [
                &format!("PROPFIND {prefix}{path} HTTP/1.1"),
                "authorization: Bearer canary",
                "content-length: 9",
                "cookie: a=1",
                "cookie: b=2",
                &format!("host: {}", front.upstream()),
                "x-api-key: key",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: front:1",
                "x-forwarded-proto: http",
                "x-request-id: mine",
            ]
        );
        upstream.takes("{\"no json").await;
        upstream
            .send(
                "HTTP/1.1 418 I'm a teapot\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ndate: then\r\n\
                 access-control-allow-origin: https://app\r\ncontent-length: 5\r\n\r\nshort",
            )
            .await;
        let answer = client.head().await;
        assert_eq!(
            lines(&answer),
            [
                "HTTP/1.1 418 I'm a teapot",
                "access-control-allow-origin: https://app",
                "content-length: 5",
                "date: then",
                "set-cookie: a=1",
                "set-cookie: b=2",
                "x-request-id: mine",
            ]
        );
        client.takes("short").await;
        front.worker.stop().await;
    }
}

#[tokio::test]
async fn assistants_are_answered_here_and_everything_else_there() {
    let front = Front::start().await;
    for ours in [
        "/assistants/%zz",
        "/%61ssistants",
        "//assistants/search",
        "/threads/../assistants",
    ] {
        let said = not_passed(&front, &format!("GET {ours} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert!([404, 422].contains(&said.status), "{ours}: {said:?}");
    }
    let (status, created) = front.worker.create(json!({"graph_id": "a"})).await;
    assert_eq!((status, &created["graph_id"]), (200, &json!("a")));
    for theirs in [
        "/",
        "/ok",
        "/info",
        "/assistants-of-mine",
        "/threads?assistants",
    ] {
        let (mut client, mut upstream) = front.asked(theirs).await;
        upstream.send(DONE).await;
        assert_eq!(client.answer().await.body, "{}", "{theirs}");
    }
    // A target that is no path leads nowhere.
    for nowhere in ["OPTIONS *", "CONNECT elsewhere:443"] {
        let said = not_passed(&front, &format!("{nowhere} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert_eq!(said.status, 400, "{nowhere}");
    }
    front.worker.stop().await;
}

/// Python's router takes a line feed at the end, others what follows a semicolon.
#[tokio::test]
async fn no_way_of_writing_assistants_leads_past_us() {
    let front = Front::start().await;
    for ours in [
        "/assistants%0A",
        "/assistants%20",
        "/assistants;x",
        "/;/assistants",
        "/threads/..;/assistants",
        "/threads%5c..%5cassistants",
    ] {
        let text = format!("POST {ours} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}");
        assert_eq!(not_passed(&front, &text).await.status, 404, "{ours}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn a_redirect_does_not_lead_past_us() {
    let front = Front::start().await;
    let (mut client, mut upstream) = front.asked("/threads/").await;
    let to = format!("http://{}/threads?x", front.upstream());
    let answer =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    upstream.send(answer).await;
    assert_eq!(client.answer().await.header("location"), Some("/threads?x"));
    front.worker.stop().await;
}

/// What is kept equal to agents is guarded under one path.
#[test]
fn the_server_that_assistants_live_on_is_no_upstream_by_another_path() {
    for (upstream, is_taken) in [
        ("http://runtime:8123/api/", true),
        ("http://other:8123", true),
        ("http://runtime:8123", false),
        ("http://runtime:8123/api/assistants", false),
    ] {
        let variables: Variables = [
            (DATABASE_URL, "postgres://localhost/postgres"),
            (STORE, "langgraph"),
            (LANGGRAPH_API_URL, "http://runtime:8123/api"),
            (UPSTREAM, upstream),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let taken = Config::from_variables(&variables);
        assert_eq!(taken.is_ok(), is_taken, "{upstream}: {taken:?}");
    }
}

#[tokio::test]
async fn who_may_do_what_there_is_not_asked_here() {
    let keys = [(SUPABASE_JWT_SECRET, "a-jwt-secret-of-at-least-32-bytes")];
    let front = Front::with("", &keys, |_| ()).await;
    assert_eq!(front.worker.create(json!({"graph_id": "a"})).await.0, 401);
    let mut client = front.client().await;
    client
        .send("GET /threads HTTP/1.1\r\nhost: x\r\nauthorization: Basic whatever\r\n\r\n")
        .await;
    let mut upstream = front.accept().await;
    let head = upstream.head().await;
    assert!(
        head.contains("\r\nauthorization: Basic whatever\r\n"),
        "{head}"
    );
    upstream
        .send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        .await;
    let said = client.answer().await;
    assert_eq!((said.status, said.body.as_str()), (403, "no"));
    front.worker.stop().await;
}

#[tokio::test]
async fn headers_about_one_connection_end_with_it() {
    let front = Front::start().await;
    let mut client = front.client().await;
    client
        .send(
            "GET /x HTTP/1.1\r\nhost: x\r\nConnection: Upgrade, HTTP2-Settings, X-Mine, x-forwarded-for\r\nx-mine: canary\r\n\
             keep-alive: timeout=canary\r\nproxy-authorization: canary\r\nte: trailers\r\nupgrade: h2c\r\nx-end: to-end\r\n\
             http2-settings: x\r\n\r\n",
        )
        .await;
    let mut upstream = front.accept().await;
    let head = upstream.head().await;
    assert!(
        head.contains("\r\nx-end: to-end\r\n")
            && head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"),
        "{head}"
    );
    for gone in [
        "canary",
        "connection",
        "x-mine",
        "keep-alive",
        "\r\nte:",
        "upgrade",
    ] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
    upstream
        .send(
            "HTTP/1.1 200 OK\r\nconnection: close, X-Theirs\r\nx-theirs: canary\r\nkeep-alive: canary\r\n\
             proxy-authenticate: canary\r\ntrailer: canary\r\nupgrade: canary\r\nx-end: to-end\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
    let said = client.answer().await;
    assert_eq!((said.status, said.header("x-end")), (200, Some("to-end")));
    for gone in ["canary", "connection", "x-theirs", "trailer", "upgrade"] {
        assert!(!said.head.contains(gone), "{gone}: {said:?}");
    }
    // The upstream closes its connection; ours to the client is as good as before.
    drop(upstream);
    client.send("GET /again HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    upstream.send(DONE).await;
    assert_eq!(client.answer().await.body, "{}");
    front.worker.stop().await;
}

#[tokio::test]
async fn a_request_has_one_length_on_its_way() {
    let front = Front::start().await;
    let framed = async |method: &str, headers: &str, body: &str| {
        let mut client = front.client().await;
        client
            .send(format!(
                "{method} /x HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}"
            ))
            .await;
        let mut upstream = front.accept().await;
        let head = upstream.head().await;
        let lengths: Vec<String> = lines(&head)
            .iter()
            .filter(|line| {
                line.starts_with("content-length") || line.starts_with("transfer-encoding")
            })
            .map(|line| (*line).to_owned())
            .collect();
        (lengths, client, upstream)
    };
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for method in ["POST", "GET", "DELETE"] {
        // Chunks win over a length, and what is behind them is not a second request.
        let both = "content-length: 3\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n";
        let (lengths, mut client, mut upstream) =
            framed(method, both, &format!("3\r\nabc\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(lengths, ["transfer-encoding: chunked"], "{method}");
        upstream.takes("3\r\nabc\r\n0\r\n\r\n").await;
        upstream.send(DONE).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(client.closed().await, 0, "{method}");
        assert_eq!(upstream.closed().await, 0, "{method}");

        let (lengths, mut client, mut upstream) =
            framed(method, "content-length: 5\r\n", "01234").await;
        assert_eq!(lengths, ["content-length: 5"], "{method}");
        upstream.takes("01234").await;
        upstream.send(DONE).await;
        assert_eq!(client.answer().await.status, 200);
        drop(upstream);
    }
    for (headers, expected) in [
        ("", &[][..]),
        ("content-length: 0\r\n", &["content-length: 0"]),
    ] {
        let (lengths, mut client, mut upstream) = framed("POST", headers, "").await;
        assert_eq!(lengths, expected);
        upstream.send(DONE).await;
        assert_eq!(client.answer().await.status, 200);
        drop(upstream);
    }
    for (headers, status) in [
        ("content-length: 1\r\ncontent-length: 2\r\n", 400),
        ("content-length: +1\r\n", 400),
        ("content-length: 1, 1\r\n", 400),
        ("transfer-encoding: chunked, identity\r\n", 400),
        ("transfer-encoding: gzip, chunked\r\n", 501),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            501,
        ),
    ] {
        let text = format!("POST /x HTTP/1.1\r\nhost: x\r\n{headers}\r\n0\r\n\r\n{smuggled}");
        assert_eq!(not_passed(&front, &text).await.status, status, "{headers}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn an_answer_has_one_length_on_its_way() {
    let front = Front::start().await;
    for (headers, body, expected) in [
        (
            "content-length: 99\r\ntransfer-encoding: chunked\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
        ("content-length: 2, 2\r\n", "{}", "content-length: 2\r\n{}"),
        // Only its end says where it ends.
        (
            "",
            "{}",
            "transfer-encoding: chunked\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
    ] {
        let (mut client, mut upstream) = front.asked("/x").await;
        upstream
            .send(format!("HTTP/1.1 200 OK\r\ndate: x\r\n{headers}\r\n{body}"))
            .await;
        drop(upstream);
        let head = client.head().await;
        let (framing, rest) = expected.split_once("\r\n").expect("two lines");
        let framings: Vec<&str> = lines(&head)
            .into_iter()
            .filter(|line| line.contains("length") || line.contains("transfer"))
            .collect();
        assert_eq!(framings, [framing]);
        client.takes(rest).await;
    }
    for unusable in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "no HTTP\r\n\r\n",
    ] {
        let (mut client, mut upstream) = front.asked("/x").await;
        upstream.send(unusable).await;
        let detail = "The upstream server gave no usable answer".to_owned();
        assert_eq!(client.answer().await.detail(), (502, detail), "{unusable}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn an_answer_without_a_body_has_none() {
    let front = Front::start().await;
    for (method, answer, length) in [
        ("HEAD", "200 OK\r\ncontent-length: 1000", Some("1000")),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked", None),
        ("GET", "204 No Content", None),
        ("GET", "304 Not Modified\r\netag: x", None),
        ("GET", "200 OK\r\ncontent-length: 0", Some("0")),
    ] {
        let mut client = front.client().await;
        client
            .send(format!("{method} /x HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let mut upstream = front.accept().await;
        upstream.head().await;
        upstream
            .send(format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n"))
            .await;
        let head = client.head().await;
        let found = lines(&head)
            .into_iter()
            .find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(found, length, "{method} {answer}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        drop(upstream);
        // What comes next is the next answer.
        client.send("GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut upstream = front.accept().await;
        upstream.head().await;
        upstream.send(DONE).await;
        assert_eq!(client.answer().await.body, "{}");
        drop(upstream);
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn a_connection_to_the_upstream_is_used_again() {
    let front = Front::start().await;
    let mut upstream = None;
    for n in 0..5 {
        let mut client = front.client().await;
        client
            .send(format!("GET /{n} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let same = match upstream.as_mut() {
            Some(same) => same,
            None => upstream.insert(front.accept().await),
        };
        assert!(same.head().await.starts_with(&format!("GET /{n} ")));
        same.send(DONE).await;
        assert_eq!(client.answer().await.body, "{}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn one_request_has_one_id_wherever_it_is_seen() {
    let front = Front::start().await;
    for (sent, kept) in [
        ("x-request-id: mine\r\n", Some("mine")),
        ("x-request-id: not fit\r\nx-request-id: two\r\n", None),
        ("", None),
    ] {
        let mut client = front.client().await;
        client
            .send(format!("GET /x HTTP/1.1\r\nhost: x\r\n{sent}\r\n"))
            .await;
        let mut upstream = front.accept().await;
        let head = upstream.head().await;
        let ids = |head: &str| -> Vec<String> {
            let all = lines(head).into_iter();
            all.filter_map(|line| line.strip_prefix("x-request-id: ").map(str::to_owned))
                .collect()
        };
        let seen = ids(&head);
        assert_eq!(seen.len(), 1, "{head}");
        assert!(kept.is_none_or(|kept| kept == seen[0]), "{head}");
        upstream
            .send("HTTP/1.1 200 OK\r\nx-request-id: theirs\r\nx-request-id: again\r\ncontent-length: 0\r\n\r\n")
            .await;
        assert_eq!(ids(&client.head().await), seen);
        drop(upstream);
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_away_is_told_of_once_in_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let away = listener.local_addr().expect("an address");
    drop(listener);
    let url = format!("http://{away}/base");
    let mut running = Running::start(&[], &[FREE_PORTS, &[(UPSTREAM, &url)]].concat());
    let api = running.api().await;
    let mut client = Client::connect(api).await;
    for _ in 0..50 {
        let said = client
            .ask("GET /x?apikey=canary HTTP/1.1\r\nhost: x\r\nx-request-id: asked\r\nauthorization: Bearer canary\r\n\r\n")
            .await;
        assert_eq!(
            said.detail(),
            (502, "The upstream server cannot be reached".to_owned())
        );
    }
    let line = running.line("the upstream cannot be reached").await;
    for part in [
        "WARN",
        url.as_str(),
        UPSTREAM,
        "request_id=asked",
        "Connection refused",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Not every time.
    let output = running.output();
    assert!(
        output.matches("the upstream cannot be reached").count() < 25,
        "{output}"
    );
    assert!(!output.contains("canary"), "{output}");
    running.signal("-TERM");
    assert_eq!(running.ended().await, Some(0));
}

/// It takes the connection, and says nothing of TLS.
#[tokio::test]
async fn an_upstream_that_is_slow_to_connect_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let worker = TestWorker::start_with(&[(UPSTREAM, &url)]).await;
    let said = Client::connect(worker.api).await.get("/threads").await;
    let detail = "The upstream server cannot be reached in time".to_owned();
    assert_eq!(said.detail(), (504, detail));
    worker.stop().await;
}

#[tokio::test]
async fn an_upstream_that_hangs_up_without_an_answer_is_a_bad_gateway() {
    let front = Front::start().await;
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let (mut client, mut upstream) = front.asked("/x").await;
        upstream.send(begun).await;
        drop(upstream);
        let detail = "The upstream server gave no usable answer".to_owned();
        assert_eq!(client.answer().await.detail(), (502, detail), "{begun}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn without_an_upstream_there_is_nothing_else() {
    let worker = TestWorker::start_with(&[(ROBYN_DEV, "true")]).await;
    assert_eq!(
        request(worker.api, "GET", "/threads", None).await,
        (404, json!({"detail": "Not Found"}))
    );
    worker.stop().await;
}

#[tokio::test]
async fn large_bodies_come_through_whole_both_ways_at_once() {
    const LARGE: usize = 48 * 1024 * 1024;
    let front = Front::limited(|limits| limits.max_body = 1000).await;
    let bytes = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * 7 + i / 251) as u8).collect() };
    let mut client = front.client().await;
    client
        .send(format!(
            "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n"
        ))
        .await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    upstream
        .send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n"
        ))
        .await;
    client.head().await;
    let expected = bytes(LARGE);
    let ends = [client, upstream].map(|end| {
        let expected = expected.clone();
        tokio::spawn(async move {
            let (mut reader, mut writer) = end.stream.into_split();
            let mut taken = vec![0; LARGE];
            let (sent, read) =
                tokio::join!(writer.write_all(&expected), reader.read_exact(&mut taken));
            sent.expect("sent");
            read.expect("read");
            assert!(taken == expected);
        })
    });
    for end in ends {
        end.await.expect("whole");
    }
    front.worker.stop().await;
}

/// Looks at requests before it passes them.
struct Looking(Upstream);

impl Handle for Looking {
    async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        if request.method() == "PUT" {
            return self.0.pass(request).await;
        }
        let (parts, body) = request.into_parts();
        let mut body = read_json(body).await?;
        body["seen"] = json!(true);
        let body = Bytes::from(body.to_string());
        self.0.pass_read(Request::from_parts(parts, body)).await
    }
}

#[tokio::test]
async fn a_request_that_was_looked_at_may_be_passed_as_it_comes_or_changed() {
    let front = Front::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let limits = Limits {
        max_requests: 1,
        ..Limits::default()
    };
    let url = format!("http://{}", front.upstream());
    let looking = Looking(Upstream::new(url.parse().expect("a URL"), &limits));
    let stop = CancellationToken::new();
    let run = tokio::spawn(http::serve(
        listener,
        Arc::new(looking),
        limits,
        stop.clone(),
    ));

    // As soon as it is passed, it is one of the streams, and others may ask.
    let mut passed = Client::connect(address).await;
    passed
        .send("PUT /x HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n{\"a\"")
        .await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    upstream.takes("{\"a\"").await;
    let mut changed = Client::connect(address).await;
    changed
        .send("POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"a\": \"b\"\r\n1\r\n}\r\n0\r\n\r\n")
        .await;
    let mut other = front.accept().await;
    let head = other.head().await;
    assert!(head.contains("\r\ncontent-length: 21\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    other.takes(r#"{"a":"b","seen":true}"#).await;
    other.send(DONE).await;
    assert_eq!(changed.answer().await.body, "{}");
    passed.send(": 1}").await;
    upstream.takes(": 1}").await;
    upstream.send(DONE).await;
    assert_eq!(passed.answer().await.body, "{}");

    stop.cancel();
    run.await.expect("stopped");
    front.worker.stop().await;
}

#[test]
fn the_upstream_comes_from_the_environment() {
    let read = |variables: &[(&str, &str)]| {
        let variables: Variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Config::from_variables(&variables)
    };
    let url = |value| read(&[(UPSTREAM, value)]).map(|c| c.upstream.map(|url| url.to_string()));
    assert_eq!(url(""), Ok(None));
    assert_eq!(
        url("http://runtime:8123/api"),
        Ok(Some("http://runtime:8123/api".to_owned()))
    );
    for wrong in [
        "runtime:8123",
        "ftp://canary",
        "http://canary:secret@host",
        "http://host/?key=canary",
        "http://host/#canary",
        "http://",
    ] {
        let said = url(wrong).expect_err(wrong).to_string();
        assert!(
            said.contains(UPSTREAM) && !said.contains("canary"),
            "{said}"
        );
    }
    let limits = |variables: &[(&str, &str)]| {
        let all = [&[(UPSTREAM, "http://host")], variables].concat();
        read(&all).map(|c| (c.limits.max_connections, c.limits.max_streams))
    };
    assert_eq!(limits(&[]), Ok((512, 256)));
    assert_eq!(limits(&[("AGENT_SYNC_MAX_STREAMS", "500")]), Ok((512, 500)));
    for (name, value) in [
        ("AGENT_SYNC_MAX_STREAMS", "512"),
        ("AGENT_SYNC_MAX_CONNECTIONS", "256"),
        ("AGENT_SYNC_MAX_STREAMS", "0"),
    ] {
        let said = limits(&[(name, value)]).expect_err(value).to_string();
        assert!(said.contains("AGENT_SYNC_MAX_STREAMS"), "{said}");
    }
}
