//! Slots: at most so many connections, so many requests, and so many streams, at a time.
//!
//! Who has a slot either works or waits for its client. When all slots are taken, whoever has waited longest gives way to
//! the newcomer: clients that take slots and then do nothing, however many, keep nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Debug)]
pub struct Slots {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that gave way and have not left yet are counted, too.
    taken: usize,
    /// Those that wait, in the order in which they began to.
    waiting: BTreeMap<u64, CancellationToken>,
    began_waiting: u64,
}

/// Given back when it is dropped, if not sooner.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    gave_way: CancellationToken,
    /// Its place among those that wait; 0: it works. Only looked at under the lock.
    place: AtomicU64,
    given_back: AtomicBool,
}

impl Slots {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            state: Mutex::default(),
        })
    }

    /// A slot, for work. `None`: all are taken, and everybody works.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.lock();
        if state.taken >= self.max {
            let (_, longest) = state.waiting.pop_first()?;
            longest.cancel();
        }
        state.taken += 1;
        drop(state);
        Some(Slot {
            slots: self.clone(),
            gave_way: CancellationToken::new(),
            place: AtomicU64::new(0),
            given_back: AtomicBool::new(false),
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// From now on, and until [`Self::works`], it is the client's turn.
    pub fn waits(&self) {
        let mut state = self.slots.lock();
        if self.gave_way.is_cancelled() {
            return;
        }
        state.began_waiting += 1;
        let place = state.began_waiting;
        state.waiting.insert(place, self.gave_way.clone());
        self.place.store(place, Ordering::Relaxed);
    }

    /// The client has done its part. `false`: too late, the slot has gone to somebody else.
    #[must_use]
    pub fn works(&self) -> bool {
        let mut state = self.slots.lock();
        let place = self.place.swap(0, Ordering::Relaxed);
        state.waiting.remove(&place);
        !self.gave_way.is_cancelled()
    }

    /// Returns when the slot has gone to somebody else.
    pub fn gave_way(&self) -> WaitForCancellationFutureOwned {
        self.gave_way.clone().cancelled_owned()
    }

    /// It is not needed any more.
    pub fn give_back(&self) {
        let mut state = self.slots.lock();
        if !self.given_back.swap(true, Ordering::Relaxed) {
            state.waiting.remove(&self.place.load(Ordering::Relaxed));
            state.taken -= 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back();
    }
}
