//! Bursts: an agent that is edited faster than it can be synced is synced at once, and then when the edits pause.
//!
//! The first edit of an agent is never held. Only when more edits came in while it was being synced are they left in
//! the outbox until there is a pause, but not for longer than [`MAX_WAIT`]. Other agents go on meanwhile.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::outbox::{Change, Claimed};
use crate::ids::AgentId;

/// The pause in a burst after which it counts as over.
pub const QUIET: Duration = Duration::from_millis(25);

/// The longest that an edit is held.
pub const MAX_WAIT: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub struct Bursts {
    /// Agents synced since the outbox was last empty.
    recent: HashSet<AgentId>,
    held: HashMap<AgentId, Instant>,
}

impl Bursts {
    /// The agents to leave in the outbox for now.
    pub fn held(&mut self, now: Instant) -> Vec<AgentId> {
        self.held.retain(|_, until| *until > now);
        self.held.keys().copied().collect()
    }

    /// Takes out of a claim what is better left for later.
    pub fn admit(&mut self, mut claimed: Claimed, now: Instant) -> Claimed {
        claimed.changes.retain(|agent, changes| {
            match self.recent.contains(agent).then(|| hold(changes)).flatten() {
                Some(pause) => {
                    self.held.insert(*agent, now + pause);
                    false
                }
                None => true,
            }
        });
        claimed
    }

    pub fn synced(&mut self, agents: impl Iterator<Item = AgentId>) {
        self.recent.extend(agents);
    }

    /// There is nothing left to take: whoever is not held at this moment is not in a burst.
    pub fn calm(&mut self) {
        self.recent.retain(|agent| self.held.contains_key(agent));
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
        };
        let changes = ages_ms.iter().enumerate().map(change).collect();
        Claimed {
            changes: [(AGENT, changes)].into(),
            senseless: Vec::new(),
        }
    }

    #[test]
    fn the_first_edit_is_taken_at_once() {
        let mut bursts = Bursts::default();
        assert!(!bursts.admit(edits(&[0]), Instant::now()).is_empty());
    }

    #[test]
    fn edits_made_during_a_sync_wait_for_a_pause() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        bursts.synced([AGENT].into_iter());
        assert!(bursts.admit(edits(&[0, 3]), now).is_empty());
        assert_eq!(bursts.held(now), [AGENT]);
        assert_eq!(bursts.next_release(now), Some(QUIET));
        let later = now + QUIET;
        assert!(bursts.held(later).is_empty());
        assert!(!bursts.admit(edits(&[25, 28]), later).is_empty());
    }

    #[test]
    fn an_agent_that_is_edited_without_a_pause_is_not_held_for_ever() {
        let mut bursts = Bursts::default();
        bursts.synced([AGENT].into_iter());
        assert!(!bursts.admit(edits(&[0, 250]), Instant::now()).is_empty());
        assert!(bursts.admit(edits(&[0, 240]), Instant::now()).is_empty());
        assert_eq!(
            bursts
                .next_release(Instant::now())
                .map(|pause| pause <= Duration::from_millis(10)),
            Some(true)
        );
    }

    #[test]
    fn an_edit_after_the_outbox_was_empty_is_a_first_edit_again() {
        let mut bursts = Bursts::default();
        bursts.synced([AGENT].into_iter());
        bursts.calm();
        assert!(!bursts.admit(edits(&[0]), Instant::now()).is_empty());
    }
}
