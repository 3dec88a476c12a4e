//! What must happen to each assistant of one agent. Pure: it is given what was read under the agent's lock.
//!
//! The ledger decides what is ours. An assistant's own metadata decides nothing (whoever can write an assistant can
//! forge it), with one exception: a row under our id that the ledger does not know, and that says it is `system`'s,
//! was made by an older runtime. Its id is adopted, never its content.

use std::collections::HashMap;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::access::Identity;
use crate::assistant::{Assistant, Content};
use crate::ids::{AgentId, AssistantId, SYSTEM};

/// The most assistants of one agent that a user may have. Each is written whenever the agent changes, and a client needs one:
/// without a limit, naming new ids makes one edit as much work for everybody as somebody likes.
pub const MOST: usize = 10;

/// An entry of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub assistant_id: AssistantId,
    pub agent_id: AgentId,
    /// The agent's, when the assistant was last written.
    pub organization_id: Option<Uuid>,
    pub owner: String,
    pub state: State,
    /// Of the content last written. `None`: no assistant of ours is known to stand under this id.
    pub content_hash: Option<Vec<u8>>,
    /// The fingerprint of the row as it was left; without a content hash, of what was sent and never answered for.
    pub row_hash: Option<Vec<u8>>,
    /// Of what the mapping read of the agent when the assistant was last seen to be as it should, where that was noted.
    pub source_hash: Option<Vec<u8>>,
    /// Which version of its row the assistant was then.
    pub row_version: Option<RowVersion>,
}

/// One version of a row: the transaction that wrote it, and where it lies. Rows are not changed in place, so as long as both are the same,
/// so is everything in it. (A row that is moved, restored or frozen away under a new number is another version that says the same.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowVersion {
    pub xmin: String,
    pub ctid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Synced,
    Failed,
    Held,
    /// Somebody else has an assistant under this id.
    Conflict,
    /// The agent is not active; its assistant returns under this id when it is.
    Removed,
}

/// An assistant that exists, whoever made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Existing {
    /// What its metadata says.
    pub owner: Option<String>,
    pub row_hash: Vec<u8>,
    /// The keys of its metadata that are not ours to set, where whoever writes it needs to know.
    pub foreign: Vec<String>,
    /// Where it is a row of a table.
    pub row_version: Option<RowVersion>,
}

/// What was read about the assistants of the agents at hand.
#[derive(Debug, Default)]
pub struct Observed {
    pub entries: HashMap<AssistantId, Entry>,
    pub existing: HashMap<AssistantId, Existing>,
}

/// A user asks for the agent (lazy sync).
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub owner: String,
    /// Whose claims the database is asked with. `None`: it is not asked.
    pub identity: Option<Identity>,
    /// The id that the request names.
    pub assistant_id: Option<AssistantId>,
    /// What an `assistant_id` that exists already means: refuse it, or answer with what is there.
    pub if_exists: IfExists,
    /// The metadata that the request sent. What is not ours in it is kept on an assistant that the request makes.
    pub metadata: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IfExists {
    #[default]
    Raise,
    DoNothing,
}

/// What a claim comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This assistant, once the plan is carried out.
    Assistant(AssistantId),
    /// The named id is taken, and the request said to raise, or it is taken by something that is not the caller's.
    Taken,
    /// The named id is free, but the claimant has [`MOST`] assistants of the agent already.
    TooMany,
}

/// One assistant that should exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub assistant_id: AssistantId,
    pub owner: String,
}

/// What must happen to a [`Wanted`] assistant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Create,
    Update,
    /// It changes its owner: nothing that the one before had put into its metadata stays.
    HandOver,
    /// An older runtime's: its id is taken over, its row replaced.
    Adopt,
    /// As it should be. `settle`: the ledger still says that it failed.
    Keep {
        settle: bool,
    },
    /// Somebody else's. `known`: the ledger says so already.
    Conflict {
        known: bool,
    },
}

/// An assistant that should exist, and what must happen for that.
#[derive(Debug)]
pub struct Planned<'a> {
    pub assistant: Assistant<'a>,
    pub content_hash: Vec<u8>,
    pub step: Step,
}

impl Entry {
    /// Whether an assistant of ours may stand under the id.
    pub fn may_stand(&self) -> bool {
        self.content_hash.is_some() || self.row_hash.is_some()
    }

    /// Whether what stands there is ours: it was written, or it says just what was sent and never answered for.
    fn has(&self, row: &Existing) -> bool {
        self.content_hash.is_some() || self.row_hash.as_deref() == Some(&row.row_hash)
    }
}

impl Step {
    /// Whether it puts the agent's content into the assistant.
    pub fn writes(self) -> bool {
        match self {
            Self::Create | Self::Update | Self::HandOver | Self::Adopt => true,
            Self::Keep { .. } | Self::Conflict { .. } => false,
        }
    }
}

/// What must happen to each of the wanted assistants.
pub fn steps<'a>(
    agent: AgentId,
    content: &'a Content,
    wanted: Vec<Wanted>,
    observed: &Observed,
) -> Vec<Planned<'a>> {
    let hashed = content.hashed();
    let planned = |wanted: Wanted| {
        let assistant = Assistant {
            id: wanted.assistant_id,
            agent_id: agent,
            owner: wanted.owner,
            content,
        };
        let content_hash = assistant.hash_after(hashed.clone());
        let step = step(&assistant, &content_hash, observed);
        Planned {
            assistant,
            content_hash,
            step,
        }
    };
    wanted.into_iter().map(planned).collect()
}

/// The assistants that an active agent should have, and what its claimant gets.
pub fn wanted(
    agent: AgentId,
    in_scope: bool,
    claim: Option<&Claim>,
    observed: &Observed,
) -> (Vec<Wanted>, Option<Answer>) {
    let canonical = agent.canonical();
    let systems = |assistant_id| Wanted {
        assistant_id,
        owner: SYSTEM.to_owned(),
    };
    let mut wanted: Vec<Wanted> = observed
        .entries_of(agent)
        .filter(|entry| entry.state != State::Conflict)
        .map(|entry| Wanted {
            assistant_id: entry.assistant_id,
            owner: entry.owner.clone(),
        })
        .collect();
    if in_scope {
        wanted.retain(|w| w.assistant_id != canonical);
        // Somebody squats it: that is reported, and the agent has another.
        if !observed.can_have(agent, canonical) && !wanted.iter().any(|w| w.owner == SYSTEM) {
            wanted.push(systems(observed.free_copy(agent, SYSTEM)));
        }
        wanted.push(systems(canonical));
    }
    wanted.sort_by_key(|w| w.assistant_id);

    let answer = claim.map(|claim| answer(agent, claim, &wanted, observed));
    if let (Some(claim), Some(Answer::Assistant(id))) = (claim, &answer)
        && !wanted.iter().any(|w| w.assistant_id == *id)
    {
        wanted.push(Wanted {
            assistant_id: *id,
            owner: claim.owner.clone(),
        });
    }
    // Whoever has it instead, that is to be reported.
    let is_missed = !wanted.is_empty() && !wanted.iter().any(|w| w.assistant_id == canonical);
    if is_missed && !observed.can_have(agent, canonical) {
        wanted.push(systems(canonical));
    }
    (wanted, answer)
}

fn answer(agent: AgentId, claim: &Claim, wanted: &[Wanted], observed: &Observed) -> Answer {
    let canonical = agent.canonical();
    let named = claim.assistant_id;
    let exists = named.is_some_and(|id| observed.existing.contains_key(&id));
    if exists && claim.if_exists == IfExists::Raise {
        return Answer::Taken;
    }
    let theirs = |w: &&Wanted| w.owner == claim.owner && observed.can_have(agent, w.assistant_id);
    if let Some(id) = named.filter(|id| *id != canonical) {
        let mine = wanted
            .iter()
            .any(|w| w.assistant_id == id && (theirs(&w) || w.owner == SYSTEM));
        let free = !(exists || observed.entries.contains_key(&id));
        let has = wanted.iter().filter(|w| w.owner == claim.owner).count();
        return match (mine, free) {
            (true, _) => Answer::Assistant(id),
            (false, false) => Answer::Taken,
            (false, true) if has >= MOST => Answer::TooMany,
            (false, true) => Answer::Assistant(id),
        };
    }
    let standing = wanted.iter().find(|w| w.assistant_id == canonical);
    let free = observed.can_have(agent, canonical);
    if free && standing.is_some_and(|w| w.owner == SYSTEM || w.owner == claim.owner) {
        return Answer::Assistant(canonical);
    }
    let shared = |w: &&Wanted| w.owner == SYSTEM && observed.can_have(agent, w.assistant_id);
    if let Some(answer) = wanted.iter().find(shared).or(wanted.iter().find(theirs)) {
        return Answer::Assistant(answer.assistant_id);
    }
    if free && standing.is_none() {
        return Answer::Assistant(canonical);
    }
    // Another user has the canonical one, or somebody squats it.
    Answer::Assistant(observed.free_copy(agent, &claim.owner))
}

/// What must happen to one wanted assistant, whose content has this hash.
pub fn step(wanted: &Assistant<'_>, hash: &[u8], observed: &Observed) -> Step {
    let (agent, id) = (wanted.agent_id, wanted.id);
    let entry = observed.entries.get(&id);
    if entry.is_some_and(|entry| entry.agent_id != agent) {
        // Another agent's user named this id. The ledger has it under that agent.
        return Step::Conflict { known: true };
    }
    let Some(row) = observed.existing.get(&id) else {
        return Step::Create;
    };
    match entry {
        Some(entry) if entry.has(row) => {
            let untouched = entry.row_hash.as_deref() == Some(&row.row_hash);
            // What says that it is another's is not what we left there: somebody has put it in its place.
            let replaced = !untouched && row.owner.as_ref() != Some(&entry.owner);
            if entry.owner != wanted.owner || replaced {
                Step::HandOver
            } else if entry.content_hash.as_deref() == Some(hash) && untouched {
                Step::Keep {
                    settle: entry.state != State::Synced,
                }
            } else {
                Step::Update
            }
        }
        _ if observed.can_have(agent, id) => Step::Adopt,
        _ => Step::Conflict {
            known: entry.is_some_and(|entry| entry.state == State::Conflict),
        },
    }
}

impl Observed {
    /// Where else to look, for those of the agents whose own id somebody has.
    pub fn alternatives(&self, agents: &[AgentId]) -> Vec<AssistantId> {
        let squatted = agents
            .iter()
            .filter(|agent| !self.can_have(**agent, agent.canonical()));
        squatted.map(|agent| agent.copy_for(SYSTEM)).collect()
    }

    pub fn add(&mut self, more: Self) {
        self.entries.extend(more.entries);
        self.existing.extend(more.existing);
    }

    /// The ledger's entries of one agent.
    pub fn entries_of(&self, agent: AgentId) -> impl Iterator<Item = &Entry> {
        self.entries
            .values()
            .filter(move |entry| entry.agent_id == agent)
    }

    /// An id for one more assistant of this agent. A random one where the other is squatted, too: the ledger keeps it.
    fn free_copy(&self, agent: AgentId, owner: &str) -> AssistantId {
        let copy = agent.copy_for(owner);
        match self.can_have(agent, copy) {
            true => copy,
            false => AssistantId(Uuid::new_v4()),
        }
    }

    /// Whether an assistant of this agent stands under the id, or may be put there.
    fn can_have(&self, agent: AgentId, id: AssistantId) -> bool {
        match (self.entries.get(&id), self.existing.get(&id)) {
            (Some(entry), _) if entry.agent_id != agent => false,
            (_, None) => true,
            (Some(entry), Some(row)) if entry.has(row) => true,
            (_, Some(row)) => row.owner.as_deref() == Some(SYSTEM),
        }
    }

    /// Whether an assistant of ours stands under the id of this entry.
    pub fn stands(&self, entry: &Entry) -> bool {
        let row = self.existing.get(&entry.assistant_id);
        row.is_some_and(|row| entry.has(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Agent;
    use crate::assistant::Content;

    const AGENT: AgentId = AgentId(Uuid::from_u128(1));
    const OTHER: AgentId = AgentId(Uuid::from_u128(2));

    fn entry(agent_id: AgentId, assistant_id: AssistantId, owner: &str, state: State) -> Entry {
        let written = matches!(state, State::Synced).then(|| vec![1]);
        let row_hash = written.clone();
        Entry {
            assistant_id,
            agent_id,
            organization_id: None,
            owner: owner.to_owned(),
            state,
            content_hash: written,
            row_hash,
            source_hash: None,
            row_version: None,
        }
    }

    fn observed(entries: Vec<Entry>, existing: &[(AssistantId, &str)]) -> Observed {
        let existing = existing.iter().map(|(id, owner)| {
            (
                *id,
                Existing {
                    owner: Some((*owner).to_owned()),
                    row_hash: vec![1],
                    foreign: vec![],
                    row_version: None,
                },
            )
        });
        Observed {
            entries: entries
                .into_iter()
                .map(|entry| (entry.assistant_id, entry))
                .collect(),
            existing: existing.collect(),
        }
    }

    fn claim(owner: &str) -> Claim {
        Claim {
            owner: owner.to_owned(),
            identity: None,
            assistant_id: None,
            if_exists: IfExists::Raise,
            metadata: Map::new(),
        }
    }

    fn step_of(agent: AgentId, id: AssistantId, owner: &str, observed: &Observed) -> Step {
        let content = Content::of(Agent::default(), "model");
        let wanted = Assistant {
            id,
            agent_id: agent,
            owner: owner.to_owned(),
            content: &content,
        };
        step(&wanted, &[1], observed)
    }

    #[test]
    fn an_id_that_the_ledger_has_under_another_agent_is_not_to_be_had() {
        let id = AGENT.canonical();
        for existing in [vec![(id, "bob")], vec![(id, SYSTEM)], vec![]] {
            let observed = observed(vec![entry(OTHER, id, "bob", State::Synced)], &existing);
            assert_eq!(
                step_of(AGENT, id, SYSTEM, &observed),
                Step::Conflict { known: true }
            );
            let (_, answer) = wanted(AGENT, false, Some(&claim("alice")), &observed);
            assert_eq!(answer, Some(Answer::Assistant(AGENT.copy_for("alice"))));
        }
    }

    #[test]
    fn a_conflict_is_nothing_that_an_agent_should_have() {
        let id = AGENT.canonical();
        let observed = observed(
            vec![entry(AGENT, id, SYSTEM, State::Conflict)],
            &[(id, "mallory")],
        );
        assert_eq!(wanted(AGENT, false, None, &observed).0, []);
        // In scope, the agent has another in its place.
        let systems = |assistant_id| Wanted {
            assistant_id,
            owner: SYSTEM.to_owned(),
        };
        let mut in_scope = wanted(AGENT, true, None, &observed).0;
        in_scope.sort_by_key(|w| w.assistant_id != id);
        assert_eq!(in_scope, [systems(id), systems(AGENT.copy_for(SYSTEM))]);
        assert_eq!(
            step_of(AGENT, id, SYSTEM, &observed),
            Step::Conflict { known: true }
        );
    }

    #[test]
    fn a_user_may_name_only_so_many_ids_and_keeps_what_was_there_before() {
        let id = |n| AssistantId(Uuid::from_u128(n));
        for owner in ["alice", SYSTEM] {
            let has = |n: usize| {
                let ids = (100..).take(n);
                let mine = ids.map(|n| entry(AGENT, id(n), owner, State::Synced));
                let bobs = (500..600).map(|n| entry(AGENT, id(n), "bob", State::Synced));
                observed(mine.chain(bobs).collect(), &[])
            };
            let named = |id| Claim {
                assistant_id: Some(id),
                ..claim(owner)
            };
            let ask = |n, id| wanted(AGENT, false, Some(&named(id)), &has(n));
            assert_eq!(ask(MOST - 1, id(7)).1, Some(Answer::Assistant(id(7))));
            let (kept, answer) = ask(MOST + 5, id(7));
            assert_eq!(
                (kept.len(), answer),
                (MOST + 5 + 100, Some(Answer::TooMany))
            );
            assert_eq!(ask(MOST + 5, id(100)).1, Some(Answer::Assistant(id(100))));
            // Who names none gets one of those.
            let (_, answer) = wanted(AGENT, false, Some(&claim(owner)), &has(MOST));
            assert!(matches!(answer, Some(Answer::Assistant(_))), "{answer:?}");
        }
    }

    #[test]
    fn what_stands_is_kept_updated_or_handed_over() {
        let id = AGENT.canonical();
        let mut observed = observed(
            vec![entry(AGENT, id, "alice", State::Synced)],
            &[(id, "alice")],
        );
        assert_eq!(
            step_of(AGENT, id, "alice", &observed),
            Step::Keep { settle: false }
        );
        assert_eq!(step_of(AGENT, id, SYSTEM, &observed), Step::HandOver);
        if let Some(row) = observed.existing.get_mut(&id) {
            row.row_hash = vec![2];
        }
        assert_eq!(step_of(AGENT, id, "alice", &observed), Step::Update);
        // Made by somebody else, where ours was.
        if let Some(row) = observed.existing.get_mut(&id) {
            row.owner = Some("mallory".to_owned());
        }
        assert_eq!(step_of(AGENT, id, "alice", &observed), Step::HandOver);
        observed.existing.clear();
        assert_eq!(step_of(AGENT, id, "alice", &observed), Step::Create);
    }

    #[test]
    fn what_was_sent_and_never_answered_for_is_ours_if_it_says_just_that() {
        let id = AGENT.canonical();
        let mut sent = entry(AGENT, id, "alice", State::Failed);
        sent.row_hash = Some(vec![1]);
        let mut observed = observed(vec![sent.clone()], &[(id, "alice")]);
        assert!(observed.stands(&sent));
        assert_eq!(step_of(AGENT, id, "alice", &observed), Step::Update);
        if let Some(row) = observed.existing.get_mut(&id) {
            row.row_hash = vec![2];
        }
        assert!(!observed.stands(&sent));
        assert_eq!(
            step_of(AGENT, id, "alice", &observed),
            Step::Conflict { known: false }
        );
        observed.existing.clear();
        assert_eq!(step_of(AGENT, id, "alice", &observed), Step::Create);
    }

    #[test]
    fn a_row_that_the_ledger_does_not_know_is_adopted_only_from_the_system() {
        let id = AGENT.canonical();
        assert_eq!(
            step_of(AGENT, id, SYSTEM, &observed(vec![], &[(id, SYSTEM)])),
            Step::Adopt
        );
        assert_eq!(
            step_of(AGENT, id, SYSTEM, &observed(vec![], &[(id, "bob")])),
            Step::Conflict { known: false }
        );
        let removed = observed(
            vec![entry(AGENT, id, SYSTEM, State::Removed)],
            &[(id, "bob")],
        );
        assert_eq!(
            step_of(AGENT, id, SYSTEM, &removed),
            Step::Conflict { known: false }
        );
    }
}
