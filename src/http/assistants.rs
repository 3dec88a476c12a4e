//! The API: LangGraph's `/assistants`, as far as a caller may see them.
//!
//! A caller sees what is theirs, and of the synced assistants that are the system's those whose agent the database shows them.
//! Anything else does not exist. What an assistant says is read first and the database asked afterwards: whoever loses an agent
//! meanwhile gets nothing new of it.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tracing::{error, warn};
use uuid::Uuid;

use super::auth::{Authenticator, Caller};
use super::create::AssistantCreate;
use super::fields::{assistant_id, too_large};
use super::lazy_sync::{self, NotSynced};
use super::search::AssistantSearch;
use super::{Answer, Body, Handle, Problem, json_answer, patch, read_json};
use crate::database::{Error, Fault};
use crate::ids::{AgentId, AssistantId};
use crate::plan::IfExists;
use crate::store::{Changed, Found, New, Patch, Store, Viewer};
use crate::syncer::{Released, Syncer};

#[derive(Debug)]
pub struct Assistants {
    pub store: Store,
    /// `None` in in-memory mode: there is nothing to sync from.
    pub syncer: Option<Arc<Syncer>>,
    pub authenticator: Arc<Authenticator>,
}

impl Handle for Assistants {
    async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let Some((&"assistants", rest)) = segments.split_first() else {
            return Err(Problem::not_found());
        };
        let caller = self.authenticator.caller(request.headers()).await?;
        let method = request.method().clone();
        let body = async || read_json(request.into_body()).await;
        match (&method, rest) {
            (&Method::POST, []) => self.create(&caller, body().await?).await,
            (_, []) => Err(Problem::method_not_allowed("POST")),
            (&Method::POST, ["search"]) => self.search(&caller, body().await?).await,
            (&Method::POST, ["count"]) => self.count(&caller, body().await?).await,
            (_, ["search" | "count"]) => Err(Problem::method_not_allowed("POST")),
            (&Method::GET | &Method::HEAD, [id]) => self.get(&caller, assistant_id(id)?).await,
            (&Method::PATCH, [id]) => {
                let id = assistant_id(id)?;
                self.patch(&caller, id, patch::parse(body().await?)?).await
            }
            (&Method::DELETE, [id]) => self.delete(&caller, assistant_id(id)?).await,
            (_, [_]) => Err(Problem::method_not_allowed("GET, HEAD, PATCH, DELETE")),
            _ => Err(Problem::not_found()),
        }
    }
}

impl Assistants {
    async fn create(&self, caller: &Caller, body: Value) -> Result<Answer, Problem> {
        let create = AssistantCreate::parse(body)?;
        if let Some(agent) = &create.agent {
            let synced = lazy_sync::run(self.syncer.as_deref(), caller, agent, &create).await?;
            match synced {
                Ok(id) => match self.seen(caller, id).await? {
                    Some(found) => return Ok(ok(&found)),
                    None => not_synced(agent, "the assistant was removed at once"),
                },
                Err(NotSynced::Taken(id)) => {
                    return self.existing(caller, id, create.if_exists).await;
                }
                Err(NotSynced::Because(reason)) => not_synced(agent, &reason),
            }
        }
        let id = create
            .assistant_id
            .unwrap_or_else(|| AssistantId(Uuid::new_v4()));
        let if_exists = create.if_exists;
        let created = self.store.create(bare(caller, id, create)?).await;
        match created.map_err(|e| problem(&e))? {
            Some(assistant) => Ok(json_answer(StatusCode::OK, &assistant.to_json())),
            None => self.existing(caller, id, if_exists).await,
        }
    }

    /// The answer where the id that the request names is taken.
    async fn existing(
        &self,
        caller: &Caller,
        id: AssistantId,
        if_exists: IfExists,
    ) -> Result<Answer, Problem> {
        let existing = match if_exists {
            IfExists::Raise => None,
            IfExists::DoNothing => self.seen(caller, id).await?,
        };
        existing.as_ref().map(ok).ok_or_else(|| {
            Problem::new(
                StatusCode::CONFLICT,
                format!("Assistant {id} already exists"),
            )
        })
    }

    async fn get(&self, caller: &Caller, id: AssistantId) -> Result<Answer, Problem> {
        match self.seen(caller, id).await? {
            Some(found) => Ok(ok(&found)),
            None => Err(Problem::not_found()),
        }
    }

    async fn patch(
        &self,
        caller: &Caller,
        id: AssistantId,
        patch: Patch,
    ) -> Result<Answer, Problem> {
        let changed = self.store.patch(id, &caller.owner(), patch).await;
        match changed.map_err(|e| problem(&e))? {
            Changed::Done(assistant) => Ok(json_answer(StatusCode::OK, &assistant.to_json())),
            Changed::Synced(agent) => Err(read_only(id, agent)),
            Changed::TooLarge => Err(too_large()),
            Changed::NotTheirs => Err(self.not_theirs(caller, id).await?),
        }
    }

    async fn delete(&self, caller: &Caller, id: AssistantId) -> Result<Answer, Problem> {
        let owner = caller.owner();
        let deleted = self.store.delete(id, &owner).await;
        match (deleted.map_err(|e| problem(&e))?, &self.syncer) {
            (Changed::Done(()), _) => Ok(super::empty_answer(StatusCode::NO_CONTENT)),
            (Changed::Synced(agent), Some(syncer)) => {
                let released = syncer.release(agent, id, &owner).await;
                match released.map_err(|e| problem(&e))? {
                    Released::Done => Ok(super::empty_answer(StatusCode::NO_CONTENT)),
                    Released::NotTheirs => Err(self.not_theirs(caller, id).await?),
                    Released::Busy => Err(Problem::unavailable()),
                }
            }
            _ => Err(self.not_theirs(caller, id).await?),
        }
    }

    /// Why a caller may not change an assistant: it is everybody's, or as far as they may know there is none.
    async fn not_theirs(&self, caller: &Caller, id: AssistantId) -> Result<Problem, Problem> {
        let shared = self
            .seen(caller, id)
            .await?
            .and_then(|found| found.shared().map(|synced| synced.agent));
        Ok(match shared {
            Some(agent) => read_only(id, agent),
            None => Problem::new(
                StatusCode::NOT_FOUND,
                format!("Assistant with ID {id} not found"),
            ),
        })
    }

    async fn search(&self, caller: &Caller, body: Value) -> Result<Answer, Problem> {
        let search = AssistantSearch::parse(body)?;
        let viewer = self.viewer(caller).await?;
        let AssistantSearch { filter, page, .. } = &search;
        let found = self.store.search(&viewer, filter, *page, &search.select);
        let found = found.await.map_err(|e| problem(&e))?.ok_or_else(|| {
            // Never a shorter one: clients page until a page is shorter than its limit.
            Problem::unprocessable(
                "the page is larger than 16 MiB: ask for fewer assistants (limit) or fewer fields (select)",
            )
        })?;
        // By what the store has found: where a caller has just lost sight of some of it, the rest is on the next page all the same.
        let paging = search.page_headers(found.found.len(), found.more);
        let seen = self.visible(caller, found.found).await?;
        let listed = seen
            .iter()
            .map(|found| search.selected(found.assistant.to_json()));
        let mut answer = json_answer(StatusCode::OK, &listed.collect());
        answer.headers_mut().extend(paging);
        Ok(answer)
    }

    async fn count(&self, caller: &Caller, body: Value) -> Result<Answer, Problem> {
        let search = AssistantSearch::parse(body)?;
        let viewer = self.viewer(caller).await?;
        let count = self.store.count(&viewer, &search.filter).await;
        Ok(json_answer(
            StatusCode::OK,
            &json!(count.map_err(|e| problem(&e))?),
        ))
    }

    /// Who is looking, and the agents that the database shows them.
    async fn viewer(&self, caller: &Caller) -> Result<Viewer, Problem> {
        let agents = match (&self.syncer, caller.identity()) {
            (Some(syncer), Some(identity)) => syncer.readable(&identity).await,
            _ => Ok(None),
        };
        Ok(Viewer {
            owner: caller.owner(),
            agents: agents.or_else(|e| nothing_shared(&e).map(Some))?,
        })
    }

    async fn seen(&self, caller: &Caller, id: AssistantId) -> Result<Option<Found>, Problem> {
        let found = self.store.get(id).await.map_err(|e| problem(&e))?;
        let mut seen = self.visible(caller, found.into_iter().collect()).await?;
        Ok(seen.pop())
    }

    /// Of what was just read, what the caller may see.
    async fn visible(&self, caller: &Caller, mut found: Vec<Found>) -> Result<Vec<Found>, Problem> {
        let owner = caller.owner();
        let shared: Vec<_> = found
            .iter()
            .filter(|found| !found.is_of(&owner))
            .filter_map(|found| Some((found.assistant.id, found.shared()?)))
            .collect();
        let seen: HashSet<AssistantId> = match &self.syncer {
            Some(syncer) if !shared.is_empty() => {
                let identity = caller.identity();
                let asked = syncer.may_see(identity.as_ref(), &shared).await;
                asked.or_else(|e| nothing_shared(&e))?
            }
            _ => HashSet::new(),
        };
        found.retain(|found| found.is_of(&owner) || seen.contains(&found.assistant.id));
        Ok(found)
    }
}

fn ok(found: &Found) -> Answer {
    json_answer(StatusCode::OK, &found.assistant.to_json())
}

fn read_only(id: AssistantId, agent: AgentId) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        format!("Assistant {id} is kept equal to agent {agent}: edit the agent instead"),
    )
}

fn not_synced(agent: &Value, reason: &str) {
    let agent = shortened(agent);
    warn!(
        agent,
        reason, "lazy sync skipped, the assistant is made from the request alone"
    );
}

/// An assistant from the request alone, without any link to an agent.
pub(crate) fn bare(
    caller: &Caller,
    id: AssistantId,
    create: AssistantCreate,
) -> Result<New, Problem> {
    let AssistantCreate {
        graph_id,
        config,
        context,
        mut metadata,
        name,
        description,
        ..
    } = create;
    let graph_id = graph_id.ok_or_else(|| Problem::unprocessable("graph_id is required"))?;
    metadata.insert("owner".to_owned(), json!(caller.owner()));
    Ok(New {
        id,
        graph_id,
        config,
        context,
        metadata,
        name,
        description,
    })
}

/// Where the database cannot be asked what is shared with a caller until an operator has mended something, that is nothing; what
/// is their own they have all the same.
fn nothing_shared<T: Default>(error: &Error) -> Result<T, Problem> {
    match error.fault() {
        Fault::Setup | Fault::Data => {
            error!(%error, "nobody sees what is shared");
            Ok(T::default())
        }
        Fault::Passing | Fault::Locked => Err(problem(error)),
    }
}

/// What a client is told of an error; what it was stays in the log.
pub fn problem(error: &Error) -> Problem {
    error!(%error, "a request failed");
    match error.fault() {
        Fault::Data => Problem::unprocessable("The database cannot store this assistant"),
        Fault::Locked | Fault::Passing | Fault::Setup => Problem::unavailable(),
    }
}

/// A value that a client sent, fit for a log.
fn shortened(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.chars().take(80).collect()
}
