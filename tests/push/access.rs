//! Who may not have an agent any more loses its assistant on the server, too.

use agent_sync::access::{Access, Identity};
use agent_sync::config::{Authorize, Settings};
use agent_sync::ids::AgentId;
use agent_sync::plan::Claim;
use agent_sync::store::Place;
use agent_sync::store::langgraph::Server;
use agent_sync::syncer::{Entrance, Outcome, Syncer};
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;

use super::{Setting, ask, claim, outcome, owner, pass};
use crate::support::double::Fault;

/// An organization's agent, which its one member has asked for.
async fn with_a_member() -> (Setting, Syncer, Uuid, Uuid) {
    let setting = Setting::installed().await;
    let (organization, alice) = setting.db.organization().await;
    let agent = setting.db.agent("a").await;
    let set = format!("update public.agents set organization_id = '{organization}'");
    setting.db.execute(&set).await;
    let access = Access::new(&setting.db.url(), Authorize::Agent, true);
    let server = Arc::new(Server::new(&setting.server.config()));
    let syncer = Syncer::new(setting.db.pool(), access, Settings::default())
        .writing_to(Place::Server(server));
    assert_eq!(ask(&syncer, agent, &signed_in(alice)).await, agent);
    let hers = setting.server.assistant(agent).expect("hers");
    assert_eq!(owner(&hers), alice.to_string());
    (setting, syncer, agent, alice)
}

fn signed_in(user: Uuid) -> Claim {
    let claims = json!({"sub": user, "role": "authenticated", "aud": "authenticated"});
    let claims = claims.as_object().cloned().expect("an object");
    Claim {
        identity: Some(Identity::verified(user, claims)),
        ..claim(&user.to_string())
    }
}

#[tokio::test]
async fn who_leaves_loses_the_assistant() {
    let (setting, syncer, agent, alice) = with_a_member().await;
    let Setting { db, server } = &setting;
    assert_eq!(
        outcome(&pass(&syncer, &[agent]).await, agent),
        &Outcome::Skipped
    );
    db.execute(&format!(
        "delete from public.organization_members where user_id = '{alice}'"
    ))
    .await;
    // A lost answer delays that, and no more.
    server.next("DELETE", agent, Fault::ResetAfter);
    assert_eq!(
        outcome(&pass(&syncer, &[agent]).await, agent),
        &Outcome::Revoked
    );
    assert_eq!(server.assistant(agent), None);
    assert_eq!(setting.entry(agent).await, None);
    let batch = syncer
        .sync_now(&[AgentId(agent)], Entrance::Request(&signed_in(alice)))
        .await;
    assert_eq!(batch.expect("refused").answer, None);
    assert_eq!(server.assistants().len(), 0);
}

#[tokio::test]
async fn an_agent_that_moves_takes_nobody_along() {
    let (setting, syncer, agent, _) = with_a_member().await;
    let Setting { db, server } = &setting;
    let (theirs, _) = db.organization().await;
    db.execute(&format!(
        "update public.agents set organization_id = '{theirs}', system_prompt = 'theirs'"
    ))
    .await;
    let batch = syncer.sync_now(&[AgentId(agent)], Entrance::Change).await;
    assert_eq!(outcome(&batch.expect("synced"), agent), &Outcome::Revoked);
    assert_eq!(server.assistant(agent), None);
    assert!(
        server.requests_for("PATCH", agent).is_empty(),
        "nothing of it was shown"
    );
}

/// A server that is away: the assistant goes when it is back.
#[tokio::test]
async fn what_a_server_that_is_away_shows_is_taken_back_later() {
    let (setting, syncer, agent, alice) = with_a_member().await;
    let Setting { db, server } = &setting;
    db.execute(&format!(
        "delete from public.organization_members where user_id = '{alice}'"
    ))
    .await;
    server.always("DELETE", agent, Fault::ResetBefore);
    assert_eq!(
        outcome(&pass(&syncer, &[agent]).await, agent),
        &Outcome::Busy
    );
    setting.is_synced(agent).await;
    let due = format!("agent_sync.outbox where key = '{agent}'");
    assert!(db.count(&due).await > 0, "it stays due");
    server.mend();
    assert_eq!(
        outcome(&pass(&syncer, &[agent]).await, agent),
        &Outcome::Revoked
    );
    assert_eq!(server.assistant(agent), None);
}
