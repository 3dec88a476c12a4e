//! What is sent: everything, each time, and only where it makes a difference.

use agent_sync::syncer::Outcome;
use serde_json::{Value, json};

use super::{Setting, outcome, pass};

/// Fields of `public.agents` that servers keep in their own ways.
const PECULIAR: &str = r#"update public.agents set description = null, sampling_params = '{"temperature": 0.70, "top_p": 1.0,
    "seed": 12345678901234567, "max_tokens": 4096, "stop": [], "logit_bias": {}, "nested": {"a": [1, {"b": 2.50}], "c": null}}'"#;

#[tokio::test]
async fn what_says_what_it_should_is_not_written_again() {
    let setting = Setting::new().await;
    let agent = setting.db.agent("a").await;
    setting.db.execute(PECULIAR).await;
    let worker = setting.worker(&[]).await;
    worker.stop().await;
    let made = setting.server.assistant(agent).expect("made");
    let kept = &made["config"]["configurable"];
    assert_eq!(
        kept["max_tokens"].to_string(),
        "4096.0",
        "as it was not sent"
    );
    // After a restart; by a resync, which comes every second; and by an edit that changes nothing of it.
    let resyncs = [("AGENT_SYNC_RESYNC_INTERVAL", "1s")];
    let worker = setting.worker(&resyncs).await;
    setting.server.forget_log();
    setting
        .db
        .execute("update public.agents set status = status")
        .await;
    crate::support::eventually("it was looked at a few times", || async {
        let looks = setting.server.requests_for("GET", agent).len();
        (looks > 3).then_some(()).ok_or(format!("{looks}"))
    })
    .await;
    worker.stop().await;
    assert_eq!(setting.server.versions(agent), 1);
    assert_eq!(setting.server.assistant(agent), Some(made));
}

#[tokio::test]
async fn what_somebody_else_changed_is_put_right_and_foreign_metadata_stays() {
    let setting = Setting::installed().await;
    let (agent, syncer) = (setting.db.agent("a").await, setting.syncer("all"));
    pass(&syncer, &[agent]).await;
    setting
        .server
        .patch(agent, json!({"metadata": {"pinned": true}}));
    let batch = pass(&syncer, &[agent]).await;
    assert_eq!(outcome(&batch, agent), &Outcome::Skipped);
    let edits = [
        json!({"name": "theirs"}),
        json!({"config": {"configurable": {"model_name": "theirs"}}}),
        json!({"config": {"tags": ["theirs"]}}),
        json!({"graph_id": "theirs"}),
        // Perhaps it is another's that was put in its place.
        json!({"metadata": {"owner": "mallory"}}),
    ];
    for edit in edits {
        setting.server.patch(agent, edit.clone());
        let batch = pass(&syncer, &[agent]).await;
        assert_eq!(outcome(&batch, agent), &Outcome::Updated, "{edit}");
        let now = setting.server.assistant(agent).expect("there");
        let pinned = edit["metadata"]["owner"].is_null().then_some(true);
        assert_eq!(now["metadata"]["pinned"], json!(pinned), "{edit}");
        assert_eq!(now["metadata"]["owner"], "system");
        assert_eq!(
            (&now["name"], &now["graph_id"]),
            (&json!("a"), &json!("agent"))
        );
        assert!(now["config"]["tags"].is_null());
        assert_eq!(now["config"]["configurable"]["model_name"], "openai:gpt-4o");
    }
}

#[tokio::test]
async fn bodies_are_complete_and_what_must_go_is_null() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let (agent, syncer) = (db.agent("a").await, setting.syncer("all"));
    let (organization, _) = db.organization().await;
    let edits = [
        format!("update public.agents set organization_id = '{organization}', description = 'd'"),
        "update public.agents set organization_id = null, description = null".to_owned(),
        "update public.agents set name = ''".to_owned(),
    ];
    for edit in &edits {
        db.execute(edit).await;
        pass(&syncer, &[agent]).await;
    }
    let writes = server.writes();
    let methods: Vec<&str> = writes.iter().map(|seen| seen.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PATCH", "PATCH"]);
    for seen in &writes {
        let body = seen.body.as_object().expect("an object");
        for field in ["graph_id", "name", "config", "metadata", "description"] {
            assert!(body.contains_key(field), "{field} in {body:?}");
        }
        assert!(!body.contains_key("context"), "{body:?}");
        assert!(!body["description"].is_null());
        assert!(!body["name"].as_str().expect("a name").is_empty());
        assert!(body["config"]["configurable"]["model_name"].is_string());
        assert_eq!(seen.headers["content-type"], "application/json");
    }
    assert_eq!(writes[0].body["if_exists"], "do_nothing");
    let organizations: Vec<&Value> = writes
        .iter()
        .map(|seen| &seen.body["metadata"]["supabase_organization_id"])
        .collect();
    assert_eq!(
        organizations,
        [&json!(organization), &Value::Null, &Value::Null]
    );
    let now = server.assistant(agent).expect("there");
    assert_eq!(
        (&now["description"], &now["name"]),
        (&json!(""), &json!("Untitled"))
    );
    // And that is what it should say.
    let batch = pass(&syncer, &[agent]).await;
    assert_eq!(outcome(&batch, agent), &Outcome::Skipped);
}
