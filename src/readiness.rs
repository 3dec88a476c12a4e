//! What `/ready` says: has the first pass ended, and if not, what it is waiting for.

use std::sync::{Mutex, PoisonError};

/// A latch. Whether the database answers is asked anew each time; this is what cannot be asked.
#[derive(Debug)]
pub struct Readiness {
    /// `None` once the first pass has ended or was skipped.
    waiting_for: Mutex<Option<String>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            waiting_for: Mutex::new(Some("starting".to_owned())),
        }
    }
}

impl Readiness {
    /// The first pass has not ended, because of this.
    pub fn waiting_for(&self, reason: impl Into<String>) {
        if let Some(waiting_for) = self.lock().as_mut() {
            *waiting_for = reason.into();
        }
    }

    /// The first pass has ended, or was skipped. There is no way back.
    pub fn first_pass_ended(&self) {
        self.lock().take();
    }

    /// Why not yet.
    pub fn pending(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
