//! The guard before removals: what is suspiciously much is held, one error says so, and an operator can let it go.

use agent_sync::access::Access;
use agent_sync::changes::{self, bursts::Bursts};
use agent_sync::config::{MAX_REMOVALS, RESYNC_INTERVAL, ROBYN_DEV, SCOPE, Settings};
use agent_sync::syncer::Syncer;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::binary::{Running, run};
use crate::support::{TestDatabase, TestWorker, eventually};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];
const HELD: &str = "removals are held, nothing is removed";

impl TestDatabase {
    /// Active agents named `a1` to `a<n>`.
    async fn agents(&self, n: u32) {
        self.execute(&format!(
            "insert into public.agents (name, status, system_prompt)
             select 'a' || n, 'active', 'You are ' || n from generate_series(1, {n}) as n"
        ))
        .await;
    }

    async fn assistants(&self) -> i64 {
        self.count("langgraph_server.assistants").await
    }

    /// Waits until the ledger says this of so many agents.
    async fn in_state(&self, state: &str, agents: i64) {
        eventually(&format!("{agents} are {state}"), || async {
            let of = format!("agent_sync.ledger where state = '{state}'");
            match self.count(&of).await {
                n if n == agents => Ok(()),
                n => Err(format!("{n}")),
            }
        })
        .await;
    }
}

/// `agent-sync sync` with these arguments. Returns the exit code and everything that it said.
async fn sync(db: &TestDatabase, args: &[&str]) -> (Option<i32>, String) {
    let args = [&["sync"], args].concat();
    let ended = run(&args, &[("DATABASE_URL", db.url.as_str())]).await;
    (ended.code, ended.stdout + &ended.stderr)
}

#[tokio::test]
async fn a_bulk_removal_is_held_whole_said_once_and_let_go_by_the_command() {
    let db = TestDatabase::new().await;
    db.agents(30).await;
    db.forget_edits().await;
    let running = Running::serve(&db, ALL);
    running
        .line("Startup sync summary: total=30 created=30")
        .await;
    db.execute("update public.agents set status = 'disabled' where name < 'a25'")
        .await;
    let gone = db.count("public.agents where status = 'disabled'").await;
    assert!(gone > 10 && gone < 20, "{gone}");
    db.in_state("held", gone).await;
    assert_eq!(db.assistants().await, 30);
    let said = running.line(HELD).await;
    for part in [
        "ERROR",
        &format!("{gone} agents would lose their assistants"),
        "of 30 that have one",
        "AGENT_SYNC_MAX_REMOVALS allows 10",
        "agent-sync sync --allow-removals",
    ] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    let reasons = "agent_sync.ledger where state = 'held' and error like '%--allow-removals%'";
    assert_eq!(db.count(reasons).await, gone);

    // Updates go on, and one more removal joins those that are held.
    db.execute("update public.agents set system_prompt = 'Updated.' where name = 'a9'")
        .await;
    let updated: Uuid = db
        .rows("select id from public.agents where name = 'a9'", &[])
        .await[0]
        .get(0);
    db.prompted(updated, "Updated.").await;
    db.execute("delete from public.agents where name = 'a9'")
        .await;
    db.in_state("held", gone + 1).await;

    // Active again: its assistant is as it was, and nothing was written.
    let versions = db.versions().await;
    db.execute("update public.agents set status = 'active' where name = 'a1'")
        .await;
    db.in_state("held", gone).await;
    assert_eq!(db.versions().await, versions);
    assert_eq!(
        running.output().matches(HELD).count(),
        2,
        "{}",
        running.output()
    );

    let (code, said) = sync(&db, &["--scope", "all"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains(&format!("held={gone}")) && said.contains(HELD),
        "{said}"
    );
    assert_eq!(db.assistants().await, 30);

    let (code, said) = sync(&db, &["--scope", "all", "--allow-removals"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!(
            "Sync summary: total=30 created=0 updated=0 skipped={} failed=0 removed={gone}",
            30 - gone
        )),
        "{said}"
    );
    assert_eq!(db.differences().await, Vec::<String>::new());
    // What an operator let go does not count against what comes next.
    db.execute("delete from public.agents where name in (select name from public.agents where status = 'active' limit 9)")
        .await;
    db.converged().await;
}

#[tokio::test]
async fn small_batches_do_not_slip_past_and_ten_minutes_later_there_is_room_again() {
    let db = TestDatabase::new().await;
    db.agents(30).await;
    let worker = TestWorker::start(&db, &[ALL, &[(RESYNC_INTERVAL, "200ms")]].concat()).await;
    for n in 1..=12 {
        db.execute(&format!("delete from public.agents where name = 'a{n}'"))
            .await;
        db.drained().await;
    }
    db.in_state("held", 2).await;
    assert_eq!(db.assistants().await, 20);
    db.execute("update agent_sync.ledger set removed_at = removed_at - interval '10 minutes'")
        .await;
    // The next resync finds that they are few.
    db.converged().await;
    worker.stop().await;
}

#[tokio::test]
async fn what_is_spread_over_several_batches_and_two_workers_is_counted_before_anything_goes() {
    let db = TestDatabase::new().await;
    db.agents(1300).await;
    let (a, b) = tokio::join!(TestWorker::start(&db, ALL), TestWorker::start(&db, ALL));
    db.converged().await;
    db.execute(
        "update public.agents set system_prompt = system_prompt || '!',
           status = case when right(name, 1) in ('1', '2', '3') then 'disabled' else status end",
    )
    .await;
    db.in_state("held", 390).await;
    db.drained().await;
    assert_eq!(db.assistants().await, 1300);
    assert_eq!(
        db.count("langgraph_server.assistants where version = 2")
            .await,
        910
    );
    a.stop().await;
    b.stop().await;
}

/// One agent that the database refuses makes the batch be halved, and the halves are not small enough for that.
#[tokio::test]
async fn a_batch_that_is_halved_is_still_judged_as_a_whole() {
    let db = TestDatabase::new().await;
    db.agents(40).await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(
        "alter table langgraph_server.assistants add constraint refuses check (name <> 'refused');
         update public.agents set name = 'refused' where name = 'a40';
         update public.agents set status = 'draft' where name < 'a2'",
    )
    .await;
    let gone = db.count("public.agents where status = 'draft'").await;
    assert_eq!(gone, 11);
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    let stop = CancellationToken::new();
    stop.cancel();
    changes::drain(&syncer, &mut Bursts::default(), &stop)
        .await
        .expect("drained");
    db.in_state("held", gone).await;
    db.in_state("failed", 1).await;
    assert_eq!(db.assistants().await, 40);
}

#[tokio::test]
async fn a_source_that_reads_as_empty_removes_nothing() {
    for emptied in [
        "delete from public.agents",
        "truncate public.agents cascade",
    ] {
        let db = TestDatabase::new().await;
        db.agents(3).await;
        let running = Running::serve(&db, &[ALL, &[(RESYNC_INTERVAL, "200ms")]].concat());
        running.line("Startup sync summary").await;
        db.execute(emptied).await;
        db.in_state("held", 3).await;
        let said = running.line(HELD).await;
        assert!(said.contains("public.agents reads as empty"), "{said}");
        running
            .line("Resync summary: total=3 created=0 updated=0 skipped=0 failed=0 held=3")
            .await;
        assert_eq!(db.assistants().await, 3);
        assert_eq!(
            running.output().matches(HELD).count(),
            1,
            "{}",
            running.output()
        );
    }
}

/// Whether an operator let the ones before go, or their agents came back.
#[tokio::test]
async fn the_next_time_is_said_again_even_if_it_is_fewer() {
    let db = TestDatabase::new().await;
    db.agents(60).await;
    let running = Running::serve(&db, ALL);
    running.line("Startup sync summary").await;
    let switch_off = |n: i64| {
        format!(
            "update public.agents set status = 'disabled'
             where id in (select id from public.agents where status = 'active' limit {n})"
        )
    };
    db.execute(&switch_off(30)).await;
    running.line("30 agents would lose").await;
    let (code, said) = sync(&db, &["--scope", "all", "--allow-removals"]).await;
    assert_eq!(code, Some(0), "{said}");
    db.execute(&switch_off(20)).await;
    running.line("20 agents would lose").await;
    db.execute("update public.agents set status = 'active'")
        .await;
    db.converged().await;
    db.execute(&switch_off(19)).await;
    running.line("19 agents would lose").await;
}

/// A team's only agent may be deleted like any other.
#[tokio::test]
async fn the_last_agent_may_go_by_an_edit_but_not_by_a_pass() {
    let db = TestDatabase::new().await;
    let (last_but_one, agent) = (db.agent("last but one").await, db.agent("only").await);
    let worker = TestWorker::start(&db, ALL).await;
    db.execute(&format!(
        "delete from public.agents where id = '{last_but_one}'"
    ))
    .await;
    db.drained().await;
    db.execute("delete from public.agents").await;
    db.drained().await;
    assert_eq!(db.assistant(last_but_one).await, None);
    assert_eq!(db.assistant(agent).await, None);

    let other = db.agent("other").await;
    db.synced(other).await;
    worker.stop().await;
    db.execute("begin; delete from public.agents; delete from agent_sync.outbox; commit")
        .await;
    TestWorker::start(&db, ALL).await.stop().await;
    assert!(db.assistant(other).await.is_some());
}

#[tokio::test]
async fn the_limit_can_be_set_and_switched_off() {
    for (limit, left) in [("0", 20), ("4", 20), ("5", 15), ("unlimited", 15)] {
        let db = TestDatabase::new().await;
        db.agents(20).await;
        let worker = TestWorker::start(&db, &[ALL, &[(MAX_REMOVALS, limit)]].concat()).await;
        db.execute("delete from public.agents where name in ('a1', 'a2', 'a3', 'a4', 'a5')")
            .await;
        db.drained().await;
        assert_eq!(db.assistants().await, left, "{limit}");
        worker.stop().await;
    }
}

/// An agent that came back with data that make no sense has not come back.
#[tokio::test]
async fn what_went_and_then_failed_still_counts() {
    let db = TestDatabase::new().await;
    db.agents(30).await;
    let worker = TestWorker::start(&db, ALL).await;
    let gone = "where name in ('a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7', 'a8', 'a9', 'a10')";
    db.execute(&format!(
        "update public.agents set status = 'disabled' {gone}"
    ))
    .await;
    db.in_state("removed", 10).await;
    db.execute(&format!(
        "update public.agents set status = 'active', sampling_params = '1' {gone}"
    ))
    .await;
    db.in_state("failed", 10).await;
    db.execute(&format!(
        "update public.agents set status = 'disabled' {gone}"
    ))
    .await;
    db.in_state("removed", 10).await;
    db.execute("delete from public.agents where name = 'a11'")
        .await;
    db.in_state("held", 1).await;
    worker.stop().await;
}

/// Of many, a fifth may go; and so it stays while they go, although there are fewer each time.
#[tokio::test]
async fn a_fifth_of_many_may_go() {
    let db = TestDatabase::new().await;
    db.agents(100).await;
    let worker = TestWorker::start(&db, ALL).await;
    for share in ["a1_", "a2_"] {
        db.execute(&format!(
            "delete from public.agents where name like '{share}'"
        ))
        .await;
        db.drained().await;
    }
    assert_eq!(db.assistants().await, 80);
    db.execute("delete from public.agents where name = 'a30'")
        .await;
    db.in_state("held", 1).await;
    worker.stop().await;
}

/// What the error says to do lets go whatever is held, a user's copy included, and makes nothing beyond the scope.
#[tokio::test]
async fn what_is_held_is_let_go_wherever_it_is_and_nothing_else_comes_of_it() {
    let db = TestDatabase::new().await;
    let ((one, _), (other, _)) = (db.organization().await, db.organization().await);
    for organization in [one, other] {
        db.execute(&format!(
            "insert into public.agents (name, status, organization_id)
             select 'a' || n, 'active', '{organization}' from generate_series(1, 15) as n"
        ))
        .await;
    }
    let scope = format!("org:{one}");
    let worker = TestWorker::start(&db, &[(SCOPE, &scope), (ROBYN_DEV, "true")]).await;
    let outside = format!("public.agents where organization_id = '{other}' and name");
    for name in ["a1", "a2"] {
        let agent: Uuid = db
            .rows(&format!("select id from {outside} = '{name}'"), &[])
            .await[0]
            .get(0);
        let body = json!({"metadata": {"supabase_agent_id": agent}});
        assert_eq!(worker.create(body).await.0, 200);
    }
    db.execute(&format!(
        "delete from {outside} = 'a1'; delete from public.agents where organization_id = '{one}' and name <> 'a1'"
    ))
    .await;
    db.in_state("held", 15).await;
    worker.stop().await;
    for variables in [&[][..], &[(SCOPE, scope.as_str())]] {
        let common = [("DATABASE_URL", db.url.as_str()), ("ROBYN_DEV", "true")];
        let variables = [&common, variables].concat();
        let ended = run(&["sync", "--allow-removals"], &variables).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(db.assistants().await, 2);
    }
    let users = "langgraph_server.assistants where metadata ->> 'owner' <> 'system'";
    assert_eq!(db.count(users).await, 1);
}

/// The pass of the command keeps to its scope: what another organization has held stays.
#[tokio::test]
async fn the_command_syncs_the_scope_it_is_given_and_no_other() {
    let db = TestDatabase::new().await;
    let ((one, _), (other, _)) = (db.organization().await, db.organization().await);
    for organization in [one, other] {
        db.execute(&format!(
            "insert into public.agents (name, status, organization_id)
             select 'a' || n, 'active', '{organization}' from generate_series(1, 8) as n"
        ))
        .await;
    }
    // Nobody has stored a scope yet, so this is what counts.
    let scope = format!("org:{one}");
    let (code, said) = sync(&db, &["--scope", &scope]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Sync summary: total=8 created=8"), "{said}");
    assert_eq!(db.assistants().await, 8);
    let (code, said) = sync(&db, &["--scope", "all"]).await;
    assert_eq!((code, db.assistants().await), (Some(0), 16), "{said}");

    db.execute("delete from public.agents where name < 'a8'")
        .await;
    let (code, said) = sync(&db, &["--scope", &scope, "--allow-removals"]).await;
    assert_eq!((code, db.assistants().await), (Some(0), 9), "{said}");
    let (code, said) = sync(&db, &["--scope", "nonsense"]).await;
    assert!(
        code == Some(64) && said.contains("`nonsense` is not a scope"),
        "{said}"
    );
}

/// Somebody deletes by hand what is held: then there is nothing left to hold.
#[tokio::test]
async fn what_is_held_and_deleted_by_hand_is_not_held_any_more() {
    let db = TestDatabase::new().await;
    db.agents(20).await;
    let worker = TestWorker::start(&db, ALL).await;
    db.execute("update public.agents set status = 'draft' where name <> 'a20'")
        .await;
    db.in_state("held", 19).await;
    worker.stop().await;
    db.execute("delete from langgraph_server.assistants where name <> 'a20'")
        .await;
    let (code, said) = sync(&db, &["--scope", "all"]).await;
    assert_eq!(code, Some(0), "{said}");
    db.in_state("removed", 19).await;
}

#[tokio::test]
async fn a_worker_that_keeps_everything_says_so_when_removals_are_allowed() {
    let db = TestDatabase::new().await;
    let ended = run(
        &["sync", "--allow-removals"],
        &[
            ("DATABASE_URL", db.url.as_str()),
            ("AGENT_SYNC_ON_REMOVE", "keep"),
        ],
    )
    .await;
    let said = "AGENT_SYNC_ON_REMOVE=keep: nothing is removed";
    assert!(ended.stderr.contains(said), "{ended:?}");
}
