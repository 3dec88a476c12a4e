//! How much is sent, and when. On time that runs two hundred times as fast, so that minutes can be waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_sync::config;
use agent_sync::database::{Error, Fault as Kind};
use agent_sync::ids::AssistantId;
use agent_sync::store::batch::{Sight, Unseen};
use agent_sync::store::langgraph::Server;
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::double::{Double, Fault};

/// Not left to tokio, which lets time go on whenever nothing is to be done but to wait for a socket.
async fn hurry() {
    loop {
        let real = || std::thread::sleep(Duration::from_millis(1));
        let _ = tokio::task::spawn_blocking(real).await;
        tokio::time::advance(Duration::from_millis(200)).await;
    }
}

async fn setting() -> (Double, Arc<Server>) {
    tokio::spawn(hurry());
    let double = Double::start().await;
    let server = Arc::new(Server::new(&double.config()));
    (double, server)
}

fn ids(many: u128) -> Vec<AssistantId> {
    (1..=many)
        .map(|n| AssistantId(Uuid::from_u128(n)))
        .collect()
}

async fn look(server: &Server, many: u128) -> Result<Sight, Error> {
    server.observe(&ids(many)).await
}

fn why(looked: Result<Sight, Error>) -> (String, Kind) {
    let error = looked.expect_err("nothing is sent");
    (error.to_string(), error.fault())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn no_more_than_four_requests_are_in_hand_whoever_sends_them() {
    let (double, server) = setting().await;
    double.slow(Duration::from_millis(50));
    let looking = (0..3).map(|_| look(&server, 20));
    for looked in futures::future::join_all(looking).await {
        looked.expect("seen");
    }
    assert_eq!(double.requests().len(), 60);
    assert_eq!(double.most_in_hand(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_that_the_server_asks_for_is_waited_for_by_all_requests() {
    let (double, server) = setting().await;
    for status in [429, 503] {
        double.forget_log();
        double.some("GET", "", 5, 1, Fault::retry_after(status, 3));
        let sight = look(&server, 30).await.expect("seen");
        assert_eq!((sight.existing.len(), sight.unseen.len()), (0, 0));
        let log = double.requests();
        assert_eq!(log.len(), 31, "one of them twice");
        let asked = log[5].at;
        // Those that were in hand just then.
        let early = log[6..].iter().filter(|seen| seen.at < asked + seconds(3));
        assert!(early.count() <= 3);
        assert!(log.last().expect("some").at >= asked + seconds(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_pause_is_left_to_the_outbox() {
    let (double, server) = setting().await;
    double.next("GET", "", Fault::retry_after(429, 60));
    let start = Instant::now();
    let (why, kind) = why(look(&server, 30).await);
    assert!(
        why.contains("asks for a pause of 60 s") || why.contains("asks for a pause of 59 s"),
        "{why}"
    );
    assert_eq!(kind, Kind::Passing);
    assert!(start.elapsed() < seconds(5), "nobody waits for that");
    let sent = double.requests().len();
    assert!(sent <= 4, "{sent}");
    for _ in 0..5 {
        tokio::time::sleep(seconds(10)).await;
        assert!(server.check().is_err());
        look(&server, 30).await.expect_err("paused");
    }
    assert_eq!(double.requests().len(), sent, "not a single one");
    server.opened().await;
    look(&server, 30).await.expect("seen");
    let resumed = double.requests()[sent].at;
    assert!(resumed >= double.requests()[0].at + seconds(60));
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_for_no_pause_at_all_makes_one_all_the_same() {
    let (double, server) = setting().await;
    double.always("GET", "", Fault::retry_after(429, 0));
    let start = Instant::now();
    let mut looks = 0;
    while start.elapsed() < seconds(120) {
        assert_eq!(why(look(&server, 1).await).1, Kind::Passing);
        server.opened().await;
        looks += 1;
    }
    assert!(looks < 15, "{looks} times in two minutes");
    assert!(double.requests().len() <= 3 * looks);
    double.mend();
    look(&server, 1).await.expect("seen");
}

/// Whether it refuses connections, closes them, or says so.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_left_in_peace() {
    for way in ["refuses", "slams", "says so"] {
        let (double, server) = setting().await;
        look(&server, 4).await.expect("seen");
        match way {
            "refuses" => double.refuse(),
            "slams" => double.slam(),
            _ => double.always("GET", "", Fault::status(503)),
        }
        let (why, kind) = why(look(&server, 50).await);
        assert!(why.contains(&double.url()), "{why}");
        assert_eq!(kind, Kind::Passing);
        let attempts = || double.connections() + double.requests().len();
        let before = attempts();
        assert!(before < 30, "{way}: {before}");
        // In two minutes, however often somebody wants something.
        let start = Instant::now();
        while start.elapsed() < seconds(120) {
            if let Err(error) = look(&server, 50).await {
                assert_eq!(error.fault(), Kind::Passing);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let since = attempts() - before;
        assert!(since < 100, "{way}: {since} in two minutes");
        assert!(server.trouble().is_some());
        if way == "refuses" {
            double.listen().await;
        }
        double.mend();
        // A connection that was made just before may be one more that is closed.
        let mut looked = None;
        for _ in 0..3 {
            server.opened().await;
            looked = looked.or(look(&server, 50).await.ok());
        }
        assert!(looked.expect("seen").unseen.is_empty());
        assert!(server.trouble().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_gate_is_closed_nothing_is_sent() {
    let clock = tokio::spawn(hurry());
    let double = Double::start().await;
    let server = Server::new(&double.config());
    double.slam();
    look(&server, 50).await.expect_err("down");
    // From here on time stands still.
    clock.abort();
    let _ = clock.await;
    let (connections, requests) = (double.connections(), double.log().len());
    for _ in 0..100 {
        assert!(server.check().is_err());
        look(&server, 50).await.expect_err("closed");
    }
    assert_eq!(
        (double.connections(), double.log().len()),
        (connections, requests)
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_not_let_in_stops_altogether() {
    for status in [401, 403] {
        let (double, server) = setting().await;
        double.always("", "/assistants", Fault::detail(status, "Invalid API key"));
        let (why, kind) = why(look(&server, 50).await);
        for part in [
            "Invalid API key",
            &status.to_string(),
            "LANGGRAPH_API_KEY",
            &double.url(),
        ] {
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(kind, Kind::Setup);
        let sent = double.requests().len();
        assert!(sent <= 4, "those in hand: {sent}");
        look(&server, 50).await.expect_err("stopped");
        assert_eq!(double.requests().len(), sent);
        // That everybody may read its /info changes nothing; and now and then it is asked whether it lets us in.
        let watching = {
            let server = server.clone();
            tokio::spawn(async move { server.watch().await })
        };
        tokio::time::sleep(seconds(120)).await;
        assert!(server.trouble().is_some());
        let asked = double.requests().len() - sent;
        assert!((1..=12).contains(&asked), "{asked} times in two minutes");
        double.mend();
        tokio::time::sleep(seconds(60)).await;
        assert!(server.trouble().is_none());
        look(&server, 50).await.expect("seen");
        watching.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_langgraph_server_is_no_place_without_assistants() {
    let html = "<html><body>It works!</body></html>".to_owned();
    let header = vec![("location", "https://elsewhere.example/".to_owned())];
    for fault in [
        Fault::Answer(200, vec![], html.clone()),
        Fault::Answer(404, vec![], html),
        Fault::Answer(200, vec![], r#"{"ok": true}"#.to_owned()),
        Fault::Answer(307, header, String::new()),
    ] {
        let (double, server) = setting().await;
        double.always("GET", "", fault.clone());
        let (why, kind) = why(look(&server, 50).await);
        assert!(why.contains("LANGGRAPH_API_URL"), "{why}");
        assert_eq!(kind, Kind::Setup, "{fault:?}");
        assert!(double.requests().len() <= 4);
    }
}

/// What is wrong with one assistant says nothing about the others.
#[tokio::test(start_paused = true)]
async fn one_assistant_that_cannot_be_read_is_one_assistant() {
    let (double, server) = setting().await;
    let all = ids(20);
    for id in &all {
        double.put(id.0, serde_json::json!({"graph_id": "agent"}));
    }
    let faults = [
        (Fault::status(500), "500"),
        (Fault::status(422), "422"),
        (Fault::AnotherId, "instead of"),
        (Fault::Longer(17 << 20), "larger than"),
    ];
    for (fault, expected) in faults {
        double.always("GET", all[7], fault.clone());
        let sight = look(&server, 20).await.expect("seen");
        assert_eq!(sight.existing.len(), 19, "{fault:?}");
        let unseen: HashMap<_, _> = sight.unseen;
        let Unseen::Refused(why) = &unseen[&all[7]] else {
            panic!("{unseen:?}")
        };
        assert!(why.contains(expected), "{why}");
        double.mend();
    }
    // Nor does what is held up; of that one nobody can tell.
    // And the next look at it comes later each time.
    let mut before = Duration::ZERO;
    for _ in 0..4 {
        double.next("GET", all[7], Fault::HoldBefore);
        let sight = look(&server, 20).await.expect("seen");
        assert_eq!(sight.existing.len(), 19);
        let Unseen::Unknown(after) = sight.unseen[&all[7]] else {
            panic!("{:?}", sight.unseen)
        };
        assert!(after > before, "{after:?} after {before:?}");
        before = after;
        double.let_go();
    }
    assert!(server.trouble().is_none());
}

/// But where none can be read, it is the server.
#[tokio::test(start_paused = true)]
async fn a_server_that_shows_nothing_at_all_is_broken() {
    let (double, server) = setting().await;
    let internal = Fault::Answer(500, vec![], "Internal Server Error".to_owned());
    double.always("GET", "/assistants", internal.clone());
    let (why, kind) = why(look(&server, 50).await);
    assert!(
        why.contains("it is broken") && why.contains("Internal Server Error"),
        "{why}"
    );
    assert_eq!(kind, Kind::Passing);
    assert!(double.requests().len() < 30);
    double.mend();
    server.opened().await;
    assert!(look(&server, 50).await.expect("seen").unseen.is_empty());
    // Four in a row, one that can be read, and four more.
    for n in (1..=50).filter(|n| n % 10 != 0) {
        double.always("GET", AssistantId(Uuid::from_u128(n)), internal.clone());
    }
    for (broken, whole) in [([1, 2, 3, 4], 10), ([5, 6, 7, 8], 20)] {
        let broken = broken.map(|n| AssistantId(Uuid::from_u128(n)));
        let sight = server.observe(&broken).await.expect("seen");
        assert_eq!(sight.unseen.len(), 4);
        let whole = [AssistantId(Uuid::from_u128(whole))];
        assert!(
            server
                .observe(&whole)
                .await
                .expect("seen")
                .unseen
                .is_empty()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_were_closed_while_idle_are_no_failures() {
    let (double, server) = setting().await;
    for _ in 0..10 {
        look(&server, 8).await.expect("seen");
        double.cut();
        tokio::time::sleep(seconds(1)).await;
    }
    assert_eq!(double.requests().len(), 80, "each was sent once");
}

#[tokio::test(start_paused = true)]
async fn headers_are_sent_with_each_request() {
    let double = Double::start().await;
    let mut config: config::LangGraph = double.config();
    config
        .headers
        .insert("x-api-key", "key".parse().expect("a value"));
    config
        .headers
        .insert("x-auth-scheme", "langsmith".parse().expect("a value"));
    let server = Server::new(&config);
    look(&server, 2).await.expect("seen");
    for seen in double.log() {
        assert_eq!(seen.headers["x-api-key"], "key");
        assert_eq!(seen.headers["x-auth-scheme"], "langsmith");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_seen_within_seconds() {
    let (double, server) = setting().await;
    let watching = {
        let server = server.clone();
        tokio::spawn(async move { server.watch().await })
    };
    let quiet = tokio::time::timeout(seconds(30), server.lost()).await;
    assert!(quiet.is_err(), "nothing has happened");
    for what in ["deploy", "restart", "restart"] {
        if what == "deploy" {
            double.deploy();
        } else {
            double.refuse();
            tokio::time::sleep(seconds(20)).await;
            double.listen().await;
        }
        let lost = tokio::time::timeout(seconds(30), server.lost()).await;
        lost.unwrap_or_else(|_| panic!("{what} is not seen"));
        let quiet = tokio::time::timeout(seconds(30), server.lost()).await;
        assert!(quiet.is_err(), "once is enough");
    }
    watching.abort();
}
