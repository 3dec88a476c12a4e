//! A pass passes by agents of which one statement tells that there is nothing to do: never one where a closer look finds something.

use std::collections::BTreeSet;

use agent_sync::access::Access;
use agent_sync::config::Settings;
use agent_sync::database::begin;
use agent_sync::ids::{AgentId, SYSTEM};
use agent_sync::ledger::{self, NewEntry, Written};
use agent_sync::pass::{self, Extent};
use agent_sync::scope::Scope;
use agent_sync::source::{Page, Stretch};
use agent_sync::syncer::{Overview, Summary, Syncer};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker};

/// A database that is migrated, in which everything is in scope, and a syncer; no worker runs.
async fn setting() -> (TestDatabase, Syncer) {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[("AGENT_SYNC_SCOPE", "all")])
        .await
        .stop()
        .await;
    let syncer = restarted(&db, Settings::default());
    (db, syncer)
}

/// As after another start of the worker.
fn restarted(db: &TestDatabase, settings: Settings) -> Syncer {
    Syncer::new(db.pool(), Access::open(), settings)
}

/// An agent that uses every table, with an engine, a model and a tool of its own.
async fn agent(db: &TestDatabase) -> AgentId {
    let id = Uuid::new_v4();
    let (organization, _) = db.organization().await;
    db.execute(&format!(
        "insert into public.ai_models values ('{id}', 'model');
         insert into public.global_ai_engines values ('{id}', 'engine', '{id}');
         insert into public.mcp_tools values ('{id}', 'tool', 'https://tool.example', false, false);
         insert into public.agents (id, organization_id, name, description, status, engine_id, system_prompt, sampling_params)
         values ('{id}', '{organization}', 'name', 'description', 'active', '{id}', 'prompt', '{{\"temperature\": 1}}');
         insert into public.agent_mcp_tools values ('{id}', '{id}')"
    ))
    .await;
    AgentId(id)
}

async fn agents<const N: usize>(db: &TestDatabase) -> [AgentId; N] {
    let mut agents = [AgentId(Uuid::nil()); N];
    for place in &mut agents {
        *place = agent(db).await;
    }
    agents
}

/// A pass, as if nothing had announced anything.
async fn pass(db: &TestDatabase, syncer: &Syncer) -> Summary {
    db.forget_edits().await;
    let stop = CancellationToken::new();
    let passing = pass::run(syncer, &Scope::All, Extent::Reach, &stop);
    passing.await.expect("a pass")
}

async fn look(syncer: &Syncer) -> Page {
    let stretch = Stretch {
        scope: &Scope::All,
        extent: Extent::Reach,
        after: None,
        limit: 1000,
    };
    match syncer.look_over(&stretch).await.expect("a look") {
        Overview::Seen(Some(page)) => page,
        other => panic!("{other:?}"),
    }
}

/// The agents that a pass would look at one by one.
async fn due(syncer: &Syncer) -> BTreeSet<AgentId> {
    look(syncer).await.due.into_iter().collect()
}

/// A pass that looks at every agent one by one finds nothing to do.
async fn a_closer_look_finds_nothing(db: &TestDatabase, syncer: &Syncer) {
    a_closer_look_finds_what_is_left(db, syncer, 0).await;
}

/// The same, but for so many that fail.
async fn a_closer_look_finds_what_is_left(db: &TestDatabase, syncer: &Syncer, failing: usize) {
    db.execute("update agent_sync.ledger set source_hash = null")
        .await;
    let before = db.versions().await;
    let summary = pass(db, syncer).await;
    assert_eq!(summary.total() - summary.skipped, failing, "{summary}");
    assert_eq!(db.versions().await, before);
}

#[tokio::test]
async fn what_was_synced_is_passed_by_and_counted_and_nothing_is_written() {
    let (db, syncer) = setting().await;
    agents::<3>(&db).await;
    let first = pass(&db, &syncer).await;
    assert_eq!((first.created, first.total()), (3, 3));

    let rows = "select (select md5(string_agg(l.xmin || l.ctid::text, '' order by assistant_id)) from agent_sync.ledger l)
        || (select md5(string_agg(a.xmin || a.ctid::text, '' order by id)) from langgraph_server.assistants a)
        || (select md5(string_agg(a.xmin || a.ctid::text, '' order by id)) from public.agents a)";
    let before: String = db.rows(rows, &[]).await[0].get(0);
    let page = look(&syncer).await;
    assert_eq!((page.unchanged, page.due), (3, Vec::new()));
    let second = pass(&db, &syncer).await;
    assert_eq!((second.skipped, second.total()), (3, 3));
    assert_eq!(before, db.rows(rows, &[]).await[0].get::<_, String>(0));
    a_closer_look_finds_nothing(&db, &syncer).await;
    assert_eq!(due(&syncer).await, BTreeSet::new(), "noted once more");
}

#[tokio::test]
async fn every_edit_that_nothing_announced_is_found() {
    let (db, syncer) = setting().await;
    let (organization, _) = db.organization().await;
    let other = agent(&db).await;
    let moved = format!("organization_id = '{organization}'");
    let another_engine = format!("engine_id = '{other}'");
    let tools = format!("assistant_tool_ids = '{{{other}}}'");
    let of_agents = [
        &moved,
        &another_engine,
        &tools,
        "name = 'x'",
        "name = ''",
        "description = 'x'",
        "description = null",
        "status = 'disabled'",
        "deleted_at = now()",
        "graph_id = 'x'",
        "engine_id = null",
        "system_prompt = 'x'",
        "system_prompt = null",
        "sampling_params = '{\"temperature\": 2}'",
        "sampling_params = null",
        "sampling_params = '[]'",
        "langgraph_assistant_id = null",
        "langgraph_assistant_id = 'x'",
    ];
    let mut edits: Vec<String> = of_agents
        .iter()
        .map(|edit| format!("update public.agents set {edit} where id = ':id'"))
        .collect();
    edits.extend(
        [
            "update public.mcp_tools set tool_name = 'x' where id = ':id'",
            "update public.mcp_tools set endpoint_url = 'https://x.example' where id = ':id'",
            "update public.mcp_tools set auth_required = true where id = ':id'",
            "delete from public.mcp_tools where id = ':id'",
            "delete from public.agent_mcp_tools where agent_id = ':id'",
            "insert into public.agent_mcp_tools values (':id', ':other')",
            "update public.global_ai_engines set language_model_id = ':other' where id = ':id'",
            "update public.global_ai_engines set language_model_id = null where id = ':id'",
            "update public.ai_models set runtime_model_name = 'x' where id = ':id'",
            "delete from public.ai_models where id = ':id'",
            "delete from public.agents where id = ':id'",
            "update langgraph_server.assistants set graph_id = 'x' where id = ':id'",
            "update langgraph_server.assistants set name = 'x' where id = ':id'",
            "update langgraph_server.assistants set description = null where id = ':id'",
            "update langgraph_server.assistants set config = '{}' where id = ':id'",
            "update langgraph_server.assistants set context = '{\"x\": 1}' where id = ':id'",
            "update langgraph_server.assistants set metadata = '{}' where id = ':id'",
            "update langgraph_server.assistants set metadata = metadata || '{\"owner\": \"x\"}' where id = ':id'",
            "delete from langgraph_server.assistants where id = ':id'",
            "delete from agent_sync.ledger where agent_id = ':id'",
            "update agent_sync.ledger set state = 'failed' where agent_id = ':id'",
            "update agent_sync.ledger set state = 'held' where agent_id = ':id'",
            "update agent_sync.ledger set owner = 'x' where agent_id = ':id'",
            "update agent_sync.ledger set content_hash = 'x' where agent_id = ':id'",
            "update agent_sync.ledger set row_hash = 'x' where agent_id = ':id'",
            "update agent_sync.ledger set source_hash = 'x' where agent_id = ':id'",
            // Where a row was deleted, another may lie; and one transaction may write several versions.
            "update agent_sync.ledger set row_xmin = '3' where agent_id = ':id'",
            "update agent_sync.ledger set row_ctid = '(7,7)' where agent_id = ':id'",
        ]
        .map(str::to_owned),
    );
    let mut edited = BTreeSet::new();
    let mut statements = Vec::new();
    for edit in &edits {
        let id = agent(&db).await;
        statements.push(
            edit.replace(":id", &id.to_string())
                .replace(":other", &other.to_string()),
        );
        edited.insert(id);
    }
    // As a worker of another version leaves it: nothing is noted, or no assistant of ours is there.
    let control = agents::<2>(&db).await;
    pass(&db, &syncer).await;
    assert_eq!(due(&syncer).await, BTreeSet::new());

    for (statement, edit) in statements.iter().zip(&edits) {
        let before = due(&syncer).await.len();
        db.execute(statement).await;
        assert_eq!(due(&syncer).await.len(), before + 1, "{edit}");
    }
    assert_eq!(due(&syncer).await, edited);
    let summary = pass(&db, &syncer).await;
    assert!(summary.skipped > control.len(), "{summary}");
    assert_eq!(summary.failed, 1, "the one with a list for parameters");
    a_closer_look_finds_what_is_left(&db, &syncer, summary.failed).await;
}

#[tokio::test]
async fn where_agents_need_not_name_their_assistants_those_that_do_not_are_passed_by_too() {
    let (db, _) = setting().await;
    agents::<2>(&db).await;
    let settings = Settings {
        write_back: false,
        ..Settings::default()
    };
    let syncer = restarted(&db, settings);
    assert_eq!(pass(&db, &syncer).await.created, 2);
    let page = look(&syncer).await;
    assert_eq!((page.unchanged, page.due), (2, Vec::new()));
}

#[tokio::test]
async fn a_metadata_key_of_somebody_elses_is_looked_at_once() {
    let (db, syncer) = setting().await;
    let [pinned, _] = agents(&db).await;
    pass(&db, &syncer).await;
    db.execute(&format!(
        "update langgraph_server.assistants set metadata = metadata || '{{\"pinned\": true}}' where id = '{pinned}'"
    ))
    .await;
    assert_eq!(due(&syncer).await, BTreeSet::from([pinned]));
    let before = db.versions().await;
    assert!(!pass(&db, &syncer).await.is_effective());
    assert_eq!(db.versions().await, before);
    assert_eq!(due(&syncer).await, BTreeSet::new());
}

#[tokio::test]
async fn a_row_that_a_trigger_changes_after_our_write_is_looked_at_again() {
    let (db, syncer) = setting().await;
    let [changed] = agents(&db).await;
    db.execute(
        "create function public.meddle() returns trigger language plpgsql as $$
         begin
           update langgraph_server.assistants set name = 'meddled' where id = new.id;
           return null;
         end $$;
         create trigger meddle after insert on langgraph_server.assistants for each row execute function public.meddle()",
    )
    .await;
    pass(&db, &syncer).await;
    // The same transaction wrote both versions.
    assert_eq!(due(&syncer).await, BTreeSet::from([changed]));
    pass(&db, &syncer).await;
    assert_eq!(db.differences().await, Vec::<String>::new());
}

#[tokio::test]
async fn other_settings_and_another_shape_of_the_tables_are_another_look_at_all_agents() {
    let (db, syncer) = setting().await;
    let all = BTreeSet::from(agents::<2>(&db).await);
    pass(&db, &syncer).await;
    assert_eq!(due(&syncer).await, BTreeSet::new());
    let other = Settings {
        default_model: "x:y".to_owned(),
        ..Settings::default()
    };
    assert_eq!(due(&restarted(&db, other)).await, all);

    for (change, summary) in [
        (
            "alter table public.agents drop column sampling_params",
            "temperature is not said any more",
        ),
        (
            "alter table public.agents add column temperature float default 0.5",
            "and another",
        ),
        (
            "alter table public.agents drop column description",
            "nor the description",
        ),
        (
            "alter table public.mcp_tools drop column auth_required",
            "nothing of it changes",
        ),
        ("drop table public.agent_mcp_tools", "no tools"),
        (
            "alter table public.agents drop column engine_id cascade",
            "no model",
        ),
        (
            "alter table public.agents drop column langgraph_assistant_id",
            "no name",
        ),
    ] {
        db.execute(change).await;
        let syncer = restarted(&db, Settings::default());
        pass(&db, &syncer).await;
        assert_eq!(due(&syncer).await, BTreeSet::new(), "{change}: {summary}");
        a_closer_look_finds_nothing(&db, &syncer).await;
    }
    let assistant = db
        .assistant(all.first().expect("one").0)
        .await
        .expect("an assistant");
    assert_eq!(assistant["description"], serde_json::Value::Null);
    assert_eq!(assistant["config"]["configurable"]["temperature"], 0.5);
}

#[tokio::test]
async fn an_agent_with_a_users_assistant_is_looked_at_every_time() {
    let (db, syncer) = setting().await;
    let [shared, _] = agents(&db).await;
    pass(&db, &syncer).await;
    let copy = shared.copy_for("alice");
    db.execute(&format!(
        "insert into agent_sync.ledger (assistant_id, agent_id, owner, state) values ('{copy}', '{shared}', 'alice', 'removed')"
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(due(&syncer).await, BTreeSet::from([shared]));
        pass(&db, &syncer).await;
    }
}

#[tokio::test]
async fn agents_that_are_gone_and_done_with_are_passed_by() {
    let (db, syncer) = setting().await;
    let [gone, off, _] = agents(&db).await;
    pass(&db, &syncer).await;
    db.execute(&format!(
        "delete from public.agents where id = '{gone}'; update public.agents set status = 'draft' where id = '{off}'"
    ))
    .await;
    assert_eq!(pass(&db, &syncer).await.removed, 2);
    let page = look(&syncer).await;
    assert_eq!((page.gone, page.unchanged), (1, 1));
    assert_eq!(page.due, [off]);
    db.execute(&format!(
        "update public.agents set status = 'active' where id = '{off}'"
    ))
    .await;
    assert_eq!(pass(&db, &syncer).await.created, 1);
    assert_eq!(db.differences().await, Vec::<String>::new());
}

/// Of an assistant that is about to be written elsewhere, the ledger does not say any more which row of the table it knows.
#[tokio::test]
async fn what_is_announced_is_of_no_version_of_a_row() {
    let (db, syncer) = setting().await;
    let [agent] = agents(&db).await;
    pass(&db, &syncer).await;
    let of_a_row = "agent_sync.ledger where row_xmin is not null or row_ctid is not null";
    assert_eq!(db.count(of_a_row).await, 1);
    // Nobody has said yet that it is ours.
    db.execute("update agent_sync.ledger set content_hash = null")
        .await;
    let pool = db.pool();
    let mut client = pool.client().await.expect("a connection");
    let tx = begin(&mut client).await.expect("begun");
    let announced = Written {
        entry: NewEntry {
            assistant_id: agent.canonical(),
            agent_id: agent,
            organization_id: None,
            owner: SYSTEM.to_owned(),
            content_hash: Vec::new(),
            said: None,
        },
        row_hash: b"what is sent".to_vec(),
    };
    ledger::intended(&tx, &[announced])
        .await
        .expect("announced");
    tx.commit().await.expect("committed");
    assert_eq!(db.count(of_a_row).await, 0);
}
