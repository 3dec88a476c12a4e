//! Ids that must not be swapped: an assistant usually, but not always, has the id of its agent.

use std::fmt;

use postgres_types::{FromSql, ToSql};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSql, FromSql)]
        #[serde(transparent)]
        #[postgres(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// The primary key of `public.agents`.
    AgentId
}
id! {
    /// The id of a LangGraph assistant.
    AssistantId
}

impl AgentId {
    /// The assistant that carries the agent's own uuid: `system`'s, or that of the first user who asked.
    pub fn canonical(self) -> AssistantId {
        AssistantId(self.0)
    }

    /// The assistant of one more user of the agent: `uuid_v5(namespace = agent id, name = owner)`.
    pub fn copy_for(self, owner: &str) -> AssistantId {
        AssistantId(Uuid::new_v5(&self.0, owner.as_bytes()))
    }
}

/// The owner of what the worker makes of its own accord. The runtime shows `system`'s assistants to everybody.
pub const SYSTEM: &str = "system";
