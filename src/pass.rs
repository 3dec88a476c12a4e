//! A pass: every agent of a scope is looked at, whether or not anything announced a change.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::database::migrations::Footing;
use crate::database::{BATCH, DEADLINE, Error, begin_reading};
use crate::ids::AgentId;
use crate::retry::{ALONE, SYSTEMIC};
use crate::scope::Scope;
use crate::source::{Page, Stretch};
use crate::syncer::{Batch, Entrance, Outcome, Overview, Preview, Summary, Syncer};

/// How often a long pass says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How many agents are looked at with one statement, to find those that have to be looked at one by one. Some hundred milliseconds.
const PAGE: usize = 20_000;

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
            let tx = begin_reading(&mut client).await?;
            let shape = syncer.source.shape(&tx).await?;
            let agents = shape.candidates(&tx, scope, extent, after, limit);
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
            let tx = begin_reading(&mut client).await?;
            let shape = syncer.source.shape(&tx).await?;
            let count = shape.count_candidates(&tx, scope, extent).await?;
            tx.commit().await?;
            client.give_back();
            Ok(count)
        };
        syncer.database.within(DEADLINE, counting).await
    }
}

/// What a pass tells as it goes.
#[derive(Debug)]
pub enum Told<'a> {
    /// What became of agents that were looked at one by one.
    Synced(&'a [(AgentId, Outcome)]),
    /// How many were seen at once to be as they should be, and how many to be gone and done with.
    Passed { unchanged: usize, gone: usize },
}

/// Syncs every agent of the scope, and of what the extent adds to it. Says in the log how far it is.
///
/// The pages only name candidates. What an agent says is read under its lock, so an edit during the pass is either seen
/// by it or still in the outbox. The same goes for agents that are passed by, without any lock ([`Syncer::look_over`]): there
/// was a moment in which agent, assistant and ledger agreed, and what has been edited since is in the outbox. A worker that was
/// at work on one of them in that moment holds its lock, and reads what is there after it got that, so it does not write what is older.
pub async fn run(
    syncer: &Syncer,
    scope: &Scope,
    extent: Extent,
    shutdown: &CancellationToken,
) -> Result<Summary, Error> {
    let candidates = Candidates::Of(scope.clone(), extent);
    let mut progress = Progress::since(Instant::now());
    let mut summary = Summary::default();
    sync(syncer, &candidates, shutdown, |told| {
        summary.add(told.summary());
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
    mut told: impl FnMut(Told<'_>),
) -> Result<(), Error> {
    let mut pages = Pages::of(candidates);
    let mut next = pages.next(syncer).await?;
    let mut looked_at = 0;
    while let Some(page) = next
        && !shutdown.is_cancelled()
    {
        if page.unchanged + page.gone > 0 {
            told(Told::Passed {
                unchanged: page.unchanged,
                gone: page.gone,
            });
        }
        // The next page is looked at meanwhile.
        let (synced, looked) = futures::join!(
            sync_page(syncer, &page.due, shutdown, &mut told),
            pages.next(syncer)
        );
        looked_at += page.due.len();
        synced?;
        next = looked?;
    }
    if looked_at > BATCH {
        syncer.database.rest();
    }
    Ok(())
}

/// Each batch in a transaction of its own; while the server works on one, another is made ready. No two of them have an agent in common,
/// and the locks of each are taken in order. What is under way is brought to its end, whatever became of another.
async fn sync_page(
    syncer: &Syncer,
    due: &[AgentId],
    shutdown: &CancellationToken,
    told: &mut impl FnMut(Told<'_>),
) -> Result<(), Error> {
    let mut left = due.chunks(BATCH).fuse();
    let mut at_work = FuturesUnordered::new();
    let mut failed = None;
    loop {
        while at_work.len() < syncer.batches_together()
            && failed.is_none()
            && !shutdown.is_cancelled()
        {
            match left.next() {
                Some(batch) => at_work.push(sync_batch(syncer, batch)),
                None => break,
            }
        }
        match at_work.next().await {
            Some(Ok(outcomes)) => told(Told::Synced(&outcomes)),
            Some(Err(error)) => failed = failed.or(Some(error)),
            None => break,
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn sync_batch(syncer: &Syncer, agents: &[AgentId]) -> Result<Vec<(AgentId, Outcome)>, Error> {
    let mut synced = Vec::with_capacity(agents.len());
    let mut chunks = Chunks::of(agents);
    while let Some(chunk) = chunks.next() {
        let batch = syncer.sync_now(chunk, Entrance::Pass).await;
        if let Some(Batch { outcomes, .. }) = chunks.judge(syncer, batch).await? {
            synced.extend(outcomes);
        }
    }
    synced.append(&mut chunks.passed_over);
    Ok(synced)
}

/// The agents that a pass comes to, page by page.
struct Pages<'a> {
    candidates: &'a Candidates,
    last: Option<AgentId>,
    /// Whether many agents can be looked at with one statement.
    at_once: bool,
}

impl<'a> Pages<'a> {
    fn of(candidates: &'a Candidates) -> Self {
        Self {
            candidates,
            last: None,
            // Who names agents wants them looked at.
            at_once: matches!(candidates, Candidates::Of(..)),
        }
    }

    async fn next(&mut self, syncer: &Syncer) -> Result<Option<Page>, Error> {
        if let Candidates::Of(scope, extent) = self.candidates
            && self.at_once
        {
            let stretch = Stretch {
                scope,
                extent: *extent,
                after: self.last,
                limit: PAGE,
            };
            match syncer.look_over(&stretch).await {
                Ok(Overview::Seen(page)) => {
                    self.last = page.as_ref().map(|page| page.last);
                    return Ok(page);
                }
                Ok(Overview::Beyond) => {}
                // A single agent may be the cause, or too much of them all: so the agents are looked at one by one.
                Err(error) if error.is_from_server() => {
                    debug!(%error, "the agents cannot be looked at all at once");
                }
                Err(error) => return Err(error),
            }
            self.at_once = false;
        }
        let due = self.candidates.next(syncer, self.last, BATCH).await?;
        self.last = due.last().copied();
        Ok(self.last.map(|last| Page {
            last,
            unchanged: 0,
            gone: 0,
            due,
        }))
    }
}

impl Told<'_> {
    pub fn summary(&self) -> Summary {
        match *self {
            Self::Synced(outcomes) => Summary::of(outcomes),
            Self::Passed { unchanged, .. } => Summary {
                skipped: unchanged,
                ..Summary::default()
            },
        }
    }

    /// How many agents this is about.
    pub fn agents(&self) -> usize {
        match *self {
            Self::Synced(outcomes) => outcomes.len(),
            Self::Passed { unchanged, gone } => unchanged + gone,
        }
    }
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
