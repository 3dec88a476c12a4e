//! What passes through bit by bit: nothing is held back, whoever hangs up is noticed, and streams and everything else do not
//! get into each other's way.

use std::io::ErrorKind;
use std::time::Duration;

use agent_sync::config::UPSTREAM;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::server::{Client, Said};
use crate::support::{Front, eventually};

const STREAM: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

const WEBSOCKET: &str = "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: x\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: y\r\n\r\n";

fn is_overload(said: &Said) {
    assert_eq!(
        said.detail(),
        (503, "Too many requests at a time".to_owned())
    );
    assert_eq!(said.header("retry-after"), Some("1"), "{said:?}");
}

/// The next answer of the upstream is the end of what it sends.
async fn is_passed(front: &Front) {
    let (mut client, mut upstream) = front.asked("/another").await;
    upstream.send(DONE).await;
    assert_eq!(client.answer().await.body, "{}");
}

/// Each event is sent when the one before has been received.
#[tokio::test]
async fn an_event_is_there_before_the_next_one_is_sent() {
    let front = Front::start().await;
    let (mut client, mut upstream) = front.streaming().await;
    for n in 0..100 {
        let event = format!("{n:02}\n");
        upstream.send(format!("3\r\n{event}\r\n")).await;
        client.takes(&format!("3\r\n{event}\r\n")).await;
    }
    upstream.send("0\r\n\r\n").await;
    client.takes("0\r\n\r\n").await;
    // Of a known length, bit by bit, too.
    client.send("GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
        .await;
    client.head().await;
    for byte in ["a", "b", "c"] {
        upstream.send(byte).await;
        client.takes(byte).await;
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn a_request_goes_on_as_it_comes_and_may_be_answered_meanwhile() {
    let front = Front::start().await;
    let mut client = front.client().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut upstream = front.accept().await;
    let head = upstream.head().await;
    assert!(
        head.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{head}"
    );
    upstream.send(STREAM).await;
    client.head().await;
    for chunk in ["3\r\none\r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
        client.send(chunk).await;
        upstream.takes(chunk).await;
        upstream.send(chunk).await;
        client.takes(chunk).await;
    }
    // Of a known length, and on the same connections.
    client
        .send("PUT /x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        .await;
    upstream.head().await;
    for byte in ["a", "b", "c"] {
        client.send(byte).await;
        upstream.takes(byte).await;
    }
    upstream.send(DONE).await;
    assert_eq!(client.answer().await.body, "{}");
    front.worker.stop().await;
}

#[tokio::test]
async fn who_asks_whether_to_continue_is_told_to() {
    let front = Front::start().await;
    let mut client = front.client().await;
    let said = client
        .ask("POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        .await;
    assert_eq!(said.status, 100);
    let mut upstream = front.accept().await;
    let head = upstream.head().await;
    assert!(!head.contains("expect"), "{head}");
    client.send("abc").await;
    upstream.takes("abc").await;
    upstream
        .send(format!("HTTP/1.1 100 Continue\r\n\r\n{DONE}"))
        .await;
    assert_eq!(client.answer().await.status, 200);
    front.worker.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_is_noticed_by_an_upstream_that_says_nothing() {
    let front = Front::start().await;
    // Before the answer, and in the middle of it.
    for (client, mut upstream) in [front.asked("/x").await, front.streaming().await] {
        drop(client);
        assert_eq!(upstream.closed().await, 0);
    }
    // And where it was the client's turn: a request that is broken off does not look like a whole one.
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut client = front.client().await;
        client
            .send(format!(
                "POST /x HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n3\r\none\r\n"
            ))
            .await;
        let mut upstream = front.accept().await;
        upstream.head().await;
        upstream.takes("3\r\none\r\n").await;
        drop(client);
        assert_eq!(upstream.closed().await, 0, "{framing}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_like_a_whole_one() {
    let front = Front::start().await;
    let (mut client, upstream) = front.streaming().await;
    drop(upstream);
    assert_eq!(client.closed().await, 0);

    let (mut client, mut upstream) = front.asked("/x").await;
    upstream
        .send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\none")
        .await;
    client.head().await;
    client.takes("one").await;
    drop(upstream);
    assert_eq!(client.closed().await, 0);
    front.worker.stop().await;
}

/// Where only the end of the connection says that an answer has ended, it says so by how it ends.
#[tokio::test]
async fn nor_does_it_to_a_client_that_knows_no_chunks() {
    let front = Front::start().await;
    let begin = async || {
        let mut client = front.client().await;
        client.send("GET /x HTTP/1.0\r\nhost: x\r\n\r\n").await;
        let mut upstream = front.accept().await;
        assert!(upstream.head().await.starts_with("GET /x HTTP/1.1\r\n"));
        upstream.send(format!("{STREAM}3\r\none\r\n")).await;
        let head = client.head().await;
        assert!(!head.contains("transfer-encoding"), "{head}");
        client.takes("one").await;
        (client, upstream)
    };
    let (mut client, upstream) = begin().await;
    drop(upstream);
    let end = client.stream.read(&mut [0]).await;
    assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));

    let (mut client, mut upstream) = begin().await;
    let rest = "x".repeat(1 << 20);
    upstream
        .send(format!("100000\r\n{rest}\r\n0\r\n\r\n"))
        .await;
    // It is not wanted for another request, and so the client's is closed long since.
    assert_eq!(upstream.closed().await, 0);
    client.takes(&rest).await;
    let end = client.stream.read(&mut [0]).await;
    assert_eq!(end.map_err(|e| e.kind()), Ok(0));
    front.worker.stop().await;
}

/// It may have seen enough, or be short of anything but patience.
#[tokio::test]
async fn an_upstream_may_answer_before_it_has_all() {
    let front = Front::start().await;
    let length = 12 * 1024 * 1024;
    let mut client = front.client().await;
    client
        .send(format!(
            "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        ))
        .await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig")
        .await;
    drop(upstream);
    let sent = client.stream.write_all(&vec![b'x'; length]).await;
    sent.expect("all is taken");
    let said = client.answer().await;
    assert_eq!((said.status, said.body.as_str()), (413, "big"));
    front.worker.stop().await;
}

#[tokio::test]
async fn a_client_whose_body_is_no_http_is_told_so() {
    let front = Front::start().await;
    let mut client = front.client().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    client.send("no chunk").await;
    assert_eq!(
        client.answer().await.detail(),
        (400, "The request body could not be read".to_owned())
    );
    upstream.closed().await;
    front.worker.stop().await;
}

#[tokio::test]
async fn streams_have_slots_of_their_own() {
    let front = Front::limited(|limits| {
        limits.max_streams = 2;
        limits.max_requests = 1;
    })
    .await;
    let body = json!({"graph_id": "a"}).to_string();
    let mut in_hand = front.client().await;
    let head = "POST /assistants HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n";
    let said = in_hand
        .ask(format!("{head}content-length: {}\r\n\r\n", body.len()))
        .await;
    assert_eq!(said.status, 100);
    // One has not been answered yet.
    let (mut asked, mut thinking) = front.asked("/x").await;
    let (client, mut upstream) = front.streaming().await;
    is_overload(&front.client().await.get("/one-too-many").await);
    assert_eq!(in_hand.ask(body).await.status, 200);
    let (status, _) = front.worker.create(json!({"graph_id": "a"})).await;
    assert_eq!(status, 200);

    drop(client);
    upstream.closed().await;
    let (mut client, mut upstream) = front.streaming().await;
    is_overload(&front.client().await.get("/one-too-many").await);
    upstream.send("0\r\n\r\n").await;
    client.takes("0\r\n\r\n").await;

    thinking
        .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert_eq!(asked.answer().await.status, 200);
    drop((upstream, thinking));
    let streams = [front.streaming().await, front.streaming().await];
    is_overload(&front.client().await.get("/one-too-many").await);
    drop(streams);
    front.worker.stop().await;
}

#[tokio::test]
async fn a_connection_gives_way_when_its_stream_has_ended() {
    let front = Front::limited(|limits| limits.max_connections = 2).await;
    let (mut streaming, mut upstream) = front.streaming().await;
    let mut idle = front.client().await;
    assert_eq!(idle.get("/assistants").await.status, 405);
    for _ in 0..3 {
        let mut next = front.client().await;
        assert_eq!(next.get("/assistants").await.status, 405);
        assert_eq!(idle.closed().await, 0);
        idle = next;
    }
    upstream.send("3\r\ntwo\r\n0\r\n\r\n").await;
    streaming.takes("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(idle.get("/assistants").await.status, 405);
    let mut next = front.client().await;
    assert_eq!(next.get("/assistants").await.status, 405);
    assert_eq!(streaming.closed().await, 0);
    front.worker.stop().await;
}

#[tokio::test]
async fn an_upload_that_does_not_come_gives_way_to_others() {
    let front = Front::limited(|limits| limits.max_streams = 1).await;
    let mut slow = front.client().await;
    slow.send("POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\none")
        .await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    upstream.takes("one").await;
    is_passed(&front).await;
    is_overload(&slow.answer().await);
    assert_eq!(upstream.closed().await, 0);
    front.worker.stop().await;
}

#[tokio::test]
async fn an_upload_may_take_its_time_but_not_stand_still() {
    // The steady one goes on far more often.
    let front = Front::limited(|limits| limits.body_timeout = Duration::from_secs(2)).await;
    let upload = async || {
        let mut client = front.client().await;
        client
            .send("POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
            .await;
        let mut upstream = front.accept().await;
        upstream.head().await;
        (client, upstream)
    };
    let (mut steady, mut steady_upstream) = upload().await;
    let (mut stalled, mut stalled_upstream) = upload().await;
    let mut sent = 0;
    let said = {
        let mut told = std::pin::pin!(stalled.answer());
        loop {
            tokio::select! {
                said = told.as_mut() => break said,
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    steady.send("x").await;
                    sent += 1;
                }
            }
        }
    };
    let late = (408, "The request body took too long".to_owned());
    assert_eq!(said.detail(), late);
    assert_eq!(stalled_upstream.closed().await, 0);
    steady.send("x".repeat(1_000_000 - sent)).await;
    steady_upstream.takes(&"x".repeat(1_000_000)).await;
    steady_upstream.send(DONE).await;
    assert_eq!(steady.answer().await.status, 200);
    front.worker.stop().await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_cut_off_and_one_that_says_nothing_is_not() {
    let front = Front::limited(|limits| limits.answer_timeout = Duration::from_millis(500)).await;
    let (mut idle, mut quiet) = front.streaming().await;
    let (thinking, mut slow) = front.asked("/x").await;
    let (deaf, mut loud) = front.streaming().await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
    let shouting = async { while loud.stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    let cut_off = tokio::time::timeout(Duration::from_secs(60), shouting).await;
    cut_off.expect("cut off");
    // These have been silent for longer.
    quiet.send("3\r\ntwo\r\n0\r\n\r\n").await;
    idle.takes("3\r\ntwo\r\n0\r\n\r\n").await;
    slow.send(DONE).await;
    let mut thinking = thinking;
    assert_eq!(thinking.answer().await.status, 200);
    drop(deaf);
    front.worker.stop().await;
}

#[tokio::test]
async fn a_websocket_comes_through() {
    let front = Front::limited(|limits| limits.max_streams = 1).await;
    for who_hangs_up in ["the client", "the upstream"] {
        let mut client = front.client().await;
        // It need not wait for the answer.
        client.send(format!("{WEBSOCKET}first")).await;
        let mut upstream = front.accept().await;
        let head = upstream.head().await;
        for line in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-key: x",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        upstream.send(format!("{SWITCHED}hello")).await;
        let head = client.head().await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        for line in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-accept: y",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        assert!(!head.contains("content-length"), "{head}");
        client.takes("hello").await;
        upstream.takes("first").await;
        for n in 0..10 {
            client.send(n.to_string()).await;
            upstream.takes(&n.to_string()).await;
            upstream.send(format!("{n}!")).await;
            client.takes(&format!("{n}!")).await;
        }
        is_overload(&front.client().await.get("/one-too-many").await);
        if who_hangs_up == "the client" {
            drop(client);
            assert_eq!(upstream.closed().await, 0);
        } else {
            drop(upstream);
            assert_eq!(client.closed().await, 0);
        }
        eventually("its slot is free", || async {
            let mut client = front.client().await;
            client.send("POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").await;
            match client.answer().await.status {
                100 => {
                    front.accept().await;
                    Ok(())
                }
                status => Err(status.to_string()),
            }
        })
        .await;
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn only_a_websocket_that_the_upstream_grants_is_one() {
    let front = Front::start().await;
    let mut client = front.client().await;
    client.send(WEBSOCKET).await;
    let mut upstream = front.accept().await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        .await;
    let said = client.answer().await;
    assert_eq!((said.status, said.body.as_str()), (403, "no"));
    // What comes next is a request like any other.
    client.send("GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(upstream.head().await.starts_with("GET /x "));
    upstream.send(DONE).await;
    assert_eq!(client.answer().await.body, "{}");

    let mut client = front.client().await;
    client.send(WEBSOCKET).await;
    upstream.head().await;
    upstream.send(SWITCHED.replace("websocket", "h2c")).await;
    assert_eq!(client.answer().await.status, 502);
    front.worker.stop().await;
}

#[tokio::test]
async fn a_stream_may_end_by_itself_when_the_worker_stops() {
    let front = Front::start().await;
    let (mut client, mut upstream) = front.streaming().await;
    let mut idle = front.client().await;
    assert_eq!(idle.get("/assistants").await.status, 405);
    let stopping = tokio::spawn(front.worker.stop());
    assert_eq!(idle.closed().await, 0);
    upstream.send("3\r\ntwo\r\n0\r\n\r\n").await;
    client.takes("3\r\ntwo\r\n0\r\n\r\n").await;
    stopping.await.expect("stopped");
}

#[tokio::test]
async fn a_stream_that_does_not_is_cut_off_when_the_grace_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut running = Running::start(&[], &[FREE_PORTS, &[(UPSTREAM, &url)]].concat());
    let mut client = Client::connect(running.api().await).await;
    client.send("GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (stream, _) = listener.accept().await.expect("asked");
    let mut upstream = Client { stream };
    upstream.head().await;
    upstream.send(format!("{STREAM}3\r\none\r\n")).await;
    client.head().await;
    client.takes("3\r\none\r\n").await;
    running.signal("-TERM");
    running.line("stopping").await;
    upstream.send("3\r\ntwo\r\n").await;
    client.takes("3\r\ntwo\r\n").await;
    running.line("not everything was finished in 10 s").await;
    assert_eq!(client.closed().await, 0);
    upstream.closed().await;
    assert_eq!(running.ended().await, Some(0));
}
