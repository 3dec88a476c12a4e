//! A bulk edit of many agents with two workers on it, one of which is killed half-way: everything must be drained, each
//! assistant written once, and neither worker may need more memory than [`LIMIT_MB`].
//!
//! `cargo bench --bench bulk -- [agents]` (100,000 unless told). Fails when one of these is not so.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio_postgres::Client;

use support::{AnyError, EXPECTED, connect, data, peak_memory};

const LIMIT_MB: u64 = 64;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let agents: i64 = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(100_000);
    let postgres =
        Postgres::start(&["fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"]).await?;
    postgres.execute("postgres", "create database app").await?;
    postgres.execute("app", SCHEMA).await?;
    let url = postgres.url("app");
    let mut workers = [worker(&url)?, worker(&url)?];
    let client = connect(&url).await?;
    until(&client, "to_regclass('agent_sync.outbox') is not null").await?;
    client
        .batch_execute(&data(u32::try_from(agents)?).replace("truncate agent_sync.outbox;", ""))
        .await?;
    let started = Instant::now();
    until(&client, "not exists (select from agent_sync.outbox)").await?;
    println!(
        "{agents} agents inserted, drained by two workers in {:.1} s",
        started.elapsed().as_secs_f64()
    );

    client
        .batch_execute("update public.agents set system_prompt = 'Edited. ' || system_prompt")
        .await?;
    let started = Instant::now();
    let written = "(select count(*) from langgraph_server.assistants where version = 2)";
    until(&client, &format!("{written} >= {}", agents / 2)).await?;
    let first = peak_memory(&workers[0])?;
    workers[0].kill()?;
    until(&client, "not exists (select from agent_sync.outbox)").await?;
    let second = peak_memory(&workers[1])?;
    println!(
        "all edited in one statement, drained in {:.1} s; one worker was killed half-way",
        started.elapsed().as_secs_f64()
    );
    println!(
        "peak resident memory: {first} MB of the one that was killed, {second} MB of the other"
    );
    let once: i64 = client
        .query_one(&format!("select {written}"), &[])
        .await?
        .get(0);
    let wrong: i64 = client
        .query_one(
            &format!(
                "select count(*) from ({EXPECTED}) as e
                 full join langgraph_server.assistants as a on a.id = e.id
                 where (a.graph_id, a.name, a.description, a.config, a.metadata - 'synced_at')
                   is distinct from (e.graph_id, e.name, e.description, e.config, e.metadata)"
            ),
            &[&"openai:gpt-4o"],
        )
        .await?
        .get(0);
    println!("{once} assistants written once, {wrong} stale or lost");
    for mut worker in workers {
        let _ = worker.kill();
        worker.wait()?;
    }
    postgres.stop();
    if once != agents || wrong != 0 || first.max(second) >= LIMIT_MB {
        return Err(
            format!("expected {agents} written once, none wrong, less than {LIMIT_MB} MB").into(),
        );
    }
    Ok(())
}

fn worker(url: &str) -> Result<Child, AnyError> {
    Ok(Command::new(env!("CARGO_BIN_EXE_agent-sync"))
        .env("DATABASE_URL", url)
        .env("AGENT_SYNC_SCOPE", "all")
        .env("AGENT_SYNC_LOG", "error")
        .env("AGENT_SYNC_HTTP_ADDR", "127.0.0.1:0")
        .env("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1:0")
        .stdin(Stdio::null())
        .spawn()?)
}

async fn until(client: &Client, condition: &str) -> Result<(), AnyError> {
    let statement = format!("select {condition}");
    while !client.query_one(&statement, &[]).await?.get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
