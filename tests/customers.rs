//! The customer's side: whatever the worker is doing, and wherever it is stopped, no edit fails or waits because of it.
//!
//! Every editor here has a `lock_timeout` of 100 ms: an edit that waits longer for anybody's lock fails, and says so.
//! Beside it, another connection watches who waits for a session of the worker's.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use agent_sync::config::{DATABASE_URL, LOG, RESYNC_INTERVAL, SCOPE};
use agent_sync::sql;
use futures::future::join_all;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::interceptor::Interceptor;
use crate::support::{TestDatabase, eventually};

/// A statement of the worker's, after which it is stopped.
struct Step {
    statement: &'static str,
    /// What that leaves open until the server's patience with an idle transaction ends.
    leaves: Leaves,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaves {
    Nothing,
    Transaction,
    /// With tables of the customer's in it that were read.
    TablesRead,
}

/// A sync, in the order in which its statements are sent: of those that are sent together, the last.
const SYNC: [Step; 12] = {
    const fn after(statement: &'static str, leaves: Leaves) -> Step {
        Step { statement, leaves }
    }
    use Leaves::{Nothing, TablesRead, Transaction};
    [
        // With the transaction's limits and `claim`.
        after("set_config('statement_timeout', '30s', true)", Transaction),
        // With `lock_agents`, `shared_settings`, the savepoint, `read_agents` and `ledger_read`.
        after(sql!("assistants_observe"), TablesRead),
        after(sql!("weigh_removals"), TablesRead),
        // With the limit for locks.
        after(sql!("assistants_insert"), TablesRead),
        after(sql!("assistants_update"), TablesRead),
        after(sql!("assistants_delete"), TablesRead),
        after(sql!("ledger_removed"), TablesRead),
        // With `delete_claimed`. (To its end: there is `read committed`, too.)
        after("COMMIT\0", Nothing),
        after("of each the assistant that stands", Nothing), // `write_back`
        after(sql!("claim_shared"), Transaction),
        after(sql!("spread_tools"), TablesRead),
        after("/* agent-sync: left */", Nothing),
    ]
};

/// One that makes assistants, changes one, removes one, and spreads a tool's change to its agents: of more agents than a transaction may be
/// about that uses statements which its session keeps, so that all of them are on the wire in full.
fn edit(setting: &Setting) -> String {
    let Setting {
        changed, removed, ..
    } = setting;
    format!(
        "begin;
         insert into public.agents (name, status) select 'new', 'active' from generate_series(1, 7);
         update public.agents set system_prompt = 'edited' where id = '{changed}';
         update public.agents set status = 'disabled' where id = '{removed}';
         update public.mcp_tools set tool_name = 'renamed';
         commit"
    )
}

/// What editors do, to the very agents that the worker has in hand and to others.
const EDITS: [&str; 9] = [
    "update public.agents set name = name || '!', langgraph_assistant_id = langgraph_assistant_id",
    "update public.agents set status = 'active'",
    "update public.ai_models set runtime_model_name = runtime_model_name || '!'",
    "update public.global_ai_engines set name = name || '!'",
    "update public.mcp_tools set auth_required = not auth_required",
    "delete from public.agent_mcp_tools",
    "insert into public.agent_mcp_tools select a.id, t.id from public.agents as a, public.mcp_tools as t",
    "insert into public.agents (name, status) values ('made meanwhile', 'active')",
    "delete from public.agents where name like 'new%' or name like 'made meanwhile%'",
];

struct Setting {
    db: TestDatabase,
    worker: Running,
    interceptor: Interceptor,
    changed: Uuid,
    removed: Uuid,
}

/// A worker process on a database with a few agents, all of it at rest.
async fn at_rest(resync: &str) -> Setting {
    at_rest_on(TestDatabase::new().await, resync).await
}

async fn at_rest_on(db: TestDatabase, resync: &str) -> Setting {
    let (changed, removed) = (db.agent("changed").await, db.agent("removed").await);
    db.agent("bystander").await;
    db.execute(
        "insert into public.ai_models (runtime_model_name) values ('m');
         insert into public.global_ai_engines (name, language_model_id) select 'e', id from public.ai_models;
         update public.agents set engine_id = (select id from public.global_ai_engines);
         insert into public.mcp_tools (tool_name, endpoint_url) values ('t', 'https://t.example');
         insert into public.agent_mcp_tools select a.id, t.id from public.agents as a, public.mcp_tools as t",
    )
    .await;
    let interceptor = Interceptor::before(&db).await;
    let own = [
        (DATABASE_URL, interceptor.url.as_str()),
        (SCOPE, "all"),
        (RESYNC_INTERVAL, resync),
        (LOG, "info,agent_sync::doorbell=debug"),
    ];
    let worker = Running::start(&[], &[&own, FREE_PORTS].concat());
    worker.line("listening for changes").await;
    worker.line("Startup sync summary").await;
    settled(&db).await;
    db.drained().await;
    Setting {
        db,
        worker,
        interceptor,
        changed,
        removed,
    }
}

/// Somebody who does not wait for long, however busy the machine.
async fn editor(db: &TestDatabase) -> Client {
    let editor = db.connect().await;
    editor
        .batch_execute("set lock_timeout = '2s'")
        .await
        .expect("set");
    editor
}

/// Lets this happen, and returns who waited meanwhile: an editor for the worker, or the worker for an editor. (In this
/// database: all who ring take turns to commit, in the whole cluster.)
async fn waiting_during(db: &TestDatabase, what: impl Future<Output = ()>) -> BTreeSet<String> {
    let watcher = db.connect().await;
    let waiting = "select waiting.query || ' waits for ' || holding.query
         from pg_stat_activity as waiting
         cross join unnest(pg_blocking_pids(waiting.pid)) as blocking (pid)
         join pg_stat_activity as holding on holding.pid = blocking.pid
         where waiting.datname = current_database() and holding.datname = current_database()
           and (waiting.application_name like 'agent-sync%') <> (holding.application_name like 'agent-sync%')";
    let (mut what, mut seen) = (pin!(what), BTreeSet::new());
    loop {
        let rows = watcher.query(waiting, &[]).await.expect("watched");
        seen.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        tokio::select! {
            () = &mut what => return seen,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

/// Makes all kinds of edits, none of which fails.
async fn edit_everything(editor: &Client, while_: &str) {
    for edit in EDITS {
        if let Err(e) = editor.batch_execute(edit).await {
            panic!("{while_}: {edit}: {e:?}");
        }
    }
}

/// The same behind a worker that is stopped: nobody waits for it, not even for a moment.
async fn edit_behind(db: &TestDatabase, stopped: &str) {
    let editor = editor(db).await;
    let waited = waiting_during(db, edit_everything(&editor, stopped)).await;
    assert!(waited.is_empty(), "{stopped}: {waited:?}");
}

/// Waits until every assistant is what it should be, and every active agent's row names its own.
async fn settled(db: &TestDatabase) {
    db.converged().await;
    eventually("every row names its assistant", || async {
        let nameless = db
            .count("public.agents where status = 'active' and langgraph_assistant_id is distinct from id::text")
            .await;
        if nameless == 0 { Ok(()) } else { Err(format!("{nameless} do not")) }
    })
    .await;
}

/// Waits until the change loop has drained what was there when the worker started, too, and what was edited before it was rung for.
/// (There must be no resync, which asks other things.)
async fn asleep(worker: &Running) {
    worker.line("waiting for a ring armed=true").await;
}

#[tokio::test]
async fn a_worker_that_is_stopped_anywhere_in_a_sync_keeps_no_editor_waiting() {
    join_all(SYNC.iter().map(|step| stop_after(step, edit))).await;
}

/// One that leaves one agent to write back, by a statement that the session keeps from then on.
#[tokio::test]
async fn a_worker_that_is_stopped_while_it_writes_one_agent_keeps_no_editor_waiting() {
    let step = Step {
        statement: "synchronous_commit = off; prepare agent_sync_",
        leaves: Leaves::Nothing,
    };
    let one = "insert into public.agents (name, status) values ('new', 'active')";
    stop_after(&step, |_| one.to_owned()).await;
}

async fn stop_after(step: &Step, edit: impl Fn(&Setting) -> String) {
    let statement = step.statement.trim_end_matches('\0');
    let setting = at_rest("0").await;
    let Setting {
        db,
        worker,
        interceptor,
        ..
    } = &setting;
    asleep(worker).await;
    // With a trigger of the application's that says more than fits on the way to somebody who does not read.
    db.execute(
        "create table public.now as select clock_timestamp() as at;
         create function public.say_much() returns trigger language plpgsql as $$
         begin
           if current_setting('application_name') = 'agent-sync' then raise notice '%', repeat('x', 10000000); end if;
           return null;
         end $$;
         create trigger say_much after update on public.agents execute function public.say_much()",
    )
    .await;
    interceptor.stop_at(worker, step.statement);
    db.execute(&edit(&setting)).await;
    interceptor.reached().await;
    let state = match step.leaves {
        Leaves::Nothing => "idle",
        _ => "idle in transaction",
    };
    // And whatever else the worker had sent before, on other connections: it may still be writing something back.
    eventually(
        &format!("the server has carried out `{}` and waits", statement),
        || async {
            let sessions =
                "select state || ': ' || left(query, 200) as session from pg_stat_activity
             where datname = current_database() and application_name = 'agent-sync'";
            let there = format!(
                "{sessions} and state = '{state}' and strpos(query, left($1, 100)) > 0
               and query_start > (select at from public.now)
               and not exists (
                 select from pg_stat_activity
                 where datname = current_database() and application_name = 'agent-sync' and state = 'active'
               )"
            );
            if db.rows(&there, &[&statement]).await.len() == 1 {
                return Ok(());
            }
            let all = db.rows(sessions, &[]).await;
            Err(all
                .iter()
                .map(|row| row.get::<_, String>("session"))
                .collect())
        },
    )
    .await;
    let read = db
        .rows(
            "select distinct c.relname || ' ' || l.mode
             from pg_locks as l join pg_stat_activity as a using (pid) join pg_class as c on c.oid = l.relation
             where a.datname = current_database() and a.application_name = 'agent-sync'
               and c.relnamespace = 'public'::regnamespace",
            &[],
        )
        .await;
    let read: Vec<String> = read.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        !read.is_empty(),
        step.leaves == Leaves::TablesRead,
        "{}: {read:?}",
        statement
    );
    assert!(
        read.iter().all(|lock| lock.ends_with(" AccessShareLock")),
        "{read:?}"
    );

    edit_behind(db, &format!("stopped after `{statement}`")).await;

    // What locks a whole table waits until the server gives the worker up, after ten seconds.
    let owner = editor(db).await;
    if step.leaves == Leaves::TablesRead {
        owner
            .batch_execute("set lock_timeout = '12s'")
            .await
            .expect("set");
    }
    for table in [
        "agents",
        "agent_mcp_tools",
        "mcp_tools",
        "global_ai_engines",
        "ai_models",
    ] {
        let alter = format!("alter table public.{table} add column nickname text");
        if let Err(e) = owner.batch_execute(&alter).await {
            panic!("stopped after `{}`: {alter}: {e:?}", statement);
        }
    }
    worker.signal("-CONT");
    settled(db).await;
}

/// Whatever locks a table of the customer's is over before the worker hears of it.
#[tokio::test]
async fn a_worker_that_is_stopped_while_it_puts_a_trigger_back_keeps_no_editor_waiting() {
    let Setting {
        db,
        worker,
        interceptor,
        ..
    } = at_rest_on(TestDatabase::to_install().await, "200ms").await;
    interceptor.stop_at(&worker, "create or replace trigger");
    db.execute("drop trigger agent_sync_update on public.agents")
        .await;
    interceptor.reached().await;
    eventually("the server is done with it", || async {
        let ours = "pg_stat_activity where datname = current_database() and application_name = 'agent-sync'";
        let done = db.count(&format!("{ours} and query like '%create or replace trigger%' and state like 'idle%'")).await;
        if done == 1 { Ok(()) } else { Err(format!("{done}")) }
    })
    .await;
    edit_behind(&db, "stopped after `create trigger`").await;
    worker.signal("-CONT");
    settled(&db).await;
}

/// The worker syncs and writes back without a pause, and still nobody who edits waits for long; nor does who alters a
/// table, for whom a whole transaction of the worker's is in the way.
#[tokio::test]
async fn a_worker_at_work_keeps_no_editor_waiting() {
    let Setting { db, worker, .. } = at_rest("200ms").await;
    db.execute("insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 50) as n").await;
    let (editor, owner) = (editor(&db).await, db.connect().await);
    owner
        .batch_execute("set lock_timeout = '5s'")
        .await
        .expect("set");
    for round in 0..20 {
        editor
            .batch_execute("update public.agents set langgraph_assistant_id = null, description = coalesce(description, '') || '!'")
            .await
            .expect("an edit that leaves much to write back");
        edit_everything(&editor, "at work").await;
        owner
            .batch_execute(&format!(
                "alter table public.agents add column extra_{round} text"
            ))
            .await
            .expect("a column");
    }
    settled(&db).await;
    assert!(!worker.output().contains("deadlock"), "{}", worker.output());
}

/// An editor has one agent's row and goes to lunch; the worker wants to write back to it, and to another.
#[tokio::test]
async fn an_editor_who_sits_in_a_transaction_keeps_nobody_waiting_and_nobody_him() {
    let setting = at_rest("0").await;
    let Setting {
        db,
        changed: held,
        removed: free,
        ..
    } = &setting;
    db.execute("update public.agents set langgraph_assistant_id = null")
        .await;
    let sitting = editor(db).await;
    sitting
        .batch_execute(&format!(
            "begin; update public.agents set updated_at = now() where id = '{held}'"
        ))
        .await
        .expect("an open edit");
    let others = editor(db).await;
    let meanwhile = async {
        // Something else makes the worker sync them all.
        db.execute(
            "insert into agent_sync.outbox (source, key) select 'agents', id::text from public.agents;
             select pg_notify('agent_sync', '')",
        )
        .await;
        eventually("all but the held one are written back", || async {
            let left = db
                .count(&format!(
                    "public.agents where langgraph_assistant_id is null and id <> '{held}'"
                ))
                .await;
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} left"))
            }
        })
        .await;
        let edit = format!("update public.agents set name = 'edited too' where id = '{free}'");
        others
            .batch_execute(&edit)
            .await
            .expect("an edit beside it");
        db.drained().await;
        sitting
            .batch_execute(&edit)
            .await
            .expect("he wants the other row, too");
    };
    let waited = waiting_during(db, meanwhile).await;
    assert!(waited.is_empty(), "{waited:?}");
    assert_eq!(
        db.count("public.agents where langgraph_assistant_id is null")
            .await,
        1
    );
    sitting.batch_execute("commit").await.expect("no deadlock");
    settled(db).await;
}
