//! Bursts: an agent that is edited faster than it can be synced is synced at once, and then when the edits pause.
//!
//! The first edit of an agent is never held. Only when more edits came in while it was being synced, or when it has been
//! synced again and again within a second, are its changes left in the outbox until there is a pause, but not for longer
//! than [`MAX_WAIT`]. Other agents go on meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use crate::ids::AgentId;
use crate::outbox::{Change, Claimed};

/// The pause in a burst after which it counts as over.
pub const QUIET: Duration = Duration::from_millis(25);

/// The longest that an edit is held.
pub const MAX_WAIT: Duration = Duration::from_millis(250);

/// How many syncs of one agent within [`WINDOW`] make a burst of their own.
const MANY: u32 = 4;
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Bursts {
    synced: HashMap<AgentId, Synced>,
    held: HashMap<AgentId, Instant>,
    /// Whoever else is left, and for longer.
    pub pace: Pace,
}

/// The syncs of one agent since the first of them, for [`WINDOW`].
#[derive(Debug)]
struct Synced {
    first: Instant,
    times: u32,
    /// There was no moment since at which the outbox was empty.
    just_now: bool,
}

impl Bursts {
    /// The agents to leave in the outbox for now.
    pub fn held(&mut self, now: Instant) -> Vec<AgentId> {
        self.held.retain(|_, until| *until > now);
        self.held.keys().copied().chain(self.pace.left()).collect()
    }

    /// Takes out of a claim what is better left for later.
    pub fn admit(&mut self, mut claimed: Claimed, now: Instant) -> Claimed {
        claimed.changes.retain(|agent, changes| {
            let bursting = self
                .synced
                .get(agent)
                .is_some_and(|synced| synced.just_now || synced.times >= MANY);
            match hold(changes).filter(|_| bursting) {
                Some(pause) => {
                    self.held.insert(*agent, now + pause);
                    false
                }
                None => true,
            }
        });
        claimed
    }

    pub fn synced(&mut self, agents: impl Iterator<Item = AgentId>, now: Instant) {
        for agent in agents {
            let synced = self.synced.entry(agent).or_insert(Synced {
                first: now,
                times: 0,
                just_now: true,
            });
            synced.times += 1;
            synced.just_now = true;
        }
    }

    /// There is nothing left to take: whoever is not held at this moment is not being edited at this moment.
    pub fn calm(&mut self, now: Instant) {
        self.synced
            .retain(|_, synced| now.duration_since(synced.first) < WINDOW);
        for (agent, synced) in &mut self.synced {
            synced.just_now &= self.held.contains_key(agent);
        }
    }

    /// How long until a held agent may be taken.
    pub fn next_release(&self, now: Instant) -> Option<Duration> {
        self.held
            .values()
            .map(|until| until.saturating_duration_since(now))
            .min()
    }
}

/// How long to hold an agent's changes, if at all.
fn hold(changes: &[Change]) -> Option<Duration> {
    let newest = changes.iter().map(|change| change.age).min()?;
    let oldest = changes.iter().map(|change| change.age).max()?;
    let pause = QUIET
        .checked_sub(newest)?
        .min(MAX_WAIT.checked_sub(oldest)?);
    (!pause.is_zero()).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const AGENT: AgentId = AgentId(Uuid::from_u128(1));

    fn edits(ages_ms: &[u64]) -> Claimed {
        let change = |(id, ms): (usize, &u64)| Change {
            id: id as i64,
            age: Duration::from_millis(*ms),
            retry: false,
        };
        let changes = ages_ms.iter().enumerate().map(change).collect();
        Claimed {
            changes: [(AGENT, changes)].into(),
            ..Claimed::default()
        }
    }

    fn synced_at(times: &[Instant]) -> Bursts {
        let mut bursts = Bursts::default();
        for now in times {
            bursts.synced([AGENT].into_iter(), *now);
        }
        bursts
    }

    #[test]
    fn the_first_edit_is_taken_at_once() {
        let mut bursts = Bursts::default();
        assert!(!bursts.admit(edits(&[0]), Instant::now()).is_empty());
    }

    #[test]
    fn edits_made_during_a_sync_wait_for_a_pause() {
        let now = Instant::now();
        let mut bursts = synced_at(&[now]);
        assert!(bursts.admit(edits(&[0, 3]), now).is_empty());
        assert_eq!(bursts.held(now), [AGENT]);
        assert_eq!(bursts.next_release(now), Some(QUIET));
        let later = now + QUIET;
        assert!(bursts.held(later).is_empty());
        assert!(!bursts.admit(edits(&[25, 28]), later).is_empty());
    }

    #[test]
    fn an_agent_that_is_edited_without_a_pause_is_not_held_for_ever() {
        let now = Instant::now();
        let mut bursts = synced_at(&[now]);
        assert!(!bursts.admit(edits(&[0, 250]), now).is_empty());
        assert!(bursts.admit(edits(&[0, 240]), now).is_empty());
        assert_eq!(bursts.next_release(now), Some(Duration::from_millis(10)));
    }

    #[test]
    fn an_edit_after_the_outbox_was_empty_is_a_first_edit_again() {
        let now = Instant::now();
        let mut bursts = synced_at(&[now]);
        bursts.calm(now);
        assert!(!bursts.admit(edits(&[0]), now).is_empty());
    }

    #[test]
    fn edits_that_keep_coming_one_by_one_are_a_burst_too_until_a_second_has_passed() {
        let start = Instant::now();
        let mut bursts = Bursts::default();
        for n in 0..MANY {
            let now = start + Duration::from_millis(10) * n;
            assert!(!bursts.admit(edits(&[0]), now).is_empty(), "edit {n}");
            bursts.synced([AGENT].into_iter(), now);
            bursts.calm(now);
        }
        let now = start + Duration::from_millis(50);
        assert!(bursts.admit(edits(&[0]), now).is_empty());
        let now = start + WINDOW;
        bursts.held(now);
        bursts.calm(now);
        assert!(!bursts.admit(edits(&[0]), now).is_empty());
    }
}
