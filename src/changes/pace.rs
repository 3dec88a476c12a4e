//! How much is claimed at once. A batch that takes too long, again and again, while the database otherwise answers, has
//! something in it that is too much work: half as much is claimed each time, until one agent is left that cannot be synced
//! in time. That one waits then until there is nothing else to do, longer after each failure, and the others go on.
//!
//! None of this is written down: what is left stays in the outbox, and another worker finds out for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::database::BATCH;
use crate::ids::AgentId;
use crate::retry::{self, ALONE, SYSTEMIC};

#[derive(Debug)]
pub struct Pace {
    at_most: usize,
    in_hand: Vec<AgentId>,
    /// Who failed alone last, and how often.
    alone: Option<(AgentId, u32)>,
    slow: BTreeMap<AgentId, Slow>,
    /// One of the slow ones, whose time has come.
    trying: Option<AgentId>,
    put_off_in_a_row: usize,
    narrowing: bool,
}

/// An agent that takes too long.
#[derive(Debug)]
struct Slow {
    failures: i32,
    until: Instant,
}

/// What follows from a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Less is claimed, or the same once more.
    Again,
    /// This agent waits.
    PutOff(AgentId, Duration),
    /// It is not the agents.
    None,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            at_most: BATCH,
            in_hand: Vec::new(),
            alone: None,
            slow: BTreeMap::new(),
            trying: None,
            put_off_in_a_row: 0,
            narrowing: false,
        }
    }
}

impl Pace {
    /// How many changes to claim.
    pub fn at_most(&self) -> usize {
        match self.trying {
            Some(_) => 1,
            None => self.at_most,
        }
    }

    /// Nothing has taken too long lately.
    pub fn is_unhindered(&self) -> bool {
        self.trying.is_none() && self.at_most == BATCH
    }

    /// The agents to leave in the outbox.
    pub fn left(&self) -> impl Iterator<Item = AgentId> {
        let left = self.slow.keys().copied();
        left.filter(|agent| Some(*agent) != self.trying)
    }

    pub fn takes(&mut self, agents: Vec<AgentId>) {
        self.in_hand = agents;
    }

    /// There is nothing to do, so one of the slow ones may be tried. False when it is nobody's time.
    pub fn try_slow(&mut self, now: Instant) -> bool {
        if let Some(gone) = self.trying.take() {
            self.slow.remove(&gone);
        }
        let due = self.slow.iter().find(|(_, slow)| slow.until <= now);
        self.trying = due.map(|(agent, _)| *agent);
        self.trying.is_some()
    }

    pub fn is_trying_slow(&self) -> bool {
        self.trying.is_some()
    }

    /// What is in hand is done.
    pub fn succeeded(&mut self) {
        if self.trying.take().is_none() {
            self.at_most = (self.at_most * 2).min(BATCH);
        }
        for agent in std::mem::take(&mut self.in_hand) {
            self.slow.remove(&agent);
        }
        self.alone = None;
        self.put_off_in_a_row = 0;
    }

    /// Nothing can be said of what is in hand.
    pub fn called_off(&mut self) {
        self.in_hand.clear();
        self.trying = None;
        self.narrowing = false;
    }

    /// Whether the last failure was answered with claiming less, so that the next attempt is another one.
    pub fn is_narrowing(&self) -> bool {
        self.narrowing
    }

    /// What is in hand took too long.
    pub fn failed(&mut self, now: Instant) -> Consequence {
        let in_hand = std::mem::take(&mut self.in_hand);
        self.trying = None;
        let &[agent] = in_hand.as_slice() else {
            if in_hand.is_empty() {
                return Consequence::None;
            }
            self.at_most = in_hand.len() / 2;
            self.narrowing = true;
            return Consequence::Again;
        };
        let times = match self.alone {
            Some((before, times)) if before == agent => times + 1,
            _ => 1,
        };
        self.alone = Some((agent, times));
        self.at_most = 1;
        if times < ALONE && !self.slow.contains_key(&agent) {
            self.narrowing = true;
            return Consequence::Again;
        }
        self.alone = None;
        self.put_off_in_a_row += 1;
        if self.put_off_in_a_row > SYSTEMIC {
            return Consequence::None;
        }
        let failures = self.slow.get(&agent).map_or(1, |slow| slow.failures + 1);
        let delay = retry::agent_delay(failures);
        let until = now + delay;
        self.slow.insert(agent, Slow { failures, until });
        Consequence::PutOff(agent, delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn agent(n: usize) -> AgentId {
        AgentId(Uuid::from_u128(n as u128))
    }

    /// What happens to agents of whom the first is the one that takes too long, until it is put off.
    fn narrow_down(pace: &mut Pace, now: Instant) -> (Vec<usize>, Duration) {
        let mut sizes = Vec::new();
        loop {
            let claimed: Vec<_> = (0..pace.at_most()).map(agent).collect();
            sizes.push(claimed.len());
            pace.takes(claimed);
            match pace.failed(now) {
                Consequence::Again => {}
                Consequence::PutOff(slow, delay) => {
                    assert_eq!(slow, agent(0));
                    return (sizes, delay);
                }
                Consequence::None => panic!("it is that agent"),
            }
        }
    }

    #[test]
    fn a_batch_is_halved_until_the_agent_that_takes_too_long_is_alone() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        let (sizes, delay) = narrow_down(&mut pace, now);
        assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 7, 3, 1, 1, 1]);
        assert_eq!(pace.left().collect::<Vec<_>>(), [agent(0)]);
        // Others go on, twice as many each time.
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500] {
            assert_eq!(pace.at_most(), expected);
            pace.takes(vec![agent(1)]);
            pace.succeeded();
        }
        // It is tried again alone, when its time has come and there is nothing else to do.
        assert!(!pace.try_slow(now));
        let mut now = now + delay;
        for _ in 0..3 {
            assert!(pace.try_slow(now));
            assert_eq!((pace.at_most(), pace.left().count()), (1, 0));
            pace.takes(vec![agent(0)]);
            let Consequence::PutOff(_, longer) = pace.failed(now) else {
                panic!("it waits again")
            };
            assert!(longer > delay);
            now += longer;
            pace.takes(vec![agent(1)]);
            pace.succeeded();
        }
        assert!(pace.try_slow(now));
        pace.takes(vec![agent(0)]);
        pace.succeeded();
        assert_eq!(pace.left().count(), 0);
        assert!(!pace.try_slow(now));
    }

    #[test]
    fn what_is_called_off_is_held_against_nobody() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.takes(vec![agent(0)]);
            pace.called_off();
            assert_eq!(pace.failed(Instant::now()), Consequence::None);
        }
        assert_eq!((pace.at_most(), pace.left().count()), (BATCH, 0));
    }

    #[test]
    fn where_no_agent_can_be_synced_only_the_first_few_are_put_off() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        for n in 0..100 {
            for _ in 0..ALONE {
                pace.takes(vec![agent(n)]);
                pace.failed(now);
            }
        }
        assert_eq!(pace.left().count(), SYSTEMIC);
    }

    #[test]
    fn a_slow_agent_whose_changes_are_gone_is_forgotten() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        let (_, delay) = narrow_down(&mut pace, now);
        assert!(pace.try_slow(now + delay));
        assert!(!pace.try_slow(now + delay));
        assert_eq!(pace.left().count(), 0);
    }
}
