//! The passes against what the same Postgres needs for the bare minimum of the work, in one run.
//!
//! `cargo bench --bench passes -- [--quick] [agents…]` (10,000 and 100,000 unless told; `--quick`: 10,000). The floor is pure SQL: one
//! `insert … select … on conflict` that builds the same rows (`tests/fixtures/expected.sql`), and the write-back. Each has a database of
//! its own, equally fresh; in that of the floor nothing of ours is installed, so no trigger of ours runs for its write-back.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_sync::demo::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

use support::least;
use support::passes::{run, server};
use support::report::{Line, Report, Target};
use support::{AnyError, Arguments, DEFAULT_MODEL, connect};

/// What changes before each pass, and how much of the floor it may take.
const PASSES: [(&str, &str, f64); 3] = [
    ("cold", "", 1.3),
    ("warm", "", 0.5),
    (
        "1 % changed",
        "update public.agents set system_prompt = 'Changed. ' || system_prompt where name like '%00'",
        0.6,
    ),
];

const WRITE_BACK: &str = "update public.agents set langgraph_assistant_id = id::text
    where status = 'active' and deleted_at is null and langgraph_assistant_id is distinct from id::text";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let sizes = Arguments::of_this_process().sizes(&[10_000, 100_000]);
    let mut report = Report::new("passes");
    for agents in sizes {
        measure(agents, &mut report).await?;
    }
    report.finish()?;
    Ok(())
}

async fn measure(agents: u32, report: &mut Report) -> Result<(), AnyError> {
    let postgres = server(agents).await?;
    for name in ["floor", "least", "ours"] {
        let copy = format!("create database {name} template template");
        postgres.execute("postgres", &copy).await?;
    }
    let floor = connect(&postgres.url("floor")).await?;
    floor
        .batch_execute("drop schema agent_sync cascade")
        .await?;
    let ours = connect(&postgres.url("ours")).await?;

    for (name, change, target) in PASSES {
        for client in [&floor, &ours] {
            client.batch_execute(change).await?;
            for chore in ["vacuum analyze", "checkpoint"] {
                client.batch_execute(chore).await?;
            }
        }
        ours.batch_execute("truncate agent_sync.outbox").await?;
        let started = Instant::now();
        pure_sql(&floor).await?;
        let floored = started.elapsed();
        let before = versions(&ours).await?;
        let started = Instant::now();
        let summary = run(&postgres.url("ours")).await?;
        let passed = started.elapsed();
        report.line(Line {
            work: format!("{name} pass, {agents} agents"),
            ours: seconds(passed),
            floor: Some(seconds(floored)),
            figure: Some(passed.as_secs_f64() / floored.as_secs_f64()),
            target: Some(Target::AtMost(target)),
        });
        let raised = versions(&ours).await? - before;
        println!("  {summary}; versions raised by {raised}");
        if name == "cold" {
            let least = least(&postgres).await?;
            report.line(Line {
                work: format!(
                    "cold pass, {agents} agents: the least in SQL that keeps our promises"
                ),
                ours: seconds(least),
                floor: Some(seconds(floored)),
                figure: Some(least.as_secs_f64() / floored.as_secs_f64()),
                target: None,
            });
        }
        if name == "warm" {
            nothing(&postgres, &ours, agents, report).await?;
        }
    }
    postgres.stop();
    Ok(())
}

/// What a warm pass writes, and what it is sent. Counted in a run of its own: what counts takes time.
async fn nothing(
    postgres: &Postgres,
    ours: &Client,
    agents: u32,
    report: &mut Report,
) -> Result<(), AnyError> {
    let before = written(ours).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = tokio::spawn(count(listener, postgres.port(), sent.clone()));
    run(&format!("postgresql://postgres@127.0.0.1:{port}/ours")).await?;
    counter.abort();
    report.line(Line {
        work: format!("warm pass, {agents} agents: rows written"),
        ours: (written(ours).await? - before).to_string(),
        floor: None,
        figure: Some((written(ours).await? - before) as f64),
        target: Some(Target::AtMost(0.0)),
    });
    report.line(Line {
        work: format!("warm pass, {agents} agents: bytes received"),
        ours: sent.load(Ordering::Relaxed).to_string(),
        floor: None,
        figure: None,
        target: None,
    });
    Ok(())
}

/// A cold pass that keeps the ledger, too, in a database that has our triggers.
async fn least(postgres: &Postgres) -> Result<Duration, AnyError> {
    let client = connect(&postgres.url("least")).await?;
    for chore in ["vacuum analyze", "checkpoint"] {
        client.batch_execute(chore).await?;
    }
    let started = Instant::now();
    client.execute(&least::pass(), &[&DEFAULT_MODEL]).await?;
    client.batch_execute(WRITE_BACK).await?;
    Ok(started.elapsed())
}

/// The same rows by one statement, and the write-back by another.
async fn pure_sql(client: &Client) -> Result<(), tokio_postgres::Error> {
    let upsert = format!(
        "{}
         where (a.graph_id, a.config, a.name, a.description, a.metadata - 'synced_at') is distinct from
           (excluded.graph_id, excluded.config, excluded.name, excluded.description, excluded.metadata - 'synced_at')",
        least::upsert("")
    );
    client.execute(&upsert, &[&DEFAULT_MODEL]).await?;
    client.batch_execute(WRITE_BACK).await
}

/// How many rows have been written so far, to any table. What a session has written is counted when it has ended.
async fn written(client: &Client) -> Result<i64, AnyError> {
    let others = "select count(*) from pg_stat_activity
         where datname = current_database() and application_name like 'agent-sync%'";
    while client.query_one(others, &[]).await?.get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let statement =
        "select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int8 from pg_stat_user_tables";
    Ok(client.query_one(statement, &[]).await?.get(0))
}

/// Passes connections on, and counts what the server sends.
async fn count(listener: TcpListener, port: u16, sent: Arc<AtomicU64>) -> std::io::Result<()> {
    loop {
        let (near, _) = listener.accept().await?;
        let far = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut near_in, mut near_out) = near.into_split();
        let (mut far_in, mut far_out) = far.into_split();
        tokio::spawn(async move {
            _ = tokio::io::copy(&mut near_in, &mut far_out).await;
        });
        let sent = sent.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(bytes @ 1..) = far_in.read(&mut buffer).await {
                sent.fetch_add(bytes as u64, Ordering::Relaxed);
                if near_out.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

async fn versions(client: &Client) -> Result<i64, tokio_postgres::Error> {
    let statement = "select coalesce(sum(version), 0)::int8 from langgraph_server.assistants";
    Ok(client.query_one(statement, &[]).await?.get(0))
}
