//! The body of `PATCH /assistants/{id}`: LangGraph's `AssistantPatch`.

use serde_json::Value;

use super::Problem;
use super::fields::Fields;
use crate::store::Patch;

/// What is absent stays. Config and context are replaced as a whole, an empty config is as good as none.
pub fn parse(body: Value) -> Result<Patch, Problem> {
    let mut fields = Fields::of(body)?;
    let (mut config, context) = fields.configuration()?;
    let (metadata, _) = fields.metadata()?;
    // A context that is emptied takes its mirror with it.
    if config.is_none() && context.as_ref().is_some_and(|context| context.is_empty()) {
        config = Some(
            [("configurable".to_owned(), Value::Object(Default::default()))]
                .into_iter()
                .collect(),
        );
    }
    Ok(Patch {
        graph_id: fields.text("graph_id")?,
        config: config.filter(|config| !config.is_empty()),
        context,
        metadata,
        name: fields.text("name")?,
        description: fields.text("description")?,
    })
}
