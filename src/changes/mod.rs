//! The change loop: what changed since last time, as the outbox says it, whether or not the bell rang.

pub mod bell;
pub mod bursts;
pub mod listener;
pub mod pace;
pub mod vigil;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::database::{Client, DEADLINE, Error, begin};
use crate::doorbell::{State, Woken};
use crate::outbox::{self, Look, Order};
use crate::readiness::Readiness;
use crate::retry::Backoff;
use crate::source::Shape;
use crate::syncer::{Origin, Syncer};
use bursts::Bursts;
use pace::Consequence;
use vigil::Vigil;

/// How often the source tables are looked at for what no trigger tells.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// A change this old that a poll finds should have been announced. (An announced one may be older: its transaction was.)
const OVERDUE: Duration = Duration::from_secs(5);

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
    let (mut looked, mut seen) = (None::<Instant>, None);
    while !shutdown.is_cancelled() {
        let worked = async {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_AROUND) {
                look_around(syncer, &mut seen).await?;
                looked = Some(Instant::now());
            }
            let began = Instant::now();
            let drained = drain(syncer, &mut bursts, shutdown).await?;
            vigil.drained(began.elapsed());
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
            Err(e) => Err(e),
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

/// `None` where that is not to be had.
async fn look(syncer: &Syncer, bursts: &mut Bursts) -> Result<Option<Look>, Error> {
    let held = bursts.held(Instant::now());
    let looking = async {
        let client = syncer.database.client().await?;
        let seen = outbox::look(&client, &held).await?;
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

/// What came of draining.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// When there will be something to drain again, as far as can be told.
    pub next: Option<Duration>,
    /// Changes that had been waiting for longer than [`OVERDUE`].
    overdue: usize,
}

/// Drains until nothing is due.
pub async fn drain(
    syncer: &Syncer,
    bursts: &mut Bursts,
    shutdown: &CancellationToken,
) -> Result<Drained, Error> {
    // Before anything is claimed that could not be written.
    syncer.place().check()?;
    let mut client = syncer.database.client().await?;
    bursts.pace.called_off();
    let (mut in_turns, mut turn, mut overdue) = (false, String::new(), 0);
    let mut looked_for_growth = false;
    loop {
        let order = match in_turns {
            true => Order::Turns { after: &turn },
            false => Order::Age,
        };
        let step = async {
            let drained = drain_batch(syncer, &mut client, bursts, order).await?;
            // After each batch, so that edits of agents, however many, never keep a tool's change waiting.
            let spreading = async {
                Ok(outbox::shared_pending(&client).await? && spread(syncer, &mut client).await?)
            };
            Ok((drained, syncer.step(spreading).await?))
        };
        let started = Instant::now();
        let (drained, spread) = match syncer.in_time(step).await {
            Ok(step) => step,
            Err(e) => {
                if !is_put_off(syncer, bursts, &e, started).await || shutdown.is_cancelled() {
                    return Err(e);
                }
                client = syncer.database.client().await?;
                continue;
            }
        };
        match drained {
            Some(drained) => {
                overdue += drained.overdue;
                if drained.many && !std::mem::replace(&mut looked_for_growth, true) {
                    collapse(syncer, &mut client, shutdown).await?;
                }
                in_turns = drained.many;
                turn = drained.turn.unwrap_or(turn);
            }
            // Another worker may have those whose turn it is.
            None if in_turns => in_turns = false,
            None => {
                bursts.calm(Instant::now());
                if !spread && !bursts.pace.try_slow(Instant::now()) {
                    break;
                }
            }
        }
        if shutdown.is_cancelled() {
            break;
        }
    }
    let due = syncer
        .database
        .within(DEADLINE, outbox::next_due(&client))
        .await?;
    client.give_back();
    let next = due
        .into_iter()
        .chain(bursts.next_release(Instant::now()))
        .min();
    Ok(Drained { next, overdue })
}

/// Whether an error is the fault of an agent alone, which is left out from now on.
async fn is_put_off(syncer: &Syncer, bursts: &mut Bursts, error: &Error, started: Instant) -> bool {
    if !syncer.database.is_too_much(error, started.elapsed()).await {
        bursts.pace.called_off();
        return false;
    }
    match bursts.pace.failed(Instant::now()) {
        Consequence::PutOff(agent, delay) => {
            let seconds = delay.as_secs();
            error!(%agent, %error, "the agent cannot be synced in time, others go on without it; next try in {seconds} s");
            true
        }
        Consequence::Again | Consequence::None => false,
    }
}

/// One batch.
struct DrainedBatch {
    /// Changes that had been waiting for longer than [`OVERDUE`].
    overdue: usize,
    /// There are probably more.
    many: bool,
    /// The organization whose turn was last.
    turn: Option<String>,
}

/// Syncs the agents of some changes. `None` when there was nothing to take.
async fn drain_batch(
    syncer: &Syncer,
    client: &mut Client,
    bursts: &mut Bursts,
    order: Order<'_>,
) -> Result<Option<DrainedBatch>, Error> {
    bursts.pace.takes(Vec::new());
    let claiming = async {
        let tx = begin(client).await?;
        let mut held = bursts.held(Instant::now());
        held.extend(syncer.leased(&tx).await?);
        let at_most = bursts.pace.at_most().min(syncer.batch_size());
        let claimed = outbox::claim(&tx, order, &held, at_most).await?;
        Ok((tx, claimed))
    };
    let (tx, claimed) = syncer.step(claiming).await?;
    if claimed.is_empty() {
        tx.rollback().await?;
        return Ok(None);
    }
    let claimed = bursts.admit(claimed, Instant::now());
    let drained = DrainedBatch {
        // An edit of a slow agent was announced long ago.
        overdue: match bursts.pace.is_trying_slow() {
            true => 0,
            false => claimed.overdue(OVERDUE),
        },
        many: claimed.many,
        turn: claimed.turn.clone(),
    };
    if claimed.is_empty() {
        // Only agents that are being edited right now. Their changes stay where they are, and the next claim passes
        // over them.
        tx.rollback().await?;
        return Ok(Some(drained));
    }
    bursts.pace.takes(claimed.agents());
    let batch = syncer.sync_claimed(tx, &claimed).await?;
    bursts.pace.succeeded();
    let synced = batch
        .outcomes
        .iter()
        .filter(|(_, outcome)| outcome.is_effective())
        .map(|(agent, _)| *agent);
    bursts.synced(synced, Instant::now());
    let ending = async {
        let origin = Origin::of_claimed(&claimed);
        syncer.committed(client, &batch, origin).await;
        Ok(())
    };
    syncer.step(ending).await?;
    Ok(Some(drained))
}

/// An outbox that has grown for weeks, while no worker ran, is looked through by a resync of everything instead.
async fn collapse(
    syncer: &Syncer,
    client: &mut Client,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    /// Few enough for a second or two.
    const AT_ONCE: usize = 50_000;
    let overgrown = outbox::is_overgrown(client);
    if !syncer.database.within(DEADLINE, overgrown).await? {
        return Ok(());
    }
    let mut collapsed = 0;
    loop {
        let step = async {
            let tx = begin(client).await?;
            let gone = outbox::collapse(&tx, AT_ONCE).await?;
            tx.commit().await?;
            Ok(gone)
        };
        let gone = syncer.database.within(DEADLINE, step).await?;
        collapsed += gone;
        if gone < AT_ONCE || shutdown.is_cancelled() {
            break;
        }
    }
    info!(
        changes = collapsed,
        "the outbox had grown so far that all agents are looked at instead"
    );
    Ok(())
}

/// Turns changes of shared rows into changes of the agents that use them. False when there were none.
async fn spread(syncer: &Syncer, client: &mut Client) -> Result<bool, Error> {
    let tx = begin(client).await?;
    let shape = syncer.source.shape(tx.client()).await?;
    let spread = outbox::spread(&tx, &shape).await;
    if spread.as_ref().is_err_and(Error::is_schema_drift) {
        syncer.source.outdated();
    }
    let spread = spread?;
    tx.commit().await?;
    Ok(spread)
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
        }
        *seen = Some(now);
        client.give_back();
        Ok(())
    };
    syncer.database.within(DEADLINE, looking).await
}
