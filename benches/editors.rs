//! What our triggers cost who edits: random edits of single agents, by several connections at once, with fsync on.
//!
//! `cargo bench --bench editors -- [--quick]`. Compared within one run: the table without our triggers, with them, and with a
//! worker on it; and, for what is to be had at all, a trigger that does nothing, one that writes a row and nothing else, and the
//! least that the work of a worker comes to in SQL.
//!
//! The editors are connections of our own, and not pgbench: they stay, as an application's do, so that nobody pays for opening
//! one and for compiling functions in it; and they take turns on all tables, a second each, so that whatever else the machine
//! does meets all of them. What they send is planned each time, as pgbench does unless told otherwise.

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_sync::database::{Database, DatabaseUrl, migrations};
use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

use support::report::{Line, Report, Target};
use support::server::Server;
use support::{AnyError, Arguments, connect, data};

const AGENTS: u32 = 10_000;

/// A trigger that is called, with the rows, and does nothing.
const NOTHING: &str = "
create function public.nothing() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  return null;
end $$;
create trigger nothing after update on public.agents referencing old table as old_rows new table as new_rows
for each statement execute function public.nothing();";

/// One that writes the changed row's key to a table with a primary key, and looks at nothing.
const ONE_ROW: &str = "
create table public.changes (id bigint generated always as identity primary key, key text);
create function public.one_row() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.changes (key) select id::text from new_rows;
  return null;
end $$;
create trigger one_row after update on public.agents referencing new table as new_rows
for each statement execute function public.one_row();";

/// The least that a worker has to do for what the triggers have recorded: take it, and write each agent's prompt once.
const LEAST: &str = "
with taken as (
  delete from agent_sync.outbox where id in (select id from agent_sync.outbox order by id limit 500 for update skip locked)
  returning key
)
update langgraph_server.assistants as s
set config = jsonb_set(s.config, '{configurable,system_prompt}', to_jsonb(a.system_prompt)), version = s.version + 1
from public.agents as a
where a.id in (select distinct key::uuid from taken) and s.id = a.id::text";

/// On what editors edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Bare,
    Nothing,
    OneRow,
    Triggers,
    LeastWorker,
    Worker,
}

impl Table {
    const ALL: [Self; 6] = [
        Self::Bare,
        Self::Nothing,
        Self::OneRow,
        Self::Triggers,
        Self::LeastWorker,
        Self::Worker,
    ];
    const QUICK: [Self; 3] = [Self::Bare, Self::Triggers, Self::Worker];

    fn database(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Nothing => "nothing",
            Self::OneRow => "one_row",
            Self::Triggers => "triggers",
            Self::LeastWorker => "least_worker",
            Self::Worker => "worker",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Bare => "no triggers",
            Self::Nothing => "a trigger that does nothing",
            Self::OneRow => "a trigger that writes one row",
            Self::Triggers => "our triggers alone",
            Self::LeastWorker => "our triggers, the least of a worker in SQL",
            Self::Worker => "our triggers and a worker",
        }
    }

    /// Whether somebody empties the outbox.
    fn is_drained(self) -> bool {
        matches!(self, Self::LeastWorker | Self::Worker)
    }
}

/// What was measured of one table with so many connections.
#[derive(Debug, Default, Clone)]
struct Figures {
    edits: u64,
    time: Duration,
    /// The most changes that waited, and how many did when the editors stopped.
    most_waiting: i64,
    left_waiting: i64,
    /// How long it took until none did.
    drained_in: Duration,
}

impl Figures {
    fn rate(&self) -> f64 {
        self.edits as f64 / self.time.as_secs_f64()
    }
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let (tables, turns, turn) = match Arguments::of_this_process().quick {
        true => (&Table::QUICK[..], 2, Duration::from_millis(300)),
        false => (&Table::ALL[..], 3, Duration::from_millis(1_000)),
    };
    let postgres = Postgres::start(&[
        "fsync=on",
        "shared_buffers=512MB",
        "max_wal_size=4GB",
        "max_connections=600",
    ])
    .await?;
    let worker = prepare(&postgres, tables).await?;
    let mut report = Report::new("editors");
    println!(
        "{AGENTS} agents with prompts of 1.5 KB, edited one at a time at random, fsync on; load of the machine before: {}",
        load()
    );
    for connections in [1, 8, 32, 64] {
        let mut crews = Vec::new();
        for table in tables {
            crews.push(Crew::new(*table, connections, &postgres).await?);
        }
        for crew in &mut crews {
            crew.work(turn / 2).await?;
            crew.figures = Figures::default();
        }
        for _ in 0..turns {
            for crew in &mut crews {
                // Whether what waits has an end takes longer to see.
                let turn = if crew.table.is_drained() {
                    turn * 2
                } else {
                    turn
                };
                crew.work(turn).await?;
            }
        }
        let bare = crews[0].figures.rate();
        for crew in &crews[1..] {
            let rate = crew.figures.rate();
            report.line(Line {
                work: format!("edits, {connections} connections: {}", crew.table.title()),
                ours: format!("{rate:.0}/s"),
                floor: Some(format!("{bare:.0}/s")),
                figure: Some(rate / bare),
                target: (crew.table == Table::Worker).then_some(match connections {
                    1 => Target::AtLeast(0.8),
                    _ => Target::AtLeast(0.85),
                }),
            });
        }
        for crew in crews.iter().filter(|crew| crew.table == Table::Worker) {
            let Figures {
                most_waiting,
                left_waiting,
                drained_in,
                ..
            } = crew.figures;
            // Who edits changes one agent at a time: no more can wait than there are, but for those edited twice meanwhile.
            report.line(Line {
                work: format!("edits, {connections} connections: changes that waited, at most"),
                ours: format!(
                    "{most_waiting}, {left_waiting} for {:.2} s",
                    drained_in.as_secs_f64()
                ),
                floor: None,
                figure: Some(most_waiting as f64),
                target: Some(Target::AtMost(f64::from(AGENTS))),
            });
        }
    }
    println!("load of the machine afterwards: {}", load());
    report.finish()?;
    drop(worker);
    postgres.stop();
    Ok(())
}

/// The databases, with the same agents in each, and the worker on one.
async fn prepare(postgres: &Postgres, tables: &[Table]) -> Result<Server, AnyError> {
    let execute = async |database: &str, text: &str| postgres.execute(database, text).await;
    execute("postgres", "create database bare").await?;
    execute("bare", SCHEMA).await?;
    let agents = data(AGENTS).replace("truncate agent_sync.outbox;", "");
    execute("bare", &agents).await?;
    let migrated = |database: &'static str| async move {
        let url: DatabaseUrl = postgres.url(database).parse()?;
        migrations::migrate(&Database::new(&url), Duration::ZERO).await?;
        Ok::<_, AnyError>(())
    };
    for table in tables.iter().filter(|table| **table != Table::Bare) {
        let name = table.database();
        execute("postgres", &format!("create database {name} template bare")).await?;
        match table {
            Table::Bare => {}
            Table::Nothing => execute(name, NOTHING).await?,
            Table::OneRow => execute(name, ONE_ROW).await?,
            Table::Triggers | Table::LeastWorker | Table::Worker => migrated(name).await?,
        }
    }
    let worker = Server::start(&postgres.url(Table::Worker.database()), "all")?;
    worker.ready().await?;
    if tables.contains(&Table::LeastWorker) {
        let url = postgres.url(Table::LeastWorker.database());
        let client = connect(&url).await?;
        client
            .batch_execute(
                "insert into langgraph_server.assistants (id, graph_id, config, version)
                 select id::text, graph_id, jsonb_build_object('configurable', jsonb_build_object('system_prompt', system_prompt)), 1
                 from public.agents",
            )
            .await?;
        tokio::spawn(async move {
            loop {
                match client.execute(LEAST, &[]).await {
                    Ok(1..) => {}
                    Ok(0) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(_) => break,
                }
            }
        });
    }
    for table in tables {
        execute(table.database(), "vacuum analyze").await?;
    }
    Ok(worker)
}

/// So many editors of one table.
struct Crew {
    table: Table,
    editors: Vec<Arc<Client>>,
    agents: Arc<Vec<Uuid>>,
    observer: Client,
    figures: Figures,
}

impl Crew {
    async fn new(table: Table, connections: usize, postgres: &Postgres) -> Result<Self, AnyError> {
        let url = postgres.url(table.database());
        let observer = connect(&url).await?;
        let rows = observer.query("select id from public.agents", &[]).await?;
        let mut editors = Vec::new();
        for _ in 0..connections {
            editors.push(Arc::new(connect(&url).await?));
        }
        Ok(Self {
            table,
            editors,
            agents: Arc::new(rows.iter().map(|row| row.get(0)).collect()),
            observer,
            figures: Figures::default(),
        })
    }

    /// Edits for so long; and waits until that has no consequences any more.
    async fn work(&mut self, turn: Duration) -> Result<(), AnyError> {
        let (stop, edits) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut working = JoinSet::new();
        let started = Instant::now();
        for (n, editor) in self.editors.iter().enumerate() {
            let (editor, agents) = (editor.clone(), self.agents.clone());
            let (stop, edits) = (stop.clone(), edits.clone());
            let mut dice = Dice::new(n as u64 + self.figures.edits);
            working.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (agent, words) = (dice.roll() % agents.len() as u64, dice.roll());
                    let edit = format!(
                        "update public.agents set system_prompt = {} || substr(system_prompt, 10) where id = '{}'",
                        100_000_000 + words % 900_000_000,
                        agents[usize::try_from(agent).unwrap_or(0)]
                    );
                    editor.simple_query(&edit).await?;
                    edits.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, tokio_postgres::Error>(())
            });
        }
        while started.elapsed() < turn {
            let left = turn.saturating_sub(started.elapsed());
            tokio::time::sleep(left.min(Duration::from_millis(300))).await;
            if self.table.is_drained() {
                let waiting = self.waiting().await?;
                self.figures.most_waiting = self.figures.most_waiting.max(waiting);
            }
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(worked) = working.join_next().await {
            worked??;
        }
        self.figures.edits += edits.load(Ordering::Relaxed);
        self.figures.time += started.elapsed();
        if self.table.is_drained() {
            let started = Instant::now();
            self.figures.left_waiting = self.waiting().await?;
            while self.waiting().await? > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.figures.drained_in = started.elapsed();
        }
        Ok(())
    }

    async fn waiting(&self) -> Result<i64, AnyError> {
        let statement = "select count(*) from agent_sync.outbox";
        Ok(self.observer.query_one(statement, &[]).await?.get(0))
    }
}

/// Xorshift: random enough for who is edited next.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// As Linux tells it: of the last minute.
fn load() -> String {
    let told = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    told.split(' ').next().unwrap_or("unknown").to_owned()
}
