//! While an assistant is written nobody else touches it, and nothing is lost if that never ends.

use std::sync::Arc;

use agent_sync::syncer::{Outcome, Summary};

use super::{Setting, outcome, pass};
use crate::support::double::Fault;
use crate::support::eventually;

#[tokio::test]
async fn a_change_is_in_the_outbox_until_there_is_an_answer() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let (agent, other) = (db.agent("a").await, db.agent("other").await);
    let worker = setting.worker(&[]).await;
    setting.converged().await;
    server.next("PATCH", agent, Fault::HoldBefore);
    setting.prompt(agent, "edited").await;
    server.held().await;
    let changes = format!("agent_sync.outbox where key = '{agent}'");
    let lease = format!("agent_sync.leases where agent_id = '{agent}' and until > now()");
    assert_eq!((db.count(&changes).await, db.count(&lease).await), (1, 1));

    // What is edited meanwhile waits, and is done afterwards.
    setting.prompt(agent, "edited again").await;
    assert_eq!(db.count(&changes).await, 2);
    server.let_go();
    setting.prompted(agent, "edited again").await;
    setting.converged().await;
    assert_eq!(setting.leases().await, 0);
    assert_eq!((server.versions(agent), server.versions(other)), (3, 1));
    worker.stop().await;
}

#[tokio::test]
async fn another_worker_leaves_alone_what_one_holds_and_does_the_rest() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let (held, other) = (db.agent("held").await, db.agent("other").await);
    let workers = [setting.worker(&[]).await, setting.worker(&[]).await];
    setting.converged().await;
    server.forget_log();
    server.next("PATCH", held, Fault::HoldBefore);
    setting.prompt(held, "edited").await;
    server.held().await;
    // One of the two waits for the answer, so it is the other one that does this.
    setting.prompt(held, "edited again").await;
    setting.prompt(other, "edited").await;
    setting.prompted(other, "edited").await;
    assert_eq!(server.methods(held), ["GET", "PATCH"]);
    server.let_go();
    setting.prompted(held, "edited again").await;
    setting.converged().await;
    assert_eq!(server.versions(held), 3);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn what_a_dead_worker_holds_is_taken_over_when_its_time_is_over() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let agent = db.agent("a").await;
    let mut first = setting.running(&[]);
    first.line("Startup sync summary").await;
    setting.converged().await;
    let second = setting.worker(&[]).await;
    // Stopped, the second one cannot be faster.
    second.stop().await;
    server.next("PATCH", agent, Fault::HoldBefore);
    setting.prompt(agent, "edited").await;
    server.held().await;
    first.signal("-KILL");
    first.ended().await;

    server.forget_log();
    let none = [("AGENT_SYNC_SCOPE", "none")];
    let second = setting.worker(&none).await;
    db.agent("another").await;
    db.execute(&format!(
        "insert into agent_sync.outbox (source, key) values ('agents', '{}')",
        uuid::Uuid::new_v4()
    ))
    .await;
    assert_eq!(server.methods(agent), [] as [&str; 0]);
    setting.expire_leases().await;
    setting.prompted(agent, "edited").await;
    db.drained().await;
    assert_eq!(server.versions(agent), 2);
    // The dead one's request is dealt with at last: the same once more.
    server.let_go();
    second.stop().await;
}

/// A pass comes to agents that another worker is at: it waits for them, and reports no failure.
#[tokio::test]
async fn a_pass_waits_for_agents_that_another_one_syncs() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let (agent, other) = (db.agent("a").await, db.agent("other").await);
    let syncers = [
        Arc::new(setting.syncer("all")),
        Arc::new(setting.syncer("all")),
    ];
    server.next("POST", agent, Fault::HoldBefore);
    let passing = |syncer: &Arc<agent_sync::syncer::Syncer>, agents: Vec<uuid::Uuid>| {
        let syncer = syncer.clone();
        tokio::spawn(async move { pass(&syncer, &agents).await })
    };
    let first = passing(&syncers[0], vec![agent]);
    server.held().await;
    let second = passing(&syncers[1], vec![agent, other]);
    // The rest is not kept waiting.
    eventually("the other one is made", || async {
        server
            .assistant(other)
            .map(drop)
            .ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert!(!second.is_finished());
    server.let_go();
    let (first, second) = (first.await.expect("passed"), second.await.expect("passed"));
    assert_eq!(outcome(&first, agent), &Outcome::Created);
    assert_eq!(outcome(&second, agent), &Outcome::Skipped);
    assert_eq!(outcome(&second, other), &Outcome::Created);
    assert_eq!(Summary::of(&second.outcomes).failed, 0);
    assert_eq!(server.versions(agent), 1);
    assert_eq!(
        db.count("agent_sync.outbox where due_at > '-infinity'")
            .await,
        0
    );
}

/// However long the server takes, who is at work is not taken for dead.
#[tokio::test]
async fn a_lease_is_renewed_as_long_as_its_holder_works() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let agent = db.agent("a").await;
    let syncer = setting.syncer("all");
    server.next("POST", agent, Fault::HoldBefore);
    let passing = tokio::spawn(async move { pass(&syncer, &[agent]).await });
    server.held().await;
    let soon = "update agent_sync.leases set until = now() + interval '15 seconds'";
    db.execute(soon).await;
    eventually("it is renewed", || async {
        let renewed = "agent_sync.leases where until > now() + interval '20 seconds'";
        match db.count(renewed).await {
            1 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    server.let_go();
    passing.await.expect("passed");
    assert_eq!(setting.leases().await, 0);
    setting.is_synced(agent).await;
}
