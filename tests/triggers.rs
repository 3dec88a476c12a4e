//! The triggers: what they record, and that they never harm an edit.

use agent_sync::config::SCOPE;
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker};

/// A migrated database, without a worker.
async fn migrated() -> TestDatabase {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db
}

/// What the outbox holds, as "source key", and empties it.
async fn recorded(db: &TestDatabase) -> Vec<String> {
    let rows = db
        .rows("with d as (delete from agent_sync.outbox returning id, source, key) select source || ' ' || coalesce(key, '*') from d order by id", &[])
        .await;
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_mapped_column_is_recorded_and_no_other() {
    let db = migrated().await;
    let id = db.agent("a").await;
    let organization = db.organization().await.0;
    db.execute(&format!(
        "insert into public.ai_models (id, runtime_model_name) values ('{id}', 'm');
         insert into public.global_ai_engines (id, language_model_id) values ('{id}', null);
         insert into public.mcp_tools (id, tool_name) values ('{id}', 't');
         alter table public.agents add column temperature float8, add column max_tokens int, add column views int"
    ))
    .await;
    recorded(&db).await;
    for (table, assignment) in [
        ("agents", format!("organization_id = '{organization}'")),
        ("agents", "name = 'b'".to_owned()),
        ("agents", "description = 'b'".to_owned()),
        ("agents", "status = 'draft'".to_owned()),
        ("agents", "deleted_at = now()".to_owned()),
        ("agents", "graph_id = 'b'".to_owned()),
        ("agents", format!("engine_id = '{id}'")),
        ("agents", "system_prompt = 'b'".to_owned()),
        ("agents", "sampling_params = '{}'".to_owned()),
        ("agents", "temperature = 1".to_owned()),
        ("agents", "max_tokens = 1".to_owned()),
        ("agents", format!("assistant_tool_ids = '{{{id}}}'")),
        ("mcp_tools", "tool_name = 'b'".to_owned()),
        ("mcp_tools", "endpoint_url = 'b'".to_owned()),
        ("mcp_tools", "auth_required = true".to_owned()),
        ("global_ai_engines", format!("language_model_id = '{id}'")),
        ("ai_models", "runtime_model_name = 'b'".to_owned()),
    ] {
        db.execute(&format!("update public.{table} set {assignment}"))
            .await;
        assert_eq!(
            recorded(&db).await,
            [format!("{table} {id}")],
            "{table}: {assignment}"
        );
        db.execute(&format!(
            "update public.{table} set {assignment} where false"
        ))
        .await;
        assert_eq!(recorded(&db).await, [""; 0], "no row, nothing recorded");
    }
    for (table, assignment) in [
        ("agents", "langgraph_assistant_id = 'x'"),
        ("agents", "updated_at = now() + interval '1 day'"),
        ("agents", "views = 1"),
        ("agents", "name = name"),
        ("mcp_tools", "is_builtin = true"),
        ("global_ai_engines", "name = 'b'"),
    ] {
        db.execute(&format!("update public.{table} set {assignment}"))
            .await;
        assert_eq!(recorded(&db).await, [""; 0], "{table}: {assignment}");
    }
}

/// One row is compared by itself, several are matched by their keys.
#[tokio::test]
async fn of_many_agents_those_are_recorded_that_have_changed_each_with_its_organization() {
    let db = migrated().await;
    let (a, b) = (db.agent("a").await, db.agent("b").await);
    let (here, there) = (db.organization().await.0, db.organization().await.0);
    db.execute(&format!(
        "update public.agents set organization_id = '{here}';
         insert into public.agents (name) select n::text from generate_series(1, 100) as n"
    ))
    .await;
    recorded(&db).await;
    let organizations = async || {
        let rows = db
            .rows(
                "with d as (delete from agent_sync.outbox returning key, organization)
                 select distinct key || ' ' || organization from d order by 1",
                &[],
            )
            .await;
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };

    // The write-back comes along, and other agents are written as they are.
    db.execute(&format!(
        "update public.agents set langgraph_assistant_id = 'x', name = case id when '{a}' then 'new' else name end"
    ))
    .await;
    assert_eq!(organizations().await, [format!("{a} {here}")]);
    db.execute(&format!(
        "update public.agents set name = name || '!' where id in ('{a}', '{b}')"
    ))
    .await;
    let both = [format!("{a} {here}"), format!("{b} {here}")];
    assert_eq!(organizations().await, sorted(both.to_vec()));
    db.execute(&format!(
        "update public.agents set organization_id = '{there}' where id = '{a}'"
    ))
    .await;
    assert_eq!(organizations().await, [format!("{a} {there}")]);
    db.execute(&format!(
        "update public.agents set organization_id = null where id = '{a}'"
    ))
    .await;
    assert_eq!(organizations().await, [format!("{a} ")]);
    // One that gets another id is one that goes and one that comes.
    let c = Uuid::new_v4();
    db.execute(&format!(
        "update public.agents set id = '{c}' where id = '{b}'"
    ))
    .await;
    let both = [format!("{b} {here}"), format!("{c} {here}")];
    assert_eq!(organizations().await, sorted(both.to_vec()));
    // And two that swap their ids are two that have changed.
    db.execute(&format!(
        "alter table public.agents drop constraint agents_pkey cascade;
         update public.agents set id = case id when '{a}' then '{c}'::uuid else '{a}' end where id in ('{a}', '{c}')"
    ))
    .await;
    let both = [format!("{a} {here}"), format!("{c} ")];
    assert_eq!(organizations().await, sorted(both.to_vec()));
}

#[tokio::test]
async fn inserts_deletes_cascades_and_truncates_are_recorded() {
    let db = migrated().await;
    let (a, b) = (db.agent("a").await, db.agent("b").await);
    assert_eq!(
        recorded(&db).await,
        [format!("agents {a}"), format!("agents {b}")]
    );
    let tool = Uuid::new_v4();
    db.execute(&format!(
        "insert into public.mcp_tools (id) values ('{tool}')"
    ))
    .await;
    db.execute(&format!(
        "insert into public.agent_mcp_tools values ('{a}', '{tool}')"
    ))
    .await;
    assert_eq!(
        recorded(&db).await,
        [format!("mcp_tools {tool}"), format!("agent_mcp_tools {a}")]
    );
    db.execute(&format!(
        "update public.agent_mcp_tools set agent_id = '{b}'"
    ))
    .await;
    let mut moved = recorded(&db).await;
    moved.sort();
    let mut both = [
        format!("agent_mcp_tools {a}"),
        format!("agent_mcp_tools {b}"),
    ];
    both.sort();
    assert_eq!(moved, both);
    db.execute("delete from public.mcp_tools").await;
    let mut cascade = recorded(&db).await;
    cascade.sort();
    assert_eq!(
        cascade,
        [format!("agent_mcp_tools {b}"), format!("mcp_tools {tool}")]
    );
    db.execute("delete from public.agents where false").await;
    assert_eq!(recorded(&db).await, [""; 0]);
    db.execute("truncate public.agents cascade").await;
    let mut truncated = recorded(&db).await;
    truncated.sort();
    assert_eq!(truncated, ["agent_mcp_tools *", "agents *"]);
}

#[tokio::test]
async fn an_edit_goes_through_whatever_became_of_the_tables() {
    let db = migrated().await;
    let id = db.agent("a").await;
    recorded(&db).await;
    // Json whose text cannot become jsonb: where rows are compared that way, the comparison gives up, and the edit does not.
    for table in ["agents", "mcp_tools"] {
        db.execute(&format!(
            r#"alter table public.{table} add column ui json default '"\u0000"'"#
        ))
        .await;
    }
    db.execute("insert into public.mcp_tools (tool_name) values ('a')")
        .await;
    recorded(&db).await;
    db.execute("update public.agents set name = 'c'; update public.mcp_tools set tool_name = 'b'")
        .await;
    assert_eq!(
        recorded(&db).await,
        [format!("agents {id}"), "mcp_tools *".to_owned()]
    );
    // A value that cannot become text.
    db.execute(
        "create type public.tenant as (name text);
         create function public.refuse(public.tenant) returns text language plpgsql as $$ begin raise 'no'; end $$;
         create cast (public.tenant as text) with function public.refuse(public.tenant);
         alter table public.agents add column tenant public.tenant;
         alter table public.agents rename column organization_id to organization;
         alter table public.agents rename column tenant to organization_id;
         insert into public.agents (name, organization_id) values ('b', row('x'))",
    )
    .await;
    assert_eq!(recorded(&db).await.len(), 1);
    db.execute(
        "update public.agents set name = 'c' where name = 'b'; update public.agents set name = 'd'",
    )
    .await;
    assert_eq!(recorded(&db).await, ["agents *", "agents *"]);
    db.execute(
        "delete from public.agents where organization_id is not null;
         alter table public.agents drop column ui, drop column sampling_params, drop column description, drop column organization_id",
    )
    .await;
    recorded(&db).await;
    db.execute("update public.agents set name = 'without'")
        .await;
    assert_eq!(recorded(&db).await, [format!("agents {id}")]);
    db.execute("alter table public.agents rename column id to identifier")
        .await;
    db.execute("update public.agents set name = 'e'").await;
    db.execute("insert into public.agents (name) values ('f')")
        .await;
    db.execute("update public.agents set name = 'f'").await;
    assert_eq!(recorded(&db).await, ["agents *"; 3]);
    db.execute("drop table agent_sync.outbox").await;
    db.execute("update public.agents set name = 'g'; delete from public.agents")
        .await;
    db.execute("drop schema agent_sync cascade").await;
    db.execute("insert into public.agents (name) values ('h')")
        .await;
}

#[tokio::test]
async fn a_bulk_statement_of_any_size_goes_through() {
    let db = migrated().await;
    db.execute("insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 5000) n").await;
    assert_eq!(db.count("agent_sync.outbox").await, 5000);
}

#[tokio::test]
async fn a_restore_that_silences_triggers_does_not_silence_ours() {
    let db = migrated().await;
    let id = db.agent("a").await;
    recorded(&db).await;
    db.execute("set session_replication_role = replica; update public.agents set name = 'b'; set session_replication_role = origin").await;
    assert_eq!(recorded(&db).await, [format!("agents {id}")]);
}

#[tokio::test]
async fn the_functions_are_safe_to_have_around() {
    let db = migrated().await;
    let functions = db
        .rows(
            "select p.proname::text, p.prosecdef, coalesce(array_to_string(p.proconfig, ','), '') as config,
               has_function_privilege('authenticated', p.oid, 'execute') as open
             from pg_proc p where p.pronamespace = 'agent_sync'::regnamespace",
            &[],
        )
        .await;
    assert!(functions.len() >= 6);
    for function in functions {
        let name: String = function.get("proname");
        assert_eq!(
            function.get::<_, String>("config"),
            "search_path=\"\"",
            "{name}"
        );
        assert!(
            !function.get::<_, bool>("open"),
            "{name} may be executed by anybody"
        );
        assert_eq!(
            function.get::<_, bool>("prosecdef"),
            name.starts_with("record"),
            "{name}"
        );
    }
    let triggers = "pg_trigger where tgname like 'agent_sync_%'";
    assert_eq!(db.count(triggers).await, 20);
    assert_eq!(
        db.count(&format!(
            "{triggers} and tgenabled = 'A' and tgtype & 1 = 0"
        ))
        .await,
        20,
        "always, per statement"
    );
}

#[tokio::test]
async fn an_edit_does_not_wait_for_a_worker_that_holds_everything_it_ever_holds() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    let worker = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    // What a sync holds when it is stopped in the middle: outbox rows, the agent's lock, the assistant's and the
    // ledger's rows.
    let stopped = db.connect().await;
    stopped
        .batch_execute(&format!(
            "begin; select * from agent_sync.outbox for update;
             select pg_advisory_xact_lock(hashtextextended('agent_sync:' || '{id}'::uuid, 0));
             select * from public.agents; select * from langgraph_server.assistants for update;
             select * from agent_sync.ledger for update"
        ))
        .await
        .expect("held");
    db.execute("set lock_timeout = '1s'").await;
    for edit in [
        "name = 'b'",
        "status = 'disabled'",
        "status = 'active'",
        "deleted_at = now()",
    ] {
        db.execute(&format!("update public.agents set {edit}"))
            .await;
    }
    db.execute("delete from public.agents; insert into public.agents (name) values ('new')")
        .await;
    stopped.batch_execute("rollback").await.expect("released");
    db.converged().await;
    worker.stop().await;
}

/// What whoever edits links has to do with `public.agents` is up to him alone.
#[tokio::test]
async fn an_edit_of_links_neither_waits_for_the_agents_nor_conflicts_with_their_editors() {
    let db = migrated().await;
    let (agent, other) = (db.agent("a").await, db.agent("b").await);
    db.execute(&format!(
        "insert into public.mcp_tools (id, tool_name) values ('{agent}', 't');
         insert into public.agent_mcp_tools values ('{agent}', '{agent}'), ('{other}', '{agent}')"
    ))
    .await;
    let editor = db.connect().await;
    editor
        .batch_execute("begin; lock table public.agents in access exclusive mode")
        .await
        .expect("locked");
    db.execute(&format!(
        "set statement_timeout = '5s'; delete from public.agent_mcp_tools where agent_id = '{agent}'"
    ))
    .await;
    editor.batch_execute("rollback").await.expect("rolled back");

    // The one reads what the other writes, and not the other way round: nothing is wrong with that.
    let begin = "begin isolation level serializable";
    db.execute(&format!(
        "{begin}; delete from public.agent_mcp_tools where agent_id = '{other}'"
    ))
    .await;
    editor
        .batch_execute(&format!(
            "{begin}; select from public.agent_mcp_tools; update public.agents set name = name || '!'"
        ))
        .await
        .expect("edited");
    db.execute("commit").await;
    editor.batch_execute("commit").await.expect("no conflict");
}

/// An organization that could not be in an index is none that we know anything about.
#[tokio::test]
async fn an_organization_may_be_anything() {
    let db = TestDatabase::empty().await;
    db.execute_as_worker("create table public.agents (id uuid primary key, organization_id text)")
        .await;
    TestWorker::start(&db, &[]).await.stop().await;
    let id = Uuid::new_v4();
    db.execute(&format!(
        "insert into public.agents
         select '{id}', string_agg(md5(n::text), '') from generate_series(1, 500) as n"
    ))
    .await;
    db.execute("update public.agents set organization_id = 'x' || organization_id")
        .await;
    assert_eq!(
        recorded(&db).await,
        [format!("agents {id}"), format!("agents {id}")]
    );
}
