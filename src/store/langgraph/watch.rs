//! Finds out that a server has lost its assistants: one that keeps them in memory was restarted, or somebody has emptied it. Then all agents
//! are looked at, and what is missing is made again.

use std::time::Duration;

use serde_json::Value;
use tracing::{info, warn};

use super::Server;

/// How often the server is asked.
const EVERY: Duration = Duration::from_secs(5);

impl Server {
    /// Looks again and again. Runs until it is dropped, which it may be at any point.
    pub async fn watch(&self) {
        let mut known: Option<Value> = None;
        let mut failing = false;
        loop {
            tokio::time::sleep(EVERY).await;
            match self.info().await {
                Ok(info) => {
                    if std::mem::take(&mut failing) {
                        info!("the LangGraph server answers again");
                    }
                    let is_another = known.as_ref().is_some_and(|known| *known != info);
                    known = Some(info);
                    if self.transport.was_away() || is_another || self.misses_the_last().await {
                        self.is_lost();
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "the LangGraph server cannot be used; what changes waits in the outbox");
                    }
                }
            }
        }
    }

    /// Whether what was written last is not there any more.
    async fn misses_the_last(&self) -> bool {
        let Some(last) = *self.last() else {
            return false;
        };
        let is_missing = matches!(self.find(last).await, Ok(None));
        // Unless it was deleted by us meanwhile.
        is_missing && self.last().take_if(|id| *id == last).is_some()
    }
}
