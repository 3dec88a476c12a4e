//! A pass: every agent of a scope is looked at, whether or not anything announced a change.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::database::migrations::Footing;
use crate::database::{BATCH, DEADLINE, Error, IsolationLevel, begin_reading};
use crate::ids::AgentId;
use crate::retry::{ALONE, SYSTEMIC};
use crate::scope::Scope;
use crate::syncer::{Batch, Entrance, Outcome, Preview, Summary, Syncer};

/// How often a long pass says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How far a pass goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To the agents of the scope, and to all others that have an assistant of ours.
    Reach,
    /// To the agents of the scope only.
    Scope,
    /// To those of the scope that exist: nothing of ours is installed yet that would know of any other.
    Existing,
}

/// Which agents a pass comes to.
#[derive(Debug, Clone)]
pub enum Candidates {
    Of(Scope, Extent),
    /// Just these.
    Named(BTreeSet<AgentId>),
}

impl Candidates {
    /// The next ones in order of id. They only name candidates: what an agent says is read when it is looked at.
    async fn next(
        &self,
        syncer: &Syncer,
        after: Option<AgentId>,
        limit: usize,
    ) -> Result<Vec<AgentId>, Error> {
        let (scope, extent) = match self {
            Self::Of(scope, extent) => (scope, *extent),
            Self::Named(named) => {
                let next = named.iter().filter(|agent| Some(**agent) > after);
                return Ok(next.take(limit).copied().collect());
            }
        };
        let finding = async {
            let mut client = syncer.database.client().await?;
            let tx = begin_reading(&mut client, IsolationLevel::ReadCommitted).await?;
            let shape = syncer.source.shape(tx.client()).await?;
            let agents = shape.candidates(tx.client(), scope, extent, after, limit);
            let agents = agents.await?;
            tx.commit().await?;
            client.give_back();
            Ok(agents)
        };
        syncer.database.within(DEADLINE, finding).await
    }

    /// How many there are, at the moment.
    pub async fn count(&self, syncer: &Syncer) -> Result<u64, Error> {
        let (scope, extent) = match self {
            Self::Of(scope, extent) => (scope, *extent),
            Self::Named(named) => return Ok(named.len() as u64),
        };
        let counting = async {
            let mut client = syncer.database.client().await?;
            let tx = begin_reading(&mut client, IsolationLevel::ReadCommitted).await?;
            let shape = syncer.source.shape(tx.client()).await?;
            let count = shape.count_candidates(tx.client(), scope, extent).await?;
            tx.commit().await?;
            client.give_back();
            Ok(count)
        };
        syncer.database.within(DEADLINE, counting).await
    }
}

/// Syncs every agent of the scope, and of what the extent adds to it. Says in the log how far it is.
///
/// The pages only name candidates. What an agent says is read under its lock, so an edit during the pass is either seen
/// by it or still in the outbox.
pub async fn run(
    syncer: &Syncer,
    scope: &Scope,
    extent: Extent,
    shutdown: &CancellationToken,
) -> Result<Summary, Error> {
    let candidates = Candidates::Of(scope.clone(), extent);
    let mut progress = Progress::since(Instant::now());
    let mut summary = Summary::default();
    sync(syncer, &candidates, shutdown, |outcomes| {
        summary.add(Summary::of(outcomes));
        if progress.is_due(Instant::now()) {
            info!("Startup sync so far: {summary}");
        }
    })
    .await?;
    Ok(summary)
}

/// Syncs these agents, and tells what became of them as it goes.
pub async fn sync(
    syncer: &Syncer,
    candidates: &Candidates,
    shutdown: &CancellationToken,
    mut told: impl FnMut(&[(AgentId, Outcome)]),
) -> Result<(), Error> {
    let mut last = None;
    while !shutdown.is_cancelled() {
        let agents = candidates.next(syncer, last, BATCH).await?;
        if agents.is_empty() {
            break;
        }
        let mut chunks = Chunks::of(&agents);
        while let Some(chunk) = chunks.next() {
            let synced = syncer.sync_now(chunk, Entrance::Pass).await;
            if let Some(Batch { outcomes, .. }) = chunks.judge(syncer, synced).await? {
                told(&outcomes);
            }
        }
        told(&chunks.passed_over);
        last = agents.last().copied();
    }
    Ok(())
}

/// What [`sync`] would do with these agents. Writes nothing. Ends early when whoever is told does not want to hear more.
pub async fn preview(
    syncer: &Syncer,
    footing: Footing,
    candidates: &Candidates,
    mut told: impl FnMut(Preview) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut last = None;
    loop {
        let agents = candidates.next(syncer, last, syncer.batch_size()).await?;
        if agents.is_empty() {
            return Ok(());
        }
        let mut chunks = Chunks::of(&agents);
        while let Some(chunk) = chunks.next() {
            let previewed = syncer.preview(footing, chunk).await;
            if let Some(preview) = chunks.judge(syncer, previewed).await?
                && told(preview).is_break()
            {
                return Ok(());
            }
        }
        if told(Preview::of(chunks.passed_over)).is_break() {
            return Ok(());
        }
        last = agents.last().copied();
    }
}

/// The agents of a page, together as long as that is not too much. One that takes too long all by itself, again and again, is passed
/// over; should none come through before the third of those, it is not the agents.
struct Chunks<'a> {
    left: Vec<&'a [AgentId]>,
    /// The one that is in hand.
    chunk: &'a [AgentId],
    since: Instant,
    attempts: u32,
    failed: usize,
    /// What became of those.
    passed_over: Vec<(AgentId, Outcome)>,
}

impl<'a> Chunks<'a> {
    fn of(agents: &'a [AgentId]) -> Self {
        Self {
            left: vec![agents],
            chunk: &[],
            since: Instant::now(),
            attempts: 0,
            failed: 0,
            passed_over: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<&'a [AgentId]> {
        self.chunk = self.left.pop()?;
        self.since = Instant::now();
        Some(self.chunk)
    }

    /// What to make of what came of the chunk in hand.
    async fn judge<T>(
        &mut self,
        syncer: &Syncer,
        outcome: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let error = match outcome {
            Ok(done) => {
                (self.attempts, self.failed) = (0, 0);
                return Ok(Some(done));
            }
            Err(error) => error,
        };
        if !syncer
            .database
            .is_too_much(&error, self.since.elapsed())
            .await
        {
            return Err(error);
        }
        let &[agent] = self.chunk else {
            let (left, right) = self.chunk.split_at(self.chunk.len() / 2);
            self.left.extend([right, left]);
            return Ok(None);
        };
        self.attempts += 1;
        if self.attempts < ALONE {
            self.left.push(self.chunk);
            return Ok(None);
        }
        (self.attempts, self.failed) = (0, self.failed + 1);
        if self.failed >= SYSTEMIC {
            return Err(error);
        }
        error!(%agent, %error, "the agent cannot be synced in time, the pass goes on without it");
        self.passed_over
            .push((agent, Outcome::Failed(error.to_string())));
        Ok(None)
    }
}

/// Says when a long pass has been silent for long enough.
pub struct Progress {
    said: Instant,
}

impl Progress {
    pub fn since(start: Instant) -> Self {
        Self { said: start }
    }

    pub fn is_due(&mut self, now: Instant) -> bool {
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
