//! What the worker knows of the source tables and of their server, and what it makes of another look at them.

use std::sync::Arc;

use agent_sync::access::Access;
use agent_sync::changes;
use agent_sync::config::{AUTHENTICATOR_URL, SCOPE, Settings};
use agent_sync::database::migrations;
use agent_sync::source::Shape;
use agent_sync::syncer::Syncer;
use serde_json::json;

use crate::support::binary::Running;
use crate::support::cluster::{Cluster, Server};
use crate::support::database::Role;
use crate::support::worker::exchange;
use crate::support::{Project, TestDatabase, eventually};

#[tokio::test]
async fn neither_a_restart_nor_a_grant_on_users_makes_agents_count_as_changed() {
    let cluster = Cluster::start(&[]).await;
    let mut db = cluster.database(Role::of_run()).await;
    migrations::migrate(&db.pool(), migrations::PATIENCE)
        .await
        .expect("migrated");
    db.agent("a").await;
    db.forget_edits().await;
    let mut seen: Option<Arc<Shape>> = None;
    for happens in ["nothing", "a restart", "a grant"] {
        match happens {
            "a restart" => {
                Server::of(&db).await.crash_and_restart().await;
                db = TestDatabase::at(&db.superuser_url, db.role).await;
            }
            "a grant" => {
                db.execute(&format!(
                    "create table auth.users (id uuid, raw_app_meta_data jsonb, is_anonymous boolean);
                     grant usage on schema auth to {worker};
                     grant select on auth.users to {worker}",
                    worker = db.role.name()
                ))
                .await;
            }
            _ => {}
        }
        let before = seen.clone();
        // With connections of its own, none of which is one that the server has closed.
        let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
        changes::look_around(&syncer, &mut seen)
            .await
            .expect("looked");
        assert_eq!(db.count("agent_sync.outbox").await, 0, "{happens}");
        // It has been seen all the same.
        let now = seen.as_ref().expect("a shape");
        let has_moved = before.is_some_and(|before| before.place() != now.place());
        assert_eq!(has_moved, happens == "a restart");
        assert_eq!(now.has_users(), happens == "a grant");
    }
}

/// Each time that nobody can be asked about a caller, the worker looks again whether the server is still the same.
#[tokio::test]
async fn what_is_missing_is_told_once_however_often_callers_cannot_be_asked_about() {
    let db = TestDatabase::new().await;
    let (_, user) = db.organization().await;
    let agent = db.agent("a").await;
    db.execute("alter table public.agents drop column description")
        .await;
    let (project, elsewhere) = (Project::new().await, TestDatabase::new().await);
    let own = [(SCOPE, "all"), (AUTHENTICATOR_URL, elsewhere.url.as_str())];
    let running = Running::serve(&db, &[&own[..], &project.variables()].concat());
    for said in [
        "Startup sync summary",
        "no user can be given an agent",
        "auth.users is not there",
    ] {
        running.line(said).await;
    }
    let body = json!({"metadata": {"supabase_agent_id": agent}}).to_string();
    let request = format!(
        "POST /assistants HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        project.token(user),
        body.len()
    );
    for _ in 0..3 {
        let (status, _, answer) = exchange(running.api().await, &request).await;
        assert_eq!(status, 503, "{answer}");
    }
    eventually("all of it is in the log", || async {
        match running.output().matches("a request failed").count() {
            3 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    let output = running.output();
    assert_eq!(output.matches("are incomplete").count(), 1, "{output}");
}
