//! Slots: at most so many connections, and so many requests, at a time.
//!
//! Who has a slot either works or waits for its client. When all slots are taken, whoever has waited longest gives way to
//! the newcomer: clients that take slots and then do nothing, however many, keep nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

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

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    gave_way: CancellationToken,
    /// Its place among those that wait; 0: it works. Only looked at under the lock.
    place: AtomicU64,
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
        })
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
    pub async fn gave_way(&self) {
        self.gave_way.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.waiting.remove(&self.place.load(Ordering::Relaxed));
        state.taken -= 1;
    }
}
