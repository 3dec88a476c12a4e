//! `migrate`: idempotent, safe when several run at once, and gentle with the customer's tables.

use std::process::Stdio;
use std::time::Duration;

use agent_sync::config::{DATABASE_URL, ROBYN_DEV, SCOPE};
use agent_sync::database::migrations::{self, Left};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::binary::{Running, run};
use crate::support::database::connect;
use crate::support::worker::request;
use crate::support::{TestDatabase, TestWorker, eventually};

#[tokio::test]
async fn it_can_run_again_and_several_times_at_once() {
    let db = TestDatabase::to_install().await;
    let pool = db.pool();
    let runs = (0..5).map(|_| migrations::migrate(&pool, Duration::from_secs(20)));
    for run in futures::future::join_all(runs).await {
        assert_eq!(run.expect("migrated"), Left::default());
    }
    assert_eq!(
        migrations::missing(&pool).await.expect("checked"),
        Vec::<String>::new()
    );
    assert_eq!(
        db.count("pg_trigger where tgname like 'agent_sync_%'")
            .await,
        20
    );
    assert_eq!(
        db.count("agent_sync.migrations").await,
        i64::from(migrations::LATEST)
    );
}

#[tokio::test]
async fn the_printed_script_does_the_same_in_one_go_and_twice() {
    let printed = run(&["migrate", "--print"], &[]).await;
    assert_eq!(printed.code, Some(0));
    let script = printed.stdout;
    let db = TestDatabase::to_install().await;
    db.execute_as_worker(&script).await;
    db.execute_as_worker(&script).await;
    assert_eq!(
        migrations::missing(&db.pool()).await.expect("checked"),
        Vec::<String>::new()
    );
    // A worker that may not migrate works on it.
    db.agent("a").await;
    let worker =
        TestWorker::start(&db, &[(SCOPE, "all"), ("AGENT_SYNC_AUTO_MIGRATE", "false")]).await;
    db.converged().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_may_not_migrate_says_what_is_missing_and_goes_on_when_it_is_there() {
    let db = TestDatabase::to_install().await;
    let worker = TestWorker::start_with(&[
        (DATABASE_URL, &db.url),
        ("AGENT_SYNC_AUTO_MIGRATE", "false"),
    ])
    .await;
    let says = |text: String| {
        let admin = worker.admin;
        move || {
            let text = text.clone();
            async move {
                let (status, body) = request(admin, "GET", "/ready", None).await;
                if status == 503 && body.to_string().contains(&text) {
                    Ok(())
                } else {
                    Err(format!("{status} {body}"))
                }
            }
        }
    };
    eventually(
        "it says what is missing",
        says(format!(
            "schema agent_sync is at version 0, needed is {}",
            migrations::LATEST
        )),
    )
    .await;
    db.execute_as_worker(&migrations::script()).await;
    db.execute("alter table public.agents disable trigger agent_sync_update")
        .await;
    worker.stop().await;
    let worker = TestWorker::start_with(&[
        (DATABASE_URL, &db.url),
        ("AGENT_SYNC_AUTO_MIGRATE", "false"),
    ])
    .await;
    let admin = worker.admin;
    eventually("it says which trigger", || async move {
        let (_, body) = request(admin, "GET", "/ready", None).await;
        if body
            .to_string()
            .contains("trigger agent_sync_update on public.agents")
        {
            Ok(())
        } else {
            Err(body.to_string())
        }
    })
    .await;
    db.execute("alter table public.agents enable always trigger agent_sync_update")
        .await;
    worker.ready().await;
    worker.stop().await;
}

#[tokio::test]
async fn the_command_migrates_and_without_a_database_says_so() {
    let db = TestDatabase::to_install().await;
    let migrated = run(&["migrate"], &[(DATABASE_URL, &db.url)]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    assert_eq!(
        migrations::missing(&db.pool()).await.expect("checked"),
        Vec::<String>::new()
    );
    let lost = run(&["migrate"], &[]).await;
    assert_eq!(lost.code, Some(64));
    assert!(lost.stderr.contains("DATABASE_URL is not set"), "{lost:?}");
}

#[tokio::test]
async fn disabled_and_altered_triggers_are_put_right() {
    let db = TestDatabase::to_install().await;
    let pool = db.pool();
    migrations::migrate(&pool, Duration::ZERO)
        .await
        .expect("migrated");
    db.execute(
        "alter table public.agents disable trigger agent_sync_insert;
         alter table public.agents enable trigger agent_sync_update;
         drop trigger agent_sync_delete on public.agents;
         create or replace trigger agent_sync_truncate after truncate on public.agents
           for each statement execute function agent_sync.record_rows()",
    )
    .await;
    assert_eq!(migrations::missing(&pool).await.expect("checked").len(), 4);
    migrations::migrate(&pool, Duration::ZERO)
        .await
        .expect("migrated");
    assert_eq!(
        migrations::missing(&pool).await.expect("checked"),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_table_in_use_is_not_waited_for_and_what_was_edited_meanwhile_is_found() {
    let db = TestDatabase::to_install().await;
    let id = db.agent("a").await;
    let editor = db.connect().await;
    editor
        .batch_execute("begin; update public.agents set name = 'editing'")
        .await
        .expect("an open edit");
    let running = Running::serve(&db, &[(SCOPE, "all")]);
    running.line("Startup sync summary").await;
    assert!(
        db.assistant(id).await.is_some(),
        "the pass does not wait for the triggers"
    );
    // Nobody who comes after us waits longer than we are willing to wait ourselves.
    let other = db.connect().await;
    other
        .batch_execute(
            "set statement_timeout = '5s'; insert into public.agents (name) values ('b')",
        )
        .await
        .expect("not blocked");
    editor.batch_execute("commit").await.expect("committed");
    db.converged().await;
    assert_eq!(
        db.assistant(id).await.expect("an assistant")["name"],
        "editing"
    );
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_refused() {
    let db = TestDatabase::to_install().await;
    let pool = db.pool();
    migrations::migrate(&pool, Duration::ZERO)
        .await
        .expect("migrated");
    db.execute("insert into agent_sync.migrations (version) values (999)")
        .await;
    let error = migrations::migrate(&pool, Duration::ZERO)
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("version 999") && error.contains("upgrade"),
        "{error}"
    );
}

#[tokio::test]
async fn the_printed_script_waits_for_no_editor_and_says_what_it_left_out() {
    let db = TestDatabase::to_install().await;
    let (editor, other) = (db.connect().await, db.connect().await);
    editor
        .batch_execute("begin; insert into public.mcp_tools (tool_name) values ('t')")
        .await
        .expect("an open edit");
    let script = migrations::script();
    let owner = connect(&db.url).await;
    let migrating = owner.batch_execute(&script);
    other
        .batch_execute(
            "set lock_timeout = '5s'; insert into public.mcp_tools (tool_name) values ('t')",
        )
        .await
        .expect("not held up");
    let migrated = tokio::time::timeout(Duration::from_secs(20), migrating).await;
    migrated.expect("it waits for nobody").expect("migrated");
    editor
        .batch_execute("update public.agents set name = 'no deadlock'; commit")
        .await
        .expect("committed");
    assert_eq!(
        migrations::missing(&db.pool())
            .await
            .expect("checked")
            .len(),
        4,
        "the four of mcp_tools"
    );
    db.execute_as_worker(&script).await;
    assert_eq!(
        migrations::missing(&db.pool()).await.expect("checked"),
        Vec::<String>::new()
    );
    let patience = owner.query_one("show lock_timeout", &[]).await;
    assert_eq!(patience.expect("a setting").get::<_, String>(0), "0");
}

#[tokio::test]
async fn uninstalling_leaves_the_assistants_and_nothing_else_of_ours() {
    let db = TestDatabase::to_install().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, &[(SCOPE, "all")]).await.stop().await;
    let uninstall = async || run(&["uninstall"], &[(DATABASE_URL, &db.url)]).await;
    let done = uninstall().await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("Left: 1 assistants"), "{done:?}");
    assert_eq!(
        db.count("pg_trigger where tgname like 'agent_sync%'").await,
        0
    );
    assert_eq!(
        db.count("pg_namespace where nspname = 'agent_sync'").await,
        0
    );
    assert!(db.assistant(agent).await.is_some());
    db.execute("update public.agents set name = 'edited freely'; delete from public.agents")
        .await;

    let again = uninstall().await;
    assert_eq!(again.code, Some(1));
    let missing = "there is no schema agent_sync";
    assert!(again.stderr.contains(missing), "{again:?}");
}

#[tokio::test]
async fn the_command_says_what_it_could_not_install() {
    let db = TestDatabase::to_install().await;
    let editor = db.connect().await;
    editor
        .batch_execute("begin; insert into public.mcp_tools (tool_name) values ('t')")
        .await
        .expect("an open edit");
    let migrated = run(&["migrate"], &[(DATABASE_URL, &db.url)]).await;
    assert_eq!(migrated.code, Some(1));
    let said = migrated.stderr;
    assert!(
        said.contains("still missing") && said.contains("agent_sync_insert on public.mcp_tools"),
        "{said}"
    );
}

#[tokio::test]
async fn the_runtimes_table_is_made_again_where_it_has_gone() {
    let db = TestDatabase::to_install().await;
    migrations::migrate(&db.pool(), Duration::ZERO)
        .await
        .expect("migrated");
    db.execute("drop table langgraph_server.assistants").await;
    let missing = migrations::missing(&db.pool()).await.expect("checked");
    assert_eq!(missing, ["table langgraph_server.assistants"]);
    migrations::migrate(&db.pool(), Duration::ZERO)
        .await
        .expect("migrated");
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
}

const FIRST: &str = include_str!("../sql/migrations/0001_agent_sync.sql");

impl TestDatabase {
    /// What version 1 had installed.
    async fn version_1(&self) {
        self.execute_as_worker(FIRST).await;
        self.execute_as_worker("insert into agent_sync.migrations (version) values (1)")
            .await;
        self.execute_as_worker(agent_sync::sql!("install_triggers"))
            .await;
    }
}

#[tokio::test]
async fn an_older_version_can_be_uninstalled_and_a_newer_one_is_left_alone() {
    let db = TestDatabase::to_install().await;
    let triggers = "pg_trigger where tgname like 'agent_sync%'";
    let schema = "pg_namespace where nspname = 'agent_sync'";
    db.version_1().await;
    db.execute("insert into agent_sync.migrations (version) values (999)")
        .await;
    let refused = migrations::uninstall(&db.pool(), Duration::ZERO)
        .await
        .expect_err("refused")
        .to_string();
    assert!(refused.contains("version 999"), "{refused}");
    assert_eq!((db.count(triggers).await, db.count(schema).await), (20, 1));

    db.execute("delete from agent_sync.migrations where version = 999")
        .await;
    migrations::uninstall(&db.pool(), Duration::ZERO)
        .await
        .expect("uninstalled");
    assert_eq!((db.count(triggers).await, db.count(schema).await), (0, 0));
}

#[tokio::test]
async fn an_upgrade_loses_no_change_and_waits_for_no_editor() {
    let db = TestDatabase::to_install().await;
    db.version_1().await;
    let (done, open) = (db.agent("done").await, db.agent("open").await);
    // An edit that the version before has recorded and not drained, and one that is still under way.
    let editor = db.connect().await;
    editor
        .batch_execute(&format!(
            "begin; update public.agents set system_prompt = 'edited' where id = '{open}'"
        ))
        .await
        .expect("an open edit");
    let running = Running::serve(&db, &[("AGENT_SYNC_SCOPE", "all")]);
    running.line("the database is not ready").await;
    db.execute(&format!(
        "set lock_timeout = '5s'; update public.agents set system_prompt = 'edited' where id = '{done}'"
    ))
    .await;
    editor.batch_execute("commit").await.expect("committed");
    db.converged().await;
    for agent in [done, open] {
        assert_eq!(db.prompt(agent).await.as_deref(), Some("edited"));
    }
    let said = running.line("the database is not ready").await;
    assert!(
        said.contains("an open transaction holds the outbox"),
        "{said}"
    );
}

/// What waits is kept where that takes but a moment, and else every agent counts as changed.
#[tokio::test]
async fn an_upgrade_takes_no_longer_where_the_outbox_has_grown() {
    let db = TestDatabase::to_install().await;
    migrations::migrate(&db.pool(), Duration::ZERO)
        .await
        .expect("migrated");
    for (waiting, kept) in [(10_000, 10_000), (10_001, 1)] {
        db.execute_as_worker(
            "drop index agent_sync.outbox_agents_idx;
             create index outbox_turns_idx on agent_sync.outbox (organization, id);
             delete from agent_sync.migrations where version = 8",
        )
        .await;
        db.execute(&format!(
            "truncate agent_sync.outbox;
             insert into agent_sync.outbox (source, key) select 'agents', n::text from generate_series(1, {waiting}) as n"
        ))
        .await;
        migrations::migrate(&db.pool(), Duration::ZERO)
            .await
            .expect("migrated");
        assert_eq!(db.count("agent_sync.outbox").await, kept);
        let everything = db.count("agent_sync.outbox where key is null").await;
        assert_eq!(everything, i64::from(kept == 1));
        let index = "pg_class where relname in ('outbox_agents_idx', 'outbox_turns_idx')";
        assert_eq!(db.count(index).await, 1);
    }
}

/// `psql`, as `agent-sync migrate --print | psql` runs it: each statement is a transaction, and it goes on after an error.
async fn psql(db: &TestDatabase, script: &str) -> String {
    let mut psql = tokio::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", &db.url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("psql starts");
    let mut stdin = psql.stdin.take().expect("its input");
    stdin.write_all(script.as_bytes()).await.expect("sent");
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(30), psql.wait_with_output())
        .await
        .expect("it waits for nobody")
        .expect("ran");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// While a transaction that has edited an agent is open, both at an upgrade and when all is there already.
#[tokio::test]
async fn the_printed_script_is_all_or_nothing_and_holds_up_no_edit() {
    let db = TestDatabase::to_install().await;
    db.version_1().await;
    let agent = db.agent("a").await;
    let editor = db.connect().await;
    let edit = format!("update public.agents set name = name || '!' where id = '{agent}'");
    for version in [1, i64::from(migrations::LATEST)] {
        editor
            .batch_execute(&format!("begin; {edit}"))
            .await
            .expect("an open edit");
        let said = psql(&db, &migrations::script()).await;
        assert!(
            said.contains("ERROR") && said.contains("run this again"),
            "{said}"
        );
        editor.batch_execute("commit").await.expect("committed");
        assert_eq!(db.count("agent_sync.migrations").await, version);
        db.execute(&edit).await;

        let said = psql(&db, &migrations::script()).await;
        assert!(!said.contains("ERROR"), "{said}");
        db.execute(&edit).await;
        assert_eq!(
            migrations::missing(&db.pool()).await.expect("checked"),
            Vec::<String>::new()
        );
    }
}

/// Edits that are under way while a newer version is installed still call the functions of the version before.
#[tokio::test]
async fn what_the_version_before_calls_is_still_there() {
    let db = TestDatabase::to_install().await;
    migrations::migrate(&db.pool(), Duration::ZERO)
        .await
        .expect("migrated");
    db.execute("select agent_sync.record('agents', array['x'])")
        .await;
    assert_eq!(db.count("agent_sync.outbox where key = 'x'").await, 1);
}

#[tokio::test]
async fn a_worker_whose_schema_was_upgraded_under_it_stops_writing_and_says_so() {
    let db = TestDatabase::to_install().await;
    let agent = db.agent("a").await;
    let running = Running::serve(&db, &[(SCOPE, "all"), (ROBYN_DEV, "true")]);
    running.line("Startup sync summary").await;
    db.execute("insert into agent_sync.migrations (version) values (999)")
        .await;
    db.execute("update public.agents set system_prompt = 'for the newer one'")
        .await;
    let said = running.line("the change loop cannot work").await;
    assert!(
        said.contains("version 999") && said.contains("upgrade it"),
        "{said}"
    );
    assert_eq!(db.prompt(agent).await.as_deref(), Some("You are a."));
    let (status, body) = request(running.admin().await, "GET", "/ready", None).await;
    assert!(
        status == 503 && body.to_string().contains("version 999"),
        "{status} {body}"
    );
    // A client is not given an assistant of its own instead, perhaps under the id that the newer worker is about to use.
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}}).to_string();
    let answer = request(running.api().await, "POST", "/assistants", Some(&body)).await;
    assert_eq!(answer.0, 503, "{answer:?}");
    assert_eq!(db.count("langgraph_server.assistants").await, 1);
    db.execute("delete from agent_sync.migrations where version = 999")
        .await;
    db.converged().await;
}
