//! A pass: every agent of a scope is looked at, whether or not anything announced a change.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::database::{BATCH, DEADLINE, Error, begin};
use crate::ids::AgentId;
use crate::retry::{ALONE, SYSTEMIC};
use crate::scope::Scope;
use crate::syncer::{Entrance, Summary, Syncer};

/// How often a long pass says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How far a pass goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To the agents of the scope, and to all others that have an assistant of ours.
    Reach,
    /// To the agents of the scope only.
    Scope,
}

/// Syncs every agent of the scope, and of what the extent adds to it.
///
/// The pages only name candidates. What an agent says is read under its lock, so an edit during the pass is either seen
/// by it or still in the outbox.
pub async fn run(
    syncer: &Syncer,
    scope: &Scope,
    extent: Extent,
    shutdown: &CancellationToken,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let mut last: Option<AgentId> = None;
    let mut progress = Progress::since(Instant::now());
    while !shutdown.is_cancelled() {
        let finding = async {
            let mut client = syncer.database.client().await?;
            let tx = begin(&mut client).await?;
            let shape = syncer.source.shape(tx.client()).await?;
            let agents = shape
                .candidates(tx.client(), scope, extent, last, BATCH)
                .await?;
            tx.commit().await?;
            client.give_back();
            Ok(agents)
        };
        let agents = syncer.database.within(DEADLINE, finding).await?;
        if agents.is_empty() {
            break;
        }
        sync(syncer, &agents, &mut summary).await?;
        last = agents.last().copied();
        if progress.is_due(Instant::now()) {
            info!("Startup sync so far: {summary}");
        }
    }
    Ok(summary)
}

/// Syncs the agents of a page. One that takes too long all by itself, again and again, is passed over; should none come
/// through before the third of those, it is not the agents.
async fn sync(syncer: &Syncer, agents: &[AgentId], summary: &mut Summary) -> Result<(), Error> {
    let (mut chunks, mut attempts, mut failed) = (vec![agents], 0, 0);
    while let Some(chunk) = chunks.pop() {
        let started = Instant::now();
        let error = match syncer.sync_now(chunk, Entrance::Pass).await {
            Ok(batch) => {
                summary.add(Summary::of(&batch.outcomes));
                (attempts, failed) = (0, 0);
                continue;
            }
            Err(error) => error,
        };
        if !syncer.database.is_too_much(&error, started.elapsed()).await {
            return Err(error);
        }
        if let &[agent] = chunk {
            attempts += 1;
            if attempts < ALONE {
                chunks.push(chunk);
                continue;
            }
            (attempts, failed) = (0, failed + 1);
            if failed >= SYSTEMIC {
                return Err(error);
            }
            error!(%agent, %error, "the agent cannot be synced in time, the pass goes on without it");
            summary.failed += 1;
        } else {
            let (left, right) = chunk.split_at(chunk.len() / 2);
            chunks.extend([right, left]);
        }
    }
    Ok(())
}

/// Says when a long pass has been silent for long enough.
struct Progress {
    said: Instant,
}

impl Progress {
    fn since(start: Instant) -> Self {
        Self { said: start }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.said) >= PROGRESS;
        if due {
            self.said = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_every_five_seconds_and_not_before() {
        let start = Instant::now();
        let mut progress = Progress::since(start);
        let told = (1..=11)
            .filter(|second| progress.is_due(start + Duration::from_secs(*second)))
            .collect::<Vec<u64>>();
        assert_eq!(told, [5, 10]);
    }
}
