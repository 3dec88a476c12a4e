//! The change loop: what is edited is synced, exactly that, whoever edits it.

use std::time::Duration;

use agent_sync::access::Access;
use agent_sync::changes::{self, bursts::Bursts};
use agent_sync::config::{MAX_REMOVALS, ROBYN_DEV, SCOPE, Settings};
use agent_sync::syncer::Syncer;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::binary::Running;
use crate::support::{TestDatabase, TestWorker, eventually};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

async fn with_demo_data() -> (TestDatabase, TestWorker) {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let unlimited = [ALL, &[(MAX_REMOVALS, "unlimited")]].concat();
    let worker = TestWorker::start(&db, &unlimited).await;
    (db, worker)
}

/// The ids of the assistants whose version has moved past 1.
async fn moved(db: &TestDatabase) -> Vec<String> {
    let rows = db
        .rows(
            "select name from langgraph_server.assistants where version > 1 order by name",
            &[],
        )
        .await;
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn an_edit_by_an_ordinary_user_under_row_level_security_reaches_the_assistant() {
    let (db, worker) = with_demo_data().await;
    let user = db
        .connect_as(Uuid::parse_str("0e000000-0000-4000-8000-000000000001").unwrap())
        .await;
    let edited = user
        .execute(
            "update public.agents set system_prompt = 'You answer in haiku.' where true",
            &[],
        )
        .await
        .expect("an edit with no rights on agent_sync");
    assert_eq!(
        edited, 4,
        "row-level security shows the user one organization's agents"
    );
    assert!(
        user.batch_execute("select * from agent_sync.outbox")
            .await
            .is_err(),
        "and nothing of ours"
    );
    db.converged().await;
    assert_eq!(
        moved(&db).await,
        ["Gear Advisor", "Refund Desk", "Stock Watcher"]
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_change_of_a_shared_row_reaches_every_agent_that_uses_it_and_no_other() {
    let (db, worker) = with_demo_data().await;
    db.execute("update public.mcp_tools set endpoint_url = 'https://moved.example' where tool_name = 'search_orders'").await;
    db.converged().await;
    assert_eq!(moved(&db).await, ["Refund Desk", "Stock Watcher"]);

    db.execute("update public.ai_models set runtime_model_name = 'openai:gpt-5' where runtime_model_name = 'openai:gpt-4o'").await;
    db.converged().await;
    assert_eq!(
        moved(&db).await,
        [
            "Client Intake",
            "Front Desk",
            "Gear Advisor",
            "Refund Desk",
            "Stock Watcher"
        ]
    );

    db.execute(
        "update public.global_ai_engines set language_model_id = '0b000000-0000-4000-8000-000000000001' where name = 'Quick'",
    )
    .await;
    db.converged().await;
    assert_eq!(
        moved(&db).await,
        [
            "Billing Helper",
            "Client Intake",
            "Front Desk",
            "Gear Advisor",
            "Refund Desk",
            "Stock Watcher"
        ]
    );

    db.execute("delete from public.agent_mcp_tools where agent_id = 'a0000000-0000-4000-8000-00000000000c'").await;
    db.converged().await;
    assert!(moved(&db).await.contains(&"Office Assistant".to_owned()));
    worker.stop().await;
}

#[tokio::test]
async fn deletes_cascade_and_truncate_are_noticed() {
    let (db, worker) = with_demo_data().await;
    db.execute("delete from public.mcp_tools where tool_name = 'web_search'")
        .await;
    db.converged().await;
    assert_eq!(
        moved(&db).await,
        ["Case Researcher", "Gear Advisor", "Office Assistant"]
    );
    db.execute("delete from public.global_ai_engines where name = 'Quick'")
        .await;
    db.converged().await;
    db.execute("delete from public.organizations where name = 'Lumen Legal'")
        .await;
    db.converged().await;
    assert_eq!(db.count("langgraph_server.assistants").await, 6);
    db.execute("truncate public.ai_models, public.global_ai_engines cascade")
        .await;
    db.converged().await;
    assert_eq!(
        db.count("langgraph_server.assistants").await,
        0,
        "the cascade truncates agents, too"
    );
    worker.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_switched_off_loses_its_assistant_and_gets_it_back_under_the_same_id() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    let id = db.agent("a").await;
    db.converged().await;
    for (off, on) in [
        ("status = 'disabled'", "status = 'active'"),
        ("status = 'draft'", "status = 'active'"),
        ("deleted_at = now()", "deleted_at = null"),
    ] {
        db.execute(&format!("update public.agents set {off} where id = '{id}'"))
            .await;
        db.converged().await;
        assert!(db.assistant(id).await.is_none(), "{off}");
        assert_eq!(
            db.count("agent_sync.ledger where state = 'removed'").await,
            1
        );
        db.execute(&format!("update public.agents set {on} where id = '{id}'"))
            .await;
        db.converged().await;
        assert!(db.assistant(id).await.is_some(), "{on}");
    }
    db.execute(&format!("delete from public.agents where id = '{id}'"))
        .await;
    db.converged().await;
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn foreign_assistants_are_never_touched() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    let id = db.agent("a").await;
    db.converged().await;
    let foreign = Uuid::new_v4();
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, metadata) values
           ('{foreign}', '{{\"supabase_agent_id\": \"{id}\", \"owner\": \"system\"}}'), ('not-even-a-uuid', '{{}}')"
    ))
    .await;
    db.execute(&format!("delete from public.agents where id = '{id}'"))
        .await;
    eventually("ours is gone", || async {
        db.assistant(id)
            .await
            .map_or(Ok(()), |_| Err("still there".to_owned()))
    })
    .await;
    assert_eq!(db.count("langgraph_server.assistants").await, 2);
    worker.stop().await;
}

#[tokio::test]
async fn what_is_out_of_reach_is_dropped_and_what_has_an_assistant_is_in_reach_whatever_the_scope()
{
    let db = TestDatabase::new().await;
    let (ours, _) = db.organization().await;
    let (theirs, _) = db.organization().await;
    let (in_scope, out, lazy) = (
        db.agent("in").await,
        db.agent("out").await,
        db.agent("lazy").await,
    );
    db.execute(&format!(
        "update public.agents set organization_id = '{ours}' where id = '{in_scope}';
         update public.agents set organization_id = '{theirs}' where id in ('{out}', '{lazy}')"
    ))
    .await;
    let worker =
        TestWorker::start(&db, &[(SCOPE, &format!("org:{ours}")), (ROBYN_DEV, "true")]).await;
    let (status, _) = worker
        .create(json!({"graph_id": "agent", "metadata": {"supabase_agent_id": lazy}}))
        .await;
    assert_eq!(status, 200);

    db.execute("update public.agents set system_prompt = 'edited'")
        .await;
    db.drained().await;
    assert_eq!(db.prompt(in_scope).await.as_deref(), Some("edited"));
    assert_eq!(db.prompt(lazy).await.as_deref(), Some("edited"));
    assert_eq!(db.assistant(out).await, None);

    // Moved into scope, it is created; a new agent of the scope as well.
    db.execute(&format!(
        "update public.agents set organization_id = '{ours}' where id = '{out}'"
    ))
    .await;
    eventually(
        "the agent that came into scope has an assistant",
        || async {
            db.assistant(out)
                .await
                .map(drop)
                .ok_or_else(|| "none yet".to_owned())
        },
    )
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn one_effective_change_is_one_update_and_the_write_back_none() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    let id = db.agent("a").await;
    db.converged().await;
    db.written_back(1).await;
    assert_eq!(db.assistant(id).await.expect("an assistant")["version"], 1);
    let sequence = "select last_value from agent_sync.outbox_id_seq";
    let before: i64 = db.rows(sequence, &[]).await[0].get(0);
    db.execute(&format!(
        "update public.agents set is_global = true, updated_at = now() where id = '{id}'"
    ))
    .await;
    db.execute(&format!(
        "update public.agents set name = 'a' where id = '{id}'"
    ))
    .await;
    let after: i64 = db.rows(sequence, &[]).await[0].get(0);
    assert_eq!(
        before, after,
        "nothing that matters was changed, so nothing was recorded"
    );

    db.execute(&format!(
        "update public.agents set name = 'b', description = 'c' where id = '{id}'"
    ))
    .await;
    db.converged().await;
    assert_eq!(db.assistant(id).await.expect("an assistant")["version"], 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_lost_bell_costs_latency_only() {
    // No notification at all: what is in the outbox at start is drained at start.
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(&format!(
        "update public.agents set name = 'edited while nobody listened' where id = '{id}'"
    ))
    .await;
    let worker = TestWorker::start(&db, &[(SCOPE, "none")]).await;
    db.converged().await;

    // A listener that has gone deaf: the connection is made anew, and what it missed is found.
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and query = 'listen agent_sync'",
    )
    .await;
    db.execute(&format!(
        "update public.agents set name = 'edited meanwhile' where id = '{id}'"
    ))
    .await;
    db.converged().await;
    worker.stop().await;
}

#[tokio::test]
async fn forged_and_doubled_bells_change_nothing() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    let worker = TestWorker::start(&db, ALL).await;
    let user = db.connect_as(Uuid::new_v4()).await;
    for payload in ["", "garbage", r#"{"t": "agents", "ids": ["drop table"]}"#] {
        user.execute("select pg_notify('agent_sync', $1)", &[&payload])
            .await
            .expect("anybody may ring");
    }
    db.execute(&format!(
        "update public.agents set name = 'b' where id = '{id}'"
    ))
    .await;
    db.converged().await;
    assert_eq!(db.assistant(id).await.expect("an assistant")["version"], 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_rolled_back_edit_changes_nothing() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute(&format!(
        "begin; update public.agents set name = 'b' where id = '{id}'; rollback"
    ))
    .await;
    let other = db.agent("other").await;
    db.converged().await;
    assert!(db.assistant(other).await.is_some());
    assert_eq!(db.assistant(id).await.expect("an assistant")["version"], 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_bulk_edit_drains_in_batches() {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute(
        "insert into public.agents (name, status) select 'agent ' || n, 'active' from generate_series(1, 1700) as n",
    )
    .await;
    db.converged().await;
    db.execute("update public.agents set system_prompt = 'bulk'")
        .await;
    db.converged().await;
    assert_eq!(db.versions().await, 3400);
    worker.stop().await;
}

#[tokio::test]
async fn a_stopped_worker_leaves_its_changes_to_the_next() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    let id = db.agent("a").await;
    assert_eq!(db.count("agent_sync.outbox").await, 1);
    let worker = TestWorker::start(&db, ALL).await;
    db.converged().await;
    assert!(db.assistant(id).await.is_some());
    tokio::time::timeout(Duration::from_secs(5), worker.stop())
        .await
        .expect("an idle worker stops at once");
}

/// An agent that the target refuses, with whatever code its trigger or constraint gives.
#[tokio::test]
async fn a_refused_agent_is_tried_again_and_again_and_holds_nobody_up() {
    for code in ["P0001", "PT409", "42501", "23514"] {
        let db = TestDatabase::new().await;
        let id = db.agent("refused").await;
        let worker = TestWorker::start(&db, ALL).await;
        db.execute(&format!(
            "create function refuse() returns trigger language plpgsql as $$
             begin raise exception 'no' using errcode = '{code}'; end $$;
             create trigger refuse before update on langgraph_server.assistants
             for each row when (new.id = '{id}') execute function refuse()"
        ))
        .await;
        let other = db.agent("other").await;
        db.execute("update public.agents set system_prompt = 'edited'")
            .await;
        eventually(
            "the other one is synced, and the refused one has been tried twice",
            || async {
                let attempts = db
                    .rows(
                        "select attempts, state from agent_sync.ledger where agent_id = $1",
                        &[&id],
                    )
                    .await;
                let attempts: i32 = attempts[0].get("attempts");
                let prompt = db.prompt(other).await;
                if attempts >= 2 && prompt.as_deref() == Some("edited") {
                    Ok(())
                } else {
                    Err(format!("{attempts} {prompt:?}"))
                }
            },
        )
        .await;
        let retries = format!("agent_sync.outbox where key = '{id}'");
        assert_eq!(
            db.count(&retries).await,
            1,
            "one retry is pending, however often it failed"
        );
        db.execute("drop trigger refuse on langgraph_server.assistants")
            .await;
        db.converged().await;
        assert_eq!(
            db.count(
                "agent_sync.ledger where state <> 'synced' or attempts > 0 or error is not null"
            )
            .await,
            0
        );
        worker.stop().await;
    }
}

/// A trigger on the assistants that refuses every insert with this code.
async fn refuse_inserts(db: &TestDatabase, code: &str) {
    db.execute(&format!(
        "create function refuse() returns trigger language plpgsql as $$
         begin raise exception 'no' using errcode = '{code}'; end $$;
         create trigger refuse before insert on langgraph_server.assistants for each row execute function refuse()"
    ))
    .await;
}

/// A missing privilege, or a connection that breaks: no agent is to blame, and none is made to wait for it later.
#[tokio::test]
async fn what_is_everybodys_trouble_is_held_against_no_agent() {
    for code in ["42501", "57P01", "40001"] {
        let db = TestDatabase::new().await;
        let running = Running::serve(&db, ALL);
        running.line("Startup sync summary").await;
        refuse_inserts(&db, code).await;
        db.execute("insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 20) n").await;
        let line = running.line("the change loop cannot work").await;
        assert!(line.contains(code), "{line}");
        assert_eq!(db.count("agent_sync.ledger").await, 0);
        db.execute("drop trigger refuse on langgraph_server.assistants")
            .await;
        db.converged().await;
        running.line("the change loop is working again").await;
    }
}

/// As a statement that takes too long: no attempt at a batch with this agent in it comes to anything.
#[tokio::test]
async fn an_agent_that_cannot_be_synced_in_time_is_found_out_and_others_go_on() {
    let db = TestDatabase::new().await;
    let running = Running::serve(&db, ALL);
    running.line("Startup sync summary").await;
    db.execute(
        "create function public.refuse() returns trigger language plpgsql as $$
         begin raise exception 'too slow' using errcode = '57014'; end $$;
         create trigger refuse before insert or update on langgraph_server.assistants
           for each row when (new.name = 'slow') execute function public.refuse();
         insert into public.agents (name, status) values ('slow', 'active');
         insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 20) n",
    )
    .await;
    let slow: Uuid = db
        .rows("select id from public.agents where name = 'slow'", &[])
        .await[0]
        .get(0);
    let line = running.line("cannot be synced in time").await;
    assert!(
        line.contains(&slow.to_string()) && line.contains("57014"),
        "{line}"
    );
    eventually("the others have theirs", || async {
        match db.count("langgraph_server.assistants").await {
            20 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    running.line("the change loop is working again").await;
    // Its changes are still there.
    let its = format!("agent_sync.outbox where key = '{slow}'");
    assert_eq!(db.count(&its).await, 1);
    db.execute("drop trigger refuse on langgraph_server.assistants")
        .await;
    db.converged().await;
}

#[tokio::test]
async fn a_failing_agent_is_named_in_the_log_and_left_alone_until_its_retry_is_due() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let running = Running::serve(&db, ALL);
    running.line("Startup sync summary").await;
    db.execute("update public.agents set sampling_params = '[\"a secret\"]'")
        .await;
    let line = running.line("agent failed").await;
    assert!(
        line.contains(&agent.to_string()) && line.contains("agents.sampling_params is an array"),
        "{line}"
    );
    assert!(!running.output().contains("a secret"));
    drop(running);

    // Not due for an hour: a drain leaves it. Edited, still bad: one retry is pending, not two.
    db.execute("update agent_sync.outbox set due_at = now() + interval '1 hour'")
        .await;
    let attempts = || async {
        db.rows("select attempts from agent_sync.ledger", &[]).await[0].get::<_, i32>(0)
    };
    let before = attempts().await;
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    let drain = || async {
        changes::drain(&syncer, &mut Bursts::default(), &CancellationToken::new())
            .await
            .expect("drained");
    };
    drain().await;
    assert_eq!(attempts().await, before);
    db.execute("update public.agents set sampling_params = '[2]'")
        .await;
    drain().await;
    assert_eq!(attempts().await, before + 1);
    assert_eq!(db.count("agent_sync.outbox").await, 1);

    // Put back to what it was: nothing to write, but it is well again, and no retry is left.
    let version = db.assistant(agent).await.expect("an assistant")["version"].clone();
    db.execute("update public.agents set sampling_params = null")
        .await;
    drain().await;
    assert_eq!(
        db.assistant(agent).await.expect("an assistant")["version"],
        version
    );
    assert_eq!(
        db.count("agent_sync.ledger where state = 'synced' and attempts = 0 and error is null")
            .await,
        1
    );
    assert_eq!(db.count("agent_sync.outbox").await, 0);
}

#[tokio::test]
async fn errors_do_not_quote_rows() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute("alter table langgraph_server.assistants add check (name <> 'a')")
        .await;
    let running = Running::serve(&db, ALL);
    running.line("Startup sync summary").await;
    db.agent("a").await;
    running.line("agent failed").await;
    let errors = db.rows("select error from agent_sync.ledger", &[]).await;
    let error: String = errors[0].get(0);
    assert!(
        error.contains("violates check constraint") && error.contains("23514"),
        "{error}"
    );
    for said in [error, running.output()] {
        assert!(
            !said.contains("Failing row") && !said.contains("You are a."),
            "the prompt is nobody's business: {said}"
        );
    }
}

/// Tables go and come while the worker runs.
#[tokio::test]
async fn tables_that_go_are_done_without_and_tables_that_come_are_used() {
    let (db, worker) = with_demo_data().await;
    let refund_desk = Uuid::parse_str("a0000000-0000-4000-8000-000000000001").unwrap();
    let servers = || async {
        let assistant = db.assistant(refund_desk).await.expect("an assistant");
        assistant["config"]["configurable"]
            .get("mcp_config")
            .is_some()
    };
    // Followed through a link that is not there any more, a tool's change is a change of everything.
    db.execute(
        "alter table public.agent_mcp_tools rename column mcp_tool_id to tool;
         update public.mcp_tools set tool_name = tool_name || '!'",
    )
    .await;
    eventually("the agents are synced without their tools", || async {
        if servers().await {
            Err("still there".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    db.drained().await;
    // The model's tables go; an edit of the agent is synced all the same.
    db.execute(
        "alter table public.ai_models rename to old_models;
         update public.agents set system_prompt = 'without a model' where name = 'Refund Desk'",
    )
    .await;
    db.prompted(refund_desk, "without a model").await;
    let model = db.assistant(refund_desk).await.expect("an assistant")["config"]["configurable"]["model_name"].clone();
    assert_eq!(model, "openai:gpt-4o");
    worker.stop().await;

    // They come back, which no trigger tells: a look around finds it, and everything counts as changed.
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    let mut seen = None;
    for _ in 0..2 {
        changes::look_around(&syncer, &mut seen)
            .await
            .expect("looked");
        assert_eq!(db.count("agent_sync.outbox").await, 0, "nothing is new");
    }
    db.execute(
        "alter table public.old_models rename to ai_models; alter table public.agent_mcp_tools rename column tool to mcp_tool_id",
    )
    .await;
    // Though a sync has noticed for itself.
    syncer.source.inspect(&db.client).await.expect("inspected");
    changes::look_around(&syncer, &mut seen)
        .await
        .expect("looked");
    changes::drain(&syncer, &mut Bursts::default(), &CancellationToken::new())
        .await
        .expect("drained");
    assert_eq!(db.differences().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_write_back_respects_the_applications_own_triggers() {
    let db = TestDatabase::new().await;
    let refused = db.agent("refused").await;
    db.execute(&format!(
        "create table public.audit_log (agent_id uuid, path text);
         grant insert on public.audit_log to public;
         create function public.audit() returns trigger language plpgsql as $$
         begin
           insert into audit_log values (new.id, concat_ws(' ', current_setting('search_path'), current_setting('row_security'),
             current_setting('plan_cache_mode'), current_setting('enable_seqscan'), current_setting('jit')));
           if new.id = '{refused}' then raise exception 'no' using errcode = 'PT403'; end if;
           return new;
         end $$;
         create trigger audit after update on public.agents for each row execute function public.audit()"
    ))
    .await;
    for n in 0..5 {
        db.agent(&format!("agent {n}")).await;
    }
    let worker = TestWorker::start(&db, ALL).await;
    db.written_back(5).await;
    assert_eq!(
        db.count(r#"public.audit_log where path = '"$user", public on auto on on'"#)
            .await,
        5
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_trigger_that_was_away_costs_no_change_whatever_the_scope() {
    let db = TestDatabase::to_install().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[(ROBYN_DEV, "true")]).await;
    worker
        .create(json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}}))
        .await;
    worker.stop().await;
    db.execute(
        "alter table public.agents disable trigger agent_sync_update;
         update public.agents set system_prompt = 'edited unseen'",
    )
    .await;
    let worker = TestWorker::start(&db, &[(ROBYN_DEV, "true")]).await;
    db.prompted(agent, "edited unseen").await;
    worker.stop().await;
}
