//! What a sync of an agent would come to, as it is told: what would happen to each of its assistants, and why.

use serde_json::{Value, json};

use super::decide::{Listing, Seen};
use super::outcome::Outcome;
use super::reach::Reach;
use super::work::Work;
use crate::diff::{self, Diff};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::plan::Observed;
use crate::removals::Objection;
use crate::store::batch::{Answer, Answers, How, Stands, Write};
use crate::store::{Place, document};

/// In which order the parts of an assistant are told; the rest comes last.
const ORDER: [&str; 5] = ["name", "description", "graph_id", "config", "context"];

/// What a sync of some agents would come to.
#[derive(Debug, Default)]
pub struct Preview {
    /// One an agent, in no particular order.
    pub forecasts: Vec<Forecast>,
    /// Why removals would be held.
    pub objection: Option<Objection>,
}

/// What a sync of one agent would come to.
#[derive(Debug)]
pub struct Forecast {
    pub agent: AgentId,
    /// The agent's, or where it is gone that of its assistant. Fit to be shown.
    pub name: Option<String>,
    pub outcome: Outcome,
    /// Whether anything was ever known of it.
    pub is_known: bool,
    /// Why that, where it is not for what its assistants say.
    pub why: Option<String>,
    /// Of its assistants, those to which something would happen.
    pub changes: Vec<Change>,
    /// How many more there are of those.
    pub more: usize,
    /// What its row would be made to name.
    pub write_back: Option<AssistantId>,
}

/// What would happen to one assistant.
#[derive(Debug)]
pub struct Change {
    pub assistant: AssistantId,
    pub owner: String,
    pub verb: Verb,
    pub why: Option<String>,
    /// What it would say that it does not say now.
    pub diff: Diff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Update,
    Remove,
    Hold,
    /// It is somebody else's.
    Conflict,
}

impl Preview {
    /// Of agents whose outcomes are known already.
    pub fn of(outcomes: Vec<(AgentId, Outcome)>) -> Self {
        let forecast = |(agent, outcome)| Forecast::of(agent, outcome);
        Self {
            forecasts: outcomes.into_iter().map(forecast).collect(),
            objection: None,
        }
    }
}

impl Forecast {
    pub(super) fn of(agent: AgentId, outcome: Outcome) -> Self {
        Self {
            agent,
            name: None,
            outcome,
            is_known: true,
            why: None,
            changes: Vec::new(),
            more: 0,
            write_back: None,
        }
    }
}

impl Change {
    /// `now`: what the assistant says, as far as it is there and can be read.
    pub(super) fn of(
        place: &Place,
        deed: &Deed<'_>,
        now: Option<Value>,
        observed: &Observed,
    ) -> Self {
        let entry = observed.entries.get(&deed.assistant);
        let mut change = Self {
            assistant: deed.assistant,
            owner: entry.map_or(SYSTEM, |entry| &entry.owner).to_owned(),
            verb: deed.verb,
            why: deed.why.map(str::to_owned),
            diff: Diff::default(),
        };
        let Some(write) = deed.write else {
            return change;
        };
        change.owner.clone_from(&write.assistant.owner);
        if deed.is_there && now.is_none() {
            change.why = Some("what it says now cannot be read".to_owned());
            return change;
        }
        let then = document::then(place, write, now.as_ref());
        change.diff = diff::diff(&now.unwrap_or_else(|| json!({})), &then);
        // What it is comes before what it does.
        let rank = |path: &str| ORDER.iter().position(|name| path.starts_with(name));
        let fields = &mut change.diff.fields;
        fields.sort_by_key(|field| rank(&field.path).unwrap_or(ORDER.len()));
        change.why = match write.how {
            How::Adopt => Some("an older runtime has made it: its id is taken over".to_owned()),
            How::HandOver => {
                Some("it changes hands, and nothing that was its owner's stays".to_owned())
            }
            How::Update if change.diff.fields.is_empty() => {
                Some("it is written anew, and says the same".to_owned())
            }
            How::Update | How::Insert => None,
        };
        change
    }
}

/// Fit to be shown.
pub(super) fn shown(name: &str) -> String {
    diff::cut(&diff::masked(name))
}

/// Why a sync would come to this, where the row of the agent says it.
pub(super) fn why(
    seen: &Seen,
    reach: &Reach<'_>,
    agent: AgentId,
    outcome: &Outcome,
) -> Option<String> {
    let row = seen.row_of(agent);
    let observed = &seen.observed;
    let has_had_one = observed.entries_of(agent).next().is_some();
    let has_one = observed.entries_of(agent).any(|e| observed.stands(e));
    let why = match (outcome, row) {
        (Outcome::Removed | Outcome::Held, Listing::Missing) => "the agent does not exist any more",
        (Outcome::Removed | Outcome::Held, _) => "the agent is not active",
        (Outcome::Nothing, Listing::Missing | Listing::Off) if has_one => {
            "the agent is not active, and its assistant is kept as it is"
        }
        (Outcome::Nothing, Listing::Missing) if has_had_one => {
            "the agent does not exist any more, and has no assistant"
        }
        (Outcome::Nothing, Listing::Missing) => "there is no such agent",
        (Outcome::Nothing, Listing::Off) => "the agent is not active, and has no assistant",
        (Outcome::Nothing, Listing::Active) => {
            return Some(format!(
                "the agent is not in scope ({}), and has no assistant",
                reach.own
            ));
        }
        _ => return None,
    };
    Some(why.to_owned())
}

/// Something that would happen to an assistant.
pub(super) struct Deed<'w> {
    pub agent: AgentId,
    pub assistant: AssistantId,
    verb: Verb,
    /// There is one now, ours or not.
    pub is_there: bool,
    write: Option<&'w Write<'w>>,
    why: Option<&'w str>,
}

impl Work<'_> {
    /// What is about to be done.
    pub(super) fn deeds(
        &self,
        place: &Place,
        observed: &Observed,
    ) -> impl Iterator<Item = Deed<'_>> {
        let writes = self.writes.iter().filter(move |write| {
            !place.says_so_already(write, observed.existing.get(&write.assistant.id))
        });
        let writes = writes.map(|write| Deed {
            agent: write.assistant.agent_id,
            assistant: write.assistant.id,
            verb: match write.how {
                How::Insert => Verb::Create,
                How::Update | How::HandOver | How::Adopt => Verb::Update,
            },
            is_there: write.how != How::Insert,
            write: Some(write),
            why: None,
        });
        let is_held = self.objection.is_some();
        let off = self.off.iter().map(move |off| (off, is_held));
        let going = off.chain(self.revoked.iter().map(|off| (off, false)));
        let going = going.filter(|(off, _)| off.stands);
        let going = going.map(|(off, is_held)| Deed {
            agent: off.agent,
            assistant: off.assistant,
            verb: if is_held { Verb::Hold } else { Verb::Remove },
            is_there: true,
            write: None,
            why: off.why.as_deref(),
        });
        let not_ours = self.not_ours.iter().map(|(agent, assistant)| Deed {
            agent: *agent,
            assistant: *assistant,
            verb: Verb::Conflict,
            is_there: false,
            write: None,
            why: Some("it exists and is not ours: it stays untouched"),
        });
        writes.chain(going).chain(not_ours)
    }

    /// Takes note of what would come of it, if all goes well.
    pub(super) fn rehearse(&mut self, place: &Place, observed: &Observed) {
        let written = self.writes.iter().map(|write| {
            let id = write.assistant.id;
            let stands = Stands {
                row_hash: Vec::new(),
                is_noted: false,
                untouched: place.says_so_already(write, observed.existing.get(&id)),
            };
            (id, Answer::Done(stands))
        });
        let written = Answers {
            answers: written.collect(),
            stopped: None,
        };
        self.were_written(written, observed);
        let deleted = self.going().into_iter().map(|id| (id, Answer::Done(())));
        let deleted = Answers {
            answers: deleted.collect(),
            stopped: None,
        };
        self.were_deleted(deleted);
    }
}
