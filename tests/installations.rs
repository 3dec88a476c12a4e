//! What the commands say of a healthy installation and of broken ones, word for word: tests/fixtures/installations/<installation>/.
//!
//! Read the files as the one who is called at night: is it clear what is wrong, and what to do?

use agent_sync::database::{Database, migrations};
use agent_sync::demo::postgres::Postgres;
use serde_json::json;

use crate::support::cluster::Server;
use crate::support::database::Role;
use crate::support::double::{Double, Fault};
use crate::support::pgbouncer::Pgbouncer;
use crate::support::snapshot::assert_says;
use crate::support::tls::{self, Authority};
use crate::support::tokens::Project;
use crate::support::{TestDatabase, TestWorker, eventually, uuid};

/// Those that look come first: a sync may mend what they should see.
const COMMANDS: [(&str, &[&str]); 4] = [
    ("status", &["status"]),
    ("doctor", &["doctor"]),
    ("dry_run", &["sync", "--dry-run"]),
    ("sync", &["sync"]),
];

#[derive(Default)]
struct Installation {
    variables: Vec<(&'static str, String)>,
    masks: Vec<(String, &'static str)>,
}

impl Installation {
    fn at(url: &str) -> Self {
        Self::default()
            .with("DATABASE_URL", url)
            .with("AGENT_SYNC_SCOPE", "all")
    }

    fn of(database: &TestDatabase) -> Self {
        Self::at(&database.url).on(database)
    }

    /// Masks what tells it from others.
    fn on(self, database: &TestDatabase) -> Self {
        let port = format!("127.0.0.1:{}", database.port());
        self.masking(port, "127.0.0.1:5432")
            .masking(format!("-p {}", database.port()), "-p 5432")
            .masking(database.name(), "app")
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn masking(mut self, from: impl Into<String>, to: &'static str) -> Self {
        self.masks.push((from.into(), to));
        self
    }

    /// The project whose users call.
    fn with_project(self, project: &Project) -> Self {
        project
            .variables()
            .into_iter()
            .fold(self, |installation, (name, value)| match name {
                "SUPABASE_URL" => installation
                    .with("SUPABASE_URL", value)
                    .masking(value, "https://ref.supabase.co"),
                _ => installation,
            })
    }

    async fn says(self, name: &str) {
        let variables: Vec<(&str, &str)> = self
            .variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        for (command, arguments) in COMMANDS {
            let file = format!("installations/{name}/{command}");
            assert_says(&file, arguments, &variables, &self.masks).await;
        }
    }
}

/// Installed, in order, with three agents and a project, for a worker that logs in as its own role.
async fn sound() -> (TestDatabase, Project) {
    let db = TestDatabase::for_role(Role::Worker).await;
    db.execute(
        "create table auth.users (id uuid primary key, raw_app_meta_data jsonb, is_anonymous boolean);
         grant usage on schema auth to agent_sync_worker;
         grant select on auth.users to agent_sync_worker",
    )
    .await;
    for (number, name) in [(1, "Refund Desk"), (2, "Travel Agent"), (3, "Tutor")] {
        db.execute(&format!(
            "insert into public.agents (id, name, status, system_prompt) values ('{}', '{name}', 'active', 'You are {name}.')",
            uuid(number)
        ))
        .await;
    }
    (db, Project::new().await)
}

/// What has nothing to do with who the tests log in as is looked at in one of the two runs.
macro_rules! first_run_only {
    () => {
        if !Role::is_first_run() {
            return;
        }
    };
}

#[tokio::test]
async fn a_healthy_one() {
    first_run_only!();
    let (db, project) = sound().await;
    let variables = [
        &[("AGENT_SYNC_SCOPE", "all")],
        project.variables().as_slice(),
    ]
    .concat();
    let worker = TestWorker::start(&db, &variables).await;
    db.written_back(3).await;
    db.drained().await;
    let installation = Installation::of(&db).with_project(&project);
    installation.says("healthy").await;
    worker.stop().await;
}

#[tokio::test]
async fn there_is_no_database() {
    first_run_only!();
    let installation = Installation::default().with("AGENT_SYNC_SCOP", "all");
    installation.says("no_database").await;
}

#[tokio::test]
async fn the_database_is_away() {
    first_run_only!();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.local_addr().expect("an address").port()
    };
    let url = format!("postgresql://agent_sync_worker:canary@127.0.0.1:{port}/postgres");
    let installation = Installation::at(&url)
        .masking(format!("127.0.0.1:{port}"), "127.0.0.1:5432")
        .masking(format!("-p {port}"), "-p 5432")
        .masking(format!("1 {port}"), "1 5432");
    installation.says("database_away").await;
}

/// A server with this certificate that asks for passwords, and one of its role's.
async fn strict(certificate: &(String, String)) -> Postgres {
    let postgres = tls::server(
        &certificate.0,
        &certificate.1,
        "hostssl all postgres all trust\nhostssl all all all scram-sha-256",
    )
    .await;
    let url = format!("{}?sslmode=require", postgres.url("postgres"));
    eventually("the server takes TLS only", || async {
        let database = Database::new(&url.parse().expect("a url"));
        let client = database.client().await.map_err(|e| e.to_string())?;
        let made = "do $$ begin create role app login password 'right'; exception when duplicate_object then null; end $$";
        client.batch_execute(made).await.map_err(|e| e.to_string())
    })
    .await;
    postgres
}

#[tokio::test]
async fn the_password_is_wrong() {
    first_run_only!();
    let postgres = strict(&Authority::new().issue("localhost")).await;
    let url = format!(
        "postgresql://app:[canary]@127.0.0.1:{}/postgres?sslmode=require",
        postgres.port()
    );
    let installation = Installation::at(&url).masking(format!(":{}", postgres.port()), ":5432");
    installation.says("wrong_password").await;
}

#[tokio::test]
async fn the_certificate_is_another_cas() {
    first_run_only!();
    let (ours, namesake) = (Authority::new(), Authority::new());
    let postgres = strict(&ours.issue("localhost")).await;
    let file = std::env::temp_dir().join(format!("agent-sync-ca-{}.crt", postgres.port()));
    std::fs::write(&file, namesake.pem()).expect("written");
    let url = format!(
        "postgresql://app:right@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}",
        postgres.port(),
        file.display()
    );
    let installation = Installation::at(&url).masking(format!(":{}", postgres.port()), ":5432");
    installation.says("wrong_ca").await;
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_in_between() {
    first_run_only!();
    let (db, _) = sound().await;
    let pooler = Pgbouncer::before(&db).await;
    let installation = Installation::at(&pooler.url)
        .masking(format!("127.0.0.1:{}", pooler.port), "127.0.0.1:6432")
        .masking(format!("pooler's, {}", pooler.port), "pooler's, 6432")
        .on(&db);
    installation.says("transaction_pooler").await;
}

#[tokio::test]
async fn it_is_a_standby() {
    first_run_only!();
    let postgres = Postgres::start(&[]).await.expect("a cluster");
    let url = postgres.url("postgres");
    let schema = agent_sync::demo::SCHEMA;
    postgres
        .execute("postgres", schema)
        .await
        .expect("a schema");
    let database = Database::new(&url.parse().expect("a url"));
    migrations::migrate(&database, migrations::PATIENCE)
        .await
        .expect("migrated");
    drop(database);
    let db = TestDatabase::at(&url, Role::Superuser).await;
    Server::of(&db).await.become_standby().await;
    let installation = Installation::at(&url).masking(format!(":{}", postgres.port()), ":5432");
    installation.says("standby").await;
}

#[tokio::test]
async fn the_disk_is_full_and_nothing_can_be_written() {
    first_run_only!();
    let (db, _) = sound().await;
    db.execute(&format!(
        "alter database {} set default_transaction_read_only = on",
        db.name()
    ))
    .await;
    Installation::of(&db).says("read_only").await;
}

#[tokio::test]
async fn nothing_is_installed() {
    first_run_only!();
    let db = TestDatabase::to_install().await;
    let installation = Installation::of(&db).with("AGENT_SYNC_AUTO_MIGRATE", "false");
    installation.says("not_installed").await;
}

#[tokio::test]
async fn the_schema_is_a_newer_workers() {
    first_run_only!();
    let (db, _) = sound().await;
    db.execute("insert into agent_sync.migrations (version) values (99)")
        .await;
    Installation::of(&db).says("newer_schema").await;
}

#[tokio::test]
async fn triggers_were_disabled_altered_and_dropped() {
    first_run_only!();
    let (db, _) = sound().await;
    db.execute(
        "alter table public.agents disable trigger agent_sync_update;
         drop trigger agent_sync_insert on public.mcp_tools;
         alter table public.ai_models enable trigger agent_sync_delete;
         create or replace trigger agent_sync_update after update on public.mcp_tools
         referencing old table as old_rows new table as new_rows for each statement when (pg_trigger_depth() = 0)
         execute function agent_sync.record_update();
         alter table public.mcp_tools enable always trigger agent_sync_update;
         create or replace function agent_sync.record_truncate() returns trigger language plpgsql as 'begin return null; end'",
    )
    .await;
    Installation::of(&db).says("altered_triggers").await;
}

#[tokio::test]
async fn the_role_lacks_privileges_and_is_under_row_level_security() {
    first_run_only!();
    let (db, project) = sound().await;
    let role = format!("weak_{}", db.name());
    db.execute(&format!(
        "create role {role} login;
         grant usage on schema public, agent_sync to {role};
         grant select on public.agents, public.agent_mcp_tools, public.global_ai_engines, public.ai_models to {role};
         grant select on all tables in schema agent_sync to {role}"
    ))
    .await;
    let url = db
        .superuser_url
        .replace("//postgres@", &format!("//{role}@"));
    let installation = Installation::at(&url)
        .masking(&role, "weak")
        .on(&db)
        .with_project(&project);
    installation.says("weak_role").await;
}

#[tokio::test]
async fn tables_and_columns_are_missing() {
    first_run_only!();
    let (db, _) = sound().await;
    db.execute(
        "drop table public.mcp_tools cascade;
         alter table public.agents drop column sampling_params, drop column assistant_tool_ids",
    )
    .await;
    Installation::of(&db).says("drifted_tables").await;
}

#[tokio::test]
async fn it_is_another_database() {
    first_run_only!();
    let db = TestDatabase::empty().await;
    Installation::of(&db).says("another_database").await;
}

#[tokio::test]
async fn an_agent_fails_and_removals_are_held() {
    first_run_only!();
    let (db, project) = sound().await;
    let variables = [
        ("DATABASE_URL", db.url.as_str()),
        ("AGENT_SYNC_SCOPE", "all"),
        ("AGENT_SYNC_MAX_REMOVALS", "1"),
    ];
    let synced = crate::support::binary::run(&["sync"], &variables).await;
    assert_eq!(synced.code, Some(0), "{synced:?}");
    db.execute(&format!(
        "update public.agents set status = 'disabled' where id in ('{}', '{}');
         update public.agents set sampling_params = '[]' where id = '{}'",
        uuid(1),
        uuid(2),
        uuid(3)
    ))
    .await;
    let failed = crate::support::binary::run(&["sync"], &variables).await;
    assert!(failed.code.is_some_and(|code| code > 0), "{failed:?}");
    // What is to be tried again is, at some time.
    db.execute("update agent_sync.outbox set due_at = 'infinity' where due_at > '-infinity'")
        .await;
    db.unattended().await;
    let installation = Installation::of(&db)
        .with("AGENT_SYNC_MAX_REMOVALS", "1")
        .with_project(&project);
    installation.says("troubled_agents").await;
}

#[tokio::test]
async fn the_keys_are_away_and_so_is_row_level_security() {
    first_run_only!();
    let (db, project) = sound().await;
    db.execute("alter table public.agents disable row level security")
        .await;
    let installation = Installation::of(&db).with_project(&project);
    project
        .server
        .publish(crate::support::jwks::Publishes::Status(503));
    installation.says("keys_away").await;
}

fn on_langgraph(db: &TestDatabase, server: &Double) -> Installation {
    Installation::of(db)
        .with("AGENT_SYNC_STORE", "langgraph")
        .with("LANGGRAPH_API_URL", server.url())
        .with("LANGGRAPH_API_KEY", "canary")
        .with("AGENT_SYNC_LANGGRAPH_TIMEOUT", "2s")
        .masking(server.url(), "http://langgraph:8123")
}

#[tokio::test]
async fn the_langgraph_server_lacks_a_graph() {
    first_run_only!();
    let (db, _) = sound().await;
    db.execute(&format!(
        "update public.agents set graph_id = 'tutor' where id = '{}'",
        uuid(3)
    ))
    .await;
    let server = Double::start().await;
    server.know_only(&["agent", "other"]);
    on_langgraph(&db, &server)
        .says("langgraph_lacks_a_graph")
        .await;
}

#[tokio::test]
async fn the_langgraph_server_refuses_the_key() {
    first_run_only!();
    let (db, _) = sound().await;
    let server = Double::start().await;
    let refusal = json!({"detail": "Invalid API key: canary"}).to_string();
    server.always("", "/assistants", Fault::Answer(403, Vec::new(), refusal));
    on_langgraph(&db, &server)
        .says("langgraph_refuses_the_key")
        .await;
}

#[tokio::test]
async fn the_langgraph_server_is_away() {
    first_run_only!();
    let (db, _) = sound().await;
    let server = Double::start().await;
    server.refuse();
    on_langgraph(&db, &server).says("langgraph_away").await;
}

/// What `agent-sync doctor` says of this database that is wrong, and the commands that it names. One a line, so those that belong
/// together stand together.
async fn complaints(variables: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let ended = crate::support::binary::run(&["doctor"], variables).await;
    let said = |begin: &str| {
        let lines = ended
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix(begin));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let is_command = |line: &String| {
        ["psql ", "agent-sync ", "DATABASE_URL=", "PGOPTIONS="]
            .iter()
            .any(|command| line.starts_with(command))
    };
    let mut mends = said("         -> ");
    mends.retain(is_command);
    (said("wrong    "), mends)
}

#[tokio::test]
async fn the_commands_that_doctor_names_mend_what_is_wrong() {
    first_run_only!();
    let (db, project) = sound().await;
    let name = db.name();
    // Of a role of its own: agent_sync_worker is that of other tests, too.
    let role = format!("weak_{name}");
    let url = db
        .superuser_url
        .replace("//postgres@", &format!("//{role}@"));
    let variables = [
        &[("DATABASE_URL", url.as_str())],
        project.variables().as_slice(),
    ]
    .concat();
    db.execute(&format!(
        "create role {role} login;
         grant usage on schema public, agent_sync, langgraph_server, auth to {role};
         grant select, update on all tables in schema public to {role};
         grant select on auth.users to {role};
         grant select, insert, update, delete on all tables in schema agent_sync, langgraph_server to {role};
         grant execute on all functions in schema agent_sync to {role};
         revoke select on public.mcp_tools from {role};
         revoke delete on agent_sync.ledger from {role};
         alter table public.agents disable row level security;
         alter table public.agents disable trigger agent_sync_update;
         drop trigger agent_sync_insert on public.mcp_tools;
         create or replace trigger agent_sync_update after update on public.mcp_tools
         referencing old table as old_rows new table as new_rows for each statement when (pg_trigger_depth() = 0)
         execute function agent_sync.record_update();
         alter table public.mcp_tools enable always trigger agent_sync_update;
         create or replace function agent_sync.record_truncate() returns trigger language plpgsql as 'begin return null; end';
         alter database {name} set default_transaction_read_only = on"
    ))
    .await;
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_agent-sync"));
    let binaries = binary.parent().expect("a directory").display();
    let path = format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default());
    let mut seen = Vec::new();
    // What is wrong first may hide what is wrong behind it.
    for _ in 0..5 {
        let (wrong, mends) = complaints(&variables).await;
        if wrong.is_empty() {
            break;
        }
        seen.extend(wrong);
        for mend in mends {
            let output = tokio::process::Command::new("sh")
                .args(["-c", &mend])
                .env_clear()
                .envs([
                    ("PATH", &path),
                    ("OWNER_URL", &db.superuser_url),
                    ("DATABASE_URL", &url),
                ])
                .stdin(std::process::Stdio::null())
                .output()
                .await
                .expect("ran");
            assert!(output.status.success(), "{mend}: {output:?}");
        }
    }
    let left = complaints(&variables).await.0;
    assert_eq!(left, Vec::<String>::new(), "{seen:#?}");
    for check in [
        "writable",
        "functions",
        "triggers on agents",
        "triggers on mcp_tools",
        "privileges",
        "hidden rows",
        "row-level security",
        "role authenticated",
    ] {
        let begin = format!("{check}: ");
        assert!(
            seen.iter().any(|wrong| wrong.starts_with(&begin)),
            "{check}: {seen:#?}"
        );
    }
}
