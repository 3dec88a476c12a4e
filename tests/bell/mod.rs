//! The bell: who edits is silent unless somebody sleeps, and whoever sleeps is rung for. On a real server, one case at a time;
//! all cases at once are in `model`.

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent_sync::config::{DATABASE_URL, SCOPE};
use futures::{StreamExt, stream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::database::Role;
use crate::support::pgbouncer::Pgbouncer;
use crate::support::proxy::Proxy;
use crate::support::{TestDatabase, TestWorker, eventually};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

/// The lock, as a session that wants it alone asks for it.
const TAKE: &str = include_str!("../../sql/queries/bell_take.sql");

/// The bell's lock in `pg_locks`.
const LOCK: &str = "pg_locks as l where locktype = 'advisory' and objsubid = 1
    and database = (select oid from pg_database where datname = current_database())
    and (classid::bigint << 32 | objid::bigint) = hashtextextended('agent_sync.bell', 0)";

/// Who edits, each on a connection of his own.
struct Editor(Client);

impl Editor {
    async fn new(db: &TestDatabase) -> Self {
        Self(db.connect().await)
    }

    async fn says(&self, statements: &str) {
        self.0.batch_execute(statements).await.expect(statements);
    }

    async fn edits(&self, agent: Uuid, prompt: &str) {
        self.says(&edit(agent, prompt)).await;
    }

    /// Begins a transaction, and edits in it in silence: nobody must want the bell.
    async fn begins(&self, agent: Uuid, prompt: &str) {
        self.says(&format!("begin; {}", edit(agent, prompt))).await;
    }
}

fn edit(agent: Uuid, prompt: &str) -> String {
    format!("update public.agents set system_prompt = '{prompt}' where id = '{agent}'")
}

/// Rings, as they are heard.
struct Rings {
    _client: Client,
    heard: mpsc::UnboundedReceiver<String>,
    marks: u32,
}

impl Rings {
    async fn of(db: &TestDatabase) -> Self {
        let (client, mut connection) = tokio_postgres::connect(&db.superuser_url, NoTls)
            .await
            .expect("connected");
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(note) = message {
                    let _ = tell.send(note.channel().to_owned());
                }
            }
        });
        client
            .batch_execute("listen agent_sync; listen mark")
            .await
            .expect("listening");
        Self {
            _client: client,
            heard,
            marks: 0,
        }
    }

    /// How often it has rung since it was asked last. Notifications come in the order of their commits.
    async fn heard(&mut self, db: &TestDatabase) -> usize {
        self.marks += 1;
        db.execute("notify mark").await;
        let mut rings = 0;
        while self.heard.recv().await.expect("a notification") != "mark" {
            rings += 1;
        }
        rings
    }
}

impl TestDatabase {
    /// A migrated one with so many agents, without a worker.
    async fn with_agents(agents: usize) -> (Self, Vec<Uuid>) {
        let db = Self::new().await;
        TestWorker::start(&db, &[]).await.stop().await;
        let mut ids = Vec::new();
        for n in 0..agents {
            ids.push(db.agent(&n.to_string()).await);
        }
        db.forget_edits().await;
        db.nobody_wants_the_bell().await;
        (db, ids)
    }

    /// How many sessions have the bell for themselves, wait for it, and share it.
    async fn bell(&self) -> (i64, i64, i64) {
        let row = &self
            .rows(
                &format!(
                    "select count(*) filter (where granted and mode = 'ExclusiveLock'), count(*) filter (where not granted),
                       count(*) filter (where granted and mode = 'ShareLock') from {LOCK}"
                ),
                &[],
            )
            .await[0];
        (row.get(0), row.get(1), row.get(2))
    }

    async fn has_bell(&self, what: &str, expected: (i64, i64, i64)) {
        eventually(what, || async {
            match self.bell().await {
                now if now == expected => Ok(()),
                now => Err(format!("had, waited for, shared: {now:?}")),
            }
        })
        .await;
    }

    async fn nobody_wants_the_bell(&self) {
        self.has_bell("nobody wants the bell", (0, 0, 0)).await;
    }

    async fn somebody_sleeps(&self) {
        self.has_bell("somebody has the bell", (1, 0, 0)).await;
    }

    /// Rings as thick as keeps a worker awake, however slow the machine: in one transaction it rings once for each payload.
    async fn rings_come_thick(&self) {
        self.execute("select pg_notify('agent_sync', n::text) from generate_series(1, 8) as n")
            .await;
    }

    /// Ends the session that has the bell for a worker.
    async fn end_session(&self) {
        self.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'agent-sync bell'",
        )
        .await;
    }
}

#[tokio::test]
async fn who_edits_is_silent_unless_somebody_has_the_bell_or_waits_for_it() {
    let (db, agents) = TestDatabase::with_agents(2).await;
    let mut rings = Rings::of(&db).await;
    let [one, other, worker] = [
        Editor::new(&db).await,
        Editor::new(&db).await,
        Editor::new(&db).await,
    ];
    one.edits(agents[0], "nobody sleeps").await;
    assert_eq!(rings.heard(&db).await, 0);

    worker.says(TAKE).await;
    one.edits(agents[0], "somebody sleeps").await;
    assert_eq!(rings.heard(&db).await, 1);
    one.says("update public.agents set langgraph_assistant_id = 'nothing that counts'")
        .await;
    assert_eq!(rings.heard(&db).await, 0);
    one.says(
        "insert into public.mcp_tools (tool_name) values ('t'); truncate public.agent_mcp_tools",
    )
    .await;
    assert_eq!(rings.heard(&db).await, 1, "one transaction, one ring");
    worker.says("select pg_advisory_unlock_all()").await;
    one.says("delete from public.mcp_tools").await;
    assert_eq!(rings.heard(&db).await, 0);

    // Whoever waits is rung for, though not by whom he waits for; and nobody waits for him.
    one.begins(agents[0], "silent").await;
    let waiting = tokio::spawn(async move { worker.says(TAKE).await });
    db.has_bell("it waits", (0, 1, 1)).await;
    other.edits(agents[1], "rings").await;
    assert_eq!(rings.heard(&db).await, 1);
    one.edits(agents[0], "silent as before").await;
    one.says("commit").await;
    assert_eq!(rings.heard(&db).await, 0);
    waiting.await.expect("it has it");
}

/// When the bell is had, everything can be seen that was recorded in silence.
#[tokio::test]
async fn a_silent_edit_can_be_seen_before_the_bell_is_granted() {
    let (db, agents) = TestDatabase::with_agents(8).await;
    let worker = Editor::new(&db).await;
    for round in 0..25 {
        let mut editors = JoinSet::new();
        for agent in agents.clone() {
            let editor = Editor::new(&db).await;
            editor.begins(agent, &format!("round {round}")).await;
            editors.spawn(async move { editor.says("commit").await });
        }
        worker.says(TAKE).await;
        let seen = worker
            .0
            .query_one("select count(*) from agent_sync.outbox", &[]);
        let seen: i64 = seen.await.expect("counted").get(0);
        assert_eq!(seen, 8, "in round {round}");
        worker.says("select pg_advisory_unlock_all()").await;
        db.forget_edits().await;
        editors.join_all().await;
    }
}

#[tokio::test]
async fn what_is_taken_back_is_not_waited_for_and_what_comes_after_it_rings() {
    let (db, agents) = TestDatabase::with_agents(1).await;
    let mut rings = Rings::of(&db).await;
    let (editor, worker) = (Editor::new(&db).await, Editor::new(&db).await);
    editor.says("begin; savepoint s").await;
    editor.edits(agents[0], "silent").await;
    editor.says("rollback to s").await;
    worker.says(TAKE).await;
    editor.edits(agents[0], "rings").await;
    editor.says("commit").await;
    assert_eq!(rings.heard(&db).await, 1);
    assert_eq!(db.count("agent_sync.outbox").await, 1);
    worker.says("select pg_advisory_unlock_all()").await;

    // What stands keeps the lock, whatever is taken back besides.
    editor.says("begin; savepoint s").await;
    editor.edits(agents[0], "silent").await;
    editor.says("release s; savepoint s").await;
    editor.edits(agents[0], "silent, too").await;
    editor.says("rollback to s").await;
    assert_eq!(db.bell().await, (0, 0, 1));
    editor.says("rollback").await;
    assert_eq!(db.bell().await, (0, 0, 0));
}

#[tokio::test]
async fn a_worker_sleeps_with_the_bell_and_behind_a_pooler_without_it() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, ALL).await;
    db.somebody_sleeps().await;
    db.execute(&edit(agent, "it rings")).await;
    db.prompted(agent, "it rings").await;
    assert_eq!(db.bell().await, (1, 0, 0), "one edit wakes nobody for long");
    worker.stop().await;
    db.nobody_wants_the_bell().await;

    let pooler = Pgbouncer::before(&db).await;
    let variables = [(DATABASE_URL, pooler.url.as_str()), (SCOPE, "all")];
    let running = Running::start(&[], &[&variables, FREE_PORTS].concat());
    running.line("notifications do not arrive").await;
    db.execute(&edit(agent, "it polls")).await;
    db.prompted(agent, "it polls").await;
    assert_eq!(db.bell().await, (0, 0, 0));
}

/// Many at once are silent while they edit, and when they have ended, whoever comes next rings again.
#[tokio::test]
async fn where_rings_come_thick_a_worker_stays_awake_until_nobody_edits() {
    let (db, agents) = TestDatabase::with_agents(8).await;
    let rings = Mutex::new(Rings::of(&db).await);
    let worker = TestWorker::start(&db, ALL).await;
    db.converged().await;
    db.somebody_sleeps().await;
    rings.lock().await.heard(&db).await;

    let (stop, edits) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut editors = JoinSet::new();
    for agent in agents.clone() {
        let (editor, stop, edits) = (Editor::new(&db).await, stop.clone(), edits.clone());
        editors.spawn(async move {
            while !stop.is_cancelled() {
                let number = edits.fetch_add(1, Ordering::Relaxed);
                editor.edits(agent, &format!("edit {number}")).await;
            }
            editor.edits(agent, "the last word").await;
        });
    }
    eventually("it has rung", || async {
        match rings.lock().await.heard(&db).await {
            0 => Err("never".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    eventually("a hundred edits in silence", || async {
        let mut rings = rings.lock().await;
        rings.heard(&db).await;
        let before = edits.load(Ordering::Relaxed);
        while edits.load(Ordering::Relaxed) < before + 100 {
            tokio::task::yield_now().await;
        }
        match rings.heard(&db).await {
            0 => Ok(()),
            heard => Err(format!("{heard} rang")),
        }
    })
    .await;
    stop.cancel();
    editors.join_all().await;
    for agent in &agents {
        db.prompted(*agent, "the last word").await;
    }

    db.somebody_sleeps().await;
    db.converged().await;
    let mut rings = rings.into_inner();
    rings.heard(&db).await;
    db.execute(&edit(agents[0], "once more")).await;
    db.prompted(agents[0], "once more").await;
    assert_eq!(rings.heard(&db).await, 1);
    worker.stop().await;
}

/// As people leave transactions open over lunch. His own edit is announced by his commit, others' at once.
#[tokio::test]
async fn an_editor_who_sits_idle_in_a_transaction_keeps_nobody_from_being_heard() {
    let (db, agents) = TestDatabase::with_agents(3).await;
    let mut rings = Rings::of(&db).await;
    let (idle, slow) = (Editor::new(&db).await, Editor::new(&db).await);
    idle.begins(agents[0], "after lunch").await;
    slow.begins(agents[1], "found by a poll").await;
    let worker = TestWorker::start(&db, ALL).await;
    db.has_bell("it waits for both", (0, 1, 2)).await;
    db.execute(&edit(agents[2], "heard")).await;
    db.prompted(agents[2], "heard").await;
    assert_eq!(rings.heard(&db).await, 1);
    slow.says("commit").await;
    db.prompted(agents[1], "found by a poll").await;
    assert_eq!((rings.heard(&db).await, db.bell().await), (0, (0, 1, 1)));

    // It does not wait for ever, as whoever waits keeps dead rows from being removed; and begins anew at once.
    let sessions = "application_name = 'agent-sync bell' and datname = current_database()";
    let since = async || -> String {
        let statement = format!("select query_start::text from pg_stat_activity where {sessions}");
        db.rows(&statement, &[]).await[0].get(0)
    };
    let waits_anew = async |before: String| {
        eventually("it waits anew", || async {
            match (since().await, db.bell().await) {
                (now, (0, 1, 1)) if now != before => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await;
    };
    let before = since().await;
    db.execute(&format!(
        "select pg_cancel_backend(pid) from pg_stat_activity where {sessions}"
    ))
    .await;
    waits_anew(before).await;

    // Nor while the worker is awake.
    let before = since().await;
    db.rings_come_thick().await;
    waits_anew(before).await;
    idle.says("commit").await;
    db.prompted(agents[0], "after lunch").await;
    db.somebody_sleeps().await;
    worker.stop().await;
}

#[tokio::test]
async fn of_two_workers_one_has_the_bell_and_the_other_hears_it_whatever_becomes_of_the_first() {
    let (db, agents) = TestDatabase::with_agents(1).await;
    let mut rings = Rings::of(&db).await;
    let edited = async |prompt: &str| {
        db.execute(&edit(agents[0], prompt)).await;
        db.prompted(agents[0], prompt).await;
    };
    let mut first = Running::serve(&db, ALL);
    db.somebody_sleeps().await;
    let second = Running::serve(&db, ALL);
    db.has_bell("the other waits", (1, 1, 0)).await;
    db.converged().await;
    rings.heard(&db).await;
    edited("both hear it").await;
    first.signal("-STOP");
    edited("the second hears it").await;
    first.signal("-KILL");
    first.ended().await;
    db.somebody_sleeps().await;
    edited("the second has it").await;
    assert_eq!(rings.heard(&db).await, 3);
    let said = second.output();
    assert!(!said.contains("no connection"), "{said}");
}

/// By fault, or by whoever tidies up. What was edited in silence meanwhile is found.
#[tokio::test]
async fn a_session_for_the_bell_that_has_ended_is_made_anew() {
    let (db, agents) = TestDatabase::with_agents(1).await;
    let proxy = Proxy::before(db.port()).await;
    let url = format!("{}?sslmode=disable", db.url_by_way_of(proxy.address));
    let variables = [(DATABASE_URL, url.as_str()), (SCOPE, "all")];
    let running = Running::start(&[], &[&variables, FREE_PORTS].concat());
    db.somebody_sleeps().await;
    db.end_session().await;
    db.execute(&edit(agents[0], "meanwhile")).await;
    db.prompted(agents[0], "meanwhile").await;
    db.somebody_sleeps().await;
    let said = running.line("no connection for the bell").await;
    assert!(said.contains("terminating connection"), "{said}");

    // And where nothing of its end reaches the worker, it asks as an editor would.
    proxy.stall_only("agent-sync bell");
    db.end_session().await;
    db.nobody_wants_the_bell().await;
    db.execute(&edit(agents[0], "unheard")).await;
    db.prompted(agents[0], "unheard").await;
    db.somebody_sleeps().await;
    running.line("it does not have the bell any more").await;
    assert!(!running.output().contains("no listening connection"));
}

/// A role that was made for a version before, and is not the installer's.
#[tokio::test]
async fn a_worker_that_may_not_look_says_so_and_goes_by_rings() {
    let db = TestDatabase::for_role(Role::Worker).await;
    let agent = db.agent("a").await;
    db.execute("revoke select on sequence agent_sync.outbox_id_seq from agent_sync_worker")
        .await;
    let running = Running::serve(&db, ALL);
    db.somebody_sleeps().await;
    db.rings_come_thick().await;
    let said = running.line("everybody who edits has to ring").await;
    assert!(said.contains("sql/roles.sql"), "{said}");
    db.somebody_sleeps().await;
    db.rings_come_thick().await;
    db.execute(&edit(agent, "heard")).await;
    db.prompted(agent, "heard").await;
    assert_eq!(db.bell().await, (1, 0, 0));
}
