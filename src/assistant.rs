//! What an agent must become: the mapping, and the hash that says whether it has. Pure, and the heart of the matter.
//!
//! | assistant | from |
//! |---|---|
//! | `graph_id` | the agent's, else `agent` |
//! | `name`, `description` | the agent's |
//! | `config.configurable` | see [`Content::of`] |
//! | `metadata` | [`Assistant::metadata`]; the store adds `synced_at` when it writes |

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::agent::{Agent, Tool};
use crate::ids::{AgentId, AssistantId};

/// Raise it when the mapping changes: every assistant is then written once more.
pub const MAPPING_VERSION: u32 = 1;

/// The graph of an agent that names none.
pub const DEFAULT_GRAPH: &str = "agent";

/// Metadata keys that are ours to set, on every assistant. What a client sends under them is dropped.
pub const METADATA_KEYS: [&str; 4] = [
    "supabase_agent_id",
    "supabase_organization_id",
    "owner",
    "synced_at",
];

/// Keys of `config.configurable` that are ours or the runtime's: `sampling_params` can never set them. A bag of
/// parameters that could would let whoever edits it change the tenant, the prompt or the tools.
const RESERVED: [&str; 9] = [
    "supabase_organization_id",
    "model_name",
    "system_prompt",
    "agent_tools",
    "mcp_config",
    "thread_id",
    "assistant_id",
    "run_id",
    "user_id",
];
const RESERVED_PREFIXES: [&str; 2] = ["langgraph_auth_", "__"];

/// What every assistant of one agent says, whoever owns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub graph_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    /// `{"configurable": {…}}`
    pub config: Value,
    pub organization_id: Option<Uuid>,
}

/// One assistant as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Assistant<'a> {
    pub id: AssistantId,
    pub agent_id: AgentId,
    /// [`crate::ids::SYSTEM`], or a user's id.
    pub owner: String,
    pub content: &'a Content,
}

impl Content {
    /// Maps an agent. `default_model` is for agents that have no model.
    pub fn of(agent: Agent, default_model: &str) -> Self {
        let organization_id = agent.organization_id;
        let mut configurable: Map<String, Value> = agent
            .sampling_params
            .into_iter()
            .filter(|(key, value)| !value.is_null() && !is_reserved(key))
            .collect();
        let mut set = |key: &str, value: Value| configurable.insert(key.to_owned(), value);

        if let Some(id) = &organization_id {
            set("supabase_organization_id", json!(id));
        }
        set(
            "model_name",
            json!(non_empty(agent.model_name).unwrap_or_else(|| default_model.to_owned())),
        );
        if let Some(prompt) = agent.system_prompt {
            set("system_prompt", Value::String(prompt));
        }
        if !agent.assistant_tool_ids.is_empty() {
            set("agent_tools", json!(agent.assistant_tool_ids));
        }
        let servers = servers(agent.tools);
        if !servers.is_empty() {
            set("mcp_config", json!({ "servers": servers }));
        }
        Self {
            graph_id: non_empty(agent.graph_id).unwrap_or_else(|| DEFAULT_GRAPH.to_owned()),
            name: agent.name,
            description: agent.description,
            config: json!({ "configurable": configurable }),
            organization_id,
        }
    }

    /// The beginning of every hash of this content. A content may be large, and many may have an assistant of it.
    pub fn hashed(&self) -> Sha256 {
        let shared = (
            MAPPING_VERSION,
            &self.graph_id,
            &self.name,
            &self.description,
            &self.config,
        );
        // The array goes on. (What is in it can always be written as JSON.)
        let shared = serde_json::to_string(&shared).unwrap_or_default();
        Sha256::new_with_prefix(shared.strip_suffix(']').unwrap_or(&shared))
    }
}

impl Assistant<'_> {
    /// The metadata that is ours, but for `synced_at`.
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({ "supabase_agent_id": self.agent_id, "owner": self.owner });
        if let Some(id) = &self.content.organization_id {
            metadata["supabase_organization_id"] = json!(id);
        }
        metadata
    }

    /// SHA-256 over the mapping's version and everything that the assistant says but `synced_at`, as JSON with sorted
    /// keys ([`Map`] is sorted as long as no crate switches serde_json's `preserve_order` on; a test watches that).
    pub fn hash(&self) -> Vec<u8> {
        self.hash_after(self.content.hashed())
    }

    /// The same, for one assistant of many that say the same: what they share is `hashed` already ([`Content::hashed`]).
    pub fn hash_after(&self, hashed: Sha256) -> Vec<u8> {
        let rest = format!(",{}]", self.metadata());
        hashed.chain_update(rest).finalize().to_vec()
    }
}

fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| key.starts_with(prefix))
}

/// One server an endpoint, in order of url; its name is the first of its tools' names, and it requires authentication
/// if any of its tools does. Tools without a url or a name (built-in ones) are not served by anybody.
fn servers(tools: Vec<Tool>) -> Vec<Value> {
    let mut by_url: BTreeMap<String, (String, bool)> = BTreeMap::new();
    for tool in tools {
        let (Some(url), Some(name)) = (non_empty(tool.endpoint_url), non_empty(tool.name)) else {
            continue;
        };
        by_url
            .entry(url)
            .and_modify(|(first, auth_required)| {
                *auth_required |= tool.auth_required;
                if name < *first {
                    first.clone_from(&name);
                }
            })
            .or_insert((name, tool.auth_required));
    }
    by_url
        .into_iter()
        .map(|(url, (name, auth_required))| json!({ "name": name, "url": url, "auth_required": auth_required }))
        .collect()
}

fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
