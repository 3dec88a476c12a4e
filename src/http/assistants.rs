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

use super::api::is_ours;
use super::auth::{Authenticator, Caller};
use super::create::AssistantCreate;
use super::fields::{assistant_id, too_large};
use super::health::{self, Health};
use super::lazy_sync::{self, NotSynced, Synced};
use super::route::{self, Part, Route};
use super::search::AssistantSearch;
use super::{Answer, Body, Problem, json_answer, patch, read_json, text_answer, versions};
use crate::database::{Error, Fault};
use crate::ids::{AgentId, AssistantId};
use crate::plan::IfExists;
use crate::store::{Changed, Found, New, Patch, Store, Versions, Viewer};
use crate::syncer::{Released, Syncer};

#[derive(Debug)]
pub struct Assistants {
    pub store: Store,
    /// `None` in in-memory mode: there is nothing to sync from.
    pub syncer: Option<Arc<Syncer>>,
    pub authenticator: Arc<Authenticator>,
    pub health: Health,
}

impl Assistants {
    pub async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        let uri = request.uri().clone();
        let Some(route) = Route::of(uri.path()) else {
            // Whatever there is below /assistants, or is not: who asks says first who they are.
            if is_ours(uri.path()) {
                self.authenticator.caller(request.headers()).await?;
            }
            let moved = route::without_slash(&uri).ok_or_else(Problem::not_found)?;
            return super::redirect(&moved);
        };
        match route {
            Route::Ok => {
                route.check(request.method())?;
                Ok(self.health.ok(uri.query()).await)
            }
            Route::Info => {
                route.check(request.method())?;
                Ok(health::info())
            }
            Route::Assistants(part) => {
                let caller = self.authenticator.caller(request.headers()).await?;
                route.check(request.method())?;
                self.answer(&caller, part, request).await
            }
        }
    }
}

impl Assistants {
    /// `request`: of a method that this part takes.
    async fn answer(
        &self,
        caller: &Caller,
        part: Part<'_>,
        request: Request<Body>,
    ) -> Result<Answer, Problem> {
        let method = request.method().clone();
        let body = async || read_json(request.into_body()).await;
        match part {
            Part::All => self.create(caller, body().await?).await,
            Part::Search => self.search(caller, body().await?).await,
            Part::Count => self.count(caller, body().await?).await,
            Part::One(id) => {
                let id = assistant_id(id)?;
                match method {
                    Method::PATCH => self.patch(caller, id, patch::parse(body().await?)?).await,
                    Method::DELETE => self.delete(caller, id).await,
                    _ => self.get(caller, id).await,
                }
            }
            Part::Versions(id) => {
                let id = assistant_id(id)?;
                let asked = versions::parse(body().await?)?;
                self.versions(caller, id, &asked).await
            }
            Part::Latest(id) => {
                let id = assistant_id(id)?;
                let version = versions::parse_latest(body().await?)?;
                self.set_latest(caller, id, version).await
            }
            Part::Schemas(id) => self.schemas(caller, assistant_id(id)?).await,
            Part::Graph(id) => self.graph(caller, assistant_id(id)?).await,
        }
    }

    async fn create(&self, caller: &Caller, body: Value) -> Result<Answer, Problem> {
        let create = AssistantCreate::parse(body)?;
        if let Some(agent) = &create.agent {
            let synced = lazy_sync::run(self.syncer.as_deref(), caller, agent, &create).await?;
            match synced {
                Ok(Synced::Answer(answer)) => return Ok(text_answer(StatusCode::OK, answer)),
                Ok(Synced::Assistant(id)) => match self.seen(caller, id).await? {
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
        existing.as_ref().map(ok).ok_or_else(|| exists(id))
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
            Changed::NotTheirs | Changed::NoVersion => {
                Err(self.not_theirs(caller, id, no_assistant(id)).await?)
            }
        }
    }

    async fn delete(&self, caller: &Caller, id: AssistantId) -> Result<Answer, Problem> {
        let owner = caller.owner();
        let deleted = self.store.delete(id, &owner).await;
        let done = || Ok(super::empty_answer(StatusCode::NO_CONTENT));
        match (deleted.map_err(|e| problem(&e))?, &self.syncer) {
            (Changed::Done(()), _) => return done(),
            (Changed::Synced(agent), Some(syncer)) => {
                let released = syncer.release(agent, id, &owner).await;
                match released.map_err(|e| problem(&e))? {
                    Released::Done => return done(),
                    Released::NotTheirs => {}
                    Released::Busy => return Err(Problem::unavailable()),
                }
            }
            _ => {}
        }
        Err(self.not_theirs(caller, id, no_assistant_with(id)).await?)
    }

    /// Who may see an assistant may see what it was, as far as that is kept.
    async fn versions(
        &self,
        caller: &Caller,
        id: AssistantId,
        asked: &Versions,
    ) -> Result<Answer, Problem> {
        let versions = self.store.versions(id, asked).await;
        let seen = match versions.map_err(|e| problem(&e))? {
            Some(versions) => self.visible(caller, versions.found).await?,
            None => match self.seen(caller, id).await? {
                Some(_) => return Err(Problem::page_too_large("versions (limit)")),
                None => Vec::new(),
            },
        };
        if seen.is_empty() {
            return Err(no_assistant(id));
        }
        let versions = seen.iter().map(|found| found.assistant.to_version_json());
        Ok(json_answer(StatusCode::OK, &versions.collect()))
    }

    async fn set_latest(
        &self,
        caller: &Caller,
        id: AssistantId,
        version: Option<i64>,
    ) -> Result<Answer, Problem> {
        // None is a version that there never is.
        let wanted = version.unwrap_or(i64::MIN);
        let restored = self.store.restore(id, &caller.owner(), wanted).await;
        match restored.map_err(|e| problem(&e))? {
            Changed::Done(assistant) => Ok(json_answer(StatusCode::OK, &assistant.to_json())),
            Changed::Synced(agent) => Err(read_only(id, agent)),
            Changed::NoVersion => {
                let version = version.map_or_else(|| "None".to_owned(), |v| v.to_string());
                let detail = format!("Version {version} not found for assistant {id}");
                Err(Problem::new(StatusCode::NOT_FOUND, detail))
            }
            Changed::NotTheirs | Changed::TooLarge => {
                Err(self.not_theirs(caller, id, no_assistant(id)).await?)
            }
        }
    }

    /// Why a caller may not change an assistant: it is everybody's, or as far as they may know there is none.
    async fn not_theirs(
        &self,
        caller: &Caller,
        id: AssistantId,
        none: Problem,
    ) -> Result<Problem, Problem> {
        let shared = self
            .seen(caller, id)
            .await?
            .and_then(|found| found.shared().map(|synced| synced.agent));
        Ok(shared.map_or(none, |agent| read_only(id, agent)))
    }

    /// A store has no graphs, so it cannot say what theirs are. Clients that draw a form from them do without.
    async fn schemas(&self, caller: &Caller, id: AssistantId) -> Result<Answer, Problem> {
        let found = self.seen(caller, id).await?;
        let found = found.ok_or_else(Problem::not_found)?;
        let schemas = json!({
            "graph_id": found.assistant.graph_id,
            "input_schema": null,
            "output_schema": null,
            "state_schema": null,
            "config_schema": null,
            "context_schema": null,
        });
        Ok(json_answer(StatusCode::OK, &schemas))
    }

    async fn graph(&self, caller: &Caller, id: AssistantId) -> Result<Answer, Problem> {
        let found = self.seen(caller, id).await?;
        let found = found.ok_or_else(Problem::not_found)?;
        let detail = format!(
            "agent-sync has no graphs: ask the LangGraph server that runs graph {}",
            found.assistant.graph_id
        );
        Err(Problem::new(StatusCode::NOT_FOUND, detail))
    }

    async fn search(&self, caller: &Caller, body: Value) -> Result<Answer, Problem> {
        let search = AssistantSearch::parse(body)?;
        let viewer = self.viewer(caller).await?;
        let AssistantSearch { filter, page, .. } = &search;
        let found = self.store.search(&viewer, filter, *page, &search.select);
        let found = found.await.map_err(|e| problem(&e))?;
        let found = found.ok_or_else(|| {
            Problem::page_too_large("assistants (limit) or fewer fields (select)")
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
        let mut shared: Vec<_> = found
            .iter()
            .filter(|found| !found.is_of(&owner))
            .filter_map(|found| Some((found.assistant.id, found.shared()?)))
            .collect();
        // All versions of an assistant are one question.
        shared.dedup_by_key(|(id, _)| *id);
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

pub(super) fn read_only(id: AssistantId, agent: AgentId) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        format!("Assistant {id} is kept equal to agent {agent}: edit the agent instead"),
    )
}

pub(super) fn no_assistant(id: AssistantId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("Assistant {id} not found"))
}

/// The id that a request names is taken.
pub(super) fn exists(id: AssistantId) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        format!("Assistant {id} already exists"),
    )
}

/// In the official server's other words.
pub(super) fn no_assistant_with(id: AssistantId) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("Assistant with ID {id} not found"),
    )
}

pub(super) fn not_synced(agent: &Value, reason: &str) {
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
