//! The API: `POST /assistants`, with lazy sync, and `GET /assistants/{id}`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tracing::{error, warn};
use uuid::Uuid;

use super::auth::{Authenticator, Caller};
use super::create::{AssistantCreate, assistant_id};
use super::{Answer, Handle, Problem, json_answer, read_json};
use crate::config;
use crate::database::{Error, Fault};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::plan::{self, Claim, IfExists};
use crate::store::{Assistant, New, Store};
use crate::syncer::{Entrance, Outcome, Syncer};

#[derive(Debug)]
pub struct Assistants {
    pub store: Store,
    /// `None` in in-memory mode: there is nothing to sync from.
    pub syncer: Option<Arc<Syncer>>,
    /// Any caller may sync any active agent.
    pub dev: bool,
    pub authenticator: Authenticator,
}

impl Handle for Assistants {
    async fn handle(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["assistants"]) => {
                let caller = self.authenticator.caller(request.headers()).await?;
                self.create(&caller, read_json(request.into_body()).await?)
                    .await
            }
            (_, ["assistants"]) => Err(Problem::method_not_allowed("POST")),
            (&Method::GET | &Method::HEAD, ["assistants", id]) => self.get(assistant_id(id)?).await,
            (_, ["assistants", _]) => Err(Problem::method_not_allowed("GET, HEAD")),
            _ => Err(Problem::not_found()),
        }
    }
}

/// Why a request that names an agent gets an assistant without it.
enum NotSynced {
    /// Fit for a log.
    Because(String),
    /// The id that it names is taken.
    Taken(AssistantId),
}

impl Assistants {
    async fn create(&self, caller: &Caller, body: Value) -> Result<Answer, Problem> {
        let create = AssistantCreate::parse(body)?;
        if let Some(agent) = &create.agent {
            match self.lazy_sync(caller, agent, &create).await? {
                Ok(assistant) => return Ok(json_answer(StatusCode::OK, &assistant.to_json())),
                Err(NotSynced::Taken(id)) => {
                    return self.existing(caller, id, create.if_exists).await;
                }
                Err(NotSynced::Because(reason)) => {
                    warn!(agent = %shortened(agent), reason, "lazy sync skipped, the assistant is made from the request alone");
                }
            }
        }
        let id = create
            .assistant_id
            .unwrap_or_else(|| AssistantId(Uuid::new_v4()));
        let if_exists = create.if_exists;
        match self
            .store
            .create(bare(caller, id, create)?)
            .await
            .map_err(|e| problem(&e))?
        {
            Some(assistant) => Ok(json_answer(StatusCode::OK, &assistant.to_json())),
            None => self.existing(caller, id, if_exists).await,
        }
    }

    /// Syncs the agent that the request names, and returns the assistant that is the caller's or everybody's.
    async fn lazy_sync(
        &self,
        caller: &Caller,
        agent: &Value,
        create: &AssistantCreate,
    ) -> Result<Result<Assistant, NotSynced>, Problem> {
        let skipped = |reason: &str| Ok(Err(NotSynced::Because(reason.to_owned())));
        let Some(syncer) = &self.syncer else {
            return skipped("in memory, nothing is synced");
        };
        if !self.dev {
            return skipped(&format!(
                "lazy sync is off ({} is false)",
                config::ROBYN_DEV
            ));
        }
        let Some(agent) = agent
            .as_str()
            .and_then(|id| Uuid::try_parse(id).ok())
            .map(AgentId)
        else {
            return skipped("supabase_agent_id is not an uuid");
        };
        let claim = Claim {
            owner: caller.owner(),
            assistant_id: create.assistant_id,
            if_exists: create.if_exists,
            metadata: create.metadata.clone(),
        };
        let batch = match syncer.sync_now(&[agent], Entrance::Request(&claim)).await {
            Ok(batch) => batch,
            // Where the database is down, so is the store: there is nothing to make instead. And what was made instead
            // while a newer worker takes over would be in its way.
            Err(e)
                if matches!(e.fault(), Fault::Passing | Fault::Locked)
                    || matches!(e, Error::Newer(_)) =>
            {
                return Err(problem(&e));
            }
            Err(e) => return skipped(&format!("the sync failed: {e}")),
        };
        match (batch.answer, batch.outcomes.into_iter().next()) {
            (_, Some((_, Outcome::Busy))) => Err(Problem::unavailable()),
            (_, Some((_, Outcome::Failed(error)))) => skipped(&format!("the sync failed: {error}")),
            (Some(plan::Answer::Taken), _) => Ok(Err(NotSynced::Taken(
                create.assistant_id.unwrap_or_else(|| agent.canonical()),
            ))),
            (Some(plan::Answer::Assistant(id)), _) => {
                let assistant = self.store.get(id).await.map_err(|e| problem(&e))?;
                Ok(assistant.ok_or_else(|| {
                    NotSynced::Because("the assistant was removed at once".to_owned())
                }))
            }
            (None, _) => skipped("there is no such active agent"),
        }
    }

    /// The answer where the id that the request names is taken.
    async fn existing(
        &self,
        caller: &Caller,
        id: AssistantId,
        if_exists: IfExists,
    ) -> Result<Answer, Problem> {
        let conflict = || {
            Problem::new(
                StatusCode::CONFLICT,
                format!("Assistant {id} already exists"),
            )
        };
        if if_exists == IfExists::Raise {
            return Err(conflict());
        }
        let existing = self
            .store
            .get(id)
            .await
            .map_err(|e| problem(&e))?
            .ok_or_else(conflict)?;
        match existing.metadata.get("owner").and_then(Value::as_str) {
            Some(owner) if owner != caller.owner() && owner != SYSTEM => Err(conflict()),
            _ => Ok(json_answer(StatusCode::OK, &existing.to_json())),
        }
    }

    async fn get(&self, id: AssistantId) -> Result<Answer, Problem> {
        match self.store.get(id).await.map_err(|e| problem(&e))? {
            Some(assistant) => Ok(json_answer(StatusCode::OK, &assistant.to_json())),
            None => Err(Problem::not_found()),
        }
    }
}

/// An assistant from the request alone, without any link to an agent.
fn bare(caller: &Caller, id: AssistantId, create: AssistantCreate) -> Result<New, Problem> {
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

/// What a client is told of an error; what it was stays in the log.
fn problem(error: &Error) -> Problem {
    error!(%error, "a request failed");
    match error.fault() {
        Fault::Data => Problem::unprocessable("The database cannot store this assistant"),
        Fault::Locked | Fault::Passing | Fault::Setup => Problem::unavailable(),
    }
}

/// A value that a client sent, fit for a log.
fn shortened(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}
