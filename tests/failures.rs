//! What goes wrong between a listener and its database, as it has gone wrong for others: each once, and no edit lost.

use std::sync::Arc;
use std::time::Duration;

use agent_sync::access::Access;
use agent_sync::changes::{self, listener};
use agent_sync::config::{DATABASE_URL, SCOPE, Settings};
use agent_sync::database::{Database, DatabaseUrl};
use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use agent_sync::doorbell::{Doorbell, State, Woken};
use agent_sync::readiness::Readiness;
use agent_sync::sql;
use agent_sync::syncer::Syncer;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::interceptor::Interceptor;
use crate::support::worker::request;
use crate::support::{TestDatabase, TestWorker, eventually};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

/// How long until the next look, where somebody is awake.
const LOOK: Duration = Duration::from_millis(5);

fn serve(url: &str) -> Running {
    Running::start(&[], &[&[(DATABASE_URL, url)], ALL, FREE_PORTS].concat())
}

/// An edit is committed when the listener is connected and does not listen yet: no notification of it will ever come.
#[tokio::test]
async fn what_is_committed_before_listen_takes_effect_is_looked_for_after_it() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    let between = Interceptor::before(&db).await;
    let release = between.hold_at("listen agent_sync");
    let doorbell = Arc::new(Doorbell::default());
    let listening = tokio::spawn({
        let (url, doorbell): (DatabaseUrl, _) =
            (between.url.parse().expect("a url"), doorbell.clone());
        async move { listener::run(&url, &Database::new(&url), &doorbell).await }
    });
    between.reached().await;
    db.agent("committed meanwhile").await;
    let moment = Some(Duration::from_millis(1));
    let woken = doorbell.wait(moment, LOOK).await;
    assert_eq!(woken, Woken::Unasked, "it looks too early");
    drop(release);
    let woken = doorbell.wait(None, LOOK).await;
    assert_eq!(woken, Woken::Rang, "it does not look");

    // From then on it hears, and says how long that takes.
    eventually("it listens, and whoever edits rings", || async {
        let (state, armed) = (doorbell.state(), doorbell.armed());
        if state == State::Listening && armed.is_some() {
            Ok(())
        } else {
            Err(format!("{state:?}, {armed:?}"))
        }
    })
    .await;
    assert!(doorbell.round_trip() > Some(Duration::ZERO));
    let woken = doorbell.wait(None, LOOK).await;
    assert_eq!(woken, Woken::Rang, "it does not look once more");
    db.agent("committed afterwards").await;
    assert_eq!(doorbell.wait(None, LOOK).await, Woken::Rang);
    listening.abort();
}

/// Postgres up to 17 may refuse LISTEN until somebody looks at the queue. (The refusal is ours: the real one needs a
/// commit log that was cut off under a queue that was not.)
#[tokio::test]
async fn a_listen_that_postgres_refuses_is_remedied() {
    let db = TestDatabase::new().await;
    let between = Interceptor::before(&db).await;
    between.refuse_at("listen agent_sync", "58P01");
    drop(between.hold_at("select pg_notification_queue_usage()"));
    drop(between.hold_at("listen agent_sync"));
    let running = serve(&between.url);
    between.reached().await;
    running.line("listening for changes").await;
    assert!(
        !running.output().contains("no listening connection"),
        "{}",
        running.output()
    );
    let agent = db.agent("a").await;
    db.synced(agent).await;
}

/// The session lives and answers, but it has lost its registration, as by `discard all` or a pooler that swaps sessions.
#[tokio::test]
async fn a_registration_that_is_lost_is_noticed_and_made_anew() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let between = Interceptor::before(&db).await;
    let forget = between.unlisten_after("listen agent_sync");
    let running = serve(&between.url);
    running.line("listening for changes").await;
    db.converged().await;
    drop(forget);
    eventually("it is forgotten", || async {
        let forgotten = "pg_stat_activity where datname = current_database() and query = 'unlisten *' and state = 'idle'";
        if db.count(forgotten).await == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    db.execute("update public.agents set system_prompt = 'unheard'")
        .await;
    db.prompted(agent, "unheard").await;
    running
        .line("polling every second: notifications no longer arrive")
        .await;
    eventually("it listens again", || async {
        match running.output().matches("listening for changes").count() {
            2 => Ok(()),
            n => Err(format!("{n} times")),
        }
    })
    .await;
}

/// A server in recovery, as after a failover to the wrong side: the worker does not take it for its database, and goes on
/// when it has been promoted.
#[tokio::test]
async fn a_standby_is_waited_for_until_it_is_promoted() {
    let postgres = Postgres::start(&[]).await.expect("a cluster");
    postgres
        .execute("postgres", SCHEMA)
        .await
        .expect("the schema");
    postgres
        .execute(
            "postgres",
            "insert into public.agents (name, status) values ('a', 'active')",
        )
        .await
        .expect("an agent");
    // A server that finds this file when it recovers from a crash is a standby.
    let crash = "checkpoint; copy (select) to program 'touch standby.signal && kill -9 $PPID'";
    postgres
        .execute("postgres", crash)
        .await
        .expect_err("it crashes");
    let url = postgres.url("postgres");
    eventually("the standby can be read", || async {
        let (client, connection) = tokio_postgres::connect(&url, NoTls)
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        match client.query_one("select pg_is_in_recovery()", &[]).await {
            Ok(row) if row.get(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let running = serve(&url);
    let line = running.line("the database is not ready").await;
    assert!(line.contains("does not allow writes"), "{line}");
    postgres
        .execute("postgres", "select pg_promote()")
        .await
        .expect("promoted");
    running
        .line("Startup sync summary: total=1 created=1")
        .await;
    running.line("listening for changes").await;
}

/// One of two workers is stopped in the middle of a sync: it has the change, the agent's lock, and the assistant's row.
#[tokio::test]
async fn another_worker_takes_over_what_a_stopped_one_holds() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let between = Interceptor::before(&db).await;
    let stopped = serve(&between.url);
    stopped.line("listening for changes").await;
    stopped.line("Startup sync summary").await;
    db.converged().await;
    between.stop_at(&stopped, sql!("assistants_update"));
    db.execute("update public.agents set system_prompt = 'first'")
        .await;
    between.reached().await;

    let other = serve(&db.url);
    db.prompted(agent, "first").await;
    db.execute("update public.agents set system_prompt = 'second'")
        .await;
    db.converged().await;
    let versions = db.versions().await;
    stopped.signal("-CONT");
    stopped.line("the change loop is working again").await;
    db.converged().await;
    assert_eq!(db.versions().await, versions, "it overwrites nothing");
    drop(other);
    db.execute("update public.agents set system_prompt = 'third'")
        .await;
    db.prompted(agent, "third").await;
}

/// A change that no notification announced is found when the loop next looks, and counted.
#[tokio::test]
async fn unannounced_changes_are_counted() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.unattended().await;
    // A loop whose bell nobody rings but us. Something that falls due soon makes it look by itself.
    let syncer = Arc::new(Syncer::new(db.pool(), Access::open(), Settings::default()));
    syncer.doorbell.now(State::Listening, "a test");
    syncer.doorbell.arm();
    assert_eq!(syncer.doorbell.wait(None, LOOK).await, Woken::Rang);
    db.execute(
        "insert into agent_sync.outbox (source, key, due_at)
         values ('agents', gen_random_uuid(), clock_timestamp() + interval '2 s')",
    )
    .await;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (syncer, stop) = (syncer.clone(), stop.clone());
        async move { changes::run(&syncer, &Readiness::default(), &stop).await }
    });
    eventually("the loop has looked and waits", || async {
        let waiting = "pg_stat_activity where datname = current_database() and application_name = 'agent-sync'
             and state = 'idle' and query like '-- Which of the source tables%'";
        if db.count(waiting).await == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let overdue = "insert into agent_sync.outbox (source, key, changed_at)
         values ('agents', gen_random_uuid(), clock_timestamp() - interval '1 minute')";
    db.execute(overdue).await;
    db.drained().await;
    eventually("it is counted", || async {
        match syncer.doorbell.missed_so_far() {
            1 => Ok(()),
            missed => Err(missed.to_string()),
        }
    })
    .await;
    // One that was announced, however late, was not missed.
    db.execute(overdue).await;
    syncer.doorbell.ring();
    db.drained().await;
    stop.cancel();
    running.await.expect("the loop ends");
    assert_eq!(syncer.doorbell.missed_so_far(), 1);
}

/// Somebody edits one agent every few milliseconds. Its assistant follows all the same, not only when he stops.
#[tokio::test]
async fn an_agent_that_is_edited_without_a_pause_is_not_left_behind() {
    let db = TestDatabase::new().await;
    let agent = db.agent("hot").await;
    let worker = TestWorker::start(&db, ALL).await;
    let editor = db.connect().await;
    let editing = async {
        loop {
            editor
                .batch_execute("update public.agents set system_prompt = clock_timestamp()::text")
                .await
                .expect("an edit");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let following = eventually("the assistant is written again and again", || async {
        let version = db.assistant(agent).await.expect("an assistant")["version"].as_i64();
        if version >= Some(25) {
            Ok(())
        } else {
            Err(format!("version {version:?}"))
        }
    });
    tokio::select! {
        () = following => {}
        () = editing => {}
    }
    db.converged().await;
    worker.stop().await;
}

/// As a restore does it, or logical replication that applies another server's changes.
#[tokio::test]
async fn edits_made_with_triggers_silenced_reach_their_assistants() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute(
        "set session_replication_role = replica; update public.agents set system_prompt = 'restored';
         set session_replication_role = origin",
    )
    .await;
    db.prompted(agent, "restored").await;
    worker.stop().await;
}

/// With a password in the URL that is used, refused, and for nothing at all.
#[tokio::test]
async fn a_password_is_never_printed() {
    let db = TestDatabase::new().await;
    db.agent("a").await;
    let url = |user: &str, database: &str, rest: &str| {
        format!(
            "postgresql://{user}:canary-password@127.0.0.1:{}/{database}{rest}",
            db.port()
        )
    };
    let mut printed = Vec::new();
    for (url, said) in [
        (url("postgres", &db.name(), ""), "listening for changes"),
        (
            url("nobody", &db.name(), ""),
            "role \"nobody\" does not exist",
        ),
        (
            url("postgres", "nowhere", ""),
            "database \"nowhere\" does not exist",
        ),
        (
            url("postgres", &db.name(), "?sslmode=require"),
            "server does not support TLS",
        ),
        (
            url("postgres", &db.name(), "?sslmode=often"),
            "its sslmode is unknown",
        ),
        (
            url("postgres", &db.name(), "?canary-password=1"),
            "it has an option that is not known",
        ),
        (
            "postgresql://u:canary-password@127.0.0.1:1/d".to_owned(),
            "Connection refused",
        ),
        (
            "postgresql://u:canary-password@no.such.host.invalid/d".to_owned(),
            "the database is not ready",
        ),
        (
            "mysql://u:canary-password@h/d".to_owned(),
            "it is not a postgresql:// URL",
        ),
    ] {
        let everything = [(DATABASE_URL, url.as_str()), ("AGENT_SYNC_LOG", "trace")];
        let running = Running::start(&[], &[&everything, ALL, FREE_PORTS].concat());
        running.line(said).await;
        printed.push(running.output());
    }
    for output in printed {
        assert!(!output.contains("canary-password"), "{output}");
    }
}

#[tokio::test]
async fn a_worker_whose_change_loop_cannot_work_is_not_ready() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute("alter table agent_sync.outbox rename to mislaid; notify agent_sync")
        .await;
    let says = async |expected: &str| {
        eventually(&format!("/ready says {expected}"), || async {
            let (status, body) = request(worker.admin, "GET", "/ready", None).await;
            let said = format!("{status} {body}");
            if said.contains(expected) {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
    };
    says("the change loop cannot work").await;
    db.execute("alter table agent_sync.mislaid rename to outbox; update public.agents set system_prompt = 'found again'")
        .await;
    db.prompted(agent, "found again").await;
    says("200").await;
    worker.stop().await;
}
