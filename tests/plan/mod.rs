//! `agent-sync sync --dry-run`: what it says comes about, and nothing else does; and what `sync` itself says.

mod command;
mod forecasts;
mod silence;
mod words;

use agent_sync::config::{DATABASE_URL, LANGGRAPH_API_URL, STORE};
use serde_json::Value;

use crate::support::TestDatabase;
use crate::support::binary::{Ended, run};
use crate::support::double::Double;

/// Where the assistants of a test live.
struct Setting {
    db: TestDatabase,
    server: Option<Double>,
}

impl Setting {
    async fn table() -> Self {
        Self {
            db: TestDatabase::new().await,
            server: None,
        }
    }

    async fn server() -> Self {
        Self {
            db: TestDatabase::new().await,
            server: Some(Double::start().await),
        }
    }

    /// `agent-sync sync` with these arguments and variables.
    async fn sync_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ended {
        let url = self.server.as_ref().map(Double::url);
        let place = url
            .iter()
            .flat_map(|url| [(STORE, "langgraph"), (LANGGRAPH_API_URL, url)]);
        let mut all = vec![(DATABASE_URL, self.db.url.as_str()), ("ROBYN_DEV", "true")];
        all.extend(place);
        all.extend(variables);
        run(&[&["sync"], args].concat(), &all).await
    }

    /// The same over all agents.
    async fn sync(&self, args: &[&str]) -> Ended {
        self.sync_with(&[&["--scope", "all"], args].concat(), &[])
            .await
    }

    /// The plan over all agents, as JSON.
    async fn plan(&self, args: &[&str]) -> Value {
        let ended = self.sync(&[&["--dry-run", "--json"], args].concat()).await;
        document(&ended)
    }
}

/// The one document on standard output.
fn document(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"))
}

/// So many active agents: a1, a2, …
async fn agents(db: &TestDatabase, n: u32) {
    db.execute(&format!(
        "insert into public.agents (name, status, system_prompt)
         select 'a' || n, 'active', 'You are ' || n from generate_series(1, {n}) as n"
    ))
    .await;
}
