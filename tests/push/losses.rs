//! Servers that keep assistants in memory lose them in a restart, and get them back.

use super::{Setting, pass};
use crate::support::eventually;

async fn setting() -> Setting {
    let setting = Setting::new().await;
    let insert = "insert into public.agents (name, status, system_prompt)
        select 'agent ' || n, 'active', 'You are ' || n from generate_series(1, 20) as n";
    setting.db.execute(insert).await;
    setting
}

#[tokio::test]
async fn a_resync_finds_what_is_gone() {
    let setting = setting().await;
    setting.worker(&[]).await.stop().await;
    let syncer = setting.syncer("all");
    let rows = setting.db.rows("select id from public.agents", &[]).await;
    let agents: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    setting.server.lose_all();
    pass(&syncer, &agents).await;
    setting.converged().await;
    assert!(
        setting
            .server
            .assistants()
            .iter()
            .all(|a| a["version"] == 1)
    );
}

/// Long before the next resync, which comes in ten minutes.
#[tokio::test]
async fn an_edit_that_finds_one_gone_has_all_looked_at() {
    let setting = setting().await;
    let worker = setting.worker(&[]).await;
    let agent = setting.db.agent("edited").await;
    setting.converged().await;
    // The one that was written last is looked at every few seconds; it is not what shows it here.
    let last = setting.server.assistant(agent).expect("there");
    setting.server.lose_all();
    setting.server.put(agent, last);
    setting
        .db
        .execute("update public.agents set system_prompt = 'edited' where name = 'agent 7'")
        .await;
    setting.converged().await;
    assert_eq!(setting.server.assistants().len(), 21);
    worker.stop().await;
}

#[tokio::test]
async fn a_loss_that_nothing_shows_is_seen_within_seconds() {
    let setting = setting().await;
    let running = setting.running(&[]);
    running.line("Startup sync summary").await;
    setting.converged().await;
    for _ in 0..2 {
        setting.server.lose_all();
        setting.converged().await;
    }
    running.line("may have lost assistants").await;
}

/// One that stores them now and then comes back with what it had some time ago.
#[tokio::test]
async fn after_a_restart_all_are_looked_at_whatever_is_there() {
    let setting = setting().await;
    let worker = setting.worker(&[]).await;
    setting.converged().await;
    let old = setting.server.assistants();
    setting
        .db
        .execute("update public.agents set system_prompt = 'edited'")
        .await;
    setting.converged().await;
    setting.server.refuse();
    for assistant in old {
        let id = assistant["assistant_id"].as_str().expect("an id");
        let mut body = assistant.clone();
        body.as_object_mut().expect("an object").remove("context");
        setting.server.put(id.parse().expect("a uuid"), body);
    }
    // Long enough that it is missed.
    setting.db.agent("new").await;
    eventually("it is missed", || async {
        let (status, _) =
            crate::support::worker::request(worker.admin, "GET", "/ready", None).await;
        (status == 503).then_some(()).ok_or(format!("{status}"))
    })
    .await;
    setting.server.listen().await;
    setting.converged().await;
    worker.ready().await;
    worker.stop().await;
}
