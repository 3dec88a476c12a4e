//! Who may do what: the worker's role what its work takes, everybody else nothing. All of it is asked of the catalog, so
//! that an object which a later version adds is asked about, too.

use agent_sync::config::SCOPE;
use agent_sync::database::migrations::{self, ROLES};

use crate::support::binary::{Running, run};
use crate::support::database::{Role, connect};
use crate::support::{TestDatabase, eventually};

/// Every privilege of `grantee` on every object in a schema that is not Postgres' own, as rows of (object, privilege).
/// `public` stands for everybody. Types are left out: using one gives nothing.
const PRIVILEGES: &str = "
with schemas as (
  select oid, nspname as name from pg_namespace where nspname !~ '^(pg_|information_schema$)'
), relations as (
  select c.oid, c.relkind, c.relname as name, s.name as schema from pg_class as c join schemas as s on s.oid = c.relnamespace
)
select current_database() as object, p as privilege
from unnest(array['create']) as p where has_database_privilege($1, current_database(), p)
union all
select 'schema ' || s.name, p
from schemas as s, unnest(array['usage', 'create']) as p where has_schema_privilege($1, s.oid, p)
union all
select r.schema || '.' || r.name, p
from relations as r, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p
where r.relkind in ('r', 'p', 'v', 'm', 'f') and has_table_privilege($1, r.oid, p)
union all
select r.schema || '.' || r.name || '.' || a.attname, p
from relations as r
join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped,
  unnest(array['select', 'insert', 'update', 'references']) as p
where r.relkind in ('r', 'p', 'v', 'm', 'f')
  and has_column_privilege($1, r.oid, a.attnum, p) and not has_table_privilege($1, r.oid, p)
union all
select r.schema || '.' || r.name, p
from relations as r, unnest(array['usage', 'select', 'update']) as p
where case when r.relkind = 'S' then has_sequence_privilege($1, r.oid, p) end
union all
select 'function ' || f.oid::regprocedure, 'execute'
from pg_proc as f join schemas as s on s.oid = f.pronamespace where has_function_privilege($1, f.oid, 'execute')
order by 1, 2";

async fn privileges(db: &TestDatabase, grantee: &str) -> Vec<String> {
    let rows = db.rows(PRIVILEGES, &[&grantee]).await;
    rows.iter()
        .map(|row| format!("{} {}", row.get::<_, &str>(1), row.get::<_, &str>(0)))
        .collect()
}

#[tokio::test]
async fn what_we_install_gives_nothing_to_anybody() {
    let db = TestDatabase::for_role(Role::Worker).await;
    for grantee in ["public", "anon", "authenticated", "service_role"] {
        let ours: Vec<String> = privileges(&db, grantee)
            .await
            .into_iter()
            .filter(|privilege| {
                privilege.contains("agent_sync") || privilege.contains("langgraph_server")
            })
            .collect();
        assert_eq!(ours, Vec::<String>::new(), "{grantee}");
    }
}

/// The whole list. What belongs to everybody anyhow is not the role's.
#[tokio::test]
async fn the_workers_role_has_the_privileges_that_its_work_takes_and_no_others() {
    let db = TestDatabase::for_role(Role::Worker).await;
    let everybodys = privileges(&db, "public").await;
    let own: Vec<String> = privileges(&db, Role::Worker.name())
        .await
        .into_iter()
        .filter(|privilege| !everybodys.contains(privilege))
        .collect();
    let (work, source): (Vec<&String>, Vec<&String>) = own.iter().partition(|privilege| {
        privilege.contains("agent_sync") || privilege.contains("langgraph_server")
    });
    assert_eq!(
        source,
        [
            "select public.agent_mcp_tools",
            "select public.agents",
            "update public.agents.langgraph_assistant_id",
            "select public.ai_models",
            "select public.global_ai_engines",
            "select public.mcp_tools",
        ]
    );
    // In our own schemas: rows. It empties, alters and creates nothing, and cannot make an edit up.
    for privilege in work {
        let (kind, object) = privilege.split_once(' ').expect("of something");
        assert!(
            match kind {
                "select" | "insert" | "update" | "delete" => true,
                "usage" => object.starts_with("schema "),
                "execute" => !object.contains("record"),
                _ => false,
            },
            "{privilege}"
        );
    }
    // None was forgotten when a table was added.
    let tables = db
        .rows(
            "select 'select agent_sync.' || relname from pg_class
             where relnamespace = 'agent_sync'::regnamespace and relkind in ('r', 'p', 'v')",
            &[],
        )
        .await;
    for table in tables.iter().map(|row| row.get::<_, String>(0)) {
        assert!(
            own.contains(&table),
            "sql/roles.sql does not grant: {table}"
        );
    }
}

#[tokio::test]
async fn the_workers_role_is_nobody_else_and_owns_nothing() {
    let db = TestDatabase::for_role(Role::Worker).await;
    let role = Role::Worker.name();
    let attributes = "pg_roles where rolname = 'agent_sync_worker' and rolcanlogin and rolbypassrls
        and not (rolinherit or rolsuper or rolcreaterole or rolcreatedb or rolreplication)";
    assert_eq!(db.count(attributes).await, 1);
    let others = db
        .rows(
            "select rolname::text, pg_has_role('agent_sync_worker', oid, 'usage')
             from pg_roles where rolname <> 'agent_sync_worker' and pg_has_role('agent_sync_worker', oid, 'member')",
            &[],
        )
        .await;
    let others: Vec<(String, bool)> = others.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        others,
        [("authenticated".to_owned(), false)],
        "a member, and without inheriting"
    );
    assert_eq!(
        db.count("pg_shdepend where refobjid = 'agent_sync_worker'::regrole and deptype = 'o'")
            .await,
        0
    );

    let worker = connect(&db.url).await;
    for denied in [
        "create table public.t (id int)",
        "create table agent_sync.t (id int)",
        "create schema t",
        "create function agent_sync.f() returns int language sql as 'select 1'",
        "alter table public.agents add column t text",
        "alter table public.agents disable trigger agent_sync_update",
        "drop trigger agent_sync_update on public.agents",
        "truncate agent_sync.outbox",
        "drop table agent_sync.outbox",
        "alter table agent_sync.ledger add column t text",
        "update public.agents set name = 'mine'",
        "insert into public.agents (name) values ('mine')",
        "delete from public.agents",
        "update public.mcp_tools set tool_name = 'mine'",
        "select from public.organization_members",
        "select agent_sync.record('agents', array['x'])",
        "insert into agent_sync.migrations (version) values (999)",
        "update agent_sync.outbox set key = 'x'",
        "set role postgres",
        "set role installer",
        "set role service_role",
        "set role anon",
    ] {
        let error = worker.batch_execute(denied).await.expect_err(denied);
        assert_eq!(
            error.code().map(|code| code.code()),
            Some("42501"),
            "{role}: {denied}: {error:?}"
        );
    }
    worker
        .batch_execute("begin; set local role authenticated; select from public.agents; commit")
        .await
        .expect("it asks as a caller");
}

/// Before and after the migration, again and again, by whom it may be run.
#[tokio::test]
async fn the_file_grants_what_there_is_and_passes_over_what_is_not() {
    let empty = TestDatabase::empty().await;
    empty.execute_as_worker(ROLES).await;
    empty.execute(ROLES).await;

    let db = TestDatabase::to_install().await;
    db.execute_as_worker(ROLES).await;
    let owned = privileges(&db, Role::Worker.name()).await;
    assert!(
        owned.contains(&"select public.agents".to_owned())
            && !owned.concat().contains("agent_sync")
    );
    // A project's users belong to somebody else; not all of the columns need to be there.
    db.execute("create table auth.users (id uuid primary key, is_anonymous boolean, encrypted_password text)")
        .await;
    db.execute_as_worker(&migrations::script()).await;
    db.execute_as_worker(ROLES).await;
    let users = |privileges: &[String]| -> Vec<String> {
        let of_users = privileges.iter().filter(|privilege| {
            privilege.contains("auth.users") || privilege.ends_with("schema auth")
        });
        of_users.cloned().collect()
    };
    let by_owner = privileges(&db, Role::Worker.name()).await;
    assert!(
        by_owner.contains(&"delete agent_sync.outbox".to_owned()),
        "{by_owner:?}"
    );
    assert_eq!(
        users(&by_owner),
        ["usage schema auth"],
        "the owner's to grant"
    );
    db.execute(ROLES).await;
    assert_eq!(
        users(&privileges(&db, Role::Worker.name()).await),
        [
            "select auth.users.id",
            "select auth.users.is_anonymous",
            "usage schema auth"
        ]
    );
}

#[tokio::test]
async fn the_command_prints_the_file() {
    let printed = run(&["roles"], &[]).await;
    assert_eq!((printed.code, printed.stdout.as_str()), (Some(0), ROLES));
}

/// The role that the tables belong to installs all of it, and no superuser is needed for anything afterwards.
#[tokio::test]
async fn a_worker_with_nothing_to_install_starts_without_a_word() {
    let db = TestDatabase::for_role(Role::Worker).await;
    db.execute(agent_sync::demo::DATA).await;
    db.forget_edits().await;
    let running = Running::serve(
        &db,
        &[(SCOPE, "all"), ("AGENT_SYNC_RESYNC_INTERVAL", "100ms")],
    );
    running
        .line("Startup sync summary: total=10 created=10")
        .await;
    db.written_back(10).await;
    db.execute("update public.mcp_tools set endpoint_url = 'https://elsewhere.example'")
        .await;
    db.converged().await;
    db.execute("update langgraph_server.assistants set config = '{}'")
        .await;
    db.converged().await;
    eventually("nobody looks like the worker but with its role", || async {
        let strangers = "pg_stat_activity where datname = current_database() and application_name like 'agent-sync%'
            and usename <> 'agent_sync_worker'";
        match db.count(strangers).await {
            0 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    // But for what concerns the API.
    let output = running.output();
    let complaints = output
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .find(|line| !line.contains("no keys to know callers by"));
    assert_eq!(complaints, None);
}
