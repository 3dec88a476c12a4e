//! What the worker is doing: the last syncs, those that happen from now on, and the last hour in samples.
//!
//! The syncer tells of each batch once, when it stands. What is kept of it is bounded, and nobody who listens is ever waited for: a slow
//! listener loses events, and is told how many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::ids::AgentId;
use crate::store::timestamp;

/// How many events a newcomer is shown.
const RECENT: usize = 50;

/// How many agents of a batch are told of one by one.
const ONE_BY_ONE: usize = 20;

/// How far a listener may fall behind before it loses events.
const BEHIND: usize = 128;

/// The longest error that is shown, and the longest name, in characters.
const LONGEST_ERROR: usize = 500;
const LONGEST_NAME: usize = 200;

/// The step of the history, and how many steps there are: an hour.
pub const STEP: Duration = Duration::from_secs(30);
const STEPS: usize = 120;

/// A batch that stands, in the words of [`crate::syncer`].
#[derive(Debug)]
pub struct Told<'a> {
    pub at: OffsetDateTime,
    /// `pass`, `change` or `request`.
    pub door: &'static str,
    /// The agents of which there is anything to tell.
    pub agents: Vec<Agent<'a>>,
    /// How many agents there were of each outcome.
    pub counts: &'a [(&'static str, usize)],
    /// How long each edit took to get to its assistants.
    pub delays: &'a [Duration],
}

#[derive(Debug)]
pub struct Agent<'a> {
    pub id: AgentId,
    pub name: Option<&'a str>,
    pub outcome: &'static str,
    /// An assistant was written or removed.
    pub is_effective: bool,
    /// Since the oldest of its edits.
    pub delay: Option<Duration>,
    pub error: Option<&'a str>,
}

/// Something that has happened.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// They count up, over restarts, too.
    pub id: u64,
    /// `sync`: one agent. `summary`: many.
    pub kind: &'static str,
    /// JSON, in one line.
    pub data: String,
}

#[derive(Debug)]
pub struct Activity {
    state: Mutex<State>,
    live: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct State {
    last_id: u64,
    recent: VecDeque<Arc<Event>>,
    /// Since the last sample.
    window: Window,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Default)]
struct Window {
    synced: u64,
    delays: Delays,
}

/// Half a minute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Its end.
    pub at: String,
    pub delay_p50_seconds: Option<f64>,
    pub delay_p99_seconds: Option<f64>,
    /// Agents whose assistants were written or removed.
    pub synced: u64,
    /// At its end; `None`: the database did not say.
    pub outbox_depth: Option<u64>,
}

impl Default for Activity {
    fn default() -> Self {
        // A worker that is started anew goes on where no other has been: nobody makes an event every microsecond.
        let micros = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000;
        Self {
            state: Mutex::new(State {
                last_id: u64::try_from(micros).unwrap_or_default(),
                recent: VecDeque::with_capacity(RECENT),
                window: Window::default(),
                samples: VecDeque::with_capacity(STEPS),
            }),
            live: broadcast::Sender::new(BEHIND),
        }
    }
}

impl Activity {
    /// A batch stands.
    pub fn told(&self, told: &Told<'_>) {
        let mut state = self.state();
        let effective = told.agents.iter().filter(|agent| agent.is_effective);
        state.window.synced += effective.count() as u64;
        for delay in told.delays {
            state.window.delays.add(*delay);
        }
        if told.agents.len() > ONE_BY_ONE {
            self.publish(&mut state, "summary", summary(told).to_string());
        } else {
            for agent in &told.agents {
                self.publish(&mut state, "sync", sync(told, agent).to_string());
            }
        }
    }

    /// The last events, or those after one that was seen, and then all that happen.
    pub fn listen(&self, after: Option<u64>) -> Listener {
        let state = self.state();
        // One that is yet to come is another worker's.
        let after = after.filter(|after| *after <= state.last_id);
        let missed = state.recent.iter();
        let missed = missed.filter(|event| after.is_none_or(|after| event.id > after));
        Listener {
            missed: missed.cloned().collect(),
            // Under the lock: none comes twice, and none is left out.
            live: self.live.subscribe(),
        }
    }

    /// Half a minute is over.
    pub fn sample(&self, now: OffsetDateTime, outbox_depth: Option<u64>) {
        let mut state = self.state();
        let sample = std::mem::take(&mut state.window).sample(now, outbox_depth);
        if state.samples.len() == STEPS {
            state.samples.pop_front();
        }
        state.samples.push_back(sample);
    }

    /// The last hour, the oldest first. The last sample is what there is of the present half minute.
    pub fn history(&self, now: OffsetDateTime, outbox_depth: Option<u64>) -> Vec<Sample> {
        let state = self.state();
        let present = state.window.sample(now, outbox_depth);
        state.samples.iter().cloned().chain([present]).collect()
    }

    fn publish(&self, state: &mut State, kind: &'static str, data: String) {
        state.last_id += 1;
        let event = Arc::new(Event {
            id: state.last_id,
            kind,
            data,
        });
        if state.recent.len() == RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(event.clone());
        // An error: nobody listens.
        let _ = self.live.send(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who wants to know.
#[derive(Debug)]
pub struct Listener {
    missed: VecDeque<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
}

/// What a listener hears next.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Event(Arc<Event>),
    /// So many events went by too fast.
    Lost(u64),
}

impl Listener {
    /// What has happened before, as long as there is any of that.
    pub fn missed(&mut self) -> Option<Arc<Event>> {
        self.missed.pop_front()
    }

    /// Waits for the next event. Waiting may be called off. `None`: there will be none.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.live.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(RecvError::Lagged(events)) => Some(Heard::Lost(events)),
            Err(RecvError::Closed) => None,
        }
    }
}

fn sync(told: &Told<'_>, agent: &Agent<'_>) -> Value {
    json!({
        "at": timestamp(told.at),
        "agent_id": agent.id,
        "name": agent.name.map(|name| shortened(name, LONGEST_NAME)),
        "outcome": agent.outcome,
        "door": told.door,
        "delay_seconds": agent.delay.map(|delay| delay.as_secs_f64()),
        "error": agent.error.map(|error| shortened(error, LONGEST_ERROR)),
    })
}

fn summary(told: &Told<'_>) -> Value {
    let counts = told.counts.iter();
    let counts: Map<String, Value> = counts
        .map(|(outcome, count)| ((*outcome).to_owned(), (*count).into()))
        .collect();
    json!({ "at": timestamp(told.at), "door": told.door, "counts": counts })
}

fn shortened(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Window {
    fn sample(&self, at: OffsetDateTime, outbox_depth: Option<u64>) -> Sample {
        Sample {
            at: timestamp(at),
            delay_p50_seconds: self.delays.quantile(0.5),
            delay_p99_seconds: self.delays.quantile(0.99),
            synced: self.synced,
            outbox_depth,
        }
    }
}

/// How many delays there were of each length, to about a twentieth: however many they are, they take up the same.
#[derive(Debug)]
struct Delays {
    /// By logarithm, from a microsecond up.
    counts: [u32; Self::PER_OCTAVE * 40],
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            counts: [0; Self::PER_OCTAVE * 40],
        }
    }
}

impl Delays {
    const PER_OCTAVE: usize = 8;

    fn add(&mut self, delay: Duration) {
        let octaves = (delay.as_secs_f64() * 1e6).max(1.0).log2();
        let place = (octaves * Self::PER_OCTAVE as f64) as usize;
        let place = place.min(self.counts.len() - 1);
        self.counts[place] = self.counts[place].saturating_add(1);
    }

    /// In seconds. `None`: there were none.
    fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let mut rest = (share * total as f64).ceil() as u64;
        for (place, count) in self.counts.iter().enumerate() {
            let count = u64::from(*count);
            if count > 0 && count >= rest {
                let octaves = (place as f64 + 0.5) / Self::PER_OCTAVE as f64;
                return Some(octaves.exp2() / 1e6);
            }
            rest -= count.min(rest);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-02 03:04:05.678901 UTC);

    /// So many agents were updated.
    fn updated(activity: &Activity, agents: usize) {
        let agent = |n| Agent {
            id: AgentId(Uuid::from_u128(n as u128)),
            name: Some("Support"),
            outcome: "updated",
            is_effective: true,
            delay: Some(Duration::from_millis(4)),
            error: None,
        };
        activity.told(&Told {
            at: NOW,
            door: "change",
            agents: (0..agents).map(agent).collect(),
            counts: &[("updated", agents), ("skipped", 2)],
            delays: &vec![Duration::from_millis(4); agents],
        });
    }

    fn missed(listener: &mut Listener) -> Vec<Arc<Event>> {
        std::iter::from_fn(|| listener.missed()).collect()
    }

    #[tokio::test]
    async fn a_newcomer_is_shown_the_last_fifty_and_then_hears_what_happens() {
        let activity = Activity::default();
        for _ in 0..60 {
            updated(&activity, 1);
        }
        let mut listener = activity.listen(None);
        updated(&activity, 1);
        let events = missed(&mut listener);
        assert_eq!(events.len(), RECENT);
        assert!(events.windows(2).all(|two| two[1].id == two[0].id + 1));
        let last = events.last().expect("the last").id;
        match listener.next().await {
            Some(Heard::Event(event)) => assert_eq!(event.id, last + 1),
            other => panic!("{other:?}"),
        }
        let mut again = activity.listen(Some(last));
        assert_eq!(missed(&mut again).len(), 1);
        // Of a worker that is gone: all of it is new.
        assert_eq!(missed(&mut activity.listen(Some(7))).len(), RECENT);
    }

    #[test]
    fn up_to_twenty_agents_are_told_of_one_by_one() {
        let activity = Activity::default();
        updated(&activity, 20);
        updated(&activity, 21);
        let events = missed(&mut activity.listen(None));
        assert_eq!(events.len(), 21);
        let data: Value = serde_json::from_str(&events[0].data).expect("JSON");
        assert_eq!(
            (events[0].kind, data),
            (
                "sync",
                json!({
                    "at": "2026-01-02T03:04:05.678901+00:00", "agent_id": Uuid::nil(), "name": "Support", "outcome": "updated",
                    "door": "change", "delay_seconds": 0.004, "error": null,
                })
            )
        );
        let data: Value = serde_json::from_str(&events[20].data).expect("JSON");
        assert_eq!(
            (events[20].kind, data),
            (
                "summary",
                json!({ "at": "2026-01-02T03:04:05.678901+00:00", "door": "change", "counts": { "updated": 21, "skipped": 2 } })
            )
        );
    }

    #[tokio::test]
    async fn who_is_slow_loses_events_and_is_told() {
        let activity = Activity::default();
        let mut slow = activity.listen(None);
        for _ in 0..BEHIND + 5 {
            updated(&activity, 1);
        }
        assert_eq!(slow.next().await, Some(Heard::Lost(5)));
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    }

    #[test]
    fn the_history_is_an_hour_long_and_ends_with_the_present() {
        let activity = Activity::default();
        let of = |sample: &Sample| (sample.synced, sample.outbox_depth);
        updated(&activity, 3);
        assert_eq!(
            activity
                .history(NOW, None)
                .iter()
                .map(of)
                .collect::<Vec<_>>(),
            [(3, None)]
        );
        activity.sample(NOW, Some(7));
        let history = activity.history(NOW, Some(1));
        assert_eq!(
            history.iter().map(of).collect::<Vec<_>>(),
            [(3, Some(7)), (0, Some(1))]
        );
        assert_eq!(history[1].delay_p50_seconds, None);
        for _ in 0..2 * STEPS {
            activity.sample(NOW, None);
        }
        assert_eq!(activity.history(NOW, None).len(), STEPS + 1);
    }

    #[test]
    fn delays_are_known_to_about_a_twentieth() {
        let mut delays = Delays::default();
        assert_eq!(delays.quantile(0.5), None);
        for millis in 1..=1000 {
            delays.add(Duration::from_millis(millis));
        }
        for (share, seconds) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0), (0.0, 0.001)] {
            let known = delays.quantile(share).expect("there are some");
            assert!((known / seconds - 1.0).abs() < 0.06, "{known} {seconds}");
        }
        delays.add(Duration::ZERO);
        delays.add(Duration::MAX);
    }

    #[test]
    fn a_long_error_is_shortened_between_characters() {
        assert_eq!(shortened("müde", 2), "mü…");
        assert_eq!(shortened("müde", 4), "müde");
    }
}
