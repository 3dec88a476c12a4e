//! The three races that the design calls tried, each with its interleaving forced; and the locks we take on agents.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_sync::access::Access;
use agent_sync::agent::Agent;
use agent_sync::assistant::{Assistant, Content};
use agent_sync::changes::bursts::{self, Bursts};
use agent_sync::changes::{self};
use agent_sync::config::{SCOPE, Settings};
use agent_sync::database::Transaction;
use agent_sync::outbox;
use agent_sync::store::batch::{How, Target, Write};
use agent_sync::syncer::{Entrance, Syncer};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker, eventually};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

fn syncer(db: &TestDatabase) -> Arc<Syncer> {
    Arc::new(Syncer::new(db.pool(), Access::open(), Settings::default()))
}

async fn drain(syncer: Arc<Syncer>) {
    changes::drain(&syncer, &mut Bursts::default(), &CancellationToken::new())
        .await
        .expect("drained");
}

/// Fan-out. A tool is edited in a transaction that is still open while an agent is linked to it and synced. A trigger
/// that looked up the tool's agents would have seen none.
#[tokio::test]
async fn a_link_made_while_its_tool_is_being_edited_ends_with_the_new_tool() {
    let db = TestDatabase::new().await;
    let (agent, tool) = (db.agent("a").await, Uuid::new_v4());
    db.execute(&format!(
        "insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{tool}', 't', 'https://old.example')"
    ))
    .await;
    let worker = TestWorker::start(&db, ALL).await;
    let editor = db.connect().await;
    editor
        .batch_execute("begin; update public.mcp_tools set endpoint_url = 'https://new.example'")
        .await
        .expect("an open edit");
    db.execute(&format!(
        "insert into public.agent_mcp_tools values ('{agent}', '{tool}')"
    ))
    .await;
    let url = || async {
        let assistant = db.assistant(agent).await.expect("an assistant");
        assistant["config"]["configurable"]["mcp_config"]["servers"][0]["url"]
            .as_str()
            .map(str::to_owned)
    };
    eventually("the link is synced with the old tool", || async {
        let url = url().await;
        if url.as_deref() == Some("https://old.example") {
            Ok(())
        } else {
            Err(format!("{url:?}"))
        }
    })
    .await;
    editor.batch_execute("commit").await.expect("committed");
    db.converged().await;
    assert_eq!(url().await.as_deref(), Some("https://new.example"));
    worker.stop().await;
}

/// The mirror image: the link is the one that is still open, and its tool's edit is drained before it can be seen.
#[tokio::test]
async fn a_tool_edited_while_a_link_to_it_is_being_made_is_not_missed() {
    let db = TestDatabase::new().await;
    let (agent, tool, other) = (db.agent("a").await, Uuid::new_v4(), db.agent("other").await);
    db.execute(&format!(
        "insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{tool}', 't', 'https://old.example');
         insert into public.agent_mcp_tools values ('{other}', '{tool}')"
    ))
    .await;
    let worker = TestWorker::start(&db, ALL).await;
    let editor = db.connect().await;
    editor
        .batch_execute(&format!(
            "begin; insert into public.agent_mcp_tools values ('{agent}', '{tool}')"
        ))
        .await
        .expect("an open edit");
    db.execute("update public.mcp_tools set tool_name = 'renamed'")
        .await;
    db.converged().await;
    editor.batch_execute("commit").await.expect("committed");
    db.converged().await;
    assert_eq!(
        db.assistant(agent).await.expect("an assistant")["config"]["configurable"]["mcp_config"]["servers"]
            [0]["name"],
        "renamed"
    );
    worker.stop().await;
}

/// Lock and read. A worker waits for an agent that another one is working on; the other one syncs a newer edit
/// meanwhile and takes its change off the outbox. What the first one then writes must not be older.
#[tokio::test]
async fn a_worker_that_waited_for_an_agent_does_not_write_what_it_saw_before() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute("update public.agents set system_prompt = 'first'")
        .await;

    let other = db.hold_agent(agent).await;
    let first = tokio::spawn(drain(syncer(&db)));
    db.somebody_waits_for_an_agent().await;
    db.execute("update public.agents set system_prompt = 'second'")
        .await;
    // The other worker deals with the second edit: its change is gone when the lock is free.
    let taken = other
        .execute(
            "delete from agent_sync.outbox where id = (select max(id) from agent_sync.outbox)",
            &[],
        )
        .await
        .expect("taken");
    assert_eq!(taken, 1);
    other.batch_execute("commit").await.expect("done");
    first.await.expect("drained");
    assert_eq!(db.count("agent_sync.outbox").await, 0);
    assert_eq!(db.prompt(agent).await.as_deref(), Some("second"));
}

/// Lock and reach. An agent out of scope is edited while a lazy sync that registers it is in flight: whether it is in
/// reach may only be asked once the lazy sync is over.
#[tokio::test]
async fn an_edit_during_the_lazy_sync_that_registers_its_agent_is_not_dropped() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, &[(SCOPE, "none")])
        .await
        .stop()
        .await;
    db.execute("truncate agent_sync.outbox").await;

    // The lazy sync, stopped after it has written and before it commits.
    let mut lazy = db.pool().client().await.expect("a connection");
    let tx = agent_sync::database::begin(&mut lazy).await.expect("begun");
    let claim = agent_sync::plan::Claim {
        owner: "alice".to_owned(),
        identity: None,
        assistant_id: None,
        if_exists: agent_sync::plan::IfExists::Raise,
        metadata: serde_json::Map::new(),
    };
    let agents = [agent_sync::ids::AgentId(agent)];
    let syncer_of_lazy = syncer(&db);
    syncer_of_lazy
        .sync(&tx, None, &agents, Entrance::Request(&claim))
        .await
        .expect("synced");
    db.execute("update public.agents set system_prompt = 'edited'")
        .await;
    let draining = tokio::spawn(drain(syncer(&db)));
    db.somebody_waits_for_an_agent().await;
    tx.commit().await.expect("committed");
    draining.await.expect("drained");
    assert_eq!(db.prompt(agent).await.as_deref(), Some("edited"));
    assert_eq!(db.count("agent_sync.outbox").await, 0);
}

/// During a sync no row of the customer's is locked, only tables against DDL.
#[tokio::test]
async fn a_sync_in_flight_holds_no_lock_that_an_editor_could_wait_for() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute("update public.agents set name = 'b', langgraph_assistant_id = null")
        .await;
    let mut client = db.pool().client().await.expect("a connection");
    let tx = agent_sync::database::begin(&mut client)
        .await
        .expect("begun");
    let batch = syncer(&db)
        .sync(
            &tx,
            None,
            &[agent_sync::ids::AgentId(agent)],
            Entrance::Pass,
        )
        .await
        .expect("synced");
    assert_eq!(batch.outcomes.len(), 1);
    let modes = db
        .rows(
            "select distinct l.relation::regclass::text as relation, l.mode from pg_locks l join pg_class c on c.oid = l.relation
             where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and l.pid <> pg_backend_pid()
               and l.database = (select oid from pg_database where datname = current_database()) and l.mode <> 'AccessShareLock'",
            &[],
        )
        .await;
    assert_eq!(
        modes.len(),
        0,
        "{:?}",
        modes
            .iter()
            .map(|row| row.get::<_, String>("mode"))
            .collect::<Vec<_>>()
    );
    db.execute(
        "set lock_timeout = '1s'; update public.agents set name = 'c'; delete from public.agents",
    )
    .await;
    tx.rollback().await.expect("rolled back");
}

/// Two workers on one outbox: each change is dealt with, no agent by two at once, and nobody deadlocks.
#[tokio::test]
async fn several_workers_share_the_work() {
    let db = TestDatabase::new().await;
    let workers = [
        TestWorker::start(&db, ALL).await,
        TestWorker::start(&db, ALL).await,
        TestWorker::start(&db, ALL).await,
    ];
    db.execute("insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 1500) n").await;
    for round in 0..5 {
        db.execute(&format!(
            "update public.agents set system_prompt = 'round {round}'"
        ))
        .await;
    }
    db.converged().await;
    let deadlocks: i64 = db
        .rows(
            "select deadlocks from pg_stat_database where datname = current_database()",
            &[],
        )
        .await[0]
        .get(0);
    assert_eq!(deadlocks, 0);
    for worker in workers {
        worker.stop().await;
    }
}

/// A worker with another scope takes over, and what its scope leaves out is not lost to the one before.
#[tokio::test]
async fn workers_share_the_scope_of_the_last_one_started() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let first = TestWorker::start(&db, &[(SCOPE, "none")]).await;
    assert!(db.assistant(agent).await.is_none());
    let second = TestWorker::start(&db, ALL).await;
    assert!(db.assistant(agent).await.is_some());
    second.stop().await;
    // The first one, alone again, keeps to the scope that was stored last.
    let new = db.agent("new").await;
    db.synced(new).await;
    tokio::time::timeout(Duration::from_secs(20), first.stop())
        .await
        .expect("stopped");
}

/// Somebody else has one assistant's row in an open transaction: that one agent waits, everybody else goes on, and
/// nobody waits behind us.
#[tokio::test]
async fn an_assistant_that_another_session_holds_keeps_only_its_own_agent_waiting() {
    let db = TestDatabase::new().await;
    let (edited, removed, other) = (
        db.agent("edited").await,
        db.agent("removed").await,
        db.agent("other").await,
    );
    let worker = TestWorker::start(&db, ALL).await;
    let holder = db.connect().await;
    holder
        .batch_execute(&format!(
            "begin; update langgraph_server.assistants set version = version where id in ('{edited}', '{removed}')"
        ))
        .await
        .expect("held");
    db.execute(&format!(
        "update public.agents set system_prompt = 'edited';
         update public.agents set status = 'disabled' where id = '{removed}'"
    ))
    .await;
    db.prompted(other, "edited").await;
    let failed = db.count("agent_sync.ledger where state = 'failed'").await;
    assert_eq!(failed, 0, "waiting is not a failure of the agent's");
    // An editor who comes behind DDL that comes behind us.
    db.execute("set lock_timeout = '5s'; alter table public.agents add column nickname text; update public.agents set nickname = 'n'").await;
    holder.batch_execute("commit").await.expect("released");
    db.converged().await;
    worker.stop().await;
}

/// Somebody makes an assistant under the very id, in a transaction that is still open when we want to insert it.
#[tokio::test]
async fn an_id_that_is_being_taken_keeps_only_its_own_agent_waiting() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    let (taken, other) = (Uuid::new_v4(), Uuid::new_v4());
    let squatter = db.connect().await;
    squatter
        .batch_execute(&format!(
            "begin; insert into langgraph_server.assistants (id) values ('{taken}')"
        ))
        .await
        .expect("being made");
    db.execute(&format!(
        "insert into public.agents (id, name, status) values ('{taken}', 'a', 'active'), ('{other}', 'b', 'active')"
    ))
    .await;
    db.synced(other).await;
    squatter
        .batch_execute("rollback")
        .await
        .expect("thought better of it");
    db.converged().await;
    worker.stop().await;
}

/// Agents are edited without a pause; a tool's change must not wait for the end of that.
#[tokio::test]
async fn edits_of_agents_do_not_keep_a_tools_change_waiting() {
    let db = TestDatabase::new().await;
    let (agent, tool) = (db.agent("a").await, Uuid::new_v4());
    db.execute(&format!(
        "insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{tool}', 't', 'https://old.example');
         insert into public.agent_mcp_tools values ('{agent}', '{tool}')"
    ))
    .await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(
        "insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 1200) n;
         update public.mcp_tools set endpoint_url = 'https://new.example'",
    )
    .await;
    // One batch of the many that are there, no more.
    let syncer = syncer(&db);
    let stop = CancellationToken::new();
    stop.cancel();
    changes::drain(&syncer, &mut Bursts::default(), &stop)
        .await
        .expect("drained");
    assert_eq!(
        db.count("agent_sync.outbox where source = 'mcp_tools'")
            .await,
        0
    );
    assert_eq!(
        db.count(&format!("agent_sync.outbox where key = '{agent}'"))
            .await,
        1,
        "spread to its agent"
    );
    assert!(
        db.count("agent_sync.outbox").await > 600,
        "the rest is still there"
    );
}

/// More requests than connections, at the moment when nothing is known yet: none may hold one and wait for another.
#[tokio::test]
async fn the_pool_is_never_waited_for_by_those_who_hold_it() {
    let db = TestDatabase::new().await;
    let mut agents = Vec::new();
    for n in 0..40 {
        agents.push(agent_sync::ids::AgentId(
            db.agent(&format!("agent {n}")).await,
        ));
    }
    TestWorker::start(&db, &[]).await.stop().await;
    let syncer = syncer(&db);
    let claim = agent_sync::plan::Claim {
        owner: "alice".to_owned(),
        identity: None,
        assistant_id: None,
        if_exists: agent_sync::plan::IfExists::Raise,
        metadata: serde_json::Map::new(),
    };
    let asked = agents
        .iter()
        .map(|agent| syncer.sync_now(std::slice::from_ref(agent), Entrance::Request(&claim)));
    for answer in futures::future::join_all(asked).await {
        assert!(answer.expect("synced").answer.is_some());
    }
}

/// What another session has claimed is not spun on.
#[tokio::test]
async fn changes_in_another_sessions_hands_are_left_alone_for_a_while() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.agent("a").await;
    db.execute("insert into public.mcp_tools (tool_name) values ('t')")
        .await;
    let other = db.connect().await;
    other
        .batch_execute("begin; select * from agent_sync.outbox for update")
        .await
        .expect("claimed");
    let drained = changes::drain(
        &syncer(&db),
        &mut Bursts::default(),
        &CancellationToken::new(),
    )
    .await
    .expect("drained");
    assert_eq!(drained.next, Some(Duration::from_secs(1)));
    other.batch_execute("rollback").await.expect("released");
}

/// A claim takes a batch, and a drain takes batches until nothing is left.
#[tokio::test]
async fn the_outbox_is_drained_batch_by_batch() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(
        "insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 1200) n;
         insert into agent_sync.outbox (source, key) values ('agents', 'not a uuid')",
    )
    .await;
    let syncer = syncer(&db);
    let stop = CancellationToken::new();
    stop.cancel();
    changes::drain(&syncer, &mut Bursts::default(), &stop)
        .await
        .expect("drained");
    assert_eq!(
        db.count("agent_sync.outbox").await,
        701,
        "five hundred locks, and no more"
    );
    drain(syncer).await;
    assert_eq!(
        db.count("agent_sync.outbox").await,
        0,
        "what makes no sense is dropped"
    );
    assert_eq!(db.count("langgraph_server.assistants").await, 1200);
}

/// An agent that is edited again while its sync is going on is left alone until the edits pause.
#[tokio::test]
async fn an_edit_that_comes_right_after_a_sync_is_held_for_a_moment() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, ALL).await.stop().await;
    let (syncer, mut bursts, stop) = (syncer(&db), Bursts::default(), CancellationToken::new());
    stop.cancel();
    // Another worker has something in hand all the while, so the outbox is not seen empty in between.
    let in_hand =
        "insert into agent_sync.outbox (source, key) values ('agents', gen_random_uuid())";
    db.execute(in_hand).await;
    let other = db.connect().await;
    let taking = "begin; delete from agent_sync.outbox";
    other.batch_execute(taking).await.expect("taken");
    db.execute("update public.agents set system_prompt = 'first'")
        .await;
    changes::drain(&syncer, &mut bursts, &stop)
        .await
        .expect("drained");
    assert_eq!(db.prompt(agent).await.as_deref(), Some("first"));
    // The edit's age is fixed: now, by any clock.
    db.execute(
        "update public.agents set system_prompt = 'second';
         update agent_sync.outbox set changed_at = clock_timestamp() + interval '1 hour' where key = (select id::text from public.agents)",
    )
    .await;
    let drained = changes::drain(&syncer, &mut bursts, &stop)
        .await
        .expect("drained");
    assert_eq!(db.prompt(agent).await.as_deref(), Some("first"), "held");
    assert!(
        drained.next.is_some_and(|pause| pause <= bursts::QUIET),
        "{drained:?}"
    );
    other.batch_execute("commit").await.expect("done");
    assert_eq!(db.count("agent_sync.outbox").await, 1);
    db.execute("update agent_sync.outbox set changed_at = clock_timestamp() - interval '1 second'")
        .await;
    eventually("it is taken once the edits have paused", || async {
        let mut later = Bursts::default();
        changes::drain(&syncer, &mut later, &stop)
            .await
            .expect("drained");
        let prompt = db.prompt(agent).await;
        if prompt.as_deref() == Some("second") {
            Ok(())
        } else {
            Err(format!("{prompt:?}"))
        }
    })
    .await;
}

/// Writes the agent's canonical assistant, of no particular content. Whether it was written.
async fn written(tx: &Transaction<'_>, agent: Uuid, how: How) -> bool {
    let content = Content::of(Agent::default(), "model");
    let agent_id = agent_sync::ids::AgentId(agent);
    let owner = "system".to_owned();
    let assistant = Assistant {
        id: agent_id.canonical(),
        agent_id,
        owner,
        content: &content,
    };
    let write = Write {
        assistant,
        content_hash: Vec::new(),
        how,
        foreign: None,
        said: None,
    };
    let id = write.assistant.id;
    Target::Table(tx.into())
        .write(&[write], &HashMap::new())
        .await
        .expect("no wait")
        .is_done(id)
}

/// The statements that could wait for somebody's row do not: each passes over it and says so.
#[tokio::test]
async fn rows_that_others_hold_are_passed_over_not_waited_for() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(&format!(
        "update public.agents set langgraph_assistant_id = null;
         insert into agent_sync.outbox (source, key, due_at) values ('agents', '{agent}', now() + interval '1 hour')"
    ))
    .await;
    let holder = db.connect().await;
    holder
        .batch_execute(
            "begin; select * from public.agents for update; select * from langgraph_server.assistants for update;
             select * from agent_sync.outbox for update",
        )
        .await
        .expect("held");
    let mut client = db.pool().client().await.expect("a connection");
    let tx = agent_sync::database::begin(&mut client)
        .await
        .expect("begun");
    tx.batch_execute("set local lock_timeout = '1ms'")
        .await
        .expect("no patience at all");

    let agents = format!("'{{{agent}}}'");
    let left = tx
        .query_typed(
            &agent_sync::sql!("write_back")
                .replace(":'agents'", &agents)
                .replace(":'assistants'", &agents),
            &[],
        )
        .await
        .expect("no wait");
    assert_eq!(left.len(), 1, "the write-back is to be tried again");
    let id = agent_sync::ids::AssistantId(agent);
    let deleted = Target::Table((&tx).into())
        .delete(&[id])
        .await
        .expect("no wait");
    assert!(!deleted.is_done(id));
    assert!(!written(&tx, agent, How::Update).await);
    outbox::clear_retries(&tx, &[agent_sync::ids::AgentId(agent)])
        .await
        .expect("no wait");
}

/// Between the look and the write, an assistant that was the system's has become somebody's.
#[tokio::test]
async fn an_adoption_looks_again_when_it_writes() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, metadata) values ('{agent}', '{{\"owner\": \"mallory\"}}')"
    ))
    .await;
    let before = db.assistant(agent).await;
    let mut client = db.pool().client().await.expect("a connection");
    let tx = agent_sync::database::begin(&mut client)
        .await
        .expect("begun");
    assert!(!written(&tx, agent, How::Adopt).await);
    tx.commit().await.expect("committed");
    assert_eq!(db.assistant(agent).await, before);
}

/// Its connection is cut in the middle of a sync: nothing was written, and the change is there for the next.
#[tokio::test]
async fn a_worker_that_dies_in_the_middle_loses_no_change() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    let syncer_that_dies = syncer(&db);
    let agent = db.agent("a").await;
    let blocker = db.connect().await;
    blocker
        .batch_execute("begin; lock table langgraph_server.assistants in access exclusive mode")
        .await
        .expect("locked");
    let dying = tokio::spawn(async move {
        changes::drain(
            &syncer_that_dies,
            &mut Bursts::default(),
            &CancellationToken::new(),
        )
        .await
    });
    eventually("the sync has read and waits to write", || async {
        let waiting = db.count("pg_locks where locktype = 'relation' and not granted and database = (select oid from pg_database where datname = current_database())").await;
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting} waiting")) }
    })
    .await;
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'agent-sync' and datname = current_database()",
    )
    .await;
    assert!(dying.await.expect("ended").is_err());
    blocker.batch_execute("rollback").await.expect("released");
    assert_eq!(db.count("agent_sync.outbox").await, 1);
    drain(syncer(&db)).await;
    assert!(db.assistant(agent).await.is_some());
}

#[tokio::test]
async fn assistants_are_written_and_changes_taken_off_in_one_transaction() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    let syncer = syncer(&db);
    let agent = db.agent("a").await;
    db.execute(
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
         create trigger refuse before delete on agent_sync.outbox for each row execute function public.refuse()",
    )
    .await;
    let (mut bursts, stop) = (Bursts::default(), CancellationToken::new());
    assert!(changes::drain(&syncer, &mut bursts, &stop).await.is_err());
    assert_eq!(db.assistant(agent).await, None);
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    assert_eq!(db.count("agent_sync.outbox").await, 1);
}

#[tokio::test]
async fn an_id_that_is_being_taken_is_given_up_soon() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    let syncer = syncer(&db);
    let agent = agent_sync::ids::AgentId(db.agent("a").await);
    let squatter = db.connect().await;
    squatter
        .batch_execute(&format!(
            "begin; insert into langgraph_server.assistants (id) values ('{agent}')"
        ))
        .await
        .expect("being made");
    let synced = syncer.sync_now(std::slice::from_ref(&agent), Entrance::Pass);
    // Far below the twelve seconds that a statement may wait otherwise.
    let batch = tokio::time::timeout(Duration::from_secs(5), synced)
        .await
        .expect("given up")
        .expect("synced");
    assert_eq!(batch.outcomes, [(agent, agent_sync::syncer::Outcome::Busy)]);
}
