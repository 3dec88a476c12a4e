//! What a worker says that may not do something, and what it does instead.

use agent_sync::config::{DATABASE_URL, RESYNC_INTERVAL, SCOPE};
use agent_sync::database::migrations::{self, ROLES};
use agent_sync::database::{Database, at_once};
use agent_sync::sql;

use crate::support::binary::{FREE_PORTS, Running, run};
use crate::support::database::Role;
use crate::support::worker::request;
use crate::support::{TestDatabase, TestWorker};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

/// How often it was said; that there are no keys is another matter.
fn times(running: &Running, said: &str) -> usize {
    let output = running.output();
    let lines = output
        .lines()
        .filter(|line| !line.contains("no keys to know callers by"));
    lines.filter(|line| line.contains(said)).count()
}

/// `agent-sync migrate`, as who may.
async fn migrate_as_owner(db: &TestDatabase) {
    let owner = Role::Owner.at(&db.superuser_url);
    let migrated = run(&["migrate"], &[(DATABASE_URL, &owner)]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
}

#[tokio::test]
async fn triggers_that_only_an_owner_can_put_back_are_named_once_a_look_and_the_worker_works_on() {
    let db = TestDatabase::for_role(Role::Worker).await;
    let agent = db.agent("a").await;
    db.execute(
        "alter table public.agents disable trigger agent_sync_update; drop trigger agent_sync_insert on public.mcp_tools",
    )
    .await;
    let running = Running::serve(&db, &[ALL, &[(RESYNC_INTERVAL, "0")]].concat());
    let said = running.line("only the owner of these tables").await;
    for part in [
        "WARN",
        "agent_sync_update on public.agents",
        "agent_sync_insert on public.mcp_tools",
        "agent-sync migrate",
        RESYNC_INTERVAL,
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    running.line("listening for changes").await;
    let other = db.agent("b").await;
    db.synced(other).await;
    assert_eq!(times(&running, "WARN"), 1, "{}", running.output());
    drop(running);

    // Found by a resync, not by startup passes without end.
    let running = Running::serve(&db, &[ALL, &[(RESYNC_INTERVAL, "2s")]].concat());
    running.line("Startup sync summary").await;
    db.execute("update public.agents set system_prompt = 'unseen'")
        .await;
    db.prompted(agent, "unseen").await;
    running.line("Resync summary").await;
    assert_eq!(
        times(&running, "Startup sync summary"),
        1,
        "{}",
        running.output()
    );
    assert_eq!(
        times(&running, "only the owner"),
        2,
        "at start, and at the resync"
    );

    // The command says it, too, and its exit code.
    let denied = run(&["migrate"], &[(DATABASE_URL, &db.url)]).await;
    assert_eq!(denied.code, Some(1));
    let named = "may not install them: agent_sync_update on public.agents";
    assert!(denied.stderr.contains(named), "{denied:?}");
    migrate_as_owner(&db).await;
}

/// An open edit holds one table, and another belongs to somebody else: the first is tried again, the second is not.
#[tokio::test]
async fn a_locked_table_is_waited_for_and_a_denied_one_is_not() {
    let db = TestDatabase::to_install().await;
    let agent = db.agent("a").await;
    // May make triggers there, that is, but not `enable always` them.
    db.execute(
        "alter table public.mcp_tools owner to postgres;
         alter table public.mcp_tools disable row level security;
         grant select, trigger on public.mcp_tools to installer",
    )
    .await;
    let editor = db.connect().await;
    editor
        .batch_execute("begin; update public.agents set name = 'editing'; update public.mcp_tools set tool_name = ''")
        .await
        .expect("an open edit");
    let running = Running::serve(&db, ALL);
    let said = running.line("only the owner of these tables").await;
    assert!(
        said.contains("agent_sync_insert on public.mcp_tools")
            && !said.contains("on public.agents"),
        "{said}"
    );
    let said = running.line("the tables are in use").await;
    assert!(
        said.contains("on public.agents") && !said.contains("mcp_tools"),
        "{said}"
    );
    editor.batch_execute("commit").await.expect("committed");
    db.synced(agent).await;
    crate::support::eventually("the triggers of the locked table are there", || async {
        let there = "pg_trigger where tgrelid = 'public.agents'::regclass and tgname like 'agent_sync_%' and tgenabled = 'A'";
        match db.count(there).await {
            4 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_it_may_not_install_is_waited_for_and_says_who_must_do_what() {
    let db = TestDatabase::to_install().await;
    db.agent("a").await;
    db.execute_as_worker(ROLES).await;
    let url = Role::Worker.at(&db.superuser_url);
    let running = Running::start(
        &[],
        &[&[(DATABASE_URL, url.as_str())], ALL, FREE_PORTS].concat(),
    );
    let said = running.line("the database is not ready").await;
    let (status, body) = request(running.admin().await, "GET", "/ready", None).await;
    for text in [said, format!("{status} {body}")] {
        for part in [
            "schema agent_sync is at version 0",
            "table langgraph_server.assistants",
            "agent-sync migrate",
            "as the owner of the tables",
            "agent-sync roles",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert_eq!(status, 503);
    migrate_as_owner(&db).await;
    let said = running
        .line("permission denied for schema agent_sync")
        .await;
    assert!(
        said.contains("sql/roles.sql") && said.contains("agent-sync roles"),
        "{said}"
    );
    db.execute_as_worker(ROLES).await;
    running
        .line("Startup sync summary: total=1 created=1")
        .await;
}

#[tokio::test]
async fn a_runtimes_table_that_it_may_not_make_again_is_waited_for() {
    let db = TestDatabase::for_role(Role::Worker).await;
    db.execute("drop schema langgraph_server cascade").await;
    let running = Running::serve(&db, ALL);
    let said = running.line("the database is not ready").await;
    assert!(
        said.contains("missing: table langgraph_server.assistants.")
            && said.contains("as the owner of the tables"),
        "{said}"
    );
    migrate_as_owner(&db).await;
    db.execute_as(Role::Owner, ROLES).await;
    running.line("Startup sync summary").await;
}

#[tokio::test]
async fn a_missing_grant_names_the_file_that_has_it() {
    let db = TestDatabase::for_role(Role::Worker).await;
    let agent = db.agent("a").await;
    db.execute("revoke select on public.ai_models from agent_sync_worker; revoke delete on agent_sync.outbox from agent_sync_worker")
        .await;
    let running = Running::serve(&db, ALL);
    let said = running.line("the startup pass failed").await;
    assert!(
        said.contains("permission denied for table ai_models") && said.contains("sql/roles.sql"),
        "{said}"
    );
    let said = running.line("the change loop cannot work").await;
    assert!(said.contains("sql/roles.sql"), "{said}");
    db.execute_as(Role::Owner, ROLES).await;
    db.synced(agent).await;
}

const NOT_WRITTEN: &str = "langgraph_assistant_id cannot be written";

/// The two ways in which an application's trigger keeps a column as it is.
#[tokio::test]
async fn a_trigger_that_undoes_the_write_back_is_named_once_and_the_others_are_written() {
    for undo in [
        "return null;",
        "new.langgraph_assistant_id := old.langgraph_assistant_id; return new;",
    ] {
        let db = TestDatabase::new().await;
        let protected = db.agent("protected").await;
        for name in ["b", "c"] {
            db.agent(name).await;
        }
        db.execute(&format!(
            "create function public.protect() returns trigger language plpgsql as $$
             begin
               if new.id = '{protected}' and current_setting('application_name') = 'agent-sync' then {undo} end if;
               return new;
             end $$;
             create trigger protect before update on public.agents for each row execute function public.protect()"
        ))
        .await;
        let running = Running::serve(&db, ALL);
        let said = running.line(NOT_WRITTEN).await;
        for part in [
            "ERROR",
            &protected.to_string(),
            "`before update` trigger",
            "AGENT_SYNC_WRITE_BACK=false",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        db.written_back(2).await;
        for round in 0..5 {
            db.execute(&format!(
                "update public.agents set name = name || '{round}'"
            ))
            .await;
            db.converged().await;
        }
        assert_eq!(times(&running, NOT_WRITTEN), 1, "{}", running.output());
        db.execute("drop trigger protect on public.agents").await;
        db.written_back(3).await;
    }
}

#[tokio::test]
async fn a_worker_that_may_not_write_back_says_so_once_and_syncs_all_the_same() {
    let db = TestDatabase::for_role(Role::Worker).await;
    for name in ["a", "b"] {
        db.agent(name).await;
    }
    db.execute("revoke update (langgraph_assistant_id) on public.agents from agent_sync_worker")
        .await;
    let running = Running::serve(&db, ALL);
    let said = running.line(NOT_WRITTEN).await;
    for part in [
        "ERROR",
        "permission denied for table agents",
        "sql/roles.sql",
        "AGENT_SYNC_WRITE_BACK=false",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for round in 0..5 {
        db.execute(&format!(
            "update public.agents set name = name || '{round}'"
        ))
        .await;
        db.converged().await;
    }
    assert_eq!(
        times(&running, "ERROR") + times(&running, "WARN"),
        1,
        "{}",
        running.output()
    );
    db.execute_as(Role::Owner, ROLES).await;
    db.written_back(2).await;
}

/// No sync gets that far under row-level security, unless the role changes in between.
#[tokio::test]
async fn a_write_back_that_row_level_security_hides_agents_from_is_not_taken_for_done() {
    let db = TestDatabase::to_install().await;
    let agent = db.agent("a").await;
    let role = format!("blind_{}", db.name());
    db.execute(&format!(
        "create role {role} login; grant select, update on public.agents to {role}"
    ))
    .await;
    let pool = Database::new(&db.url_as(&role));
    let client = pool.client().await.expect("a connection");
    let agents = format!("'{{{agent}}}'");
    let statement = sql!("write_back")
        .replace(":'agents'", &agents)
        .replace(":'assistants'", &agents);
    let rows = at_once(&client, &statement).await.expect("answered");
    assert_eq!((rows.len(), rows[0].get("why")), (1, Some("hidden")));
    assert_eq!(rows[0].get("id"), Some(agent.to_string().as_str()));
    drop((client, pool));
    db.execute(&format!("drop owned by {role}; drop role {role}"))
        .await;
}

/// What the first worker of a new version says, where only the owner may upgrade.
#[tokio::test]
async fn an_older_schema_that_it_may_not_upgrade_is_waited_for() {
    let db = TestDatabase::for_role(Role::Worker).await;
    db.execute("delete from agent_sync.migrations where version > 1")
        .await;
    let worker = TestWorker::start_with(&[(DATABASE_URL, &db.url), (SCOPE, "all")]).await;
    crate::support::eventually("it says which version it needs", || async {
        let (_, body) = request(worker.admin, "GET", "/ready", None).await;
        let body = body.to_string();
        match body.contains("is at version 1, needed is") && body.contains("may not install it") {
            true => Ok(()),
            false => Err(body),
        }
    })
    .await;
    db.execute_as(Role::Owner, &migrations::script()).await;
    worker.ready().await;
    worker.stop().await;
}
