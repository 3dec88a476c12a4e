//! How an installation is: `status::Status`, as `agent-sync status` and the admin server show it.

use agent_sync::config::{self, Config, Variables};
use agent_sync::database::Database;
use agent_sync::database::migrations::LATEST;
use agent_sync::status::{Health, Listener, Running, Status, Subject, Worker};
use serde_json::{Value, json};

use crate::support::binary::run;
use crate::support::database::Role;
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
                "role": db.role.name(), "schema_version": LATEST, "known_version": LATEST, "listeners": 1,
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
    let last_at = "2030-01-01T00:00:00+00:00";
    let troubled = |number: u128, name: Option<&str>, state: &str, attempts: i32| {
        json!({
            "agent_id": uuid(number), "name": name, "state": state, "error": "no", "attempts": attempts, "last_at": last_at,
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
    let db = TestDatabase::for_role(Role::Worker).await;
    db.execute(&format!(
        "insert into agent_sync.outbox (source, key, changed_at) values ('agents', null, now() - interval '1 hour');
         insert into agent_sync.ledger (assistant_id, agent_id, owner, state) values ('{0}', '{0}', 'system', 'synced')",
        uuid(1)
    ))
    .await;
    for (held, cannot) in [
        ("agent_sync.outbox", "the outbox"),
        ("agent_sync.ledger", "the ledger"),
    ] {
        let holder = db.connect().await;
        let hold = format!("begin; lock table {held}");
        holder.batch_execute(&hold).await.expect("locked");
        let subject = subject(&[(config::DATABASE_URL, &db.url)]);
        let said = Status::gather(&subject, Some(running())).await;
        assert_eq!(said.health, Health::Degraded);
        let told = (
            said.outbox.is_some_and(|outbox| outbox.depth == 1),
            said.agents.is_some_and(|agents| agents.synced == 1),
        );
        assert_eq!(told, (cannot != "the outbox", cannot != "the ledger"));
        assert_eq!(said.triggers.expect("told").expected, 20);
        let reasons = said.reasons.join("\n");
        let reason =
            format!("{cannot} cannot be looked at: canceling statement due to lock timeout");
        assert!(reasons.contains(&reason), "{reasons}");
        let waits = "1 change waiting, the oldest for 1 h";
        assert_eq!(reasons.contains(waits), told.0, "{reasons}");
        holder.batch_execute("rollback").await.expect("let go");
    }
}

#[tokio::test]
async fn what_others_have_written_stays_on_its_line() {
    let db = TestDatabase::for_role(Role::Worker).await;
    let id = uuid(1);
    db.execute(&format!(
        "insert into public.agents (id, name) values ('{id}', E'Anna\\nhealthy\\x1b[2J');
         insert into agent_sync.ledger (assistant_id, agent_id, owner, state, error) values ('{id}', '{id}', 'system', 'failed', E'a\\x1b[2Jb')",
    ))
    .await;
    let text = status(&db).await.to_string();
    assert!(
        text.contains("failed    Anna\u{fffd}healthy\u{fffd}[2J ("),
        "{text}"
    );
    assert!(text.contains("          a\u{fffd}[2Jb\n"), "{text}");
}

#[tokio::test]
async fn what_a_worker_knows_of_itself_counts_too() {
    let without_database = subject(&[]);
    let health = async |change: fn(&mut Running)| {
        let mut running = running();
        change(&mut running);
        let said = Status::gather(&without_database, Some(running)).await;
        (said.health, said.reasons.first().cloned())
    };
    let why = |why: &str| Some(why.to_owned());
    assert_eq!(health(|_| ()).await, (Health::Healthy, None));
    assert_eq!(
        health(|running| running.pending = Some("the startup pass is running".to_owned())).await,
        (Health::Starting, why("the startup pass is running"))
    );
    // The worst is said first.
    let both = |running: &mut Running| {
        running
            .trouble
            .push("the keys cannot be fetched".to_owned());
        running.stuck = Some("the server is away".to_owned());
    };
    assert_eq!(
        health(both).await,
        (Health::Broken, why("the server is away"))
    );
    let connecting = |running: &mut Running| running.worker.listener = Some(Listener::Connecting);
    let polling = |running: &mut Running| running.worker.listener = Some(Listener::PollingOnly);
    for change in [connecting as fn(&mut Running), polling] {
        assert_eq!(health(change).await.0, Health::Degraded);
    }
    let starting = |running: &mut Running| {
        running.worker.listener = Some(Listener::Connecting);
        running.pending = Some("starting".to_owned());
    };
    assert_eq!(health(starting).await.0, Health::Starting);
}
