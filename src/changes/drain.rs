//! Draining the outbox: batch after batch is claimed, synced and settled, until nothing is due.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::bursts::Bursts;
use super::pace::Consequence;
use crate::database::kept::Kept;
use crate::database::{Client, DEADLINE, Error, Lease, Transaction, begin};
use crate::ids::AgentId;
use crate::outbox::{self, Claimed, Order};
use crate::syncer::{Origin, Syncer};

/// A change this old that a poll finds should have been announced. (An announced one may be older: its transaction was.)
const OVERDUE: Duration = Duration::from_secs(5);

/// What came of draining.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// When there will be something to drain again, as far as can be told.
    pub next: Option<Duration>,
    /// Changes that had been waiting for longer than [`OVERDUE`].
    pub(super) overdue: usize,
}

/// Drains until nothing is due.
pub async fn drain(
    syncer: &Syncer,
    bursts: &mut Bursts,
    shutdown: &CancellationToken,
) -> Result<Drained, Error> {
    // Before anything is claimed that could not be written.
    syncer.place().check()?;
    let mut clients = vec![syncer.database.client().await?];
    bursts.pace.called_off();
    let (mut in_turns, mut turn, mut overdue) = (false, String::new(), 0);
    let (mut looked_for_growth, mut editors) = (false, Editors::default());
    let due = loop {
        let order = match in_turns {
            true => Order::Turns { after: &turn },
            false => Order::Age,
        };
        let step = async {
            let is_alone = bursts.pace.is_unhindered() && !editors.are_at_work;
            let together = match in_turns && is_alone {
                true => syncer.batches_together(),
                false => 1,
            };
            while clients.len() < together {
                clients.push(syncer.database.client().await?);
            }
            let drained = drain_batches(syncer, &mut clients[..together], bursts, order).await?;
            let (client, held) = (&mut clients[0], bursts.held(Instant::now()));
            let ending = async {
                let left = outbox::left(&syncer.database, client, &held).await?;
                // After each round, so that edits of agents, however many, never keep a tool's change waiting.
                let spread = left.shared && spread(syncer, client).await?;
                Ok((left, spread))
            };
            Ok((drained, syncer.step(ending).await?))
        };
        let started = Instant::now();
        let (drained, (left, spread)) = match syncer.in_time(step).await {
            Ok(step) => step,
            Err(e) => {
                if !is_put_off(syncer, bursts, &e, started).await || shutdown.is_cancelled() {
                    return Err(e);
                }
                clients = vec![syncer.database.client().await?];
                continue;
            }
        };
        let is_over = match drained {
            Some(drained) => {
                overdue += drained.overdue;
                editors.look(left.recorded, drained.changes);
                if drained.many && !std::mem::replace(&mut looked_for_growth, true) {
                    collapse(syncer, &mut clients[0], shutdown).await?;
                }
                in_turns = drained.many;
                turn = drained.turn.unwrap_or(turn);
                !in_turns && !left.of_agents
            }
            // Another worker may have those whose turn it is.
            None => !std::mem::take(&mut in_turns),
        };
        if is_over {
            bursts.calm(Instant::now());
        }
        let goes_on = !is_over || spread || bursts.pace.try_slow(Instant::now());
        if !goes_on || shutdown.is_cancelled() {
            break left.due;
        }
    };
    for client in clients {
        client.give_back();
    }
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

/// Whether somebody goes on editing while we drain. They are not to be kept from it by more than one batch at a time: however long it
/// takes, an agent is synced once for all that was recorded of it meanwhile.
#[derive(Default)]
struct Editors {
    are_at_work: bool,
    /// How many changes had been recorded when we looked last.
    recorded: Option<i64>,
}

impl Editors {
    /// How many changes have been recorded by now, as far as we may know, and how many were taken meanwhile.
    fn look(&mut self, recorded: Option<i64>, taken: usize) {
        let before = std::mem::replace(&mut self.recorded, recorded);
        let since = recorded
            .zip(before)
            .map_or(0, |(now, before)| now.saturating_sub(before));
        self.are_at_work = usize::try_from(since).unwrap_or_default() > taken / 4;
    }
}

/// One batch, or several at once.
#[derive(Default)]
struct DrainedBatches {
    /// How many changes were taken.
    changes: usize,
    /// Changes that had been waiting for longer than [`OVERDUE`].
    overdue: usize,
    /// There are probably more.
    many: bool,
    /// The organization whose turn was last.
    turn: Option<String>,
}

/// Syncs the agents of some changes, a batch on each connection. `None` when there was nothing to take.
async fn drain_batches(
    syncer: &Syncer,
    clients: &mut [Lease],
    bursts: &mut Bursts,
    order: Order<'_>,
) -> Result<Option<DrainedBatches>, Error> {
    bursts.pace.takes(Vec::new());
    let held = bursts.held(Instant::now());
    let at_most = bursts.pace.at_most().min(syncer.batch_size());
    let claiming = clients
        .iter_mut()
        .map(|client| claim(syncer, client, order, &held, at_most));
    let (mut drained, mut work) = (None, Vec::new());
    for (place, claim) in join_all(claiming).await.into_iter().enumerate() {
        let Claiming { tx, kept, claimed } = claim?;
        if claimed.is_empty() {
            tx.rollback().await?;
            continue;
        }
        let claimed = bursts.admit(claimed, Instant::now());
        let drained = drained.get_or_insert_with(DrainedBatches::default);
        // An edit of a slow agent was announced long ago.
        if !bursts.pace.is_trying_slow() {
            drained.overdue += claimed.overdue(OVERDUE);
        }
        drained.many |= claimed.many;
        drained.changes += claimed.changes.values().map(Vec::len).sum::<usize>();
        drained.turn = claimed.turn.clone().or(drained.turn.take());
        if claimed.is_empty() {
            // Only agents that are being edited right now. Their changes stay where they are, and the next claim passes
            // over them.
            tx.rollback().await?;
            continue;
        }
        work.push((place, Claiming { tx, kept, claimed }));
    }
    let in_hand = work.iter().flat_map(|(_, claim)| claim.claimed.agents());
    bursts.pace.takes(in_hand.collect());
    let syncing = work.into_iter().map(async |(place, claim)| {
        let Claiming { tx, kept, claimed } = claim;
        let batch = syncer.sync_claimed(tx, kept.as_deref(), &claimed).await?;
        Ok((place, (claimed, batch)))
    });
    let (mut done, mut failed) = (HashMap::new(), None);
    for synced in join_all(syncing).await {
        match synced {
            Ok((place, synced)) => _ = done.insert(place, synced),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if failed.is_none() {
        bursts.pace.succeeded();
    }
    for (_, batch) in done.values() {
        let effective = batch
            .outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_effective());
        bursts.synced(effective.map(|(agent, _)| *agent), Instant::now());
    }
    // Whatever became of the others.
    let ending = clients.iter_mut().enumerate().map(async |(place, client)| {
        if let Some((claimed, batch)) = done.get(&place) {
            syncer
                .committed(client, batch, Origin::of_claimed(claimed))
                .await;
        }
    });
    let ending = async {
        join_all(ending).await;
        Ok(())
    };
    syncer.step(ending).await?;
    failed.map_or(Ok(drained), Err)
}

/// A transaction that has claimed something.
struct Claiming<'c> {
    tx: Transaction<'c>,
    /// What its session keeps.
    kept: Option<Arc<Kept>>,
    claimed: Claimed,
}

async fn claim<'c>(
    syncer: &Syncer,
    client: &'c mut Lease,
    order: Order<'_>,
    held: &[AgentId],
    at_most: usize,
) -> Result<Claiming<'c>, Error> {
    let claiming = async {
        let later = [held, &syncer.leased(client).await?].concat();
        let (tx, claimed) = outbox::claim(&syncer.database, client, order, &later, at_most).await?;
        let kept = syncer.database.keeper.of(&tx).await?;
        Ok(Claiming { tx, kept, claimed })
    };
    syncer.step(claiming).await
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
    let shape = syncer.source.shape(&tx).await?;
    let spread = outbox::spread(&tx, &shape).await;
    if spread.as_ref().is_err_and(Error::is_schema_drift) {
        syncer.source.outdated();
    }
    let spread = spread?;
    tx.commit().await?;
    Ok(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_are_at_work_where_about_as_much_is_recorded_as_is_taken() {
        let mut editors = Editors::default();
        for (recorded, taken, expected) in [
            // Nobody knows how much of it is new.
            (Some(10_000), 500, false),
            (Some(10_000), 1000, false),
            (Some(10_200), 1000, false),
            (Some(11_200), 1000, true),
            (Some(11_200), 1000, false),
            // A sequence that was begun anew.
            (Some(0), 1000, false),
            (Some(400), 1000, true),
            // Nobody may tell us.
            (None, 1000, false),
            (Some(11_200), 1000, false),
        ] {
            editors.look(recorded, taken);
            assert_eq!(editors.are_at_work, expected, "{recorded:?}");
        }
    }
}
