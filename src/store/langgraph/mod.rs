//! A LangGraph server as the place where assistants live, by its HTTP API. Whatever server it is: the official one, `langgraph dev`,
//! LangSmith, Aegra, and others differ in what they leave out and add, so nothing is believed that was not read.
//!
//! - Bodies are complete: servers disagree about what a field means that is not sent. `config` without `context`: both are refused.
//! - Each PATCH is a version, so none is sent for an assistant that says already what it should.
//! - An assistant is made with `if_exists=do_nothing`, which may be sent twice, and the answer is looked at: it may be somebody else's.
//! - When an answer is lost, nobody knows whether the write was done: look first, then write again.

mod answer;
mod body;
mod gate;
mod transport;
mod watch;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::stream::{self, StreamExt};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::batch::{self, Answers, How, Stands, Write};
use super::fingerprint;
use crate::config::LangGraph;
use crate::database::Error;
use crate::ids::{AssistantId, SYSTEM};
use crate::plan::Existing;
use answer::Assistant;
use transport::{Failure, Reply, Transport};

/// How often a write is tried before the agent has to wait: with a look in between.
const ATTEMPTS: u32 = 3;

/// How many requests are in hand at a time.
pub const CONCURRENCY: usize = 4;

#[derive(Debug)]
pub struct Server {
    transport: Transport,
    /// Rung when assistants of ours turned out not to be there any more.
    lost: Notify,
    /// The assistant that was written last.
    last: Mutex<Option<AssistantId>>,
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(config: &LangGraph) -> Self {
        Self {
            transport: Transport::new(config),
            lost: Notify::new(),
            last: Mutex::default(),
        }
    }

    /// Whether anything may be sent at the moment; if not, why.
    pub fn check(&self) -> Result<(), Error> {
        self.transport.check()
    }

    /// An assistant just as the server shows it.
    pub async fn get(&self, id: AssistantId) -> Result<Option<Value>, Error> {
        match self.find(id).await {
            Ok(found) => Ok(found.map(|assistant| assistant.json)),
            Err(failure) => Err(self.transport.error(failure)),
        }
    }

    /// Which of these exist, whoever made them.
    pub async fn observe(
        &self,
        ids: &[AssistantId],
    ) -> Result<HashMap<AssistantId, Existing>, Error> {
        let found = each(ids.iter().map(|id| self.find(*id)).collect()).await;
        let mut existing = HashMap::new();
        for (id, found) in ids.iter().zip(found) {
            let found = found.map_err(|failure| self.transport.error(failure))?;
            existing.extend(found.map(|assistant| (*id, assistant.existing())));
        }
        Ok(existing)
    }

    pub async fn write(
        &self,
        writes: &[Write<'_>],
        existing: &HashMap<AssistantId, Existing>,
    ) -> Answers<Stands> {
        let writing = writes
            .iter()
            .map(|write| self.write_one(write, existing.get(&write.assistant.id)));
        let ids = writes.iter().map(|write| write.assistant.id);
        self.answers(ids, each(writing.collect()).await)
    }

    /// What is not there is deleted.
    pub async fn delete(&self, ids: &[AssistantId]) -> Answers<()> {
        let deleted = each(ids.iter().map(|id| self.delete_one(*id)).collect()).await;
        self.answers(ids.iter().copied(), deleted)
    }

    /// Returns when assistants of ours seem to be gone: a server that keeps them in memory was restarted.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Assistants of ours are not there any more.
    pub fn is_lost(&self) {
        self.lost.notify_one();
    }

    fn last(&self) -> MutexGuard<'_, Option<AssistantId>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers<T>(
        &self,
        ids: impl Iterator<Item = AssistantId>,
        outcomes: Vec<Result<T, NotDone>>,
    ) -> Answers<T> {
        let mut answers = Answers::default();
        for (id, outcome) in ids.zip(outcomes) {
            let answer = match outcome {
                Ok(done) => batch::Answer::Done(done),
                Err(NotDone::Refused(why)) => batch::Answer::Refused(why),
                Err(NotDone::Failed(Failure::Broken(why))) => batch::Answer::Refused(why),
                Err(NotDone::Failed(Failure::Lost(_)) | NotDone::Again) => batch::Answer::Unknown,
                Err(NotDone::Failed(failure @ Failure::Stopped(..))) => {
                    answers.stopped = Some(self.transport.error(failure));
                    continue;
                }
            };
            answers.answers.insert(id, answer);
        }
        answers
    }

    async fn find(&self, id: AssistantId) -> Result<Option<Assistant>, Failure> {
        let reply = self.transport.read(&path(id)).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => match Assistant::parse(&reply.body) {
                Some(assistant) if assistant.id == Some(id) => Ok(Some(assistant)),
                _ => Err(self.transport.no_langgraph(&reply)),
            },
            _ => Err(self.transport.no_langgraph(&reply)),
        }
    }

    /// Writes, and where nobody knows what came of it, looks and writes again.
    async fn write_one(
        &self,
        write: &Write<'_>,
        existing: Option<&Existing>,
    ) -> Result<Stands, NotDone> {
        let id = write.assistant.id;
        let wanted = fingerprint::of_write(write);
        let mut found = existing.cloned();
        let mut sent = false;
        let mut lost = NotDone::Again;
        for _ in 0..ATTEMPTS {
            if let Some(row) = &found
                && row.row_hash == wanted
            {
                return Ok(Stands {
                    row_hash: wanted,
                    untouched: !sent,
                });
            }
            let attempt = match &found {
                None if write.how == How::Insert => self.create(write, &wanted).await,
                // It was there a moment ago. As an update it is made anew, if it may be.
                None => return Err(NotDone::Again),
                // Somebody was faster, or it is what we have sent and an agent has been edited since.
                Some(_) if write.how == How::Insert => return Err(NotDone::Again),
                // It has changed hands.
                Some(row) if write.how == How::Adopt && row.owner.as_deref() != Some(SYSTEM) => {
                    return Err(NotDone::Again);
                }
                Some(row) => self.patch(write, row).await,
            };
            match attempt {
                Ok(row_hash) => {
                    *self.last() = Some(id);
                    return Ok(Stands {
                        row_hash,
                        untouched: false,
                    });
                }
                Err(NotDone::Failed(failure)) if !failure.is_final() => lost = failure.into(),
                Err(other) => return Err(other),
            }
            sent = true;
            found = self.find(id).await?.map(|assistant| assistant.existing());
        }
        Err(lost)
    }

    async fn create(&self, write: &Write<'_>, wanted: &[u8]) -> Result<Vec<u8>, NotDone> {
        let id = write.assistant.id;
        let body = body::create(write);
        let reply = self
            .transport
            .write(&Method::POST, "/assistants", Some(&body))
            .await?;
        match reply.status {
            status if status.is_success() => {}
            StatusCode::CONFLICT => {
                return Err(NotDone::Refused(format!(
                    "assistant {id} exists on the LangGraph server, and is not shown to us: {}",
                    reply.detail()
                )));
            }
            _ => return Err(refused(&reply)),
        }
        let answered =
            Assistant::parse(&reply.body).ok_or_else(|| self.transport.no_langgraph(&reply))?;
        match answered.id {
            Some(answered) if answered != id => Err(NotDone::Refused(format!(
                "the LangGraph server answered with assistant {answered} instead of {id}: it seems to take two of the same configuration for one"
            ))),
            // What was there before is somebody else's, or ours and out of date: as `do_nothing` has it, it is untouched.
            _ => match answered.existing().row_hash {
                row_hash if row_hash == wanted => Ok(row_hash),
                _ => Err(NotDone::Again),
            },
        }
    }

    async fn patch(&self, write: &Write<'_>, found: &Existing) -> Result<Vec<u8>, NotDone> {
        let id = write.assistant.id;
        let body = body::patch(write, found);
        let reply = self
            .transport
            .write(&Method::PATCH, &path(id), Some(&body))
            .await?;
        match reply.status {
            status if status.is_success() => {}
            // It is the assistant that is not there, or the graph that it names.
            StatusCode::NOT_FOUND if self.find(id).await?.is_none() => {
                self.is_lost();
                return Err(NotDone::Again);
            }
            _ => return Err(refused(&reply)),
        }
        let answered =
            Assistant::parse(&reply.body).ok_or_else(|| self.transport.no_langgraph(&reply))?;
        match answered.id {
            Some(answered) if answered != id => Err(NotDone::Refused(format!(
                "the LangGraph server answered with assistant {answered} instead of {id}"
            ))),
            // As the server has it: one that adds something of its own is not written again and again for that.
            _ => Ok(answered.existing().row_hash),
        }
    }

    async fn delete_one(&self, id: AssistantId) -> Result<(), NotDone> {
        self.last().take_if(|last| *last == id);
        let mut lost = NotDone::Again;
        for _ in 0..ATTEMPTS {
            match self.transport.write(&Method::DELETE, &path(id), None).await {
                Ok(reply) if reply.status.is_success() || reply.status == StatusCode::NOT_FOUND => {
                    return Ok(());
                }
                Ok(reply) => return Err(refused(&reply)),
                // What is gone already is deleted: there is no need to look.
                Err(failure) if !failure.is_final() => lost = failure.into(),
                Err(stopped) => return Err(stopped.into()),
            }
        }
        Err(lost)
    }

    /// Whether the server answers, and as what: a restarted one may answer differently.
    pub async fn info(&self) -> Result<Value, Error> {
        let reply = self.transport.read("/info").await;
        let reply = reply.map_err(|failure| self.transport.error(failure))?;
        Ok(serde_json::from_slice(&reply.body).unwrap_or_else(|_| json!(reply.status.as_u16())))
    }
}

/// Why one assistant was not written or deleted.
enum NotDone {
    Failed(Failure),
    /// Look again.
    Again,
    Refused(String),
}

impl From<Failure> for NotDone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn refused(reply: &Reply) -> NotDone {
    NotDone::Refused(format!(
        "the LangGraph server refuses it ({}): {}",
        reply.status,
        reply.detail()
    ))
}

fn path(id: AssistantId) -> String {
    format!("/assistants/{id}")
}

/// A few at a time.
async fn each<F: Future>(work: Vec<F>) -> Vec<F::Output> {
    stream::iter(work).buffered(CONCURRENCY).collect().await
}
