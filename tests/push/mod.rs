//! Assistants that live on a LangGraph server: every rule of the store, on a server that behaves badly when it is told to.

mod access;
mod answers;
mod content;
mod entrances;
mod faults;
mod flow;
mod leases;
mod losses;
mod refusals;
mod stops;

use std::sync::Arc;

use agent_sync::access::Access;
use agent_sync::config::{LANGGRAPH_API_URL, SCOPE, STORE, Settings};
use agent_sync::ids::AgentId;
use agent_sync::plan::{Answer, Claim, IfExists};
use agent_sync::store::Place;
use agent_sync::store::langgraph::Server;
use agent_sync::syncer::{Batch, Entrance, Outcome, Syncer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::support::binary::Running;
use crate::support::double::Double;
use crate::support::{TestDatabase, TestWorker, eventually};

/// A database, and a server for the assistants of its agents.
struct Setting {
    db: TestDatabase,
    server: Double,
}

impl Setting {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let server = Double::start().await;
        Self { db, server }
    }

    /// The same, where everything is installed and no worker runs: for a syncer.
    async fn installed() -> Self {
        let setting = Self::new().await;
        TestWorker::start(&setting.db, &[]).await.stop().await;
        setting
    }

    /// A worker for all agents; ready.
    async fn worker(&self, more: &[(&str, &str)]) -> TestWorker {
        let url = self.server.url();
        TestWorker::start(&self.db, &[&variables(&url), more].concat()).await
    }

    /// The same as a process.
    fn running(&self, more: &[(&str, &str)]) -> Running {
        let url = self.server.url();
        Running::serve(&self.db, &[&variables(&url), more].concat())
    }

    /// What syncs, for whoever asks, and with a scope of its own.
    fn syncer(&self, scope: &str) -> Syncer {
        let settings = Settings {
            scope: scope.parse().expect("a scope"),
            ..Settings::default()
        };
        let server = Arc::new(Server::new(&self.server.config()));
        Syncer::new(self.db.pool(), Access::open(), settings).writing_to(Place::Server(server))
    }

    /// Waits until the outbox is empty, and the assistants on the server are what the agents say.
    async fn converged(&self) {
        eventually("every assistant equals its agent", || async {
            self.db.copy(self.server.assistants()).await;
            self.db.is_converged(&[]).await
        })
        .await;
    }

    /// Waits until the assistant on the server has the prompt.
    async fn prompted(&self, id: Uuid, expected: &str) {
        eventually("the assistant has the prompt", || async {
            let prompt = self.server.prompt(id);
            let is_so = prompt.as_deref() == Some(expected);
            is_so.then_some(()).ok_or(format!("{prompt:?}"))
        })
        .await;
    }

    async fn prompt(&self, agent: Uuid, prompt: &str) {
        self.db
            .execute(&format!(
                "update public.agents set system_prompt = '{prompt}' where id = '{agent}'"
            ))
            .await;
    }

    /// What the ledger says of an assistant: state, failures in a row, and error.
    async fn entry(&self, id: Uuid) -> Option<(String, i32, Option<String>)> {
        let statement =
            "select state, attempts, error from agent_sync.ledger where assistant_id = $1";
        let rows = self.db.rows(statement, &[&id]).await;
        rows.first().map(|row| (row.get(0), row.get(1), row.get(2)))
    }

    async fn is_synced(&self, id: Uuid) {
        let entry = self.entry(id).await;
        assert_eq!(entry, Some(("synced".to_owned(), 0, None)));
    }

    /// As if whoever holds agents had died a while ago.
    async fn expire_leases(&self) {
        let expire = "update agent_sync.leases set until = now() - interval '1 second'";
        self.db.execute(expire).await;
    }

    async fn leases(&self) -> i64 {
        self.db.count("agent_sync.leases").await
    }
}

fn variables(url: &str) -> [(&str, &str); 3] {
    [
        (STORE, "langgraph"),
        (LANGGRAPH_API_URL, url),
        (SCOPE, "all"),
    ]
}

fn claim(owner: &str) -> Claim {
    Claim {
        owner: owner.to_owned(),
        identity: None,
        assistant_id: None,
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    }
}

/// The assistant that this claim gets.
async fn ask(syncer: &Syncer, agent: Uuid, claim: &Claim) -> Uuid {
    let batch = syncer
        .sync_now(&[AgentId(agent)], Entrance::Request(claim))
        .await
        .expect("synced");
    match batch.answer {
        Some(Answer::Assistant(id)) => id.0,
        other => panic!("{other:?}: {:?}", batch.outcomes),
    }
}

/// What a pass over these agents comes to.
async fn pass(syncer: &Syncer, agents: &[Uuid]) -> Batch {
    let agents: Vec<AgentId> = agents.iter().copied().map(AgentId).collect();
    let batch = syncer.sync_now(&agents, Entrance::Pass).await;
    batch.expect("synced")
}

fn outcome(batch: &Batch, agent: Uuid) -> &Outcome {
    let outcomes = batch.outcomes.iter();
    let mut of_it = outcomes.filter(|(id, _)| *id == AgentId(agent));
    &of_it.next().expect("an outcome").1
}

fn owner(assistant: &Value) -> &str {
    assistant["metadata"]["owner"].as_str().unwrap_or_default()
}
