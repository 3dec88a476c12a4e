//! When to try again: exponential, jittered, and never giving up; and when to go on without an agent. The only place that
//! knows the `backoff` crate (unmaintained, RUSTSEC-2025-0012).

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// How often an agent must take too long when it is alone in a transaction before the others go on without it.
pub const ALONE: u32 = 3;

/// How many agents may fail alone, while none is synced, for a reason that need not be theirs (it takes too long, a privilege is
/// missing), before it is taken for everybody's.
pub const SYSTEMIC: usize = 3;

/// A growing pause between attempts at the same thing.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// From `first` doubling up to `cap`, each pause off by up to a fifth either way.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            multiplier: 2.0,
            max_interval: cap,
            randomization_factor: 0.2,
            // The crate's default gives up after 15 minutes.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// It worked: the next failure is a first one.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// An interval off by up to a fifth either way, so that workers that were started together do not stay together.
pub fn jittered(interval: Duration) -> Duration {
    Backoff::new(interval, interval).pause()
}

const AGENT_FIRST: Duration = Duration::from_secs(1);
const AGENT_CAP: Duration = Duration::from_secs(300);

/// How long to leave an agent alone that has failed this many times in a row (1 or more): 1 s doubling to 5 min, jittered.
pub fn agent_delay(failures: i32) -> Duration {
    let doublings = failures.clamp(1, 16) - 1;
    let base = AGENT_FIRST.saturating_mul(1 << doublings).min(AGENT_CAP);
    Backoff::new(base, AGENT_CAP).pause()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_up_to_the_cap_and_never_end() {
        let mut backoff = Backoff::new(FIRST, CAP);
        for doublings in 0..10_000 {
            let exact = FIRST.saturating_mul(1 << doublings.min(20)).min(CAP);
            let pause = backoff.pause();
            assert!(
                pause >= exact.mul_f64(0.79) && pause <= exact.mul_f64(1.21),
                "{doublings}: {pause:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST.mul_f64(1.21));
    }

    #[test]
    fn workers_that_lost_the_same_database_do_not_come_back_together() {
        let pauses: std::collections::BTreeSet<Duration> =
            (0..100).map(|_| Backoff::new(FIRST, CAP).pause()).collect();
        assert!(pauses.len() > 50, "{} different ones of 100", pauses.len());
    }
}
