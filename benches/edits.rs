//! From an edit to its assistant: of one edit in the quiet, of a steady stream of them, and of one transaction that edits every agent.
//!
//! `cargo bench --bench edits -- [--quick]`. The worker is the binary, as it is run. When an assistant is there for everybody to see
//! is told by a notification of the assistants' own table, the same for the worker and for the floor, which is a bare listener: it
//! hears the agent's id, builds that agent's assistant in one prepared statement and writes it.

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;
use uuid::Uuid;

use support::edits::{TELL, agents, edit, listen, ms, one, percentile};
use support::report::{Line, Report, Target};
use support::server::Server;
use support::{AnyError, Arguments, EXPECTED, connect, cpu, data};

const AGENTS: u32 = 10_000;
const DEFAULT_MODEL: &str = "openai:gpt-4o";

/// What the floor listens to.
const RING: &str = "
create function public.ring() returns trigger language plpgsql as $$
begin
  perform pg_notify('edited', new.id::text);
  return null;
end $$;
create trigger ring after update on public.agents for each row execute function public.ring();";

/// The assistants' table, as our schema makes it.
const TABLE: &str = "
create schema langgraph_server;
create table langgraph_server.assistants (
  id text primary key, graph_id text, config jsonb, context jsonb, metadata jsonb, name text, description text,
  version integer default 1, created_at timestamptz, updated_at timestamptz
);";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let quick = Arguments::of_this_process().quick;
    let (rounds, stream_for) = match quick {
        true => (2, Duration::from_secs(10)),
        false => (5, Duration::from_secs(60)),
    };
    let postgres =
        Postgres::start(&["fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"]).await?;
    let mut report = Report::new("edits");
    let (worker, ours, floor) = prepare(&postgres).await?;
    one_at_a_time(&mut report, &postgres, &ours, &floor, rounds).await?;
    all_at_once(&mut report, &postgres, if quick { 1 } else { 3 }).await?;
    steadily(&mut report, &postgres, &worker, stream_for).await?;
    report.finish()?;
    drop(worker);
    postgres.stop();
    Ok(())
}

/// What builds the assistants of some agents; `which` says of which.
fn upsert(which: &str) -> String {
    format!(
        "insert into langgraph_server.assistants as a
           (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
         select id, graph_id, config, '{{}}', metadata || jsonb_build_object('synced_at', now()), name, description, 1, now(), now()
         from ({EXPECTED} {which}) as e
         on conflict (id) do update
         set graph_id = excluded.graph_id, config = excluded.config, metadata = a.metadata || excluded.metadata,
           name = excluded.name, description = excluded.description, version = a.version + 1, updated_at = now()"
    )
}

/// A database with a worker, whose agents are in step, and the floor's, whose are, too.
async fn prepare(postgres: &Postgres) -> Result<(Server, Vec<Uuid>, Vec<Uuid>), AnyError> {
    let execute = async |database: &str, text: &str| postgres.execute(database, text).await;
    execute("postgres", "create database floor").await?;
    execute("floor", SCHEMA).await?;
    execute(
        "floor",
        &data(AGENTS).replace("truncate agent_sync.outbox;", ""),
    )
    .await?;
    execute("postgres", "create database ours template floor").await?;
    execute("floor", TABLE).await?;
    let client = connect(&postgres.url("floor")).await?;
    client.execute(&upsert(""), &[&DEFAULT_MODEL]).await?;
    client
        .batch_execute("update public.agents set langgraph_assistant_id = id::text")
        .await?;
    execute("floor", RING).await?;
    let worker = Server::start(&postgres.url("ours"), "all")?;
    worker.ready().await?;
    for database in ["ours", "floor"] {
        execute(database, TELL).await?;
        execute(database, "vacuum analyze").await?;
    }
    Ok((
        worker,
        agents(&connect(&postgres.url("ours")).await?).await?,
        agents(&connect(&postgres.url("floor")).await?).await?,
    ))
}

/// Edits one after the other, and for each the time from its commit until its assistant is there. The worker and the floor take turns,
/// so that whatever else the machine does meets both.
async fn one_at_a_time(
    report: &mut Report,
    postgres: &Postgres,
    ours: &[Uuid],
    floor: &[Uuid],
    rounds: usize,
) -> Result<(), AnyError> {
    let floor_url = postgres.url("floor");
    let (writer, mut edited) = listen(&floor_url, "edited").await?;
    let bare = tokio::spawn(async move {
        let statement = writer.prepare(&upsert("and a.id = $2")).await?;
        while let Some((id, _)) = edited.recv().await {
            let id: Uuid = id.parse().unwrap_or_default();
            writer.execute(&statement, &[&DEFAULT_MODEL, &id]).await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    });
    let mut times = [Vec::new(), Vec::new()];
    let mut sides = Vec::new();
    for (database, agents) in [("ours", ours), ("floor", floor)] {
        let url = postgres.url(database);
        let (listener, written) = listen(&url, "written").await?;
        listener
            .batch_execute("alter table langgraph_server.assistants enable trigger tell")
            .await?;
        sides.push((connect(&url).await?, agents, listener, written));
    }
    let mut n = 0;
    // The first round is nobody's: connections are opened and catalogs read.
    for round in 0..=rounds {
        for (side, (editor, agents, _, written)) in sides.iter_mut().enumerate() {
            for _ in 0..50 {
                n += 1;
                let agent = agents[n as usize * 7919 % agents.len()];
                let took = one(editor, agent, n, written).await?;
                if round > 0 {
                    times[side].push(took);
                }
            }
        }
    }
    bare.abort();
    for (database, name) in [("ours", "tell"), ("floor", "tell")] {
        let statement = format!("alter table langgraph_server.assistants disable trigger {name}");
        postgres.execute(database, &statement).await?;
    }
    let [mut ours, mut floor] = times;
    for (share, name, most) in [(50, "p50", 1.3), (99, "p99", 1.5)] {
        let (ours, floor) = (percentile(&mut ours, share), percentile(&mut floor, share));
        report.line(Line {
            work: format!("one edit → assistant committed, idle, {name}"),
            ours: ms(ours),
            floor: Some(ms(floor)),
            figure: Some(ours.as_secs_f64() / floor.as_secs_f64()),
            target: Some(Target::AtMost(most)),
        });
    }
    Ok(())
}

/// One transaction edits all agents. From its commit until all assistants are there.
async fn all_at_once(
    report: &mut Report,
    postgres: &Postgres,
    times: usize,
) -> Result<(), AnyError> {
    let ours = connect(&postgres.url("ours")).await?;
    let floor = connect(&postgres.url("floor")).await?;
    floor
        .batch_execute("alter table public.agents disable trigger ring")
        .await?;
    let statement = floor.prepare(&upsert("")).await?;
    let (mut our_times, mut floor_times) = (Vec::new(), Vec::new());
    for n in 0..times {
        let all = format!(
            "update public.agents set system_prompt = {} || substr(system_prompt, 10)",
            500_000_000 + n
        );
        floor.batch_execute(&all).await?;
        let started = Instant::now();
        floor.execute(&statement, &[&DEFAULT_MODEL]).await?;
        floor_times.push(started.elapsed());

        ours.batch_execute(&all).await?;
        let started = Instant::now();
        while waiting(&ours).await? > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        our_times.push(started.elapsed());
        for client in [&ours, &floor] {
            client.batch_execute("vacuum analyze").await?;
        }
    }
    let (ours, floor) = (
        percentile(&mut our_times, 50),
        percentile(&mut floor_times, 50),
    );
    report.line(Line {
        work: format!("one transaction edits {AGENTS} agents → all assistants"),
        ours: ms(ours),
        floor: Some(ms(floor)),
        figure: Some(ours.as_secs_f64() / floor.as_secs_f64()),
        target: Some(Target::AtMost(1.5)),
    });
    Ok(())
}

/// 500 edits a second by sixteen connections.
async fn steadily(
    report: &mut Report,
    postgres: &Postgres,
    worker: &Server,
    lasting: Duration,
) -> Result<(), AnyError> {
    const EDITORS: u64 = 16;
    const RATE: u64 = 500;
    let url = postgres.url("ours");
    let observer = connect(&url).await?;
    let agents = agents(&observer).await?;
    let (listener, mut written) = listen(&url, "written").await?;
    listener
        .batch_execute("alter table langgraph_server.assistants enable trigger tell")
        .await?;
    let (say, mut said) = mpsc::unbounded_channel();
    let (started, before) = (Instant::now(), cpu(worker.child.id())?);
    let mut editing = JoinSet::new();
    for editor in 0..EDITORS {
        let client = connect(&url).await?;
        let (agents, say) = (agents.clone(), say.clone());
        editing.spawn(async move {
            let mut ticks = interval(Duration::from_micros(1_000_000 * EDITORS / RATE));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut n = 0;
            while started.elapsed() < lasting {
                ticks.tick().await;
                // Each editor has agents of its own, none twice within 20 s.
                let place = (n * EDITORS + editor) * 7 % agents.len() as u64;
                let agent = agents[usize::try_from(place).unwrap_or(0)];
                client.simple_query(&edit(agent, n)).await?;
                let _ = say.send((agent, Instant::now()));
                n += 1;
            }
            Ok::<_, tokio_postgres::Error>(n)
        });
    }
    drop(say);
    let (mut depths, mut next) = (Vec::new(), Instant::now());
    let (mut edited, mut seen) = (
        HashMap::<Uuid, Instant>::new(),
        HashMap::<Uuid, Instant>::new(),
    );
    let mut delays = Vec::new();
    // Whichever of the two is heard of first.
    let mut is_over = false;
    while !(is_over && edited.is_empty()) {
        tokio::select! {
            said = said.recv(), if !is_over => match said {
                Some((agent, at)) => match seen.remove(&agent) {
                    Some(written) => delays.push(written.saturating_duration_since(at)),
                    None => _ = edited.insert(agent, at),
                },
                None => is_over = true,
            },
            told = written.recv() => {
                let (told, at) = told.ok_or("the listening connection has ended")?;
                let agent: Uuid = told.get(..36).unwrap_or_default().parse()?;
                match edited.remove(&agent) {
                    Some(committed) => delays.push(at.saturating_duration_since(committed)),
                    None => _ = seen.insert(agent, at),
                }
            }
            () = tokio::time::sleep_until(next.into()) => {
                depths.push(waiting(&observer).await?);
                next += Duration::from_secs(1);
                if started.elapsed() > lasting * 3 {
                    return Err(format!("{} edits have not reached their assistants", edited.len()).into());
                }
            }
        }
    }
    let cpu = cpu(worker.child.id())?.saturating_sub(before);
    let time = started.elapsed();
    let mut edits = 0;
    while let Some(edited) = editing.join_next().await {
        edits += edited??;
    }
    let work = format!(
        "{:.0} edits/s, 16 connections, {} s",
        edits as f64 / lasting.as_secs_f64(),
        lasting.as_secs()
    );
    let of = |name: &str| format!("{work}: {name}");
    let p50 = percentile(&mut delays, 50);
    report.line(Line {
        work: of("edit → assistant, p50"),
        ours: ms(p50),
        floor: None,
        figure: None,
        target: None,
    });
    let p99 = percentile(&mut delays, 99);
    report.line(Line {
        work: of("edit → assistant, p99, in ms"),
        ours: ms(p99),
        floor: None,
        figure: Some(p99.as_secs_f64() * 1e3),
        target: Some(Target::AtMost(100.0)),
    });
    // Flat: in the last third no more wait than in the first, give or take a tenth of a second's edits.
    let third = (depths.len() / 3).max(1);
    let most = |depths: &[i64]| depths.iter().copied().max().unwrap_or(0);
    let (first, last) = (
        most(&depths[..third]),
        most(&depths[depths.len() - third..]),
    );
    report.line(Line {
        work: of("most changes that waited, last third − first third"),
        ours: format!("{last} − {first}"),
        floor: None,
        figure: Some((last - first) as f64),
        target: Some(Target::AtMost(RATE as f64 / 10.0)),
    });
    let share = cpu.as_secs_f64() / time.as_secs_f64();
    report.line(Line {
        work: of("CPU of the worker, of a core"),
        ours: format!("{:.1} %", share * 100.0),
        floor: None,
        figure: Some(share),
        target: Some(Target::AtMost(0.25)),
    });
    Ok(())
}

async fn waiting(client: &Client) -> Result<i64, AnyError> {
    let statement = "select count(*) from agent_sync.outbox";
    Ok(client.query_one(statement, &[]).await?.get(0))
}
