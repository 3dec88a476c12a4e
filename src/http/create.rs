//! The body of `POST /assistants`: LangGraph's `AssistantCreate`, with the official server's defaults.

use serde_json::{Map, Value};

use super::Problem;
use super::fields::{Fields, assistant_id, too_large};
use crate::ids::AssistantId;
use crate::plan::IfExists;
use crate::store::weight;

#[derive(Debug, Clone, PartialEq)]
pub struct AssistantCreate {
    /// Required by the official server. Not needed where the agent says it.
    pub graph_id: Option<String>,
    pub assistant_id: Option<AssistantId>,
    pub config: Map<String, Value>,
    pub context: Map<String, Value>,
    /// Without the keys that are ours to set.
    pub metadata: Map<String, Value>,
    /// `metadata.supabase_agent_id` as it was sent.
    pub agent: Option<Value>,
    pub if_exists: IfExists,
    pub name: String,
    pub description: Option<String>,
}

impl AssistantCreate {
    pub fn parse(body: Value) -> Result<Self, Problem> {
        let mut fields = Fields::of(body)?;
        let (config, context) = fields.configuration()?;
        let (metadata, agent) = fields.metadata()?;
        let [config, context, metadata] =
            [config, context, metadata].map(Option::unwrap_or_default);
        if weight::of_assistant(&config, &context, &metadata) > weight::MAX_ASSISTANT {
            return Err(too_large());
        }
        let exists = [
            ("raise", IfExists::Raise),
            ("do_nothing", IfExists::DoNothing),
        ];
        Ok(Self {
            graph_id: fields.text("graph_id")?,
            assistant_id: fields
                .text("assistant_id")?
                .map(|id| assistant_id(&id))
                .transpose()?,
            config,
            context,
            metadata,
            agent,
            if_exists: fields.word("if_exists", &exists)?.unwrap_or_default(),
            name: fields
                .text("name")?
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "Untitled".to_owned()),
            description: fields.nullable_text("description")?,
        })
    }
}
