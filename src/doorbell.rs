//! What the change loop waits for: a ring, or its patience running out. And how well the listening goes, which decides
//! how long that patience is.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::changes::vigil::Rings;

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

/// Why [`Doorbell::wait`] came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// It rang.
    Rang,
    /// Patience has run out, or what was to fall due is due.
    Unasked,
    /// Nobody rings for a worker that is awake: it is to look for itself.
    Look,
}

/// What is known of who rings, and whether it is heard.
#[derive(Debug, Clone, Copy)]
struct Hearing {
    state: State,
    /// Whoever edits rings, for all that is known. Each time it is a new number.
    armed: Option<u64>,
    /// We look for ourselves: whoever edits need not ring.
    awake: bool,
}

impl Hearing {
    /// How long to wait for a ring.
    fn patience(&self) -> Duration {
        match (self.state, self.armed) {
            (State::Listening, Some(_)) => BACKSTOP,
            _ => POLLING,
        }
    }
}

#[derive(Debug)]
pub struct Doorbell {
    bell: Notify,
    dead: Notify,
    hearing: watch::Sender<Hearing>,
    /// `None`: rings come as thick as they may, looking is not possible.
    rings: Mutex<Option<Rings>>,
    armings: AtomicU64,
    changes_of_state: AtomicU64,
    round_trip_micros: AtomicU64,
    missed: AtomicU64,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self {
            bell: Notify::new(),
            dead: Notify::new(),
            hearing: watch::Sender::new(Hearing {
                state: State::Connecting,
                armed: None,
                awake: false,
            }),
            rings: Mutex::new(Some(Rings::default())),
            armings: AtomicU64::new(0),
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

    /// Somebody who edits has rung. When many do, the worker stays awake.
    pub fn heard(&self) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if rings
            .as_mut()
            .is_some_and(|rings| rings.heard(Instant::now()))
        {
            self.awake(true);
        }
        self.ring();
    }

    /// Waits for a ring, but not for longer than `at_most`, nor than what is known of who rings allows. When awake, for the next look.
    pub async fn wait(&self, at_most: Option<Duration>, look: Duration) -> Woken {
        let mut hearing = self.hearing.subscribe();
        let start = Instant::now();
        loop {
            let now = *hearing.borrow_and_update();
            let at_most = at_most.unwrap_or(BACKSTOP).min(now.patience());
            let (wait, woken) = match now.awake && look <= at_most {
                true => (look, Woken::Look),
                false => (at_most, Woken::Unasked),
            };
            let mut ring = pin!(self.bell.notified());
            // Who is awake looks when it is time to. The ring is kept.
            if !now.awake {
                if ring.as_mut().enable() {
                    return Woken::Rang;
                }
                debug!(armed = now.armed.is_some(), "waiting for a ring");
            }
            tokio::select! {
                biased; // a ring that has woken us up for good is a ring all the same
                () = ring, if !now.awake => return Woken::Rang,
                () = tokio::time::sleep_until(start + wait) => return woken,
                // Less patience, or more.
                _ = hearing.changed() => {}
            }
        }
    }

    /// From now on, whoever edits rings.
    pub fn arm(&self) -> u64 {
        let number = self.armings.fetch_add(1, Ordering::Relaxed);
        self.hearing
            .send_modify(|hearing| hearing.armed = Some(number));
        // What was edited in silence until now is found by looking once more.
        self.ring();
        number
    }

    /// How often that was said.
    pub fn armings(&self) -> u64 {
        self.armings.load(Ordering::Relaxed)
    }

    /// Nobody may be ringing any more.
    pub fn disarm(&self) {
        self.hearing
            .send_if_modified(|hearing| hearing.armed.take().is_some());
    }

    /// Whether whoever edits rings, for all that is known: each time it is another number.
    pub fn armed(&self) -> Option<u64> {
        self.hearing.borrow().armed
    }

    /// Waits until this arming is over.
    pub async fn disarmed(&self, number: u64) {
        let mut hearing = self.hearing.subscribe();
        let _ = hearing
            .wait_for(|hearing| hearing.armed != Some(number))
            .await;
    }

    /// The worker looks for itself from now on, or goes to sleep.
    pub fn awake(&self, awake: bool) {
        self.hearing
            .send_if_modified(|hearing| std::mem::replace(&mut hearing.awake, awake) != awake);
    }

    /// Waits until the worker is awake, or sleeps.
    pub async fn is_awake(&self, awake: bool) {
        let mut hearing = self.hearing.subscribe();
        let _ = hearing.wait_for(|hearing| hearing.awake == awake).await;
    }

    /// Looking is not possible, so rings it has to be, however thick they come.
    pub fn never_awake(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.awake(false);
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
        self.hearing.borrow().state
    }

    /// Each change is told once, with its reason, and counted.
    pub fn now(&self, state: State, reason: &str) {
        let changed = self
            .hearing
            .send_if_modified(|hearing| std::mem::replace(&mut hearing.state, state) != state);
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
        for (state, armed, seconds) in [
            (State::Listening, true, 30),
            (State::Listening, false, 1),
            (State::PollingOnly, true, 1),
            (State::Connecting, true, 1),
            (State::CatchingUp, true, 1),
        ] {
            doorbell.now(state, "a test");
            listen(&doorbell, armed).await;
            let start = Instant::now();
            assert_eq!(doorbell.wait(None, LOOK).await, Woken::Unasked);
            let waited = start.elapsed().as_secs();
            assert_eq!(waited, seconds, "{state:?}, armed: {armed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_falls_due_earlier_ends_the_wait_earlier() {
        let doorbell = Doorbell::default();
        doorbell.now(State::Listening, "a test");
        listen(&doorbell, true).await;
        let start = Instant::now();
        let due = Some(Duration::from_millis(25));
        assert_eq!(doorbell.wait(due, LOOK).await, Woken::Unasked);
        assert_eq!(start.elapsed().as_millis(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_while_nobody_waits_is_kept_and_any_loss_of_the_bell_shortens_the_wait() {
        let doorbell = Doorbell::default();
        for lose in [
            (|doorbell| doorbell.now(State::Connecting, "a test")) as fn(&Doorbell),
            Doorbell::disarm,
        ] {
            doorbell.now(State::Listening, "a test");
            listen(&doorbell, true).await;
            doorbell.ring();
            assert_eq!(doorbell.wait(None, LOOK).await, Woken::Rang);
            let start = Instant::now();
            let lose = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                lose(&doorbell);
            };
            let (woken, ()) = tokio::join!(doorbell.wait(None, LOOK), lose);
            assert_eq!(woken, Woken::Unasked);
            assert_eq!(start.elapsed().as_secs(), 1);
        }
        assert_eq!(doorbell.changes_of_state(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_awake_looks_and_keeps_the_rings_for_when_it_sleeps() {
        let doorbell = Doorbell::default();
        doorbell.now(State::Listening, "a test");
        listen(&doorbell, true).await;
        // Thick rings wake it, in the middle of a wait, too.
        let start = Instant::now();
        let rings = async { (0..8).for_each(|_| doorbell.heard()) };
        let (woken, ()) = tokio::join!(doorbell.wait(None, LOOK), rings);
        assert_eq!((woken, start.elapsed()), (Woken::Rang, Duration::ZERO));
        doorbell.heard();
        assert_eq!(doorbell.wait(None, LOOK).await, Woken::Look);
        assert_eq!(start.elapsed(), LOOK);
        // What falls due before that comes first.
        let due = Some(Duration::from_millis(2));
        assert_eq!(doorbell.wait(due, LOOK).await, Woken::Unasked);
        doorbell.awake(false);
        assert_eq!(doorbell.wait(None, LOOK).await, Woken::Rang);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_cannot_look_goes_by_rings_however_thick_they_come() {
        let doorbell = Doorbell::default();
        doorbell.now(State::Listening, "a test");
        listen(&doorbell, true).await;
        (0..100).for_each(|_| doorbell.heard());
        doorbell.never_awake();
        for _ in 0..100 {
            doorbell.heard();
            assert_eq!(doorbell.wait(None, LOOK).await, Woken::Rang);
        }
    }

    const LOOK: Duration = Duration::from_millis(5);

    /// Has editors ring or not, and takes the ring that comes with it.
    async fn listen(doorbell: &Doorbell, armed: bool) {
        match armed {
            true => {
                doorbell.arm();
                assert_eq!(doorbell.wait(None, LOOK).await, Woken::Rang);
            }
            false => doorbell.disarm(),
        }
    }
}
