//! What a worker costs that has nothing to do: memory with many agents known, CPU and queries while idle, the time from its start
//! until it is ready, and the size of the binary.
//!
//! `cargo bench --bench rest -- [agents] [--quick]` (100,000 agents unless told, 10,000 when quick).

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio_postgres::Client;

use support::report::{Line, Report, Target};
use support::{AnyError, Arguments, connect, cpu, data, peak_memory, resident_memory};

const BINARY: &str = env!("CARGO_BIN_EXE_agent-sync");

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let arguments = Arguments::of_this_process();
    let agents = arguments.agents(10_000, 100_000);
    let idle = Duration::from_secs(if arguments.quick { 10 } else { 60 });
    let postgres = Postgres::start(&[
        "fsync=on",
        "shared_buffers=512MB",
        "max_wal_size=4GB",
        "shared_preload_libraries=pg_stat_statements",
    ])
    .await?;
    postgres.execute("postgres", "create database app").await?;
    postgres.execute("app", SCHEMA).await?;
    let url = postgres.url("app");
    let mut report = Report::new("rest");

    let mut starts = Vec::new();
    for _ in 0..15 {
        let (mut worker, ready) = start(&url, "none")?;
        starts.push(ready);
        worker.kill()?;
        worker.wait()?;
    }
    // The first installs the schema.
    starts.remove(0);
    starts.sort();
    let ready = starts[starts.len() / 2];
    report.line(Line {
        work: "start → ready, scope none, median of 14".to_owned(),
        ours: format!("{:.1} ms", ready.as_secs_f64() * 1e3),
        floor: None,
        figure: Some(ready.as_secs_f64() * 1e3),
        target: Some(Target::AtMost(50.0)),
    });

    let client = connect(&url).await?;
    client.batch_execute(&data(agents)).await?;
    client
        .batch_execute("create extension pg_stat_statements")
        .await?;
    let (mut worker, ready) = start(&url, "all")?;
    // What follows the pass is over, too.
    tokio::time::sleep(Duration::from_secs(3)).await;
    report.line(Line {
        work: format!("{agents} agents: start → ready, all of them to be created"),
        ours: format!("{:.1} s", ready.as_secs_f64()),
        floor: None,
        figure: None,
        target: None,
    });
    let (calls, spent, since) = (
        statements(&client).await?,
        cpu(worker.id())?,
        Instant::now(),
    );
    tokio::time::sleep(idle).await;
    let minutes = since.elapsed().as_secs_f64() / 60.0;
    let queries = (statements(&client).await? - calls) as f64 / minutes;
    let seconds = (cpu(worker.id())? - spent).as_secs_f64() / minutes * 60.0;
    let resident = resident_memory(&worker)?;
    report.line(Line {
        work: format!("{agents} agents: resident memory"),
        ours: format!("{resident:.1} MB"),
        floor: None,
        figure: Some(resident),
        target: Some(Target::AtMost(16.0)),
    });
    report.line(Line {
        work: format!("{agents} agents: its peak during the first pass"),
        ours: format!("{} MB", peak_memory(&worker)?),
        floor: None,
        figure: None,
        target: None,
    });
    report.line(Line {
        work: "idle: CPU in an hour".to_owned(),
        ours: format!("{seconds:.1} s"),
        floor: None,
        figure: Some(seconds),
        target: Some(Target::AtMost(2.0)),
    });
    report.line(Line {
        work: "idle: queries in a minute".to_owned(),
        ours: format!("{queries:.1}"),
        floor: None,
        figure: Some(queries),
        target: Some(Target::AtMost(20.0)),
    });
    if arguments.verbose {
        said(&client).await?;
    }
    worker.kill()?;
    worker.wait()?;

    let size = std::fs::metadata(BINARY)?.len() as f64 / 1e6;
    report.line(Line {
        work: "binary, stripped".to_owned(),
        ours: format!("{size:.1} MB"),
        floor: None,
        figure: Some(size),
        target: Some(Target::AtMost(8.0)),
    });
    postgres.stop();
    Ok(report.finish()?)
}

/// A worker, and how long it took until `/ready` said yes.
fn start(url: &str, scope: &str) -> Result<(Child, Duration), AnyError> {
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let started = Instant::now();
    let worker = Command::new(BINARY)
        .env("DATABASE_URL", url)
        .env("AGENT_SYNC_SCOPE", scope)
        .env("AGENT_SYNC_LOG", "error")
        .env("AGENT_SYNC_HTTP_ADDR", "127.0.0.1:0")
        .env("AGENT_SYNC_ADMIN_ADDR", admin.to_string())
        .stdin(Stdio::null())
        .spawn()?;
    while !is_ready(admin) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((worker, started.elapsed()))
}

fn is_ready(admin: SocketAddr) -> bool {
    let asked = TcpStream::connect(admin).and_then(|mut socket| {
        socket.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

const OURS: &str = "pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database()) and query not like '%pg_stat_statements%'";

/// How many the server has carried out so far, of others than us.
async fn statements(client: &Client) -> Result<i64, AnyError> {
    let statement = format!("select coalesce(sum(calls), 0)::int8 from {OURS}");
    Ok(client.query_one(&statement, &[]).await?.get(0))
}

/// Which they were.
async fn said(client: &Client) -> Result<(), AnyError> {
    let statement = format!("select calls, query from {OURS} order by calls desc limit 30");
    for row in client.query(&statement, &[]).await? {
        let query: String = row.get("query");
        let query: String = query.split_whitespace().collect::<Vec<_>>().join(" ");
        println!("{:>8} {query:.150}", row.get::<_, i64>("calls"));
    }
    Ok(())
}
