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

/// The longest pause that is waited for with work in hand.
const SHORT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Gate {
    failures: u32,
    closed: Option<Closed>,
    /// The server wants to be left in peace until then.
    pause: Option<Instant>,
    backoff: Backoff,
}

/// Nothing is sent for now.
#[derive(Debug, Clone)]
pub struct Closed {
    pub until: Instant,
    /// Fit for a log, with what to do.
    pub why: String,
    pub fault: Fault,
    /// What was asked for. That something less is granted shows nothing.
    right: Right,
}

/// What it takes to have a request granted, the least first: who may read may not be let write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Everybodys,
    Read,
    Write,
}

/// How long trouble is remembered that nobody has met again since then.
const MEMORY: Duration = Duration::from_secs(60);

impl Default for Gate {
    fn default() -> Self {
        Self {
            failures: 0,
            closed: None,
            pause: None,
            backoff: Backoff::new(FIRST, LONGEST),
        }
    }
}

impl Gate {
    /// When the next request may be sent: now, or in a moment.
    ///
    /// # Errors
    /// Not so soon, and why. When that time is over, requests show whether it still holds.
    pub fn opens(&self, now: Instant) -> Result<Instant, Closed> {
        if let Some(closed) = self.closed.as_ref().filter(|closed| now < closed.until) {
            return Err(closed.clone());
        }
        match self.pause {
            Some(until) if until > now + SHORT => Err(Closed {
                until,
                why: format!("it asks for a pause of {} s", (until - now).as_secs()),
                fault: Fault::Passing,
                right: Right::Everybodys,
            }),
            Some(until) => Ok(until.max(now)),
            None => Ok(now),
        }
    }

    /// Why nothing was sent lately, until an answer shows that this is over.
    pub fn trouble(&self, now: Instant) -> Option<&Closed> {
        let closed = self.closed.as_ref();
        closed.filter(|closed| now < closed.until + MEMORY)
    }

    /// The server has answered as it should. Says nothing while nothing is sent: that was asked before. Returns whether some trouble
    /// is over.
    pub fn answered(&mut self, now: Instant, right: Right) -> bool {
        let stays = |closed: &Closed| now < closed.until || right < closed.right;
        if self.closed.as_ref().is_some_and(stays) {
            return false;
        }
        self.failures = 0;
        self.backoff.reset();
        self.closed.take().is_some()
    }

    /// It did not answer, or as one that is down. Returns whether that is news: it counts as down from now on.
    pub fn failed(&mut self, now: Instant, why: &str) -> bool {
        self.failures += 1;
        self.failures >= FAILURES
            && self.close(now, why.to_owned(), Fault::Passing, Right::Everybodys)
    }

    /// Nothing more is sent for a while. Returns whether that is news.
    pub fn close(&mut self, now: Instant, why: String, fault: Fault, right: Right) -> bool {
        if let Some(closed) = &self.closed
            && now < closed.until
        {
            return false;
        }
        let is_news = self.trouble(now).is_none_or(|closed| closed.fault != fault);
        self.closed = Some(Closed {
            until: now + self.backoff.pause(),
            why,
            fault,
            right,
        });
        is_news
    }

    /// It wants to be left in peace for this long. Returns whether that is news, and long.
    pub fn asked_to_pause(&mut self, now: Instant, pause: Duration) -> bool {
        let is_paused = self.pause.is_some_and(|until| until > now);
        self.pause = self.pause.max(Some(now + pause));
        pause > SHORT && !is_paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_five_failures_in_a_row_a_server_is_left_in_peace_longer_each_time() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        for _ in 1..FAILURES {
            assert!(!gate.failed(now, "refused"));
            assert!(gate.opens(now).is_ok());
        }
        let mut before = Duration::ZERO;
        for n in 0..4 {
            assert_eq!(gate.failed(now, "refused"), n == 0, "news");
            let closed = gate.opens(now).expect_err("closed");
            assert_eq!(closed.fault, Fault::Passing);
            let pause = closed.until - now;
            assert!(pause > before, "{pause:?} after {before:?}");
            before = pause;
            // One attempt when the time is over.
            now = closed.until;
            assert_eq!(gate.opens(now).expect("open"), now);
            assert!(gate.trouble(now).is_some());
        }
        assert!(gate.answered(now, Right::Read));
        assert!(gate.trouble(now).is_none());
        assert!(!gate.failed(now, "refused"));
        assert!(gate.opens(now).is_ok(), "it counts anew");
    }

    #[test]
    fn what_was_in_hand_when_it_closed_makes_no_pause_longer_or_shorter() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for _ in 0..100 {
            gate.failed(now, "refused");
        }
        let closed = gate.opens(now).expect_err("closed");
        assert!(closed.until <= now + FIRST.mul_f64(1.2));
        assert!(!gate.answered(now, Right::Read));
        assert!(gate.opens(now).is_err());
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_whatever_else_is_answered() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.asked_to_pause(now, Duration::from_secs(60)));
        assert!(!gate.asked_to_pause(now, Duration::from_secs(60)));
        gate.asked_to_pause(now, Duration::from_secs(1));
        gate.answered(now, Right::Read);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(gate.opens(now).expect_err("paused").until, later(60));
        // The last of it can be waited for.
        assert_eq!(gate.opens(later(56)).expect("soon"), later(60));
        assert_eq!(gate.opens(later(61)).expect("now"), later(61));
    }

    #[test]
    fn one_refusal_is_enough_and_told_once() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        assert!(gate.close(now, "401".to_owned(), Fault::Setup, Right::Read));
        for _ in 0..3 {
            let closed = gate.opens(now).expect_err("closed");
            assert_eq!(closed.fault, Fault::Setup);
            now = closed.until;
            assert!(!gate.close(now, "401".to_owned(), Fault::Setup, Right::Read));
        }
        now = gate.opens(now).expect_err("closed").until;
        assert!(gate.answered(now, Right::Read));
        assert!(gate.opens(now).is_ok());
    }

    #[test]
    fn who_may_read_is_not_thereby_let_write() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        let mut before = Duration::ZERO;
        for n in 0..4 {
            let is_news = gate.close(now, "403".to_owned(), Fault::Setup, Right::Write);
            assert_eq!(is_news, n == 0);
            let until = gate.opens(now).expect_err("closed").until;
            assert!(
                until - now > before,
                "and it is left in peace longer each time"
            );
            before = until - now;
            now = until;
            for right in [Right::Everybodys, Right::Read] {
                assert!(!gate.answered(now, right));
                assert!(gate.trouble(now).is_some());
            }
        }
        // Nobody has asked for it since then.
        assert!(gate.trouble(now + MEMORY).is_none());
        assert!(gate.answered(now, Right::Write));
        assert!(gate.trouble(now).is_none());
    }
}
