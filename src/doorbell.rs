//! What the change loop waits for: a ring, or its patience running out. And how well the listening goes, which decides
//! how long that patience is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// How long the change loop sleeps when the bell works: a backstop.
const BACKSTOP: Duration = Duration::from_secs(30);

/// How long it sleeps when the bell does not work.
const POLLING: Duration = Duration::from_secs(1);

/// What the listening connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is none, or not yet.
    Connecting,
    /// LISTEN was said, what was missed is being drained, and nothing has been heard yet.
    CatchingUp,
    /// A notification sent on another connection arrived.
    Listening,
    /// LISTEN succeeds, but nothing ever arrives: a transaction-mode pooler is in between.
    PollingOnly,
}

impl State {
    pub const ALL: [Self; 4] = [
        Self::Listening,
        Self::CatchingUp,
        Self::Connecting,
        Self::PollingOnly,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::CatchingUp => "catching_up",
            Self::Listening => "listening",
            Self::PollingOnly => "polling_only",
        }
    }
}

#[derive(Debug)]
pub struct Doorbell {
    bell: Notify,
    dead: Notify,
    state: watch::Sender<State>,
    changes_of_state: AtomicU64,
    round_trip_micros: AtomicU64,
    missed: AtomicU64,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self {
            bell: Notify::new(),
            dead: Notify::new(),
            state: watch::Sender::new(State::Connecting),
            changes_of_state: AtomicU64::new(0),
            round_trip_micros: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }
}

impl Doorbell {
    /// There is, or will soon be, something in the outbox. A ring while nobody waits is kept.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Waits for a ring, but not for longer than `at_most`, nor than the state of the listening allows. True if it rang.
    pub async fn wait(&self, at_most: Option<Duration>) -> bool {
        let mut state = self.state.subscribe();
        let start = tokio::time::Instant::now();
        loop {
            let patience = if *state.borrow_and_update() == State::Listening {
                BACKSTOP
            } else {
                POLLING
            };
            let until = start + at_most.unwrap_or(BACKSTOP).min(patience);
            tokio::select! {
                () = self.bell.notified() => return true,
                () = tokio::time::sleep_until(until) => return false,
                // Less patience, or more.
                _ = state.changed() => {}
            }
        }
    }

    /// The listening connection turned out to be dead, though it did not look it.
    pub fn declare_dead(&self) {
        self.dead.notify_waiters();
    }

    /// Waits until the listening connection turns out to be dead: then so may be whatever else waits for an answer.
    pub async fn dies(&self) {
        self.dead.notified().await;
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Each change is told once, with its reason, and counted.
    pub fn now(&self, state: State, reason: &str) {
        let changed = self
            .state
            .send_if_modified(|before| std::mem::replace(before, state) != state);
        if changed {
            self.changes_of_state.fetch_add(1, Ordering::Relaxed);
            match state {
                State::Listening => info!("listening for changes: {reason}"),
                State::CatchingUp => info!("catching up: {reason}"),
                State::Connecting => {
                    warn!("no listening connection, polling every second: {reason}")
                }
                State::PollingOnly => warn!("polling every second: {reason}"),
            }
        }
    }

    /// How often the state has changed.
    pub fn changes_of_state(&self) -> u64 {
        self.changes_of_state.load(Ordering::Relaxed)
    }

    /// How long the last probe took from one connection to the other. `None`: none has arrived yet.
    pub fn round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    pub fn heard_after(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip_micros
            .store(micros.max(1), Ordering::Relaxed);
    }

    /// A poll found changes that no ring had announced.
    pub fn missed(&self, changes: usize) {
        let before = self.missed.fetch_add(changes as u64, Ordering::Relaxed);
        info!(
            changes,
            since_start = before + changes as u64,
            "found changes that no notification announced"
        );
    }

    /// How many changes were found that no ring had announced.
    pub fn missed_so_far(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn without_a_ring_it_waits_for_half_a_minute_where_the_bell_works_and_for_a_second_where_it_does_not()
     {
        let doorbell = Doorbell::default();
        for (state, seconds) in [
            (State::Listening, 30),
            (State::PollingOnly, 1),
            (State::Connecting, 1),
            (State::CatchingUp, 1),
        ] {
            doorbell.now(state, "a test");
            let start = Instant::now();
            assert!(!doorbell.wait(None).await);
            assert_eq!(start.elapsed().as_secs(), seconds, "{state:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_falls_due_earlier_ends_the_wait_earlier() {
        let doorbell = Doorbell::default();
        doorbell.now(State::Listening, "a test");
        let start = Instant::now();
        assert!(!doorbell.wait(Some(Duration::from_millis(25))).await);
        assert_eq!(start.elapsed().as_millis(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_while_nobody_waits_is_kept_and_one_loss_of_the_bell_shortens_the_wait() {
        let doorbell = Doorbell::default();
        doorbell.now(State::Listening, "a test");
        doorbell.ring();
        assert!(doorbell.wait(None).await);
        let start = Instant::now();
        let lose = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            doorbell.now(State::Connecting, "a test");
        };
        assert!(!tokio::join!(doorbell.wait(None), lose).0);
        assert_eq!(start.elapsed().as_secs(), 1);
        assert_eq!(doorbell.changes_of_state(), 2);
    }
}
