//! Answers that are lost, late, or wrong: look first, then write again, and never twice.

use std::sync::Arc;

use agent_sync::ids::AgentId;
use agent_sync::syncer::{Entrance, Outcome};
use serde_json::json;
use uuid::Uuid;

use super::{Setting, ask, claim, outcome, owner, pass};
use crate::support::double::Fault;

const SEES: [&str; 1] = ["GET"];

/// The requests about an agent since the last time.
fn requests(setting: &Setting, agent: Uuid) -> Vec<String> {
    let methods = setting.server.methods(agent);
    setting.server.forget_log();
    methods
}

#[tokio::test]
async fn after_a_lost_answer_it_looks_before_it_writes_again_and_writes_nothing_twice() {
    let setting = Setting::installed().await;
    let (agent, syncer) = (setting.db.agent("a").await, setting.syncer("all"));
    let mut versions = 0;
    for method in ["POST", "PATCH"] {
        for (fault, expected) in [
            (Fault::ResetAfter, vec!["GET", method, "GET"]),
            (
                Fault::AnswerAfter(500, vec![], "Internal Server Error".to_owned()),
                vec!["GET", method, "GET"],
            ),
            (
                Fault::AnswerAfter(503, vec![], String::new()),
                vec!["GET", method, "GET"],
            ),
            (Fault::ResetBefore, vec!["GET", method, "GET", method]),
            (Fault::status(500), vec!["GET", method, "GET", method]),
            (Fault::status(408), vec!["GET", method, "GET", method]),
            (Fault::status(502), vec!["GET", method, "GET", method]),
        ] {
            if method == "POST" {
                setting.db.execute("truncate agent_sync.ledger").await;
                if versions > 0 {
                    setting.server.delete(agent);
                }
                versions = 0;
            } else {
                setting
                    .prompt(agent, &format!("edit after version {versions}"))
                    .await;
            }
            setting.server.next(method, agent, fault.clone());
            pass(&syncer, &[agent]).await;
            versions += 1;
            assert_eq!(requests(&setting, agent), expected, "{fault:?}");
            assert_eq!(setting.server.versions(agent), versions, "{fault:?}");
            setting.is_synced(agent).await;
            pass(&syncer, &[agent]).await;
            assert_eq!(requests(&setting, agent), SEES, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_delete_is_no_trouble() {
    let setting = Setting::installed().await;
    let (agent, syncer) = (setting.db.agent("a").await, setting.syncer("all"));
    for fault in [Fault::ResetAfter, Fault::ResetBefore, Fault::status(503)] {
        setting
            .db
            .execute("update public.agents set status = 'active'")
            .await;
        pass(&syncer, &[agent]).await;
        setting
            .db
            .execute("update public.agents set status = 'disabled'")
            .await;
        requests(&setting, agent);
        setting.server.next("DELETE", agent, fault.clone());
        let batch = pass(&syncer, &[agent]).await;
        assert_eq!(outcome(&batch, agent), &Outcome::Removed, "{fault:?}");
        assert_eq!(requests(&setting, agent), ["GET", "DELETE", "DELETE"]);
        assert_eq!(setting.server.assistant(agent), None);
        let entry = setting.entry(agent).await.expect("an entry");
        assert_eq!(entry, ("removed".to_owned(), 0, None));
    }
    // And what somebody else deleted meanwhile is deleted.
    setting
        .db
        .execute("update public.agents set status = 'active'")
        .await;
    pass(&syncer, &[agent]).await;
    setting
        .db
        .execute("update public.agents set status = 'disabled'")
        .await;
    let gone = Fault::AnswerAfter(404, vec![], json!({"detail": "not found"}).to_string());
    setting.server.next("DELETE", agent, gone);
    let batch = pass(&syncer, &[agent]).await;
    assert_eq!(outcome(&batch, agent), &Outcome::Removed);
}

/// As long as the connection breaks, nobody knows: the agent stays due, and that is no fault of its own.
#[tokio::test]
async fn connections_that_break_count_against_nobody() {
    let setting = Setting::installed().await;
    let syncer = setting.syncer("all");
    let (agent, other) = (setting.db.agent("a").await, setting.db.agent("other").await);
    pass(&syncer, &[agent, other]).await;
    setting.db.forget_edits().await;
    setting
        .db
        .execute("update public.agents set system_prompt = 'edited'")
        .await;
    setting.db.forget_edits().await;
    setting.server.always("PATCH", agent, Fault::ResetBefore);
    let batch = pass(&syncer, &[agent, other]).await;
    assert_eq!(outcome(&batch, agent), &Outcome::Busy);
    assert_eq!(outcome(&batch, other), &Outcome::Updated);
    setting.is_synced(agent).await;
    let due =
        format!("agent_sync.outbox where key = '{agent}' and due_at > now() - interval '1 minute'");
    assert_eq!(setting.db.count(&due).await, 1, "it stays due");
    setting.server.mend();
    let batch = pass(&syncer, &[agent, other]).await;
    assert_eq!(outcome(&batch, agent), &Outcome::Updated);
    setting.is_synced(agent).await;
}

/// The worker is gone between the write and the record: whose the assistant is was said before.
#[tokio::test]
async fn what_was_written_by_a_worker_that_died_is_known_as_ours() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    for user in ["system", "alice"] {
        let agent = db.agent(user).await;
        // Numbers that the server does not keep as they were sent.
        db.execute(r#"update public.agents set sampling_params = '{"temperature": 0.70, "seed": 12345678901234567}'"#)
            .await;
        let syncer = Arc::new(setting.syncer(if user == "system" { "all" } else { "none" }));
        let sync = |syncer: Arc<agent_sync::syncer::Syncer>| async move {
            let claim = claim(user);
            match user {
                "system" => _ = syncer.sync_now(&[AgentId(agent)], Entrance::Pass).await,
                _ => {
                    _ = syncer
                        .sync_now(&[AgentId(agent)], Entrance::Request(&claim))
                        .await
                }
            }
        };
        for (method, versions) in [("POST", 1), ("PATCH", 2)] {
            server.next(method, agent, Fault::HoldAfter);
            let dying = tokio::spawn(sync(syncer.clone()));
            server.held().await;
            dying.abort();
            let _ = dying.await;
            setting.expire_leases().await;
            server.let_go();
            assert_eq!(server.versions(agent), versions);

            sync(syncer.clone()).await;
            assert_eq!(
                server.versions(agent),
                versions,
                "{user}: it says what it should"
            );
            setting.is_synced(agent).await;
            assert_eq!(owner(&server.assistant(agent).expect("there")), user);
            setting.prompt(agent, "edited").await;
        }
    }
}

/// Twice, and the agent was edited in between: neither what was announced first nor what was announced then is a stranger's.
#[tokio::test]
async fn a_users_assistant_outlives_two_workers_that_die_over_it() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let agent = db.agent("a").await;
    let syncer = Arc::new(setting.syncer("none"));
    for (method, fault) in [("POST", Fault::HoldAfter), ("PATCH", Fault::HoldBefore)] {
        server.next(method, agent, fault);
        let syncer = syncer.clone();
        let dying = tokio::spawn(async move {
            let claim = claim("alice");
            let _ = syncer
                .sync_now(&[AgentId(agent)], Entrance::Request(&claim))
                .await;
        });
        server.held().await;
        dying.abort();
        let _ = dying.await;
        setting.expire_leases().await;
        setting.prompt(agent, "edited").await;
    }
    assert_eq!(ask(&syncer, agent, &claim("alice")).await, agent);
    assert_eq!(server.prompt(agent).as_deref(), Some("edited"));
    setting.is_synced(agent).await;
    // The second one's request comes late, and says the same.
    server.let_go();
    server.let_go();
}

/// The same by the real thing: `kill -9` while the answer is on its way.
#[tokio::test]
async fn a_process_that_is_killed_before_it_could_record_is_made_up_for() {
    let setting = Setting::new().await;
    let agent = setting.db.agent("a").await;
    setting.server.next("POST", agent, Fault::HoldAfter);
    let mut running = setting.running(&[]);
    setting.server.held().await;
    running.signal("-KILL");
    running.ended().await;
    assert_eq!(setting.leases().await, 1, "it held the agent");
    setting.server.let_go();
    setting.expire_leases().await;
    let worker = setting.worker(&[]).await;
    setting.converged().await;
    assert_eq!(setting.server.versions(agent), 1);
    setting.is_synced(agent).await;
    worker.stop().await;
}

/// It took too long: nobody knows, so it stays due, until a later look finds it done.
#[tokio::test]
async fn what_takes_too_long_is_looked_for_later() {
    let setting = Setting::new().await;
    let agent = setting.db.agent("a").await;
    let timeout = [("AGENT_SYNC_LANGGRAPH_TIMEOUT", "300ms")];
    let worker = setting.worker(&timeout).await;
    setting.converged().await;
    setting.server.forget_log();
    setting.server.next("PATCH", agent, Fault::HoldBefore);
    setting.prompt(agent, "edited").await;
    setting.server.held().await;
    let retries = "agent_sync.outbox where due_at > '-infinity'";
    crate::support::eventually("it is put off", || async {
        match setting.db.count(retries).await {
            1 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    // It comes through after all.
    setting.server.let_go();
    setting.converged().await;
    assert_eq!(setting.server.versions(agent), 2);
    assert_eq!(setting.server.methods(agent), ["GET", "PATCH", "GET"]);
    setting.is_synced(agent).await;
    worker.stop().await;
}
