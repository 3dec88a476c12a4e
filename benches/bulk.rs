//! A bulk edit of many agents with two workers on it, one of which is killed half-way: everything must be drained, each
//! assistant written once, and neither worker may need more memory than [`LIMIT_MB`]. Then the same edit with one, two and four workers.
//!
//! `cargo bench --bench bulk -- [agents]` (100,000 unless told). Fails when one of these is not so.

mod support;

use std::time::{Duration, Instant};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio_postgres::Client;

use support::server::Server;
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
    let [first, second] = [Server::start(&url, "all")?, Server::start(&url, "all")?];
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
    let of_first = peak_memory(&first.child)?;
    drop(first);
    until(&client, "not exists (select from agent_sync.outbox)").await?;
    let of_second = peak_memory(&second.child)?;
    println!(
        "all edited in one statement, drained in {:.1} s; one worker was killed half-way",
        started.elapsed().as_secs_f64()
    );
    println!(
        "peak resident memory: {of_first} MB of the one that was killed, {of_second} MB of the other"
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
    drop(second);
    for replicas in [1, 2, 4] {
        let workers = (0..replicas)
            .map(|_| Server::start(&url, "all"))
            .collect::<Result<Vec<_>, _>>()?;
        for worker in &workers {
            worker.ready().await?;
        }
        client.batch_execute("vacuum analyze").await?;
        client
            .batch_execute("update public.agents set system_prompt = 'Again. ' || system_prompt")
            .await?;
        let started = Instant::now();
        until(&client, "not exists (select from agent_sync.outbox)").await?;
        let took = started.elapsed().as_secs_f64();
        println!(
            "{replicas} of them drained the next such edit in {took:.1} s, {:.0} agents a second",
            agents as f64 / took
        );
    }
    postgres.stop();
    if once != agents || wrong != 0 || of_first.max(of_second) >= LIMIT_MB {
        return Err(
            format!("expected {agents} written once, none wrong, less than {LIMIT_MB} MB").into(),
        );
    }
    Ok(())
}

async fn until(client: &Client, condition: &str) -> Result<(), AnyError> {
    let statement = format!("select {condition}");
    while !client.query_one(&statement, &[]).await?.get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
