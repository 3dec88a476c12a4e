//! A glance at an agent before anybody locks it: whether its caller may have it, and whether the assistant is there that the caller
//! would get, and is as it should be. Then that is the answer.
//!
//! Two looks, one after the other: what there is, as the worker, in one snapshot; then the agent, as the caller. Whoever loses the
//! agent in between gets nothing, and whoever is shown something else than the worker was gets no answer here. That nothing is to be done
//! is told as a pass tells it ([`super::look`]): by what the last sync has noted. What is not plainly in step is left to
//! [`Syncer::sync_now`], and who is not plainly the agent's to [`Syncer::may_have`].
//!
//! After a sync which has asked the caller under the agent's lock, the first look is enough, while the agent says what it said then.

use std::collections::BTreeMap;

use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::SimpleQueryRow;

use super::permission::hex;
use super::reach::Reach;
use super::{Batch, Entrance, Origin, Outcome, Syncer};
use crate::access::{Arguments, Glimpse};
use crate::config::Authorize;
use crate::database::migrations;
use crate::database::prepared::{text, unexpected, value};
use crate::database::{Error, Fault};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::plan::Claim;
use crate::store::timestamp;

/// What a glance at an agent shows.
#[derive(Debug)]
pub enum Glance {
    /// Nothing is to be done: this assistant is the answer, in JSON, as the API shows it.
    InStep(String),
    /// The caller may have the agent. It may have to be synced.
    Granted,
    Denied,
    /// It takes a closer look.
    Unclear,
}

impl Syncer {
    /// Looks at an agent in a caller's name.
    pub async fn glance(&self, agent: AgentId, claim: &Claim) -> Result<Glance, Error> {
        let origin = Origin::of(Entrance::Request(claim));
        match self.look_at(agent, claim, None).await {
            Ok(Glance::InStep(answer)) => {
                let batch = Batch {
                    outcomes: vec![(agent, Outcome::Skipped)],
                    ..Batch::default()
                };
                self.tell(&batch, &origin);
                Ok(Glance::InStep(answer))
            }
            Err(e) if !matches!(e.fault(), Fault::Passing) => Ok(Glance::Unclear),
            seen => seen,
        }
    }

    /// The answer, where an agent was synced just now, with this claim and that result. Nothing of it is news.
    pub async fn glance_again(
        &self,
        agent: AgentId,
        claim: &Claim,
        synced: &Batch,
    ) -> Option<String> {
        let permitted = synced.permitted.get(&agent);
        match self
            .look_at(agent, claim, permitted.map(Vec::as_slice))
            .await
        {
            Ok(Glance::InStep(answer)) => Some(answer),
            // It has been edited just then, say.
            _ => None,
        }
    }

    /// `permitted`: what the claimant may have of the agent, as a hash, for they were asked about that just now.
    async fn look_at(
        &self,
        agent: AgentId,
        claim: &Claim,
        permitted: Option<&[u8]>,
    ) -> Result<Glance, Error> {
        let Some(shape) = self.source.known_shape() else {
            return Ok(Glance::Unclear);
        };
        if self.beyond().is_some() || claim.owner.contains('\0') {
            return Ok(Glance::Unclear);
        }
        let arguments = Arguments {
            agent,
            owner: &claim.owner,
            basis: &self.basis(),
        };
        let identity = claim.identity.as_ref().filter(|_| !self.access.is_open());
        let rows = match (identity, permitted) {
            (Some(identity), None) => {
                let glance = self
                    .access
                    .glance(&self.database, &shape, identity, &arguments);
                let Some(Glimpse { rows, shown }) = glance.await? else {
                    return Ok(Glance::Unclear);
                };
                check_version(&rows)?;
                let first = rows.first().map(|row| text(row, "shown"));
                match (first.transpose()?.flatten(), shown) {
                    (Some(read), Some(shown)) if read == shown => {}
                    // Or there is none. Which of the two takes as long to tell.
                    (_, None) => return Ok(Glance::Denied),
                    // Edited just then.
                    (_, Some(_)) => return Ok(Glance::Unclear),
                }
                rows
            }
            (_, permitted) => {
                let glance = &shape.glances(Authorize::Agent).glance;
                let rows = self
                    .database
                    .read_prepared(glance, &arguments.to_string())
                    .await?;
                let Some(rows) = rows else {
                    return Ok(Glance::Unclear);
                };
                check_version(&rows)?;
                let said = rows.first().map(|row| text(row, "said"));
                let said = said.transpose()?.flatten();
                // What is in step says what the agent says. Whether they may have that, too, nobody has asked.
                if permitted.is_some_and(|permitted| said != Some(hex(permitted).as_str())) {
                    return Ok(Glance::Unclear);
                }
                rows
            }
        };
        match self.in_step(agent, claim, &rows)? {
            Some(answer) => Ok(Glance::InStep(answer)),
            None => Ok(Glance::Granted),
        }
    }

    /// The assistant that the claimant gets, where there is nothing at all to be done for that.
    fn in_step(
        &self,
        agent: AgentId,
        claim: &Claim,
        rows: &[SimpleQueryRow],
    ) -> Result<Option<String>, Error> {
        let is_in_step = |row: &SimpleQueryRow| row.get("in_step") == Some("t");
        let (Some(first), None) = (rows.first(), claim.assistant_id) else {
            return Ok(None);
        };
        if !rows.iter().all(is_in_step) {
            return Ok(None);
        }
        let id_of = |row| -> Result<AssistantId, Error> {
            let id = value(row, "assistant_id")?;
            Ok(AssistantId(id.ok_or_else(|| unexpected("assistant_id"))?))
        };
        let standing = rows
            .iter()
            .map(|row| Ok((id_of(row)?, (text(row, "owner")?.unwrap_or_default(), row))))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        // Else what stands under the agent's own id is to be reported, and what its row names is another's.
        let canonical = agent.canonical();
        let Some((owner, _)) = standing.get(&canonical) else {
            return Ok(None);
        };
        let named = text(first, "named")?;
        if self.settings.write_back && named != Some(canonical.to_string().as_str()) {
            return Ok(None);
        }
        let reach = Reach {
            shared: value(first, "scope")?.ok_or_else(|| unexpected("scope"))?,
            own: &self.settings.scope,
        };
        if reach.contains(value(first, "organization_id")?) && *owner != SYSTEM {
            return Ok(None);
        }
        // As plan.rs has it.
        let of = |wanted: &str| {
            let mut all = standing.iter();
            all.find(|(_, (owner, _))| *owner == wanted)
        };
        let answered = match *owner == SYSTEM || *owner == claim.owner {
            true => standing.get_key_value(&canonical),
            false => of(SYSTEM).or_else(|| of(&claim.owner)),
        };
        answered
            .map(|(id, (_, row))| answer(*id, row))
            .transpose()
            .map(Option::flatten)
    }
}

/// A newer worker, which has migrated the schema, may keep rules that this one would break.
fn check_version(rows: &[SimpleQueryRow]) -> Result<(), Error> {
    let version = rows.first().map(|row| value(row, "version"));
    match version.transpose()?.flatten() {
        Some(version) if version > migrations::LATEST => Err(Error::Newer(version)),
        Some(_) => Ok(()),
        None => Err(unexpected("version")),
    }
}

/// As [`crate::store::Assistant::to_json`] has it, but for the order of keys, which means nothing. What is JSON already stays as it is.
/// `None`: it says something that no sync has written.
fn answer(id: AssistantId, row: &SimpleQueryRow) -> Result<Option<String>, Error> {
    let quoted = |name| Ok::<_, Error>(json!(text(row, name)?));
    let plain = |name| text(row, name)?.ok_or_else(|| unexpected(name));
    let at = |name| -> Result<String, Error> {
        let micros: i128 = value::<i64>(row, name)?.unwrap_or_default().into();
        let at = OffsetDateTime::from_unix_timestamp_nanos(micros * 1000);
        Ok(timestamp(at.map_err(|_| unexpected(name))?))
    };
    let config = plain("config")?;
    // There is nothing else in it, and nothing in the context, which servers show to be the same.
    let context = config
        .strip_prefix(r#"{"configurable": "#)
        .and_then(|rest| rest.strip_suffix('}'));
    let Some(context) = context else {
        return Ok(None);
    };
    Ok(Some(format!(
        r#"{{"assistant_id":"{id}","graph_id":{},"config":{config},"context":{context},"metadata":{},"name":{},"description":{},"version":{},"created_at":"{}","updated_at":"{}"}}"#,
        json!(text(row, "graph_id")?.unwrap_or_default()),
        plain("metadata")?,
        json!(text(row, "name")?.unwrap_or("Untitled")),
        quoted("description")?,
        value::<i32>(row, "assistant_version")?.unwrap_or(1),
        at("created_at")?,
        at("updated_at")?,
    )))
}
