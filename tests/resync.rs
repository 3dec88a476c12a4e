//! The resync: what no trigger told is found all the same. And the settings of what becomes of removed agents.

use agent_sync::config::SCOPE;

use crate::support::binary::Running;
use crate::support::{TestDatabase, TestWorker};

const OFTEN: &[(&str, &str)] = &[(SCOPE, "all"), ("AGENT_SYNC_RESYNC_INTERVAL", "200ms")];

#[tokio::test]
async fn what_nobody_announced_is_repaired() {
    let db = TestDatabase::new().await;
    let (a, b) = (db.agent("a").await, db.agent("b").await);
    let worker = TestWorker::start(&db, OFTEN).await;
    db.execute("delete from agent_sync.outbox").await;
    db.execute(&format!(
        "begin; update public.agents set system_prompt = 'unannounced' where id = '{a}'; delete from agent_sync.outbox; commit;
         update langgraph_server.assistants set config = '{{}}' where id = '{b}'"
    ))
    .await;
    db.converged().await;
    worker.stop().await;
}

#[tokio::test]
async fn triggers_that_were_dropped_are_noticed_and_put_back() {
    let db = TestDatabase::to_install().await;
    let agent = db.agent("a").await;
    let running = Running::serve(&db, OFTEN);
    running.line("Startup sync summary").await;
    db.execute("drop trigger agent_sync_update on public.agents")
        .await;
    db.execute("update public.agents set system_prompt = 'unseen'")
        .await;
    db.prompted(agent, "unseen").await;
    crate::support::eventually("the trigger is back", || async {
        match db
            .count("pg_trigger where tgname like 'agent_sync_%' and tgenabled = 'A'")
            .await
        {
            20 => Ok(()),
            n => Err(format!("{n} of 20")),
        }
    })
    .await;

    // One that may not migrate says what is missing and how to mend it, and finds the edits.
    let running = Running::serve(
        &db,
        &[OFTEN, &[("AGENT_SYNC_AUTO_MIGRATE", "false")]].concat(),
    );
    running.line("Startup sync summary").await;
    drop(running);
}

#[tokio::test]
async fn a_worker_that_may_not_migrate_says_how_to_put_triggers_back() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, &[]).await.stop().await;
    let running = Running::serve(
        &db,
        &[OFTEN, &[("AGENT_SYNC_AUTO_MIGRATE", "false")]].concat(),
    );
    running.line("Startup sync summary").await;
    db.execute("alter table public.agents disable trigger agent_sync_update")
        .await;
    db.execute("update public.agents set system_prompt = 'unseen'")
        .await;
    db.prompted(agent, "unseen").await;
    let line = running.line("edits may go unnoticed").await;
    assert!(
        line.contains("agent_sync_update on public.agents") && line.contains("agent-sync migrate"),
        "{line}"
    );
}

#[tokio::test]
async fn removed_agents_may_keep_their_assistants() {
    let db = TestDatabase::new().await;
    let (kept, control) = (db.agent("kept").await, db.agent("control").await);
    let worker = TestWorker::start(&db, &[(SCOPE, "all"), ("AGENT_SYNC_ON_REMOVE", "keep")]).await;
    db.execute(&format!(
        "update public.agents set status = 'disabled', system_prompt = 'not to be seen' where id = '{kept}';
         update public.agents set system_prompt = 'edited' where id = '{control}'"
    ))
    .await;
    db.prompted(control, "edited").await;
    db.drained().await;
    assert_eq!(db.prompt(kept).await.as_deref(), Some("You are kept."));
    db.execute(&format!(
        "update public.agents set status = 'active' where id = '{kept}'"
    ))
    .await;
    db.prompted(kept, "not to be seen").await;
    db.execute(&format!("delete from public.agents where id = '{kept}'"))
        .await;
    db.drained().await;
    assert!(db.assistant(kept).await.is_some());
    worker.stop().await;

    // With the default again, the next pass makes up for it.
    TestWorker::start(&db, &[(SCOPE, "all")]).await.stop().await;
    assert_eq!(db.assistant(kept).await, None);
}

#[tokio::test]
async fn the_write_back_can_be_switched_off() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let worker =
        TestWorker::start(&db, &[(SCOPE, "all"), ("AGENT_SYNC_WRITE_BACK", "false")]).await;
    db.execute("update public.agents set name = name || '!'")
        .await;
    db.converged().await;
    assert_eq!(
        db.count("public.agents where langgraph_assistant_id is not null")
            .await,
        0
    );
    worker.stop().await;
}
