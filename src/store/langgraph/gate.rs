//! Whether anything is sent to a server at the moment. One that is down, refuses us, or asks for a pause is left in peace; the work waits in
//! the outbox. Pure: it is told what happened, and when.

use std::time::Duration;

use tokio::time::Instant;

use crate::database::Fault;
use crate::retry::Backoff;

/// How many requests in a row fail before the server counts as down.
const FAILURES: u32 = 5;

/// How long it is left in peace then: at first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Gate {
    failures: u32,
    closed: Option<Closed>,
    backoff: Backoff,
}

/// Nothing is sent for now.
#[derive(Debug, Clone)]
pub struct Closed {
    until: Instant,
    /// Fit for a log, with what to do.
    pub why: String,
    pub fault: Fault,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            failures: 0,
            closed: None,
            backoff: Backoff::new(FIRST, LONGEST),
        }
    }
}

impl Gate {
    /// # Errors
    /// Why nothing is to be sent now. When its time is over, requests show whether it still holds.
    pub fn check(&self, now: Instant) -> Result<(), Closed> {
        match &self.closed {
            Some(closed) if now < closed.until => Err(closed.clone()),
            _ => Ok(()),
        }
    }

    /// The server has answered. Returns whether it had failed before.
    pub fn answered(&mut self) -> bool {
        let had_failed = self.failures > 0 || self.closed.is_some();
        if had_failed {
            *self = Self::default();
        }
        had_failed
    }

    /// It did not answer, or as one that is down.
    pub fn failed(&mut self, now: Instant, why: &str) {
        self.failures += 1;
        if self.failures >= FAILURES && self.check(now).is_ok() {
            let pause = self.backoff.pause();
            self.close(
                now + pause,
                format!("the LangGraph server is down: {why}"),
                Fault::Passing,
            );
        }
    }

    /// It does not let us in.
    pub fn refused(&mut self, now: Instant, why: String) {
        if self.check(now).is_ok() {
            let pause = self.backoff.pause();
            self.close(now + pause, why, Fault::Setup);
        }
    }

    /// It wants to be left in peace for this long.
    pub fn asked_to_pause(&mut self, now: Instant, pause: Duration) {
        let why = format!(
            "the LangGraph server asks for a pause of {} s",
            pause.as_secs()
        );
        self.close(now + pause, why, Fault::Passing);
    }

    fn close(&mut self, until: Instant, why: String, fault: Fault) {
        let longer = self
            .closed
            .as_ref()
            .is_none_or(|closed| closed.until < until);
        if longer {
            self.closed = Some(Closed { until, why, fault });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_five_failures_in_a_row_a_server_is_left_in_peace_longer_each_time() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        for _ in 1..FAILURES {
            gate.failed(now, "refused");
            assert!(gate.check(now).is_ok());
        }
        let mut before = Duration::ZERO;
        for _ in 0..4 {
            gate.failed(now, "refused");
            let closed = gate.check(now).expect_err("closed");
            assert_eq!(closed.fault, Fault::Passing);
            let pause = closed.until - now;
            assert!(pause > before, "{pause:?} after {before:?}");
            before = pause;
            // One attempt when the time is over.
            now = closed.until;
            assert!(gate.check(now).is_ok());
        }
        assert!(gate.answered());
        gate.failed(now, "refused");
        assert!(gate.check(now).is_ok(), "it counts anew");
    }

    #[test]
    fn requests_that_were_in_hand_when_it_closed_make_no_pause_longer() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for _ in 0..100 {
            gate.failed(now, "refused");
        }
        let closed = gate.check(now).expect_err("closed");
        assert!(closed.until <= now + FIRST.mul_f64(1.2));
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        gate.asked_to_pause(now, Duration::from_secs(60));
        gate.asked_to_pause(now, Duration::from_secs(1));
        let almost = now + Duration::from_millis(59_999);
        assert!(gate.check(almost).is_err());
        assert!(gate.check(now + Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn one_refusal_is_enough() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        gate.refused(now, "401".to_owned());
        assert_eq!(gate.check(now).expect_err("closed").fault, Fault::Setup);
        assert!(gate.answered());
        assert!(gate.check(now).is_ok());
    }
}
