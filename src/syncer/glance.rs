//! A glance at an agent before anybody locks it: whether its caller may have it, and whether the assistant is there that the caller
//! would get, and is as it should be. Then that is the answer.
//!
//! Two messages, one after the other: what there is, as the worker, in one snapshot; then the agent, as the caller. Whoever loses the
//! agent in between gets nothing. What is not plainly in step is left to [`Syncer::sync_now`], and who is not plainly the agent's to
//! [`Syncer::may_have`].

use std::collections::HashMap;

use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::SimpleQueryRow;

use super::reach::Reach;
use super::{Batch, Entrance, Origin, Outcome, Syncer};
use crate::access::{Shown, Verdict};
use crate::agent::Row;
use crate::assistant::Content;
use crate::database::migrations;
use crate::database::prepared::{bytes, text, unexpected, value};
use crate::database::{Error, Fault};
use crate::ids::{AgentId, AssistantId};
use crate::ledger;
use crate::plan::{self, Answer, Claim, Entry, Existing, Observed, Step};
use crate::source;
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

/// Everything about an agent, at one moment.
struct Snapshot {
    row: Row,
    shared: crate::scope::Scope,
    observed: Observed,
    /// In which row the assistant is.
    rows: HashMap<AssistantId, usize>,
}

impl Syncer {
    /// Looks at an agent in a caller's name.
    pub async fn glance(&self, agent: AgentId, claim: &Claim) -> Result<Glance, Error> {
        let origin = Origin::of(Entrance::Request(claim));
        match self.look_at(agent, claim).await {
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

    async fn look_at(&self, agent: AgentId, claim: &Claim) -> Result<Glance, Error> {
        // What an owner may be called is nothing that a text could end in.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_elsewhere = self.beyond().is_some();
        let Some(shape) = self.source.known_shape() else {
            return Ok(Glance::Unclear);
        };
        if is_elsewhere || !claim.owner.bytes().all(is_plain) {
            return Ok(Glance::Unclear);
        }
        let arguments = format!("'{agent}', '{}'", claim.owner);
        let rows = self.database.read_prepared(shape.glance(), &arguments);
        let Some(rows) = rows.await? else {
            return Ok(Glance::Unclear);
        };
        let snapshot = Snapshot::of(&rows)?;
        if let Some(identity) = &claim.identity
            && !self.access.is_open()
        {
            // Asked about one that does not exist, too: how long an answer takes tells nobody that there is one.
            let Some(shown) = self.access.glance(&shape, identity, agent).await? else {
                return Ok(Glance::Unclear);
            };
            let verdict = match (&snapshot, &shown) {
                (Some(snapshot), shown) => self.access.verdict(agent, &snapshot.row, shown),
                (None, Shown::Rows(rows)) if rows.is_empty() => {
                    Verdict::Denied("there is no such agent".to_owned())
                }
                (None, _) => return Ok(Glance::Unclear),
            };
            match verdict {
                Verdict::Granted => {}
                Verdict::Denied(_) => return Ok(Glance::Denied),
                Verdict::Different | Verdict::Unknown { .. } => return Ok(Glance::Unclear),
            }
        }
        let place = snapshot.and_then(|snapshot| self.in_step(agent, claim, snapshot));
        match place.and_then(|(id, place)| Some((id, rows.get(place)?))) {
            Some((id, row)) => answer(id, row).map(Glance::InStep),
            None => Ok(Glance::Granted),
        }
    }

    /// The assistant that the claimant gets, and in which row it is, where there is nothing at all to be done for that.
    fn in_step(
        &self,
        agent: AgentId,
        claim: &Claim,
        snapshot: Snapshot,
    ) -> Option<(AssistantId, usize)> {
        let Snapshot {
            row,
            shared,
            observed,
            rows,
        } = snapshot;
        if claim.assistant_id.is_some() {
            return None;
        }
        let head = row.head().ok().filter(|head| head.is_active())?;
        let canonical = agent.canonical();
        // Else what stands under the agent's own id is to be reported, and what its row names is another's.
        let standing = observed.entries.get(&canonical)?;
        let is_ours = |entry: &Entry| entry.agent_id == agent && entry.state == plan::State::Synced;
        if !observed.entries.values().all(is_ours) || !observed.stands(standing) {
            return None;
        }
        let named = head.langgraph_assistant_id.as_ref();
        let is_named = |named: &Option<String>| *named == Some(canonical.to_string());
        if self.settings.write_back && !named.is_none_or(is_named) {
            return None;
        }
        let content = Content::of(row.decode().ok()?, &self.settings.default_model);
        let reach = Reach {
            shared,
            own: &self.settings.scope,
        };
        let in_scope = reach.contains(head.organization_id);
        let (wanted, answer) = plan::wanted(agent, in_scope, Some(claim), &observed);
        let steps = plan::steps(agent, &content, wanted, &observed);
        let is_kept = |step: Step| step == Step::Keep { settle: false };
        match answer {
            Some(Answer::Assistant(id)) if steps.iter().all(|planned| is_kept(planned.step)) => {
                Some((id, *rows.get(&id)?))
            }
            _ => None,
        }
    }
}

impl Snapshot {
    /// `None`: there is no such agent.
    fn of(rows: &[SimpleQueryRow]) -> Result<Option<Self>, Error> {
        let first = rows.first().ok_or_else(|| unexpected("version"))?;
        let version: i32 = value(first, "version")?.ok_or_else(|| unexpected("version"))?;
        if version > migrations::LATEST {
            return Err(Error::Newer(version));
        }
        let shared = value(first, "scope")?.ok_or_else(|| unexpected("scope"))?;
        let Some(row) = source::row_as_text(first)? else {
            return Ok(None);
        };
        let (mut observed, mut places) = (Observed::default(), HashMap::new());
        for (place, row) in rows.iter().enumerate() {
            let Some(id) = value(row, "assistant_id")?.map(AssistantId) else {
                continue;
            };
            let owned = |name| Ok::<_, Error>(text(row, name)?.map(str::to_owned));
            let agent_id = AgentId(value(row, "agent_id")?.ok_or_else(|| unexpected("agent_id"))?);
            let entry = Entry {
                assistant_id: id,
                agent_id,
                organization_id: value(row, "organization_id")?,
                owner: owned("owner")?.unwrap_or_default(),
                state: ledger::state(text(row, "state")?.unwrap_or_default())?,
                content_hash: bytes(row, "content_hash")?,
                row_hash: bytes(row, "row_hash")?,
                source_hash: None,
                row_version: None,
            };
            if let Some(says) = bytes(row, "says")? {
                let existing = Existing {
                    owner: owned("says_owner")?,
                    row_hash: says,
                    foreign: Vec::new(),
                    row_version: None,
                };
                observed.existing.insert(id, existing);
                places.insert(id, place);
            }
            observed.entries.insert(id, entry);
        }
        Ok(Some(Self {
            row,
            shared,
            observed,
            rows: places,
        }))
    }
}

/// As [`crate::store::Assistant::to_json`] has it, but for the order of keys, which means nothing. What is JSON already stays as it is.
fn answer(id: AssistantId, row: &SimpleQueryRow) -> Result<String, Error> {
    let quoted = |name| Ok::<_, Error>(json!(text(row, name)?));
    let plain = |name| text(row, name)?.ok_or_else(|| unexpected(name));
    let at = |name| -> Result<String, Error> {
        let micros: i128 = value::<i64>(row, name)?.unwrap_or_default().into();
        let at = OffsetDateTime::from_unix_timestamp_nanos(micros * 1000);
        Ok(timestamp(at.map_err(|_| unexpected(name))?))
    };
    Ok(format!(
        r#"{{"assistant_id":"{id}","graph_id":{},"config":{},"context":{},"metadata":{},"name":{},"description":{},"version":{},"created_at":"{}","updated_at":"{}"}}"#,
        json!(text(row, "graph_id")?.unwrap_or_default()),
        plain("config")?,
        plain("context")?,
        plain("metadata")?,
        json!(text(row, "name")?.unwrap_or("Untitled")),
        quoted("description")?,
        value::<i32>(row, "assistant_version")?.unwrap_or(1),
        at("created_at")?,
        at("updated_at")?,
    ))
}
