//! The change loop: what changed since last time, as the outbox says it, whether or not the bell rang.

pub mod bell;
pub mod bursts;
mod drain;
pub mod listener;
pub mod pace;
pub mod vigil;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::database::{DEADLINE, Error};
use crate::doorbell::{State, Woken};
use crate::outbox::{self, Look};
use crate::readiness::Readiness;
use crate::retry::Backoff;
use crate::source::Shape;
use crate::syncer::Syncer;
use bursts::Bursts;
use vigil::Vigil;

pub use drain::{Drained, drain};

/// How often the source tables are looked at for what no trigger tells.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(5);

/// Drains the outbox whenever the bell rings, something in it falls due, or patience runs out ([`Doorbell::wait`]). Ends
/// after the batch in hand once `shutdown` is called.
///
/// [`Doorbell::wait`]: crate::doorbell::Doorbell::wait
pub async fn run(syncer: &Syncer, readiness: &Readiness, shutdown: &CancellationToken) {
    let (mut bursts, mut vigil) = (Bursts::default(), Vigil::default());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut failing = false;
    let mut rang = true;
    // There was nothing left, now or later, when it was drained last.
    let mut was_empty = false;
    let (mut looked, mut seen) = (None::<Instant>, None);
    while !shutdown.is_cancelled() {
        let worked = async {
            let drained = match !rang && was_empty && is_empty(syncer).await? {
                true => Drained::default(),
                false => {
                    let began = Instant::now();
                    let drained = drain(syncer, &mut bursts, shutdown).await?;
                    vigil.drained(began.elapsed());
                    drained
                }
            };
            // Not before: it takes longer than to sync the edit that somebody has just rung for.
            if looked.is_none_or(|at| at.elapsed() >= LOOK_AROUND) {
                look_around(syncer, &mut seen).await?;
                looked = Some(Instant::now());
            }
            Ok(drained)
        };
        // What is called off in the middle is rolled back, and claimed again on another connection. What is done outside the database
        // sees to that itself, step by step.
        let dies = async {
            match syncer.place().beyond() {
                None => syncer.doorbell.dies().await,
                Some(_) => std::future::pending().await,
            }
        };
        let worked = tokio::select! {
            worked = worked => worked,
            () = dies => Err(syncer.database.lost()),
        };
        let rested = match worked {
            Ok(drained) => {
                if failing {
                    info!("the change loop is working again");
                }
                failing = false;
                was_empty = drained.next.is_none();
                readiness.change_loop(None);
                backoff.reset();
                if !rang && drained.overdue > 0 && syncer.doorbell.state() == State::Listening {
                    syncer.doorbell.missed(drained.overdue);
                }
                tokio::select! {
                    rested = rest(syncer, &mut bursts, &mut vigil, drained.next) => rested,
                    () = shutdown.cancelled() => return,
                }
            }
            Err(e) => {
                was_empty = false;
                Err(e)
            }
        };
        match rested {
            Ok(was_told) => rang = was_told,
            Err(e) => {
                // Of that place it was told where it was found out.
                let is_the_place = matches!(e, Error::Server { .. });
                if !failing && !is_the_place {
                    error!(error = %e, "the change loop cannot work; it keeps trying, nothing is lost");
                }
                failing |= !is_the_place;
                if bursts.pace.is_narrowing() {
                    backoff.reset();
                }
                readiness.change_loop(Some(format!("the change loop cannot work: {e}")));
                // Not sooner for a bell: it rings just as well while nothing works.
                let pause = async {
                    if is_the_place {
                        // It knows best how long it is to be left in peace.
                        backoff.reset();
                        syncer.place().opened().await;
                    }
                    tokio::time::sleep(backoff.pause()).await;
                };
                tokio::select! {
                    () = pause => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }
}

/// Waits until there may be something to drain. False when nothing has said so.
async fn rest(
    syncer: &Syncer,
    bursts: &mut Bursts,
    vigil: &mut Vigil,
    next: Option<Duration>,
) -> Result<bool, Error> {
    let due = next.map(|next| Instant::now() + next);
    loop {
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        match syncer.doorbell.wait(left, vigil.pause()).await {
            Woken::Rang => return Ok(true),
            Woken::Unasked => return Ok(false),
            Woken::Look => {}
        }
        let seen = look(syncer, bursts).await?;
        if seen.is_some_and(|seen| vigil.looked(seen.recorded, Instant::now())) {
            syncer.doorbell.awake(false);
        }
        if seen.is_none_or(|seen| seen.is_pending) {
            return Ok(true);
        }
    }
}

/// Whether there is nothing to drain, now or later: all that a worker asks which nobody has rung for.
async fn is_empty(syncer: &Syncer) -> Result<bool, Error> {
    let looking = async {
        let client = syncer.database.client().await?;
        let left = outbox::left(&syncer.database, &client, &[]).await?;
        client.give_back();
        Ok(left.due.is_none())
    };
    syncer.database.within(LOOK, looking).await
}

/// `None` where that is not to be had.
async fn look(syncer: &Syncer, bursts: &mut Bursts) -> Result<Option<Look>, Error> {
    let held = bursts.held(Instant::now());
    let looking = async {
        let client = syncer.database.client().await?;
        let seen = outbox::look(&syncer.database, &client, &held).await?;
        client.give_back();
        Ok(seen)
    };
    match syncer.database.within(LOOK, looking).await {
        Err(e) if e.denial().is_some() => {
            warn!(error = %e, "edits that come thick are slowed down, as everybody who edits has to ring");
            syncer.doorbell.never_awake();
            Ok(None)
        }
        seen => seen.map(Some),
    }
}

/// A table or column that appeared or went changes what agents map to, and no trigger says so. `seen` is what the tables
/// looked like last time.
pub async fn look_around(syncer: &Syncer, seen: &mut Option<Arc<Shape>>) -> Result<(), Error> {
    let looking = async {
        let client = syncer.database.client().await?;
        let now = syncer.source.inspect(&client).await?;
        if seen
            .as_ref()
            .is_some_and(|before| !before.has_same_tables(&now))
        {
            outbox::everything_changed(&client).await?;
            syncer.doorbell.ring();
        }
        *seen = Some(now);
        client.give_back();
        Ok(())
    };
    syncer.database.within(DEADLINE, looking).await
}
