//! Where assistants live. Clients reach single assistants through [`Store`]; the syncer writes the assistants of
//! agents in batches, in the transaction that also moves the ledger and the outbox ([`batch`]).

pub mod batch;
pub mod document;
pub mod fingerprint;
pub mod langgraph;
pub mod memory;
mod postgres;
pub(crate) mod table;
pub mod weight;

use std::sync::Arc;

pub use postgres::sweep_versions;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use crate::database;
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::metrics::StoreCalls;
use crate::plan::Existing;

/// An assistant as the LangGraph API shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assistant {
    pub id: AssistantId,
    pub graph_id: String,
    pub config: Map<String, Value>,
    pub context: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub version: i32,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// An assistant that a client makes, complete but for what the store adds.
#[derive(Debug, Clone, PartialEq)]
pub struct New {
    pub id: AssistantId,
    pub graph_id: String,
    pub config: Map<String, Value>,
    pub context: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub name: String,
    pub description: Option<String>,
}

impl New {
    fn at(self, now: OffsetDateTime) -> Assistant {
        Assistant {
            id: self.id,
            graph_id: self.graph_id,
            config: self.config,
            context: self.context,
            metadata: self.metadata,
            name: Some(self.name),
            description: self.description,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }
}

/// An assistant, and what the ledger says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub assistant: Assistant,
    /// Of a synced one the ledger says so; of any other, what its maker has put into the metadata.
    pub owner: Option<String>,
    /// `None`: nobody keeps it equal to an agent.
    pub synced: Option<Synced>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    pub agent: AgentId,
    /// The agent's, when the assistant was last written; and the hash of what was written.
    pub organization_id: Option<Uuid>,
    pub content_hash: Vec<u8>,
}

impl Found {
    pub fn is_of(&self, owner: &str) -> bool {
        self.owner.as_deref() == Some(owner)
    }

    /// What is known of one that is everybody's who may have its agent.
    pub fn shared(&self) -> Option<&Synced> {
        self.synced.as_ref().filter(|_| self.is_of(SYSTEM))
    }
}

/// What a client changes of an assistant; `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    pub graph_id: Option<String>,
    pub config: Option<Map<String, Value>>,
    pub context: Option<Map<String, Value>>,
    /// Merged, key by key.
    pub metadata: Option<Map<String, Value>>,
    pub name: Option<String>,
    pub description: Option<String>,
}

impl Patch {
    /// Whether it leaves alone what an agent says.
    fn is_metadata_only(&self) -> bool {
        let Self {
            graph_id,
            config,
            context,
            metadata: _,
            name,
            description,
        } = self;
        graph_id.is_none()
            && config.is_none()
            && context.is_none()
            && name.is_none()
            && description.is_none()
    }

    /// `false`: it makes the assistant larger than one may be. One that is too large already may become smaller.
    #[must_use]
    fn apply(self, assistant: &mut Assistant) -> bool {
        let before = assistant.weight();
        assistant.metadata.extend(self.metadata.unwrap_or_default());
        assistant.description = self.description.or(assistant.description.take());
        assistant.name = self.name.or(assistant.name.take());
        for (part, patched) in [
            (&mut assistant.config, self.config),
            (&mut assistant.context, self.context),
        ] {
            if let Some(patched) = patched {
                *part = patched;
            }
        }
        if let Some(graph_id) = self.graph_id {
            assistant.graph_id = graph_id;
        }
        assistant.weight() <= before.max(weight::MAX_ASSISTANT)
    }
}

/// What came of an owner's wish to change or delete an assistant.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed<T> {
    Done(T),
    /// There is none of that owner's.
    NotTheirs,
    /// It is kept equal to this agent.
    Synced(AgentId),
    /// It would be larger than [`weight::MAX_ASSISTANT`].
    TooLarge,
    /// There is no such version of it (any more).
    NoVersion,
}

/// Which assistants are looked for, of those that one may see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Contained in the assistant's.
    pub metadata: Map<String, Value>,
    pub graph_id: Option<String>,
    /// A part of it, in either case.
    pub name: Option<String>,
}

/// Which versions of an assistant are asked for, the newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Versions {
    /// Contained in the version's.
    pub metadata: Map<String, Value>,
    pub limit: i64,
    pub offset: i64,
}

/// How many versions are kept besides the current one: those with the twenty numbers before it (assistant_write.sql and
/// assistants_update.sql say the same).
pub const KEPT: i32 = 20;

/// A page of what was looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub found: Vec<Found>,
    /// There is more after it.
    pub more: bool,
}

/// Who is looking.
#[derive(Debug, Clone, PartialEq)]
pub struct Viewer {
    pub owner: String,
    /// The agents whose shared assistants they may see, and their organizations. `None`: all.
    pub agents: Option<Vec<(AgentId, Option<Uuid>)>>,
}

impl Viewer {
    /// As assistants_search.sql has it.
    fn may_see(&self, found: &Found) -> bool {
        match found.shared() {
            Some(shared) if self.owner != SYSTEM => self
                .agents
                .as_ref()
                .is_none_or(|agents| agents.contains(&(shared.agent, shared.organization_id))),
            _ => found.is_of(&self.owner),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub limit: i64,
    pub offset: i64,
    pub order: Order,
    pub ascending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Id,
    CreatedAt,
    UpdatedAt,
    Name,
    GraphId,
}

#[derive(Debug)]
pub enum Store {
    Memory(Arc<memory::Memory>),
    Postgres(database::Database),
}

/// Where the assistants of agents are written.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// `langgraph_server.assistants`, in the agents' own database.
    #[default]
    Table,
    Memory(Arc<memory::Memory>),
    Server(Arc<langgraph::Server>),
}

impl Place {
    /// Unless it is in the database, and so in the transaction in which agents are read.
    pub fn beyond(&self) -> Option<batch::Target<'_>> {
        match self {
            Self::Table => None,
            Self::Memory(memory) => Some(batch::Target::Memory(memory)),
            Self::Server(server) => Some(batch::Target::Server(server)),
        }
    }

    /// As it is configured.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Table => "postgres",
            Self::Memory(_) => "memory",
            Self::Server(_) => "langgraph",
        }
    }

    /// Where to count what is asked of it. Once.
    pub fn count_on(&self, calls: &StoreCalls) {
        if let Self::Server(server) = self {
            server.count_on(calls.clone());
        }
    }

    /// Whether a write of an assistant that was found like this would change nothing.
    pub fn says_so_already(&self, write: &batch::Write<'_>, found: Option<&Existing>) -> bool {
        match self {
            Self::Table | Self::Memory(_) => false,
            Self::Server(_) => found.is_some_and(|found| langgraph::says_so_already(write, found)),
        }
    }

    /// Whether anything may be written at the moment.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), database::Error> {
        match self {
            Self::Table | Self::Memory(_) => Ok(()),
            Self::Server(server) => server.check(),
        }
    }

    /// Waits until something may be written.
    pub async fn opened(&self) {
        match self {
            Self::Table | Self::Memory(_) => {}
            Self::Server(server) => server.opened().await,
        }
    }

    /// What keeps everything from being written, until it is seen to be over.
    pub fn trouble(&self) -> Option<database::Error> {
        match self {
            Self::Table | Self::Memory(_) => None,
            Self::Server(server) => server.trouble(),
        }
    }

    /// Returns when assistants of ours seem to be gone.
    pub async fn lost(&self) {
        match self {
            Self::Table | Self::Memory(_) => std::future::pending().await,
            Self::Server(server) => server.lost().await,
        }
    }

    /// Looks whether they are. Runs until it is dropped.
    pub async fn watch(&self) {
        match self {
            Self::Table | Self::Memory(_) => std::future::pending().await,
            Self::Server(server) => server.watch().await,
        }
    }

    /// Assistants of ours turned out to be gone.
    pub fn is_lost(&self) {
        if let Self::Server(server) = self {
            server.is_lost();
        }
    }
}

impl Store {
    pub async fn get(&self, id: AssistantId) -> Result<Option<Found>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.get(id)),
            Self::Postgres(database) => postgres::get(database, id).await,
        }
    }

    /// `None`: the id is taken, and what stands there is untouched.
    pub async fn create(&self, new: New) -> Result<Option<Assistant>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.create(new, OffsetDateTime::now_utc())),
            Self::Postgres(database) => postgres::create(database, new).await,
        }
    }

    /// Of a synced assistant, only metadata can be patched.
    pub async fn patch(
        &self,
        id: AssistantId,
        owner: &str,
        patch: Patch,
    ) -> Result<Changed<Assistant>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.patch(id, owner, patch, OffsetDateTime::now_utc())),
            Self::Postgres(database) => postgres::patch(database, id, owner, patch).await,
        }
    }

    /// The assistant becomes again what it was in that version. Not for synced ones: they are what their agents say.
    pub async fn restore(
        &self,
        id: AssistantId,
        owner: &str,
        version: i64,
    ) -> Result<Changed<Assistant>, database::Error> {
        match self {
            Self::Memory(memory) => {
                Ok(memory.restore(id, owner, version, OffsetDateTime::now_utc()))
            }
            Self::Postgres(database) => postgres::restore(database, id, owner, version).await,
        }
    }

    /// Each as the assistant was in it, but for its time of creation: that is when the version was made. What is known of the assistant
    /// is as of the same moment. `None`: they are more than [`weight::MAX_PAGE`].
    pub async fn versions(
        &self,
        id: AssistantId,
        asked: &Versions,
    ) -> Result<Option<Listed>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.versions(id, asked)),
            Self::Postgres(database) => postgres::versions(database, id, asked).await,
        }
    }

    /// Not for synced assistants: the ledger has to know.
    pub async fn delete(
        &self,
        id: AssistantId,
        owner: &str,
    ) -> Result<Changed<()>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.delete(id, owner)),
            Self::Postgres(database) => postgres::delete(database, id, owner).await,
        }
    }

    /// Only these fields need to be there in what is found, named as in [`Assistant::to_json`]. `None`: they are more than
    /// [`weight::MAX_PAGE`].
    pub async fn search(
        &self,
        viewer: &Viewer,
        filter: &Filter,
        page: Page,
        fields: &[&str],
    ) -> Result<Option<Listed>, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.search(viewer, filter, page, fields)),
            Self::Postgres(database) => {
                postgres::search(database, viewer, filter, page, fields).await
            }
        }
    }

    pub async fn count(&self, viewer: &Viewer, filter: &Filter) -> Result<i64, database::Error> {
        match self {
            Self::Memory(memory) => Ok(memory.count(viewer, filter)),
            Self::Postgres(database) => postgres::count(database, viewer, filter).await,
        }
    }
}

impl Assistant {
    fn weight(&self) -> usize {
        weight::of_assistant(&self.config, &self.context, &self.metadata)
    }

    /// The ten keys that every answer of the Assistants API has.
    ///
    /// The official server mirrors `config.configurable` into an empty `context`. A synced row does not carry it twice.
    pub fn to_json(&self) -> Value {
        let mirrored = match self.config.get("configurable") {
            Some(Value::Object(configurable)) if self.context.is_empty() => configurable,
            _ => &self.context,
        };
        json!({
            "assistant_id": self.id,
            "graph_id": self.graph_id,
            "config": self.config,
            "context": mirrored,
            "metadata": self.metadata,
            "name": self.name.as_deref().unwrap_or("Untitled"),
            "description": self.description,
            "version": self.version,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
        })
    }

    /// The nine keys of one of its versions.
    pub fn to_version_json(&self) -> Value {
        let mut version = self.to_json();
        if let Value::Object(fields) = &mut version {
            fields.remove("updated_at");
        }
        version
    }
}

/// RFC 3339 with microseconds, unless they are zero, and `+00:00`, as the official server writes it.
pub(crate) fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let written = match at.microsecond() {
        0 => at.format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second]+00:00"
        )),
        _ => at.format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00"
        )),
    };
    written.unwrap_or_default()
}
