//! What `/ready` says: has the first pass ended, and if not, what it is waiting for; does the change loop work; and
//! can callers be known.

use std::sync::{Mutex, PoisonError};

/// Whether the database answers is asked anew each time; this is what cannot be asked.
#[derive(Debug)]
pub struct Readiness {
    /// A latch: `None` once the first pass has ended or was skipped.
    waiting_for: Mutex<Option<String>>,
    /// Why changes do not reach their assistants at the moment.
    stuck: Mutex<Option<String>>,
    /// Why no caller can be known at the moment.
    callers: Mutex<Option<String>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            waiting_for: Mutex::new(Some("starting".to_owned())),
            stuck: Mutex::default(),
            callers: Mutex::default(),
        }
    }
}

impl Readiness {
    /// The first pass has not ended, because of this.
    pub fn waiting_for(&self, reason: impl Into<String>) {
        if let Some(waiting_for) = lock(&self.waiting_for).as_mut() {
            *waiting_for = reason.into();
        }
    }

    /// The first pass has ended, or was skipped. There is no way back.
    pub fn first_pass_ended(&self) {
        lock(&self.waiting_for).take();
    }

    /// The change loop cannot work, because of this; or it can.
    pub fn change_loop(&self, stuck: Option<String>) {
        *lock(&self.stuck) = stuck;
    }

    /// No caller can be known, because of this; or they can.
    pub fn callers(&self, unknown: Option<String>) {
        *lock(&self.callers) = unknown;
    }

    /// Why not yet.
    pub fn pending(&self) -> Option<String> {
        lock(&self.waiting_for).clone()
    }

    /// Why not now.
    pub fn stuck(&self) -> Option<String> {
        lock(&self.stuck).clone()
    }

    /// Why nobody can be known now.
    pub fn callers_unknown(&self) -> Option<String> {
        lock(&self.callers).clone()
    }
}

fn lock(reason: &Mutex<Option<String>>) -> std::sync::MutexGuard<'_, Option<String>> {
    reason.lock().unwrap_or_else(PoisonError::into_inner)
}
