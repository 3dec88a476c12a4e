//! LangGraph's own server, whose runs are what all this is for.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::database::Role;
use crate::support::eventually;
use crate::support::langgraph::{ALICE, BOB, KEY, LangGraph, State};
use crate::support::stream::Stream;
use crate::support::worker::exchange;

/// An assistant at this server.
async fn assistant(server: &LangGraph) -> String {
    let body = json!({"graph_id": "agent", "config": {"configurable": {"model_name": "a-model", "system_prompt": "You are Alpha."}}});
    let (status, made) = server.request("POST", "/assistants", Some(&body)).await;
    assert_eq!(status, 200, "{made}");
    made["assistant_id"].as_str().expect("an id").to_owned()
}

fn input(gate: Option<&Path>) -> Value {
    json!({"messages": [{"role": "user", "content": "Hello"}], "gate": gate})
}

/// The run is held in the middle, at the gate: what it said before is there all the same.
pub async fn streams_a_run_as_it_goes(url: &str, server: &LangGraph) {
    let assistant = assistant(server).await;
    let gate = server.directory().join(format!("gate-{assistant}"));
    let mut stream = Stream::start(url, &assistant, &input(Some(&gate)), &[]);
    stream.says("a-model You are Alpha.").await;
    std::fs::write(&gate, "").expect("opened");
    stream.says(" You said: Hello").await;

    let rest = stream.rest().await;
    let last = rest.last().expect("a last event");
    assert_eq!(last.event, "values", "{rest:?}");
    let seen = &last.data["seen"];
    for seen in [&seen["configurable"], &seen["context"]] {
        assert_eq!(
            (&seen["model_name"], &seen["system_prompt"]),
            (&json!("a-model"), &json!("You are Alpha.")),
            "{last:?}"
        );
    }
}

/// Its client is gone, so nobody waits at the gate any more.
pub async fn ends_the_run_of_a_client_that_goes(url: &str, server: &LangGraph) {
    let assistant = assistant(server).await;
    let gate = server.directory().join(format!("gate-{assistant}"));
    let mut stream = Stream::start(url, &assistant, &input(Some(&gate)), &[]);
    stream.says("a-model You are Alpha.").await;
    drop(stream);
    let cancelled = gate.with_extension("cancelled");
    eventually("the run is cancelled", || async {
        let log = || server.log();
        cancelled.exists().then_some(()).ok_or_else(log)
    })
    .await;
}

#[tokio::test]
async fn a_run_is_streamed_as_it_goes_and_sees_what_its_assistant_says() {
    if !Role::is_first_run() {
        return;
    }
    let server = LangGraph::shared().await;
    streams_a_run_as_it_goes(&server.url(), server).await;
}

#[tokio::test]
async fn a_run_ends_when_its_client_goes() {
    if !Role::is_first_run() {
        return;
    }
    let server = LangGraph::shared().await;
    ends_the_run_of_a_client_that_goes(&server.url(), server).await;
}

#[tokio::test]
async fn a_server_keeps_its_assistants_or_loses_them() {
    if !Role::is_first_run() {
        return;
    }
    let mut server = LangGraph::start().await;
    let path = format!("/assistants/{}", assistant(&server).await);
    server.restart(State::Kept).await;
    assert_eq!(server.request("GET", &path, None).await.0, 200);
    server.restart(State::Lost).await;
    assert_eq!(server.request("GET", &path, None).await.0, 404);
    server.stop(State::Lost).await;
    assert!(
        tokio::net::TcpStream::connect(server.address)
            .await
            .is_err()
    );
    server.start_again().await;

    // Nothing is left of it, however it ends.
    let directory = server.directory().to_owned();
    drop(server);
    eventually("its directory is removed", || async {
        let left = format!("{} is there", directory.display());
        (!directory.exists()).then_some(()).ok_or(left)
    })
    .await;
}

#[tokio::test]
async fn a_server_with_auth_shows_everybody_what_is_theirs() {
    if !Role::is_first_run() {
        return;
    }
    let server = LangGraph::shared_with_auth().await;
    let ask = async |credentials: &str, request: &str, body: &str| {
        let length = body.len();
        let bytes = format!(
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{credentials}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let (status, _, body) = exchange(server.address, &bytes).await;
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let [alice, bob] = [ALICE, BOB].map(|(token, _)| format!("authorization: Bearer {token}"));
    let (status, made) = ask(&alice, "POST /assistants", r#"{"graph_id": "agent"}"#).await;
    assert_eq!(
        (status, &made["metadata"]),
        (200, &json!({"owner": ALICE.1})),
        "{made}"
    );
    let get = format!(
        "GET /assistants/{}",
        made["assistant_id"].as_str().expect("an id")
    );
    let key = format!("x-api-key: {KEY}");
    for (who, status) in [
        (alice.as_str(), 200),
        (&bob, 404),
        (&key, 200),
        ("x-api-key: another", 401),
        ("authorization: Bearer another", 401),
        ("x-nothing: 1", 401),
    ] {
        assert_eq!(ask(who, &get, "").await.0, status, "{who}");
    }
}
