//! Whether to sleep or to stay awake.
//!
//! Whoever edits rings only while some worker sleeps ([`bell`](super::bell)). A ring costs an editor little when it is the only one, and
//! much where many edit at once, as editors who ring commit one after the other. So a worker that hears rings come thick stays awake:
//! then nobody rings, and it looks for itself, often. It goes to sleep again once nobody edits.
//!
//! Nothing here knows a clock: it is told what happened, and when.

use std::time::Duration;

use tokio::time::Instant;

/// So many rings within this time are thick.
const MANY: u32 = 8;
const WINDOW: Duration = Duration::from_millis(250);

/// How long nobody has edited when a worker goes to sleep.
pub const QUIET: Duration = Duration::from_millis(250);

/// The shortest and the longest pause between two looks.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);

/// Rings, as they are heard.
#[derive(Debug, Default)]
pub struct Rings {
    first: Option<Instant>,
    heard: u32,
}

impl Rings {
    /// One more. True where they come thick.
    pub fn heard(&mut self, now: Instant) -> bool {
        match self.first {
            Some(first) if now.duration_since(first) < WINDOW => self.heard += 1,
            _ => (self.first, self.heard) = (Some(now), 1),
        }
        self.heard >= MANY
    }
}

/// What a worker that is awake has seen.
#[derive(Debug)]
pub struct Vigil {
    /// How many changes had ever been recorded, and since when there are no more of them.
    recorded: Option<(i64, Instant)>,
    pause: Duration,
}

impl Default for Vigil {
    fn default() -> Self {
        Self {
            recorded: None,
            pause: SHORTEST,
        }
    }
}

impl Vigil {
    /// The outbox was drained, which took so long. Editors get most of the time: the pause is three times as long.
    pub fn drained(&mut self, took: Duration) {
        self.pause = (took * 3).clamp(SHORTEST, LONGEST);
    }

    /// How long until the next look.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// So many changes have ever been recorded, by whom ever they were taken. True when nobody edits any more.
    pub fn looked(&mut self, recorded: i64, now: Instant) -> bool {
        self.pause = SHORTEST;
        let since = match self.recorded {
            Some((before, since)) if before == recorded => since,
            _ => now,
        };
        let is_quiet = now.duration_since(since) >= QUIET;
        // What was seen before it slept says nothing about the next time.
        self.recorded = (!is_quiet).then_some((recorded, since));
        is_quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// When the rings are thick first, at this distance from each other.
    fn thick_after(distance: Duration) -> Option<usize> {
        let (start, mut rings) = (Instant::now(), Rings::default());
        (0..100).find(|n| rings.heard(start + distance * *n as u32))
    }

    #[test]
    fn rings_are_thick_from_the_eighth_within_a_quarter_of_a_second_on() {
        assert_eq!(thick_after(ms(0)), Some(7));
        assert_eq!(thick_after(ms(30)), Some(7));
        assert_eq!(thick_after(ms(40)), None);
        assert_eq!(thick_after(ms(1_000)), None);
    }

    #[test]
    fn it_sleeps_when_nobody_has_edited_for_a_quarter_of_a_second() {
        let (start, mut vigil) = (Instant::now(), Vigil::default());
        assert!(!vigil.looked(1, start));
        assert!(!vigil.looked(1, start + ms(249)));
        assert!(!vigil.looked(2, start + ms(250)));
        assert!(!vigil.looked(2, start + ms(499)));
        assert!(vigil.looked(2, start + ms(500)));
        // And when it is woken again, that much later once more.
        assert!(!vigil.looked(2, start + ms(900)));
        assert!(vigil.looked(2, start + ms(1_150)));
    }

    #[test]
    fn it_works_for_a_quarter_of_the_time_at_most_but_never_pauses_for_long() {
        let mut vigil = Vigil::default();
        for (took, pause) in [(0, 5), (1, 5), (10, 30), (16, 48), (5_000, 50)] {
            vigil.drained(ms(took));
            assert_eq!(vigil.pause(), ms(pause), "after {took} ms");
        }
        vigil.looked(1, Instant::now());
        assert_eq!(vigil.pause(), SHORTEST, "nothing was done");
    }
}
