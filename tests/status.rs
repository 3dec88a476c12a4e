//! How an installation is: `status::Status`, as `agent-sync status` and the admin server show it.

use agent_sync::config::{self, Config, Variables};
use agent_sync::database::Database;
use agent_sync::status::{Health, Listener, Running, Status, Subject, Worker};
use serde_json::{Value, json};

use crate::support::binary::run;
use crate::support::{TestDatabase, TestWorker, eventually, uuid};

fn subject(variables: &[(&str, &str)]) -> Subject {
    let variables: Variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let config = Config::from_variables(&variables).expect("a configuration");
    let database = config.database.as_ref().map(Database::new);
    Subject::new(&config, database)
}

async fn status(database: &TestDatabase) -> Status {
    let subject = subject(&[(config::DATABASE_URL, &database.url)]);
    Status::gather(&subject, None).await
}

fn json(status: &Status) -> Value {
    serde_json::to_value(status).expect("json")
}

fn running() -> Running {
    Running {
        worker: Worker {
            started_at: "2030-01-01T00:00:00+00:00".to_owned(),
            ready: true,
            listener: Some(Listener::Listening),
            round_trip_seconds: Some(0.0004),
            missed_doorbells: 0,
            keys_age_seconds: None,
            upstream: None,
        },
        pending: None,
        stuck: None,
        trouble: Vec::new(),
    }
}

#[tokio::test]
async fn a_healthy_installation_says_so_and_says_what_it_is() {
    let db = TestDatabase::new().await;
    db.agent("Anna").await;
    let worker = TestWorker::start(&db, &[("AGENT_SYNC_SCOPE", "all")]).await;
    eventually("it is healthy", || async {
        let said = status(&db).await;
        match said.health {
            Health::Healthy => Ok(()),
            _ => Err(format!("{:?}", said.reasons)),
        }
    })
    .await;
    let mut said = json(&status(&db).await);
    let server = said["database"]["server"].take();
    assert!(server.as_str().expect("a text").starts_with("PostgreSQL "));
    assert_eq!(
        said,
        json!({
            "health": "healthy", "reasons": [], "version": env!("CARGO_PKG_VERSION"), "scope": "all", "store": "postgres",
            "database": {
                "reachable": true, "error": null, "server": null, "address": format!("127.0.0.1:{}/{}", db.port(), db.name()),
                "role": db.role.name(), "schema_version": 5, "known_version": 5, "listeners": 1,
            },
            "triggers": {"expected": 20, "missing": []},
            "outbox": {"depth": 0, "oldest_age_seconds": null, "retries": 0, "at_least": false},
            "agents": {"failed": 0, "conflict": 0, "held": 0, "synced": 1, "removed": 0},
            "troubled": [], "worker": null,
        })
    );
    worker.stop().await;
}

#[tokio::test]
async fn without_a_database_there_is_nothing_to_say_of_it() {
    let said = Status::gather(&subject(&[]), Some(running())).await;
    assert_eq!(
        json(&said),
        json!({
            "health": "healthy", "reasons": [], "version": env!("CARGO_PKG_VERSION"), "scope": "none", "store": "memory",
            "database": null, "triggers": null, "outbox": null, "agents": null, "troubled": [],
            "worker": {
                "started_at": "2030-01-01T00:00:00+00:00", "ready": true, "listener": "listening", "round_trip_seconds": 0.0004,
                "missed_doorbells": 0, "keys_age_seconds": null, "upstream": null,
            },
        })
    );
}

#[tokio::test]
async fn troubled_agents_are_named_the_worst_first_and_count_once() {
    let db = TestDatabase::new().await;
    agent_sync::database::migrations::migrate(&db.pool(), std::time::Duration::from_secs(30))
        .await
        .expect("migrated");
    let entry = |number: u128, agent: u128, state: &str, attempts: i32| {
        let error = if state == "synced" { "null" } else { "'no'" };
        format!(
            "('{}', '{}', 'system', '{state}', {error}, {attempts}, '2030-01-01T00:00:00Z')",
            uuid(number),
            uuid(agent)
        )
    };
    let entries = [
        entry(1, 1, "synced", 0),
        entry(11, 1, "failed", 2),
        entry(2, 2, "held", 0),
        entry(3, 3, "conflict", 0),
        entry(4, 4, "failed", 7),
        entry(14, 4, "failed", 1),
        entry(5, 5, "removed", 0),
        entry(6, 6, "synced", 0),
    ];
    db.execute(&format!(
        "insert into public.agents (id, name) values ('{}', 'Anna');
         insert into agent_sync.ledger (assistant_id, agent_id, owner, state, error, attempts, updated_at) values {}",
        uuid(4),
        entries.join(", ")
    ))
    .await;
    let subject = subject(&[(config::DATABASE_URL, &db.url)]);
    let said = Status::gather(&subject, Some(running())).await;
    assert_eq!(said.health, Health::Degraded);
    assert_eq!(said.reasons.len(), 3, "{:?}", said.reasons);
    let said = json(&said);
    assert_eq!(
        said["agents"],
        json!({"failed": 2, "conflict": 1, "held": 1, "synced": 1, "removed": 1})
    );
    let since = "2030-01-01T00:00:00+00:00";
    let troubled = |number: u128, name: Option<&str>, state: &str, attempts: i32| {
        json!({
            "agent_id": uuid(number), "name": name, "state": state, "error": "no", "attempts": attempts, "since": since,
        })
    };
    assert_eq!(
        said["troubled"],
        json!([
            troubled(4, Some("Anna"), "failed", 7),
            troubled(1, None, "failed", 2),
            troubled(3, None, "conflict", 0),
            troubled(2, None, "held", 0),
        ])
    );
}

#[tokio::test]
async fn what_cannot_be_found_out_is_null_and_the_reason_is_told() {
    // Nobody listens there.
    let away = subject(&[(config::DATABASE_URL, "postgresql://u:canary@127.0.0.1:1/db")]);
    let said = json(&Status::gather(&away, None).await);
    assert_eq!(said["health"], "broken");
    assert_eq!(said["database"]["reachable"], false);
    assert_eq!(said["database"]["address"], "127.0.0.1:1/db");
    let error = said["database"]["error"].as_str().expect("an error");
    assert!(error.contains("Connection refused"), "{error}");
    assert!(!said.to_string().contains("canary"));
    for part in ["triggers", "outbox", "agents"] {
        assert_eq!(said[part], Value::Null, "{part}");
    }

    // Nothing is installed there.
    let db = TestDatabase::to_install().await;
    let said = json(&status(&db).await);
    assert_eq!(
        (&said["health"], &said["database"]["schema_version"]),
        (&json!("broken"), &json!(0))
    );
    assert!(said.to_string().contains("agent-sync migrate"), "{said}");
}

#[tokio::test]
async fn the_command_says_it_in_its_exit_code_too() {
    let ended = run(&["status"], &[]).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
    let away = ("DATABASE_URL", "postgresql://u:canary@127.0.0.1:1/db");
    for arguments in [&["status"][..], &["status", "--json"]] {
        let ended = run(arguments, &[away]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stdout.contains("broken") && !ended.stdout.contains("canary"));
    }

    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, &[]).await;
    let own = [("DATABASE_URL", db.url.as_str())];
    eventually("the command says that it is healthy", || async {
        let ended = run(&["status", "--json"], &own).await;
        let said: Value = serde_json::from_str(&ended.stdout).expect("json");
        match (ended.code, &said["health"]) {
            (Some(0), health) if health == "healthy" => Ok(()),
            _ => Err(format!("{ended:?}")),
        }
    })
    .await;
    worker.stop().await;
    eventually("the command says that no worker is there", || async {
        let ended = run(&["status"], &own).await;
        match ended.stdout.contains("no worker is connected") && ended.code == Some(2) {
            true => Ok(()),
            false => Err(format!("{ended:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn what_takes_too_long_costs_nothing_else_its_answer() {
    let db = TestDatabase::for_role(crate::support::database::Role::Worker).await;
    db.execute("insert into agent_sync.outbox (source, key, changed_at) values ('agents', null, now() - interval '1 hour')")
        .await;
    let holder = db.connect().await;
    holder
        .batch_execute("begin; lock table agent_sync.ledger")
        .await
        .expect("locked");
    let said = Status::gather(
        &subject(&[(config::DATABASE_URL, &db.url)]),
        Some(running()),
    )
    .await;
    assert_eq!(
        (said.agents, said.troubled.len(), said.health),
        (None, 0, Health::Degraded)
    );
    assert_eq!(said.outbox.expect("told").depth, 1);
    assert_eq!(said.triggers.expect("told").expected, 20);
    let reasons = said.reasons.join("\n");
    for reason in [
        "the ledger cannot be looked at: canceling statement due to lock timeout",
        "1 change waiting, the oldest for 1 h",
    ] {
        assert!(reasons.contains(reason), "{reasons}");
    }
}
