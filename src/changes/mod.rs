//! The change loop: what changed since last time, as the outbox says it, whether or not the bell rang.

pub mod bursts;
pub mod listener;
pub mod outbox;

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::database::{Error, begin};
use crate::retry::Backoff;
use crate::syncer::{BATCH, Outcome, Syncer};
use bursts::Bursts;

/// How long the loop sleeps at most when no bell rings. A lost notification costs this much, and nothing else.
const POLL: Duration = Duration::from_secs(30);

/// Drains the outbox whenever `bell` rings, something in it falls due, or [`POLL`] has passed. Ends after the batch in
/// hand once `shutdown` is called.
pub async fn run(syncer: &Syncer, bell: &Notify, shutdown: &CancellationToken) {
    let mut bursts = Bursts::default();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut failing = false;
    while !shutdown.is_cancelled() {
        let pause = match drain(syncer, &mut bursts, shutdown).await {
            Ok(pause) => {
                if failing {
                    info!("the change loop is working again");
                }
                failing = false;
                backoff.reset();
                pause
            }
            Err(e) => {
                let pause = backoff.pause();
                if !failing {
                    error!(error = %e, "the change loop cannot work; it keeps trying, nothing is lost");
                }
                failing = true;
                // Not sooner for a bell: it would ring just as well while nothing works.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            }
        };
        tokio::select! {
            () = bell.notified() => {}
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Drains until nothing is due. Returns how long to wait for what will be.
pub async fn drain(
    syncer: &Syncer,
    bursts: &mut Bursts,
    shutdown: &CancellationToken,
) -> Result<Duration, Error> {
    loop {
        let mut drained = drain_batch(syncer, bursts).await?;
        if !drained {
            bursts.calm();
            drained = spread(syncer).await?;
        }
        if !drained || shutdown.is_cancelled() {
            break;
        }
    }
    let client = syncer.database.client().await?;
    let due = outbox::next_due(&client).await?.unwrap_or(POLL);
    Ok(bursts
        .next_release(Instant::now())
        .into_iter()
        .fold(due.min(POLL), Duration::min))
}

/// Syncs the agents of the oldest changes. False when there was nothing to take.
async fn drain_batch(syncer: &Syncer, bursts: &mut Bursts) -> Result<bool, Error> {
    let mut client = syncer.database.client().await?;
    let mut tx = begin(&mut client).await?;
    let held = bursts.held(Instant::now());
    let claimed = outbox::claim(&tx, &held, BATCH).await?;
    if claimed.is_empty() {
        tx.rollback().await?;
        return Ok(false);
    }
    let claimed = bursts.admit(claimed, Instant::now());
    if claimed.is_empty() {
        // Only agents that are being edited right now. Their changes stay where they are, and the next claim passes
        // over them.
        tx.rollback().await?;
        return Ok(true);
    }
    let agents = claimed.agents();
    let batch = syncer.sync(&mut tx, &agents, None).await?;
    outbox::settle(&tx, &claimed).await?;
    tx.commit().await?;
    let written = |outcome: &Outcome| {
        matches!(
            outcome,
            Outcome::Created | Outcome::Updated | Outcome::Removed
        )
    };
    bursts.synced(
        batch
            .outcomes
            .iter()
            .filter(|(_, outcome)| written(outcome))
            .map(|(agent, _)| *agent),
    );
    syncer.committed(&mut client, &batch).await;
    Ok(true)
}

/// Turns changes of shared rows into changes of the agents that use them. False when there were none.
async fn spread(syncer: &Syncer) -> Result<bool, Error> {
    let shape = syncer.source.shape(&syncer.database).await?;
    let mut client = syncer.database.client().await?;
    let tx = begin(&mut client).await?;
    let spread = outbox::spread(&tx, &shape).await;
    if spread.as_ref().is_err_and(Error::is_schema_drift) {
        syncer.source.outdated();
    }
    let spread = spread?;
    tx.commit().await?;
    Ok(spread)
}
