//! From an edit to its assistant: of one edit in the quiet, of a steady stream of them, and of one transaction that edits every agent.
//!
//! `cargo bench --bench edits -- [--quick]`. The worker is the binary, as it is run. When an assistant is there for everybody to see
//! is told by a notification of the assistants' own table, the same for the worker and for the floor, which is a bare listener: it
//! hears the agent's id, builds that agent's assistant in one prepared statement and writes it.

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agent_sync::database::{Database, DatabaseUrl, migrations};
use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;
use uuid::Uuid;

use support::edits::{TELL, agents, edit, listen, ms, one, percentile};
use support::least::{self, upsert};
use support::report::{Line, Report, Target};
use support::server::Server;
use support::{AnyError, Arguments, DEFAULT_MODEL, connect, cpu, data};

const AGENTS: u32 = 10_000;

/// How many edits of one side come before the other's turn: few enough that whatever else the machine does for a moment meets all sides.
const AT_A_TIME: usize = 10;

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
        true => (10, Duration::from_secs(6)),
        false => (80, Duration::from_secs(60)),
    };
    let postgres =
        Postgres::start(&["fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"]).await?;
    let mut report = Report::new("edits");
    let (worker, agents) = prepare(&postgres).await?;
    one_at_a_time(&mut report, &postgres, &agents, rounds).await?;
    all_at_once(&mut report, &postgres, if quick { 1 } else { 3 }).await?;
    steadily(&mut report, &postgres, &worker, stream_for).await?;
    report.finish()?;
    drop(worker);
    postgres.stop();
    Ok(())
}

/// Who makes assistants of edits, each in a database of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    /// A bare listener.
    Floor,
    /// One that keeps our promises ([`least::InOrder`], and [`least::sync`] where there are many).
    Least,
}

impl Side {
    const ALL: [Self; 3] = [Self::Ours, Self::Floor, Self::Least];

    fn database(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Floor => "floor",
            Self::Least => "least",
        }
    }
}

/// The databases, in each of which all agents are in step.
async fn prepare(postgres: &Postgres) -> Result<(Server, Vec<Uuid>), AnyError> {
    let execute = async |database: &str, text: &str| postgres.execute(database, text).await;
    execute("postgres", "create database floor").await?;
    execute("floor", SCHEMA).await?;
    let rows = data(AGENTS).replace("truncate agent_sync.outbox;", "");
    execute("floor", &rows).await?;
    for copy in ["ours", "least"] {
        let create = format!("create database {copy} template floor");
        execute("postgres", &create).await?;
    }
    execute("floor", TABLE).await?;
    let client = connect(&postgres.url("floor")).await?;
    client.execute(&upsert(""), &[&DEFAULT_MODEL]).await?;
    let url: DatabaseUrl = postgres.url("least").parse()?;
    migrations::migrate(&Database::new(&url), Duration::ZERO).await?;
    let all =
        "insert into agent_sync.outbox (source, key) select 'agents', id::text from public.agents";
    execute("least", all).await?;
    let client = connect(&postgres.url("least")).await?;
    empty(&client).await?;
    for database in ["floor", "least"] {
        let named = "update public.agents set langgraph_assistant_id = id::text";
        execute(database, named).await?;
    }
    execute("floor", RING).await?;
    let worker = Server::start(&postgres.url("ours"), "all")?;
    worker.ready().await?;
    for side in Side::ALL {
        execute(side.database(), TELL).await?;
        execute(side.database(), "vacuum analyze").await?;
    }
    let agents = agents(&connect(&postgres.url("ours")).await?).await?;
    Ok((worker, agents))
}

/// Writes what was recorded, batch by batch, until there is nothing left.
async fn empty(client: &Client) -> Result<(), tokio_postgres::Error> {
    let statement = client.prepare(&least::sync()).await?;
    while client
        .query_one(&statement, &[&DEFAULT_MODEL])
        .await?
        .get::<_, i64>(0)
        > 0
    {}
    Ok(())
}

/// Edits one after the other, and for each the time from its commit until its assistant is there. All sides take turns, so that whatever
/// else the machine does meets each.
async fn one_at_a_time(
    report: &mut Report,
    postgres: &Postgres,
    agents: &[Uuid],
    rounds: usize,
) -> Result<(), AnyError> {
    let (writer, mut edited) = listen(&postgres.url("floor"), "edited").await?;
    let bare = tokio::spawn(async move {
        let statement = writer.prepare(&upsert("and a.id = $2")).await?;
        while let Some((id, _)) = edited.recv().await {
            let id: Uuid = id.parse().unwrap_or_default();
            writer.execute(&statement, &[&DEFAULT_MODEL, &id]).await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    });
    let (writer, mut rung) = listen(&postgres.url("least"), "agent_sync").await?;
    // Who has the bell is rung for. (And no dead row of the outbox is read, as it is never vacuumed here.)
    let bell = "select pg_advisory_lock(hashtextextended('agent_sync.bell', 0));
        set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off; set plan_cache_mode = force_generic_plan";
    writer.batch_execute(bell).await?;
    let in_order = least::InOrder::new(writer).await?;
    let least = tokio::spawn(async move {
        while rung.recv().await.is_some() {
            in_order.sync().await.map_err(|e| e.to_string())?;
        }
        Ok::<_, String>(())
    });
    let mut sides = Vec::new();
    for side in Side::ALL {
        let url = postgres.url(side.database());
        let (listener, written) = listen(&url, "written").await?;
        listener
            .batch_execute("alter table langgraph_server.assistants enable trigger tell")
            .await?;
        sides.push((connect(&url).await?, listener, written, Vec::new()));
    }
    let mut n = 0;
    // The first rounds are nobody's: connections are opened and catalogs read.
    for round in 0..rounds + 5 {
        for (editor, _, written, times) in &mut sides {
            for _ in 0..AT_A_TIME {
                n += 1;
                let agent = agents[n as usize * 7919 % agents.len()];
                let took = one(editor, agent, n, written).await?;
                if round >= 5 {
                    times.push(took);
                }
            }
        }
    }
    bare.abort();
    least.abort();
    for (_, listener, ..) in &sides {
        let quiet = "alter table langgraph_server.assistants disable trigger tell";
        listener.batch_execute(quiet).await?;
    }
    for (share, name, most) in [(50, "p50", 1.3), (99, "p99", 1.5)] {
        let work = format!("one edit → assistant committed, idle, {name}");
        let mut took = sides.iter_mut().map(|side| percentile(&mut side.3, share));
        let took = [(); 3].map(|()| took.next().unwrap_or_default());
        compare(report, &work, took, most);
    }
    Ok(())
}

/// `took`: by [`Side::ALL`].
fn compare(report: &mut Report, work: &str, took: [Duration; 3], most: f64) {
    let [ours, floor, least] = took;
    let what = "the least in SQL that keeps our promises";
    for (work, took, target) in [
        (work.to_owned(), ours, Some(Target::AtMost(most))),
        (format!("{work}: {what}"), least, None),
    ] {
        report.line(Line {
            work,
            ours: ms(took),
            floor: Some(ms(floor)),
            figure: Some(took.as_secs_f64() / floor.as_secs_f64()),
            target,
        });
    }
}

/// One transaction edits all agents. From its commit until all assistants are there.
async fn all_at_once(
    report: &mut Report,
    postgres: &Postgres,
    times: usize,
) -> Result<(), AnyError> {
    let mut sides = Vec::new();
    for side in Side::ALL {
        sides.push((
            side,
            connect(&postgres.url(side.database())).await?,
            Vec::new(),
        ));
    }
    let second = connect(&postgres.url("least")).await?;
    postgres
        .execute("floor", "alter table public.agents disable trigger ring")
        .await?;
    for n in 0..times {
        let all = format!(
            "update public.agents set system_prompt = {} || substr(system_prompt, 10)",
            500_000_000 + n
        );
        for (side, client, took) in &mut sides {
            client.batch_execute(&all).await?;
            let started = Instant::now();
            match side {
                Side::Ours => {
                    while waiting(client).await? > 0 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                Side::Floor => _ = client.execute(&upsert(""), &[&DEFAULT_MODEL]).await?,
                // Two at a time, as the worker does.
                Side::Least => _ = tokio::try_join!(empty(client), empty(&second))?,
            }
            took.push(started.elapsed());
        }
        for (_, client, _) in &sides {
            client.batch_execute("vacuum analyze").await?;
        }
    }
    let mut took = sides.iter_mut().map(|side| percentile(&mut side.2, 50));
    let took = [(); 3].map(|()| took.next().unwrap_or_default());
    let work = format!("one transaction edits {AGENTS} agents → all assistants");
    compare(report, &work, took, 1.5);
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
