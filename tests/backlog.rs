//! More changes than one batch: organizations take turns, and an outbox that grew for weeks is not gone through row by row.

use std::ops::RangeInclusive;

use agent_sync::access::Access;
use agent_sync::changes::{self, bursts::Bursts};
use agent_sync::config::{SCOPE, Settings};
use agent_sync::database::begin;
use agent_sync::ids::AgentId;
use agent_sync::outbox::{self, Order};
use agent_sync::syncer::Syncer;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker, eventually};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

impl TestDatabase {
    /// An organization with so many active agents.
    async fn organization_of(&self, agents: u32) -> Uuid {
        let (organization, _) = self.organization().await;
        self.execute(&format!(
            "insert into public.agents (name, status, organization_id)
             select 'a' || n, 'active', '{organization}' from generate_series(1, {agents}) as n"
        ))
        .await;
        organization
    }
}

/// How many of the claimed changes are of this organization's agents.
async fn claimed_of(db: &TestDatabase, claimed: &outbox::Claimed, organization: Uuid) -> i64 {
    let agents: Vec<Uuid> = claimed.agents().iter().map(|agent| agent.0).collect();
    let statement =
        "select count(*) from public.agents where id = any ($1) and organization_id = $2";
    db.rows(statement, &[&agents, &organization]).await[0].get(0)
}

#[tokio::test]
async fn a_bulk_edit_of_one_organization_does_not_keep_another_ones_edit_waiting() {
    let db = TestDatabase::new().await;
    let many = db.organization_of(3000).await;
    let few = db.organization_of(1).await;
    db.forget_edits().await;
    TestWorker::start(&db, ALL).await.stop().await;
    for organization in [many, few] {
        db.execute(&format!(
            "update public.agents set system_prompt = 'edited' where organization_id = '{organization}'"
        ))
        .await;
    }
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    changes::drain(&syncer, &mut Bursts::default(), &CancellationToken::new())
        .await
        .expect("drained");
    let before = db
        .count(&format!(
            "langgraph_server.assistants where version = 2 and updated_at < (
               select s.updated_at from langgraph_server.assistants as s
               where s.version = 2 and s.metadata ->> 'supabase_organization_id' = '{few}'
             )"
        ))
        .await;
    // The first batch does not know yet that there will be another; of the next two, either may be written first.
    assert!((500..=1000).contains(&before), "{before}");
    assert_eq!(db.differences().await, Vec::<String>::new());
}

#[tokio::test]
async fn every_organization_gets_its_turn_whatever_changed_and_the_oldest_get_theirs() {
    let db = TestDatabase::new().await;
    let many = db.organization_of(2000).await;
    let (mut few, tool) = (Vec::new(), Uuid::new_v4());
    db.execute(&format!(
        "insert into public.mcp_tools (id, tool_name) values ('{tool}', 't')"
    ))
    .await;
    for _ in 0..3 {
        few.push(db.organization_of(2).await);
    }
    db.forget_edits().await;
    TestWorker::start(&db, ALL).await.stop().await;
    let of = |organization: Uuid| format!("organization_id = '{organization}'");
    for kind in ["links", "updates", "deletes"] {
        let organizations = [&[many], few.as_slice()].concat();
        for organization in organizations {
            let of = of(organization);
            db.execute(&match kind {
                "links" => format!("insert into public.agent_mcp_tools select id, '{tool}' from public.agents where {of}"),
                "updates" => format!("update public.agents set name = name || '!' where {of}"),
                _ => format!("delete from public.agent_mcp_tools where agent_id in (select id from public.agents where {of})"),
            })
            .await;
        }
        let pool = db.pool();
        let mut client = pool.client().await.expect("a connection");
        let in_turns = Order::Turns { after: "" };
        let (tx, claimed) = outbox::claim(&pool, &mut client, in_turns, &[], 100)
            .await
            .expect("claimed");
        for organization in &few {
            assert_eq!(claimed_of(&db, &claimed, *organization).await, 2, "{kind}");
        }
        assert_eq!(claimed_of(&db, &claimed, many).await, 80, "{kind}");
        assert!(claimed.many);
        // Another worker takes the next ones.
        let other_pool = db.pool();
        let mut other = other_pool.client().await.expect("a connection");
        let (other, others) = outbox::claim(&other_pool, &mut other, in_turns, &[], 100)
            .await
            .expect("claimed");
        assert_eq!(claimed_of(&db, &others, many).await, 80, "{kind}");
        tx.rollback().await.expect("rolled back");
        other.rollback().await.expect("rolled back");
        db.execute("delete from agent_sync.outbox").await;
    }
}

/// However often it was edited: it is synced once for all that.
#[tokio::test]
async fn with_an_agents_change_come_all_that_there_are_of_it() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    for _ in 0..3 {
        db.organization_of(200).await;
    }
    for _ in 0..2 {
        db.execute("update public.agents set system_prompt = coalesce(system_prompt, '') || '!' where id::text < '8'")
            .await;
    }
    let pool = db.pool();
    let mut client = pool.client().await.expect("a connection");
    let in_turns = Order::Turns { after: "" };
    let claimed = outbox::claim(&pool, &mut client, in_turns, &[], 100).await;
    let (tx, claimed) = claimed.expect("claimed");
    assert!((80..=100).contains(&claimed.agents().len()));
    let recorded = "select key, array_agg(id order by id) from agent_sync.outbox group by key";
    let mut several = 0;
    for row in db.rows(recorded, &[]).await {
        let agent = AgentId(row.get::<_, String>(0).parse().expect("an uuid"));
        if let Some(changes) = claimed.changes.get(&agent) {
            let mut ids: Vec<i64> = changes.iter().map(|change| change.id).collect();
            ids.sort_unstable();
            assert_eq!(ids, row.get::<_, Vec<i64>>(1));
            several += usize::from(ids.len() == 3);
        }
    }
    assert!(several > 0);
    // What is recorded from now on is another's.
    db.execute("update public.agents set system_prompt = 'new'")
        .await;
    let before = db.count("agent_sync.outbox").await;
    let of_them: usize = claimed.changes.values().map(Vec::len).sum();
    outbox::settle_last(tx, None, &claimed)
        .await
        .expect("settled");
    let after = db.count("agent_sync.outbox").await;
    assert_eq!(before - after, of_them as i64);
}

/// However many there are, and though the planner has never seen that many.
#[tokio::test]
async fn a_claim_looks_at_little_more_than_what_it_takes() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    for _ in 0..30 {
        db.organization_of(100).await;
    }
    let pool = db.pool();
    for order in [Order::Age, Order::Turns { after: "" }] {
        let mut client = pool.client().await.expect("a connection");
        let claimed = outbox::claim(&pool, &mut client, order, &[], 100).await;
        let (tx, claimed) = claimed.expect("claimed");
        let claimed = claimed.agents().len();
        assert!((80..=100).contains(&claimed), "{order:?}: {claimed}");
        let looked_at = "select seq_tup_read, idx_tup_fetch from pg_catalog.pg_stat_xact_all_tables
             where relid = 'agent_sync.outbox'::regclass";
        let row = tx.query_one(looked_at, &[]).await.expect("counted");
        let (at_all, by_index): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(at_all, 0, "{order:?}");
        assert!((100..=300).contains(&by_index), "{order:?}: {by_index}");
        // And afterwards plans are made as before.
        let row = tx.query_one("show enable_sort", &[]).await.expect("shown");
        assert_eq!(row.get::<_, &str>(0), "on");
    }
}

/// 2,500 edited agents, in step before, and one of them that is not in the first batch.
async fn many_edits(db: &TestDatabase) -> Uuid {
    db.organization_of(2500).await;
    db.forget_edits().await;
    TestWorker::start(db, ALL).await.stop().await;
    db.execute("update public.agents set system_prompt = 'edited'")
        .await;
    let key = "select key::uuid from agent_sync.outbox order by id offset 700 limit 1";
    db.rows(key, &[]).await[0].get(0)
}

/// Drains, while somebody holds something until no more changes wait than these.
async fn drained_but_for(db: &TestDatabase, waiting: RangeInclusive<i64>, holder: &Client) {
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    let (mut bursts, shutdown) = (Bursts::default(), CancellationToken::new());
    let others = async {
        eventually("the others are done", || async {
            match db.count("agent_sync.outbox").await {
                left if waiting.contains(&left) => Ok(()),
                left => Err(format!("{left} are waiting")),
            }
        })
        .await;
        holder.batch_execute("rollback").await.expect("let go");
    };
    let (drained, ()) = tokio::join!(changes::drain(&syncer, &mut bursts, &shutdown), others);
    drained.expect("drained");
    assert_eq!(db.differences().await, Vec::<String>::new());
}

/// While one batch waits, for whatever it may be, the other is done.
#[tokio::test]
async fn where_there_are_many_changes_two_batches_are_worked_on_at_once() {
    let db = TestDatabase::new().await;
    let slow = many_edits(&db).await;
    db.execute(&format!(
        "create function public.wait() returns trigger language plpgsql as $$
         begin
           perform pg_advisory_xact_lock(79);
           return new;
         end $$;
         create trigger wait before update on langgraph_server.assistants
         for each row when (new.id = '{slow}') execute function public.wait()"
    ))
    .await;
    let holder = db.connect().await;
    let held = "begin; select pg_advisory_xact_lock(79)";
    holder.batch_execute(held).await.expect("held");
    // Of the two after the first one.
    drained_but_for(&db, 1500..=1600, &holder).await;
}

#[tokio::test]
async fn where_there_are_many_changes_no_batch_waits_for_an_agent_that_somebody_works_on() {
    let db = TestDatabase::new().await;
    let held = many_edits(&db).await;
    let holder = db.hold_agent(held).await;
    drained_but_for(&db, 1..=1, &holder).await;
}

/// There is one place for every five rows, and one of them is for where the last batch has left off.
#[tokio::test]
async fn more_organizations_than_there_are_places_get_their_turns_one_batch_after_the_other() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.organization_of(500).await;
    let mut others = Vec::new();
    for _ in 0..25 {
        others.push(db.organization_of(1).await);
    }
    let (pool, mut turn, mut missing) = (db.pool(), String::new(), others);
    let mut client = pool.client().await.expect("a connection");
    for left in [17, 8, 0] {
        let in_turns = Order::Turns { after: &turn };
        let (tx, claimed) = outbox::claim(&pool, &mut client, in_turns, &[], 50)
            .await
            .expect("claimed");
        assert!(claimed.many);
        turn = claimed.turn.clone().expect("a turn");
        let mut waiting = Vec::new();
        for organization in missing {
            if claimed_of(&db, &claimed, organization).await == 0 {
                waiting.push(organization);
            }
        }
        // Of the one with many agents, too, it is the turn once a round.
        assert!(waiting.len() <= left, "{} of {left}", waiting.len());
        missing = waiting;
        // As if there were more of each: nothing is taken out.
        tx.rollback().await.expect("rolled back");
    }
}

/// What a tool's change is spread into has organizations, too.
#[tokio::test]
async fn a_change_that_is_spread_keeps_the_turns() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    let organization = db.organization_of(2).await;
    db.execute(
        "insert into public.mcp_tools (tool_name) values ('t');
         insert into public.ai_models (runtime_model_name) values ('m');
         insert into public.global_ai_engines (language_model_id) select id from public.ai_models;
         update public.agents set engine_id = (select id from public.global_ai_engines);
         insert into public.agent_mcp_tools select a.id, t.id from public.agents a, public.mcp_tools t;
         delete from agent_sync.outbox",
    )
    .await;
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    let mut client = syncer.database.client().await.expect("a connection");
    for changed in [
        "update public.mcp_tools set tool_name = 'u'",
        "update public.ai_models set runtime_model_name = 'n'",
        "delete from public.ai_models",
        "truncate public.agent_mcp_tools",
    ] {
        db.execute(changed).await;
        let tx = begin(&mut client).await.expect("begun");
        let shape = syncer.source.shape(&tx).await.expect("a shape");
        assert!(
            outbox::spread(&tx, &shape).await.expect("spread"),
            "{changed}"
        );
        tx.commit().await.expect("committed");
        let theirs = format!(
            "agent_sync.outbox where organization = '{organization}' and source = 'agents'"
        );
        assert_eq!(db.count(&theirs).await, 2, "{changed}");
        db.execute("delete from agent_sync.outbox").await;
    }
}

#[tokio::test]
async fn an_outbox_that_grew_for_weeks_is_collapsed_into_one_look_at_everything() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    db.forget_edits().await;
    TestWorker::start(&db, ALL).await.stop().await;
    // The last change of all is the only one that matters; a retry keeps its pause.
    db.execute(
        "insert into agent_sync.outbox (source, key)
         select 'agents', (select min(id::text) from public.agents) from generate_series(1, 50000);
         insert into agent_sync.outbox (source, key, due_at)
         select 'agents', gen_random_uuid()::text, now() + interval '1 hour';
         update public.agents set system_prompt = 'the last edit'",
    )
    .await;
    let recorded = "select last_value from agent_sync.outbox_id_seq";
    let before: i64 = db.rows(recorded, &[]).await[0].get(0);
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    // An agent that was synced just now may be held for a moment.
    eventually("only the retry is left", || async {
        changes::drain(&syncer, &mut Bursts::default(), &CancellationToken::new())
            .await
            .expect("drained");
        match db.count("agent_sync.outbox").await {
            1 => Ok(()),
            n => Err(format!("{n} left")),
        }
    })
    .await;
    // One change that stands for all, and what it is spread into.
    let agents = db.count("public.agents").await;
    let after: i64 = db.rows(recorded, &[]).await[0].get(0);
    assert_eq!(after - before, 1 + agents);
    assert_eq!(db.differences().await, Vec::<String>::new());
    assert_eq!(db.count("agent_sync.outbox where due_at > now()").await, 1);
}

/// A bulk edit of many agents is many changes too, but no more than there are agents.
#[tokio::test]
async fn a_bulk_edit_is_drained_and_not_collapsed() {
    let db = TestDatabase::new().await;
    db.forget_edits().await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(
        "insert into public.agents (name, status) select 'a' || n, 'draft' from generate_series(1, 11000) as n;
         update public.agents set name = name || '!'",
    )
    .await;
    let client = db.connect().await;
    assert!(!outbox::is_overgrown(&client).await.expect("looked"));
    db.execute(
        "update public.agents set name = name || '?'; update public.agents set name = name || '.'",
    )
    .await;
    assert!(outbox::is_overgrown(&client).await.expect("looked"));
}
