//! What the store promises while others work on the same rows, and what it does not let grow.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{Project, TestDatabase, TestWorker, eventually};

/// A worker, and a session beside it that holds a synced assistant of this user's.
struct Held {
    db: TestDatabase,
    worker: TestWorker,
    project: Project,
    user: Uuid,
    assistant: Uuid,
    holder: Client,
}

impl Held {
    async fn new() -> Self {
        let (db, project) = (TestDatabase::new().await, Project::new().await);
        let worker = TestWorker::start(&db, &project.variables()).await;
        let (user, assistant) = (Uuid::new_v4(), Uuid::new_v4());
        let body = json!({"graph_id": "g", "assistant_id": assistant});
        let made = worker.create_as(&project.token(user), body).await;
        assert_eq!(made.0, 200, "{made:?}");
        db.execute(&format!(
            "insert into agent_sync.ledger (assistant_id, agent_id, owner, state, content_hash)
             values ('{assistant}', '{assistant}', '{user}', 'synced', 'x')"
        ))
        .await;
        let holder = db.connect().await;
        holder
            .batch_execute(&format!(
                "begin; select from langgraph_server.assistants where id = '{assistant}' for update"
            ))
            .await
            .expect("held");
        Self {
            db,
            worker,
            project,
            user,
            assistant,
            holder,
        }
    }

    async fn ask(&self, user: Uuid, method: &str) -> (u16, Value) {
        let path = format!("/assistants/{}", self.assistant);
        let body = json!({"metadata": {"graffiti": true}});
        let token = self.project.token(user);
        self.worker
            .request_as(&token, method, &path, Some(&body))
            .await
    }

    async fn somebody_waits_for_the_assistant(&self) {
        eventually("somebody waits for the assistant", || async {
            let waiting = "pg_stat_activity where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0";
            match self.db.count(waiting).await {
                0 => Err("nobody does".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn strangers_attempts_lock_nothing() {
    let held = Held::new().await;
    for method in ["PATCH", "DELETE"] {
        // Whoever wanted a lock would wait for the one that is held.
        let mut attempt = std::pin::pin!(held.ask(Uuid::new_v4(), method));
        tokio::select! {
            (status, _) = &mut attempt => assert_eq!(status, 404, "{method}"),
            () = held.somebody_waits_for_the_assistant() => panic!("a stranger's {method} waits for a lock"),
        }
    }
    held.worker.stop().await;
}

#[tokio::test]
async fn who_waits_while_an_assistant_changes_hands_neither_reads_nor_changes_it() {
    for method in ["PATCH", "DELETE"] {
        let held = Held::new().await;
        let id = held.assistant;
        let handing_over = format!(
            "update langgraph_server.assistants set config = '{{\"configurable\": {{\"system_prompt\": \"secret\"}}}}',
               metadata = '{{\"owner\": \"system\"}}' where id = '{id}';
             update agent_sync.ledger set owner = 'system' where assistant_id = '{id}';
             commit"
        );
        let (answer, ()) = tokio::join!(held.ask(held.user, method), async {
            held.somebody_waits_for_the_assistant().await;
            let handed_over = held.holder.batch_execute(&handing_over).await;
            handed_over.expect("handed over");
        });
        assert_eq!(answer.0, 404, "{method}: {answer:?}");
        assert!(!answer.1.to_string().contains("secret"), "{answer:?}");
        let left = held.db.assistant(id).await.expect("it is still there");
        assert_eq!(left["metadata"], json!({"owner": "system"}), "{method}");
        held.worker.stop().await;
    }
}
