//! A burst of edits of one agent is one or two syncs, not a hundred.

use agent_sync::config::SCOPE;

use crate::support::{TestDatabase, TestWorker};

#[tokio::test]
async fn a_hundred_edits_in_a_row_are_a_few_syncs_and_the_last_one_wins() {
    let db = TestDatabase::new().await;
    let (id, other) = (db.agent("a").await, db.agent("other").await);
    let worker = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    // While it is being synced, an edited agent is edited again: the test holds the agent's lock until all are made.
    let holder = db.hold_agent(id).await;
    for n in 1..=100 {
        db.execute(&format!(
            "update public.agents set system_prompt = 'edit {n}' where id = '{id}'"
        ))
        .await;
    }
    holder.batch_execute("commit").await.expect("released");
    db.converged().await;
    assert_eq!(db.prompt(id).await.as_deref(), Some("edit 100"));
    let version = db.assistant(id).await.expect("an assistant")["version"]
        .as_i64()
        .expect("a version");
    assert!(version <= 3, "100 edits made {} syncs", version - 1);

    // A hundred edits in one transaction are one change.
    let edits: String = (1..=100)
        .map(|n| {
            format!("update public.agents set system_prompt = 'again {n}' where id = '{other}';")
        })
        .collect();
    db.execute(&format!("begin; {edits} commit")).await;
    db.converged().await;
    assert_eq!(
        db.assistant(other).await.expect("an assistant")["version"],
        2
    );
    worker.stop().await;
}
