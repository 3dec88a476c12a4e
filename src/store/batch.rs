//! The assistants of agents, as the syncer writes them: many at a time, and all places where assistants may live keep to one
//! contract ([`Target`]).
//!
//! Nothing here decides whose an assistant is, or whether it is to be written. That the ledger and the plan have done.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::langgraph::Server;
use super::memory::Memory;
use super::table;
use crate::assistant;
use crate::database::{Error, Session};
use crate::ids::AssistantId;
use crate::ledger::NewEntry;
use crate::metrics::StoreCalls;
use crate::plan::Existing;

/// An assistant of an agent, about to be written.
#[derive(Debug)]
pub struct Write<'a> {
    pub assistant: assistant::Assistant<'a>,
    pub content_hash: Vec<u8>,
    pub how: How,
    /// Metadata that the client who has this assistant made sent along. Counts on an insert only.
    pub foreign: Option<&'a Map<String, Value>>,
    /// What its agent said, as a hash, where that is known.
    pub said: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Insert,
    Update,
    /// To another owner: metadata that is not ours goes.
    HandOver,
    /// Takes the id of a row that an older runtime made, and nothing else of it.
    Adopt,
}

impl Write<'_> {
    /// What the ledger is to say of it.
    pub fn entry(&self) -> NewEntry {
        let assistant = &self.assistant;
        NewEntry {
            assistant_id: assistant.id,
            agent_id: assistant.agent_id,
            organization_id: assistant.content.organization_id,
            owner: assistant.owner.clone(),
            content_hash: self.content_hash.clone(),
            said: self.said.map(<[u8]>::to_vec),
        }
    }

    /// What the assistant's metadata is to be, but for `synced_at`, and for what is not ours and stays.
    pub(super) fn metadata(&self) -> Map<String, Value> {
        let Value::Object(mut metadata) = self.assistant.metadata() else {
            return Map::new();
        };
        if let (How::Insert, Some(foreign)) = (self.how, self.foreign) {
            let kept = foreign
                .iter()
                .filter(|(key, _)| !assistant::METADATA_KEYS.contains(&key.as_str()));
            metadata.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
        }
        metadata
    }
}

/// Where the assistants of agents live.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// `langgraph_server.assistants`, in a transaction: what is written stands when that commits.
    Table(Session<'a>),
    Memory(&'a Memory),
    Server(&'a Server),
}

/// What was found out about some assistants.
#[derive(Debug, Default)]
pub struct Sight {
    /// Those that exist, whoever made them.
    pub existing: HashMap<AssistantId, Existing>,
    /// Those of which it cannot be told.
    pub unseen: HashMap<AssistantId, Unseen>,
}

/// Why it cannot be told whether an assistant exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// That will pass: look again after so long.
    Unknown(Duration),
    /// It is to do with this assistant. Fit for a log.
    Refused(String),
}

/// What came of writing or deleting some assistants.
#[derive(Debug)]
pub struct Answers<T> {
    /// One that is missing was not tried, or it was in vain, as somebody else was at it: look again.
    pub answers: HashMap<AssistantId, Answer<T>>,
    /// Why the rest was not tried.
    pub stopped: Option<Error>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    Done(T),
    /// Nobody can tell whether it was done, or somebody else was faster: look again after so long.
    Unknown(Duration),
    /// Why it cannot be done, fit for a log. Nobody else is concerned.
    Refused(String),
}

/// An assistant that says what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    /// Its fingerprint: who edits it changes that.
    pub row_hash: Vec<u8>,
    /// The ledger has it already, by the very statement that has written it.
    pub is_noted: bool,
    /// It said so already.
    pub untouched: bool,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self {
            answers: HashMap::new(),
            stopped: None,
        }
    }
}

impl<T> Answers<T> {
    pub fn is_done(&self, id: AssistantId) -> bool {
        matches!(self.answers.get(&id), Some(Answer::Done(_)))
    }
}

impl Target<'_> {
    /// Which of these assistants exist, whoever made them.
    pub async fn observe(self, ids: &[AssistantId]) -> Result<Sight, Error> {
        let existing = match self {
            Self::Table(session) => table::observe(session, ids).await?,
            Self::Memory(memory) => memory.observe(ids),
            Self::Server(server) => return server.observe(ids).await,
        };
        Ok(Sight {
            existing,
            ..Sight::default()
        })
    }

    /// What each of these says, as far as it exists: an assistant as the API shows it, or the fields of it that a write sets. For looking
    /// at only; what follows from what is observed is not decided by this.
    pub async fn said(self, ids: &[AssistantId]) -> Result<HashMap<AssistantId, Value>, Error> {
        let mut said = HashMap::new();
        match self {
            Self::Table(session) => return table::said(session.tx, ids).await,
            Self::Memory(memory) => {
                let found = ids.iter().filter_map(|id| Some((*id, memory.get(*id)?)));
                said.extend(found.map(|(id, found)| (id, found.assistant.to_json())));
            }
            Self::Server(server) => {
                for id in ids {
                    // One that is not shown at the moment keeps nobody from looking at the others.
                    let found = server.get(*id).await.ok().flatten();
                    said.extend(found.map(|json| (*id, json)));
                }
            }
        }
        Ok(said)
    }

    /// Writes assistants that were found like this. One that somebody has made, taken or deleted since then is left alone.
    ///
    /// # Errors
    /// Where nothing of it has happened.
    pub async fn write(
        self,
        writes: &[Write<'_>],
        existing: &HashMap<AssistantId, Existing>,
    ) -> Result<Answers<Stands>, Error> {
        match self {
            Self::Table(session) => table::write(session, writes).await,
            Self::Memory(memory) => Ok(memory.write(writes, OffsetDateTime::now_utc())),
            Self::Server(server) => Ok(server.write(writes, existing).await),
        }
    }

    /// Deletes assistants that the ledger says are ours.
    ///
    /// # Errors
    /// Where nothing of it has happened.
    pub async fn delete(self, ids: &[AssistantId]) -> Result<Answers<()>, Error> {
        match self {
            Self::Table(session) => table::delete(session.tx, ids).await,
            Self::Memory(memory) => Ok(memory.delete_all(ids)),
            Self::Server(server) => Ok(server.delete(ids).await),
        }
    }
}

/// A [`Target`] of which it is counted what is asked.
#[derive(Clone, Copy)]
pub struct Counted<'a> {
    pub target: Target<'a>,
    pub calls: &'a StoreCalls,
}

impl Counted<'_> {
    pub async fn observe(self, ids: &[AssistantId]) -> Result<Sight, Error> {
        let seen = self.target.observe(ids).await;
        self.count("observe", ids.is_empty(), seen.is_err());
        seen
    }

    pub async fn write(
        self,
        writes: &[Write<'_>],
        existing: &HashMap<AssistantId, Existing>,
    ) -> Result<Answers<Stands>, Error> {
        let written = self.target.write(writes, existing).await;
        self.count("write", writes.is_empty(), written.is_err());
        written
    }

    pub async fn delete(self, ids: &[AssistantId]) -> Result<Answers<()>, Error> {
        let deleted = self.target.delete(ids).await;
        self.count("delete", ids.is_empty(), deleted.is_err());
        deleted
    }

    fn count(self, operation: &'static str, is_nothing: bool, is_error: bool) {
        // A server counts for itself: each request.
        if !is_nothing && !matches!(self.target, Target::Server(_)) {
            self.calls.count(operation, is_error);
        }
    }
}
