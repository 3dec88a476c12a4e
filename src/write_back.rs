//! `public.agents.langgraph_assistant_id`: the agent's row names its canonical assistant, or the one that works in its place.
//!
//! The only thing that is ever written to a table of the application's, and the only lock on its rows that we take. It
//! comes after the sync has committed, in a transaction of its own that the server begins and commits within one message
//! of ours, and passes over rows that an editor holds; those are tried again. Were it part of the sync, editors would wait
//! for us, and deadlock with us.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::database::{BATCH, Client, DEADLINE, Database, Error, Fault, at_once};
use crate::ids::{AgentId, AssistantId};
use crate::retry::Backoff;
use crate::sql;

/// How many agents are written together. Whoever edits one of them meanwhile waits for all, and for what the
/// application's triggers do about each: 500 bare ones take 30 ms.
const TOGETHER: usize = 100;

#[derive(Debug)]
pub struct WriteBack {
    database: Database,
    /// Agents whose row could not be written yet, and what it is to name. Lost in a crash, and found again by the next pass.
    waiting: Mutex<BTreeMap<AgentId, AssistantId>>,
    more: Notify,
}

impl WriteBack {
    pub fn new(database: Database) -> Self {
        Self {
            database,
            waiting: Mutex::default(),
            more: Notify::new(),
        }
    }

    /// Writes what can be written now; the rest waits for [`Self::retry`]. Never fails: the assistants stand already.
    pub async fn run(&self, client: &Client, named: &[(AgentId, AssistantId)]) {
        if named.is_empty() {
            return;
        }
        // First, so that nothing is forgotten should the caller go away in between.
        self.lock().extend(named.iter().copied());
        match attempt(client, named).await {
            Ok(left) => self.done(named, &left),
            Err(e) => {
                warn!(error = %e, agents = named.len(), "the write-back failed, it is tried again")
            }
        }
        if !self.lock().is_empty() {
            self.more.notify_one();
        }
    }

    /// Tries what is waiting again and again. Runs until it is dropped, which it may be at any point.
    pub async fn retry(&self) {
        loop {
            self.more.notified().await;
            let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
            loop {
                tokio::time::sleep(backoff.pause()).await;
                let waiting: Vec<_> = self.lock().iter().map(|(a, id)| (*a, *id)).collect();
                if waiting.is_empty() {
                    break;
                }
                for named in waiting.chunks(BATCH) {
                    if let Err(e) = self
                        .database
                        .within(DEADLINE, self.retry_batch(named))
                        .await
                    {
                        debug!(error = %e, waiting = waiting.len(), "the write-back failed again");
                    }
                }
            }
        }
    }

    async fn retry_batch(&self, named: &[(AgentId, AssistantId)]) -> Result<(), Error> {
        let client = self.database.client().await?;
        match attempt(&client, named).await {
            Ok(left) => self.done(named, &left),
            Err(e) if e.fault() == Fault::Passing => return Err(e),
            // One row that the application's own triggers refuse must not keep the others from being written.
            Err(_) => {
                for one in named.chunks(1) {
                    match attempt(&client, one).await {
                        Ok(left) => self.done(one, &left),
                        Err(e) => debug!(agent = ?one, error = %e, "the write-back failed again"),
                    }
                }
            }
        }
        client.give_back();
        Ok(())
    }

    fn done(&self, named: &[(AgentId, AssistantId)], left: &[AgentId]) {
        let mut waiting = self.lock();
        for (agent, id) in named.iter().filter(|(agent, _)| !left.contains(agent)) {
            // Unless it is to name another meanwhile.
            if waiting.get(agent) == Some(id) {
                waiting.remove(agent);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AgentId, AssistantId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the agents that an editor holds.
async fn attempt(client: &Client, named: &[(AgentId, AssistantId)]) -> Result<Vec<AgentId>, Error> {
    let mut left = Vec::new();
    for named in named.chunks(TOGETHER) {
        // Nothing to escape: they are uuids, and we have written them down ourselves.
        let literal = |ids: Vec<String>| format!("'{{{}}}'", ids.join(","));
        let agents = literal(named.iter().map(|(agent, _)| agent.to_string()).collect());
        let assistants = literal(named.iter().map(|(_, id)| id.to_string()).collect());
        let statement = sql!("write_back")
            .replace(":'agents'", &agents)
            .replace(":'assistants'", &assistants);
        let rows = at_once(client, &statement).await?;
        let held = rows
            .iter()
            .filter_map(|row| Uuid::try_parse(row.get("id")?).ok());
        left.extend(held.map(AgentId));
    }
    Ok(left)
}
