//! Finds out that a server has lost its assistants: one that keeps them in memory was restarted, or somebody has emptied it. Then all agents
//! are looked at, and what is missing is made again.

use std::time::Duration;

use hyper::body::Bytes;
use uuid::Uuid;

use super::transport::INFO;
use super::{Server, path};
use crate::ids::AssistantId;

/// How often the server is asked.
const EVERY: Duration = Duration::from_secs(5);

impl Server {
    /// Looks again and again. Runs until it is dropped, which it may be at any point.
    pub async fn watch(&self) {
        let mut known: Option<Bytes> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            if self.transport.is_refused() {
                // Whether it lets us in again. Everybody may ask for its /info.
                let nobody = AssistantId(Uuid::nil());
                let _ = self.transport.read(&path(nobody)).await;
                continue;
            }
            // A restarted one may say something else.
            let Ok(info) = self.transport.read(INFO).await else {
                continue;
            };
            let is_another = known.replace(info.body.clone());
            let is_another = is_another.is_some_and(|known| known != info.body);
            if self.transport.was_away() || is_another || self.misses_the_last().await {
                self.is_lost();
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
