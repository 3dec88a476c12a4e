//! What pages in a browser may do: they ask first, without a token, and read no answer that does not say that they may.

use std::net::SocketAddr;

use agent_sync::config::{CORS_ORIGINS, Config, Origins, ROBYN_DEV, Variables};
use serde_json::json;

use crate::support::server::{Client, Said};
use crate::support::worker::exchange;
use crate::support::{Project, TestDatabase, TestWorker};

const DEV: (&str, &str) = (ROBYN_DEV, "true");
const PAGE: &str = "https://app.example.com";

/// A worker that lets pages of these origins in.
async fn worker(origins: &str) -> TestWorker {
    TestWorker::start_with(&[DEV, (CORS_ORIGINS, origins)]).await
}

/// What a browser asks before it sends a request of a page's.
async fn preflight(address: SocketAddr, path: &str, origin: &str) -> Said {
    let asked = format!(
        "OPTIONS {path} HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\naccess-control-request-method: PATCH\r\n\
         access-control-request-headers: authorization,content-type,x-api-key\r\n\r\n"
    );
    Client::connect(address).await.ask(asked).await
}

async fn get(address: SocketAddr, path: &str, head: &str) -> Said {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{head}\r\n");
    Client::connect(address).await.ask(asked).await
}

fn header<'a>(said: &'a Said, name: &str) -> Option<&'a str> {
    said.header(&format!("access-control-{name}"))
}

/// What every answer says to a page that may read it.
fn assert_readable(said: &Said, allowed: &str) {
    assert_eq!(header(said, "allow-origin"), Some(allowed), "{said:?}");
    let exposed = "x-pagination-total, x-pagination-next, content-location, x-request-id";
    assert_eq!(header(said, "expose-headers"), Some(exposed), "{said:?}");
    assert_eq!(header(said, "allow-credentials"), None, "{said:?}");
}

fn assert_unmarked(said: &Said) {
    assert!(!said.head.contains("access-control-"), "{said:?}");
}

#[tokio::test]
async fn a_browser_may_ask_before_anybody_says_who_they_are() {
    let project = Project::new().await;
    let worker = TestWorker::start_with(&project.variables()).await;
    for path in [
        "/assistants",
        "/assistants/search",
        "/assistants/6f1f1f1f-0000-4000-8000-00000000beef",
        "/assistants/x/latest/",
        "/info",
        "/nowhere",
    ] {
        let said = preflight(worker.api, path, PAGE).await;
        assert_eq!((said.status, said.body.as_str()), (204, ""), "{said:?}");
        assert_readable(&said, "*");
        let asked = "authorization,content-type,x-api-key";
        assert_eq!(header(&said, "allow-headers"), Some(asked));
        assert_eq!(header(&said, "max-age"), Some("600"));
        let methods = header(&said, "allow-methods").expect("methods");
        for method in ["get", "post", "patch", "delete", "put"] {
            assert!(methods.split(", ").any(|m| m == method), "{methods}");
        }
        assert!(said.header("x-request-id").is_some());
    }
    // Asking costs nothing else: the request itself needs a token.
    let said = get(worker.api, "/assistants/x", &format!("origin: {PAGE}\r\n")).await;
    assert_eq!(said.status, 401);
    worker.stop().await;
}

/// An error that a page may not read is one that nobody can explain.
#[tokio::test]
async fn every_answer_says_who_may_read_it() {
    let project = Project::new().await;
    let strict = TestWorker::start_with(&project.variables()).await;
    let away = [
        DEV,
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
    ];
    let away = TestWorker::start_with(&away).await;
    let worker = TestWorker::start_with(&[DEV, ("AGENT_SYNC_MAX_BODY", "1k")]).await;
    let id = "6f1f1f1f-0000-4000-8000-00000000beef";
    let one = format!("/assistants/{id}");
    let named = json!({"graph_id": "g", "assistant_id": id}).to_string();
    let large = json!({"graph_id": "x".repeat(2000)}).to_string();
    for (worker, method, path, body, status) in [
        (&worker, "GET", "/ok", "", 200),
        (&worker, "POST", "/assistants", named.as_str(), 200),
        (&worker, "POST", "/assistants", named.as_str(), 409),
        (&worker, "POST", "/assistants/search", "{}", 200),
        (&worker, "HEAD", one.as_str(), "", 200),
        (&worker, "DELETE", one.as_str(), "", 204),
        (&worker, "GET", one.as_str(), "", 404),
        (&worker, "GET", "/nowhere", "", 404),
        (&worker, "GET", "/assistants/", "", 307),
        (&worker, "PUT", one.as_str(), "", 405),
        (&worker, "OPTIONS", one.as_str(), "", 405),
        (&worker, "POST", "/assistants", large.as_str(), 413),
        (&worker, "POST", "/assistants", "{", 422),
        (&strict, "GET", one.as_str(), "", 401),
        (&away, "POST", "/assistants", named.as_str(), 503),
        (&away, "GET", "/ok?check_db=1", "", 500),
    ] {
        let asked = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\norigin: {PAGE}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (said, head, _) = exchange(worker.api, &asked).await;
        let said = Said {
            status: said,
            head,
            body: String::new(),
        };
        assert_eq!(said.status, status, "{method} {path}: {said:?}");
        assert_readable(&said, "*");
        assert_eq!(said.header("vary"), None, "it is the same for everybody");
    }
    for worker in [strict, away, worker] {
        worker.stop().await;
    }
}

#[tokio::test]
async fn who_is_not_served_just_now_may_read_that_and_ask_all_the_same() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[DEV, ("AGENT_SYNC_MAX_REQUESTS", "1")]).await;
    // What announced it, too: else that may be what waits.
    db.drained().await;
    let holder = db.hold_agent(agent).await;
    let body = json!({"graph_id": "g", "metadata": {"supabase_agent_id": agent}});
    let in_hand = async {
        let (status, _) = worker.create(body).await;
        assert_eq!(status, 200);
    };
    let meanwhile = async {
        db.somebody_waits_for_an_agent().await;
        let said = get(worker.api, "/info", &format!("origin: {PAGE}\r\n")).await;
        assert_eq!(said.status, 503);
        assert_readable(&said, "*");
        assert_eq!(preflight(worker.api, "/info", PAGE).await.status, 204);
        holder.batch_execute("commit").await.expect("released");
    };
    tokio::join!(in_hand, meanwhile);
    worker.stop().await;
}

#[tokio::test]
async fn only_pages_of_the_origins_that_are_named_are_let_in() {
    let worker = worker("https://App.example.com:443, http://localhost:3000").await;
    for origin in [PAGE, "http://localhost:3000"] {
        let said = preflight(worker.api, "/assistants", origin).await;
        assert_eq!(said.status, 204);
        assert_readable(&said, origin);
        assert_eq!(header(&said, "max-age"), Some("600"));
        assert_eq!(said.header("vary"), Some("origin"));
        let said = get(worker.api, "/info", &format!("origin: {origin}\r\n")).await;
        assert_readable(&said, origin);
        assert_eq!(said.header("vary"), Some("origin"));
    }
    for origin in [
        "https://app.example.com.evil.example",
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "http://localhost",
        "https://app.example.co",
        "null",
        "*",
    ] {
        let said = preflight(worker.api, "/assistants", origin).await;
        assert_eq!(said.status, 204);
        assert_unmarked(&said);
        assert_eq!(said.header("vary"), Some("origin"));
        let said = get(worker.api, "/info", &format!("origin: {origin}\r\n")).await;
        assert_eq!(said.status, 200);
        assert_unmarked(&said);
        assert_eq!(said.header("vary"), Some("origin"));
    }
    // A cache must not hand out what was said to nobody's page.
    let said = get(worker.api, "/info", "").await;
    assert_unmarked(&said);
    assert_eq!(said.header("vary"), Some("origin"));
    worker.stop().await;
}

#[tokio::test]
async fn where_no_page_is_let_in_nothing_is_said_of_it() {
    let worker = worker("none").await;
    let said = preflight(worker.api, "/assistants", PAGE).await;
    assert_eq!((said.status, said.header("allow")), (405, Some("post")));
    assert_unmarked(&said);
    let said = get(worker.api, "/info", &format!("origin: {PAGE}\r\n")).await;
    assert_eq!((said.status, said.header("vary")), (200, None));
    assert_unmarked(&said);
    worker.stop().await;
}

#[tokio::test]
async fn the_admin_server_is_not_for_pages() {
    let worker = worker("*").await;
    let said = preflight(worker.admin, "/live", PAGE).await;
    assert_eq!(said.status, 405);
    assert_unmarked(&said);
    let said = get(worker.admin, "/live", &format!("origin: {PAGE}\r\n")).await;
    assert_eq!(said.status, 200);
    assert_unmarked(&said);
    worker.stop().await;
}

fn origins(text: &str) -> Result<Origins, String> {
    let variables = Variables::from([(CORS_ORIGINS.to_owned(), text.to_owned())]);
    let config = Config::from_variables(&variables);
    config
        .map(|config| config.cors_origins)
        .map_err(|e| e.to_string())
}

#[test]
fn origins_as_people_write_them() {
    let these = |origins: &[&str]| {
        let origins = origins.iter().map(|origin| (*origin).to_owned());
        Ok(Origins::These(origins.collect()))
    };
    for (text, expected) in [
        ("", Ok(Origins::Any)),
        (" * ", Ok(Origins::Any)),
        ("None", Ok(Origins::None)),
        (PAGE, these(&[PAGE])),
        (
            "HTTPS://App.Example.com:443,http://[::1]:3000 , http://h:80,",
            these(&[PAGE, "http://[::1]:3000", "http://h"]),
        ),
        (
            "http://h:443,chrome-extension://abc,http://127.0.0.1:5173",
            these(&[
                "http://h:443",
                "chrome-extension://abc",
                "http://127.0.0.1:5173",
            ]),
        ),
    ] {
        assert_eq!(origins(text), expected, "{text}");
    }
    for (text, said) in [
        ("app.example.com", "begins with https://"),
        ("https://a.example,*", "`*` stands alone"),
        ("none,https://a.example", "`none` stands alone"),
        ("null", "any page"),
        (",", "names no origin"),
        ("https://a.example/", "not even a slash"),
        ("https://a.example/x", "not even a slash"),
        ("https://*.example.com", "no patterns"),
        ("https://", "no host"),
        ("https://:80", "no host"),
        ("https://a b", "no host"),
        ("https://bücher.example", "xn--"),
        ("https://[::1", "no host"),
        ("https://[::g]", "no host"),
        ("https://a:b", "no port"),
        ("https://a:65536", "no port"),
        ("://a", "no scheme"),
        ("1://a", "no scheme"),
    ] {
        let error = origins(text).expect_err(text);
        assert!(
            error.contains(said) && error.contains(CORS_ORIGINS),
            "{text}: {error}"
        );
    }
    for text in ["https://user:s3cret@a.example", "https://a.example/?s3cret"] {
        let error = origins(text).expect_err(text);
        assert!(!error.contains("s3cret"), "{error}");
    }
}
