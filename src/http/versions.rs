//! The bodies of `POST /assistants/{id}/versions` and `/latest`: LangGraph's `AssistantVersionsSearchRequest` and
//! `AssistantVersionChange`.

use serde_json::Value;

use super::Problem;
use super::fields::Fields;
use crate::store::Versions;

pub fn parse(body: Value) -> Result<Versions, Problem> {
    let mut fields = Fields::of(body)?;
    Ok(Versions {
        metadata: fields.object("metadata")?.unwrap_or_default(),
        limit: fields.limit()?,
        offset: fields.offset()?,
    })
}

/// The version that is to be the latest. None is a version that there is not, as on the official server.
pub fn parse_latest(body: Value) -> Result<Option<i64>, Problem> {
    Fields::of(body)?.number("version", i64::MIN, i64::MAX)
}
