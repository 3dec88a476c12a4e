//! The startup pass against what the same Postgres needs for the bare minimum of the work, in one run.
//!
//! `cargo bench --bench passes -- [agents]` (10,000 unless told). The floor is pure SQL: one
//! `insert … select … on conflict` that builds the same rows (`tests/fixtures/expected.sql`), and the write-back.

mod support;

use std::time::{Duration, Instant};

use agent_sync::access::Access;
use agent_sync::config::Settings;
use agent_sync::database::{Database, DatabaseUrl, migrations};
use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use agent_sync::pass::{self, Extent};
use agent_sync::scope::Scope;
use agent_sync::syncer::{Summary, Syncer};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use support::{AnyError, EXPECTED, connect, data};

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let agents: u32 = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(10_000);
    let postgres =
        Postgres::start(&["fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"]).await?;
    postgres
        .execute("postgres", "create database template")
        .await?;
    postgres.execute("template", SCHEMA).await?;
    let template: DatabaseUrl = postgres.url("template").parse()?;
    migrations::migrate(&Database::new(&template), Duration::ZERO).await?;
    postgres.execute("template", &data(agents)).await?;
    postgres
        .execute("postgres", "create database floor template template")
        .await?;
    postgres
        .execute("postgres", "create database ours template template")
        .await?;

    let floor = connect(&postgres.url("floor")).await?;
    let ours = connect(&postgres.url("ours")).await?;
    let url: DatabaseUrl = postgres.url("ours").parse()?;
    let syncer = Syncer::new(Database::new(&url), Access::open(), Settings::default());
    ours.batch_execute(
        "insert into agent_sync.settings (scope) values ('all'); truncate agent_sync.outbox",
    )
    .await?;

    println!("{agents} agents, prompts of 1.5 KB, 0 to 4 tools each");
    println!(
        "{:<12} {:>10} {:>10} {:>8}   what the pass did",
        "pass", "ours", "pure SQL", "ratio"
    );
    for (name, change) in [
        ("cold", ""),
        ("warm", ""),
        (
            "1 % changed",
            "update public.agents set system_prompt = 'Changed. ' || system_prompt where name like '%00'",
        ),
    ] {
        for client in [&floor, &ours] {
            client.batch_execute(change).await?;
            for chore in ["truncate agent_sync.outbox", "vacuum analyze", "checkpoint"] {
                client.batch_execute(chore).await?;
            }
        }
        let floored = time(pure_sql(&floor)).await?;
        let versions = versions(&ours).await?;
        let started = Instant::now();
        let summary: Summary = pass::run(
            &syncer,
            &Scope::All,
            Extent::Reach,
            &CancellationToken::new(),
        )
        .await?;
        let passed = started.elapsed();
        let raised = self::versions(&ours).await? - versions;
        println!(
            "{name:<12} {:>8.2} s {:>8.2} s {:>7.2}×   {summary}; versions raised by {raised}",
            passed.as_secs_f64(),
            floored.as_secs_f64(),
            passed.as_secs_f64() / floored.as_secs_f64(),
        );
    }
    drop(syncer);
    postgres.stop();
    Ok(())
}

/// The same rows by one statement, and the write-back by another.
async fn pure_sql(client: &Client) -> Result<(), tokio_postgres::Error> {
    let upsert = format!(
        "insert into langgraph_server.assistants as a
           (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
         select id, graph_id, config, '{{}}', metadata || jsonb_build_object('synced_at', now()), name, description, 1, now(), now()
         from ({EXPECTED}) as e
         on conflict (id) do update
         set graph_id = excluded.graph_id, config = excluded.config, metadata = a.metadata || excluded.metadata,
           name = excluded.name, description = excluded.description, version = a.version + 1, updated_at = now()
         where (a.graph_id, a.config, a.name, a.description, a.metadata - 'synced_at') is distinct from
           (excluded.graph_id, excluded.config, excluded.name, excluded.description, excluded.metadata - 'synced_at')"
    );
    client.execute(&upsert, &[&"openai:gpt-4o"]).await?;
    client
        .batch_execute(
            "update public.agents set langgraph_assistant_id = id::text
             where status = 'active' and deleted_at is null and langgraph_assistant_id is distinct from id::text",
        )
        .await
}

async fn time(
    work: impl Future<Output = Result<(), tokio_postgres::Error>>,
) -> Result<Duration, tokio_postgres::Error> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

async fn versions(client: &Client) -> Result<i64, tokio_postgres::Error> {
    let statement = "select coalesce(sum(version), 0)::int8 from langgraph_server.assistants";
    Ok(client.query_one(statement, &[]).await?.get(0))
}
