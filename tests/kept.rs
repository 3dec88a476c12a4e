//! Statements that sessions keep: used on the session on which they were made, and nowhere else.

use std::collections::BTreeSet;

use agent_sync::access::Access;
use agent_sync::config::Settings;
use agent_sync::database::prepared::rows;
use agent_sync::database::{Database, Fault, Session, begin, column};
use agent_sync::ids::AgentId;
use agent_sync::outbox::{self, Order};
use agent_sync::plan::{Claim, IfExists};
use agent_sync::sql;
use agent_sync::syncer::{Entrance, Outcome, Syncer};
use serde_json::Map;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker};

/// Asks for one more than this in a transaction of its own. Returns the answer, and whether it was one that keeps statements.
async fn next(db: &Database, n: i32) -> Result<(i32, bool), agent_sync::database::Error> {
    let mut client = db.client().await?;
    let tx = begin(&mut client).await?;
    let kept = db.keeper.of(&tx).await?;
    let session = Session::new(&tx, kept.as_deref());
    let rows = session
        .query("select $1 + 1 as next", &[(&n, Type::INT4)])
        .await?;
    let next = column(&rows[0], "next")?;
    tx.commit().await?;
    client.give_back();
    Ok((next, kept.is_some()))
}

/// The statements that the pool's only session has by the protocol.
async fn kept(db: &Database) -> BTreeSet<String> {
    let client = db.client().await.expect("a connection");
    let rows = client
        .query_typed(
            "select statement from pg_prepared_statements where not from_sql",
            &[],
        )
        .await
        .expect("asked");
    client.give_back();
    rows.iter().map(|row| row.get("statement")).collect()
}

/// How many changes are claimed. They stay where they are.
async fn claimed(db: &Database) -> usize {
    let mut client = db.client().await.expect("a connection");
    let claimed = outbox::claim(db, &mut client, Order::Age, &[], 10).await;
    let (tx, claimed) = claimed.expect("claimed");
    tx.rollback().await.expect("ended");
    client.give_back();
    claimed.agents().len()
}

async fn run(db: &Database, statement: &str) {
    let client = db.client().await.expect("a connection");
    client.batch_execute(statement).await.expect(statement);
    client.give_back();
}

#[tokio::test]
async fn a_session_keeps_a_statement_from_its_second_transaction_on() {
    let db = TestDatabase::new().await;
    let db = Database::sized(&db.url(), 1);
    assert_eq!(next(&db, 1).await.expect("asked"), (2, false));
    assert_eq!(kept(&db).await.len(), 0);
    for n in 0..3 {
        assert_eq!(next(&db, n).await.expect("asked"), (n + 1, true));
        assert_eq!(kept(&db).await.len(), 1);
    }
}

#[tokio::test]
async fn a_session_that_somebody_else_has_marked_is_not_ours() {
    let db = TestDatabase::new().await;
    let db = Database::sized(&db.url(), 1);
    for _ in 0..2 {
        next(&db, 1).await.expect("asked");
    }
    for theirs in ["set agent_sync.session = 'theirs'", "discard all"] {
        run(&db, theirs).await;
        assert_eq!(next(&db, 1).await.expect("asked"), (2, false), "{theirs}");
        assert_eq!(next(&db, 2).await.expect("asked"), (3, true), "{theirs}");
    }
}

#[tokio::test]
async fn where_a_session_loses_what_it_kept_nothing_is_kept_any_more_and_nobody_is_to_blame() {
    let db = TestDatabase::new().await;
    let db = Database::sized(&db.url(), 1);
    for _ in 0..2 {
        next(&db, 1).await.expect("asked");
    }
    run(&db, "deallocate all").await;
    let lost = next(&db, 1).await.expect_err("it is gone");
    assert_eq!(lost.fault(), Fault::Passing, "{lost}");
    assert!(db.keeper.is_given_up());
    for n in 0..3 {
        assert_eq!(next(&db, n).await.expect("asked"), (n + 1, false));
    }
}

#[tokio::test]
async fn who_asks_for_an_agent_does_not_notice_that() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    let claim = Claim {
        owner: Uuid::new_v4().to_string(),
        identity: None,
        assistant_id: None,
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    };
    for n in 0..10 {
        let agent = AgentId(db.agent("a").await);
        let synced = syncer
            .sync_now(&[agent], Entrance::Request(&claim))
            .await
            .expect("synced");
        assert_eq!(synced.outcomes.len(), 1, "{n}");
        if n == 5 {
            let mut clients = Vec::new();
            while clients.len() < 6 {
                let client = syncer.database.client().await.expect("a connection");
                client.batch_execute("deallocate all").await.expect("done");
                clients.push(client);
            }
            // So that the one that keeps something is the next.
            clients
                .into_iter()
                .rev()
                .for_each(|client| client.give_back());
        }
    }
    assert!(syncer.database.keeper.is_given_up());
}

/// Planned once, for whatever may come, and for tables that grow.
#[tokio::test]
async fn a_sync_of_one_agent_looks_at_few_rows_however_many_there_are() {
    let db = TestDatabase::new().await;
    db.execute("insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 300) as n")
        .await;
    TestWorker::start(&db, &[("AGENT_SYNC_SCOPE", "all")])
        .await
        .stop()
        .await;
    for analyzed in [false, true] {
        if analyzed {
            db.execute("analyze").await;
        }
        let before = looked_at(&db).await;
        let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
        let agents = "select id from public.agents order by id limit 5";
        for row in db.rows(agents, &[]).await {
            let agent: Uuid = row.get("id");
            let edit = format!("update public.agents set name = name || '!' where id = '{agent}'");
            db.execute(&edit).await;
            let batch = syncer.sync_now(&[AgentId(agent)], Entrance::Pass).await;
            let batch = batch.expect("synced");
            assert_eq!(batch.outcomes, [(AgentId(agent), Outcome::Updated)]);
        }
        drop(syncer);
        let rows = looked_at(&db).await - before;
        assert!(
            rows < 300,
            "{rows} rows were looked at, analyzed: {analyzed}"
        );
    }
}

/// How many rows of the larger tables all sessions have looked at that have ended. Waits until all of the worker's have.
async fn looked_at(db: &TestDatabase) -> i64 {
    db.unattended().await;
    let sum = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int8 as rows from pg_stat_all_tables
         where relid in ('langgraph_server.assistants'::regclass, 'agent_sync.ledger'::regclass)";
    db.rows(sum, &[]).await[0].get("rows")
}

/// Whether a session has it, has lost it, or keeps nothing for long.
#[tokio::test]
async fn changes_are_claimed_by_a_statement_that_the_session_keeps_and_without_one() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.unattended().await;
    db.agent("edited").await;
    let db = Database::sized(&db.url(), 1);
    let ours =
        "select count(*) from pg_prepared_statements where from_sql and name like 'agent_sync_%'";
    let kept = async || {
        let client = db.client().await.expect("a connection");
        let row = client.query_typed_one(ours, &[]).await.expect("counted");
        client.give_back();
        row.get::<_, i64>(0)
    };
    for _ in 0..2 {
        assert_eq!(claimed(&db).await, 1);
        assert_eq!(kept().await, 1);
    }
    // As a pooler may do between any two transactions.
    for _ in 0..40 {
        run(&db, "discard all").await;
        assert_eq!(claimed(&db).await, 1);
    }
    // It is not tried any more, and nothing of it is left.
    run(&db, "discard all").await;
    assert_eq!(claimed(&db).await, 1);
    assert_eq!(kept().await, 0);
}

/// Whoever has the connection next finds it as it was.
#[tokio::test]
async fn a_transaction_that_could_not_begin_or_end_is_over() {
    let db = TestDatabase::new().await;
    db.execute("drop schema if exists agent_sync cascade").await;
    let pool = Database::sized(&db.url(), 1);
    let mut client = pool.client().await.expect("a connection");
    let claimed = outbox::claim(&pool, &mut client, Order::Age, &[], 10).await;
    let error = claimed.map(|_| ()).expect_err("there is no outbox");
    assert!(error.fault() == Fault::Setup, "{error}");
    // What is set here stays set in the session, if the transaction commits.
    let set = "set session application_name = 'set'";
    let shown = async |client: &tokio_postgres::Client| {
        let row = client.query_typed_one("show application_name", &[]).await;
        row.expect("shown").get::<_, String>(0)
    };
    let before = shown(&client).await;
    let tx = begin(&mut client).await.expect("begun");
    tx.batch_execute(set).await.expect("set");
    drop(tx);
    assert_eq!(shown(&client).await, before);
    let tx = begin(&mut client).await.expect("begun");
    tx.batch_execute(set).await.expect("set");
    // What is refused takes the commit along.
    let refused = tx
        .commit_with(None, "select 1 / $1", &[(&0, Type::INT4)])
        .await;
    refused.expect_err("refused");
    assert_eq!(shown(&client).await, before);
}

/// To compile one takes twenty times as long as to run it.
#[tokio::test]
async fn nothing_that_is_asked_of_the_outbox_is_compiled() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.unattended().await;
    let pool = Database::sized(&db.url(), 1);
    let client = pool.client().await.expect("a connection");
    outbox::look(&pool, &client, &[]).await.expect("looked");
    outbox::left(&pool, &client, &[]).await.expect("asked");
    let kept = "select name from pg_prepared_statements where from_sql";
    let kept = client.query_typed(kept, &[]).await.expect("listed");
    assert_eq!(kept.len(), 2);
    for row in &kept {
        let name: &str = row.get("name");
        let explained = format!("{} explain execute {name} ('{{}}')", sql!("by_index"));
        let said = client.simple_query(&explained).await.expect("explained");
        let plan: Vec<String> = rows(said)
            .pop()
            .into_iter()
            .flatten()
            .map(|row| row.get(0).unwrap_or_default().to_owned())
            .collect();
        assert!(
            plan.iter().any(|line| line.contains("Index Scan")),
            "{plan:?}"
        );
        assert!(!plan.iter().any(|line| line.contains("JIT")), "{plan:?}");
    }
}
