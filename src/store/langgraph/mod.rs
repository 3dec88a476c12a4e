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
mod reply;
mod transport;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use hyper::{Method, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::batch::{self, Answers, How, Sight, Stands, Unseen, Write};
use super::{fingerprint, timestamp};
use crate::config::LangGraph;
use crate::database::Error;
use crate::ids::{AssistantId, SYSTEM};
use crate::metrics::StoreCalls;
use crate::plan::Existing;
use crate::retry::{self, Backoff};
use answer::Assistant;
use reply::Reply;
use transport::{FIRST_PAUSE, Failure, LONGEST_PAUSE, Transport};

/// How often a write is tried before the agent has to wait: with a look in between.
const ATTEMPTS: u32 = 3;

/// How many assistants in a row must not be shown for an internal error, before that is taken for the server's trouble rather than theirs.
const SYSTEMIC: usize = 5;

/// How many requests are in hand at a time.
pub const CONCURRENCY: usize = 4;

#[derive(Debug)]
pub struct Server {
    transport: Transport,
    /// Rung when assistants of ours turned out not to be there any more.
    lost: Notify,
    /// The assistant that was written last.
    last: Mutex<Option<AssistantId>>,
    /// Of which no answer came in time, how often in a row.
    late: Mutex<HashMap<AssistantId, i32>>,
    /// Those that were not shown for an internal error, since one was.
    broken: Mutex<HashSet<AssistantId>>,
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(config: &LangGraph) -> Self {
        Self {
            transport: Transport::new(config),
            lost: Notify::new(),
            last: Mutex::default(),
            late: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// Where to count its requests. Once.
    pub fn count_on(&self, calls: StoreCalls) {
        self.transport.count_on(calls);
    }

    /// Whether anything may be sent at the moment; if not, why.
    pub fn check(&self) -> Result<(), Error> {
        self.transport.check()
    }

    /// Waits until anything may be sent.
    pub async fn opened(&self) {
        self.transport.opened().await;
    }

    /// What keeps us from using the server, since it was last seen to.
    pub fn trouble(&self) -> Option<Error> {
        self.transport.trouble()
    }

    /// An assistant just as the server shows it.
    pub async fn get(&self, id: AssistantId) -> Result<Option<Value>, Error> {
        match self.find(id).await {
            Ok(found) => Ok(found.map(|assistant| assistant.json)),
            Err(NotDone::Failed(failure)) => Err(self.transport.error(failure)),
            Err(NotDone::Refused(why)) => Err(self.transport.error(Failure::Broken(why))),
            Err(NotDone::Again) => Ok(None),
        }
    }

    /// Which of these exist, whoever made them.
    pub async fn observe(&self, ids: &[AssistantId]) -> Result<Sight, Error> {
        let found = each(ids.iter().map(|id| self.find(*id)).collect()).await;
        let mut sight = Sight::default();
        for (id, found) in ids.iter().zip(found) {
            match found {
                Ok(found) => {
                    let existing = found.map(|assistant| (*id, assistant.existing()));
                    sight.existing.extend(existing);
                }
                Err(NotDone::Refused(why) | NotDone::Failed(Failure::Broken(why))) => {
                    sight.unseen.insert(*id, Unseen::Refused(why));
                }
                Err(NotDone::Failed(stopped @ Failure::Stopped(..))) => {
                    return Err(self.transport.error(stopped));
                }
                Err(passing) => {
                    let after = self.look_after(*id, &passing);
                    sight.unseen.insert(*id, Unseen::Unknown(after));
                }
            }
        }
        Ok(sight)
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

    fn late(&self) -> MutexGuard<'_, HashMap<AssistantId, i32>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, HashSet<AssistantId>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to look at an assistant again of which it is not known what became of it. One that takes too long each time would keep the
    /// others waiting each time.
    fn look_after(&self, id: AssistantId, why: &NotDone) -> Duration {
        let mut late = self.late();
        let times = match why {
            NotDone::Failed(Failure::Late(why)) => {
                warn!(assistant = %id, why, "nobody knows what became of the assistant");
                late.entry(id).or_default()
            }
            NotDone::Failed(Failure::Lost(why)) => {
                info!(assistant = %id, why, "nobody knows what became of the assistant");
                return retry::agent_delay(1);
            }
            _ => return retry::agent_delay(1),
        };
        *times = times.saturating_add(1);
        retry::agent_delay(*times)
    }

    fn answers<T>(
        &self,
        ids: impl Iterator<Item = AssistantId>,
        outcomes: Vec<Result<T, NotDone>>,
    ) -> Answers<T> {
        let mut answers = Answers::default();
        for (id, outcome) in ids.zip(outcomes) {
            let answer = match outcome {
                Ok(done) => {
                    self.late().remove(&id);
                    batch::Answer::Done(done)
                }
                Err(NotDone::Refused(why) | NotDone::Failed(Failure::Broken(why))) => {
                    batch::Answer::Refused(why)
                }
                Err(NotDone::Failed(stopped @ Failure::Stopped(..))) => {
                    answers.stopped = Some(self.transport.error(stopped));
                    continue;
                }
                Err(passing) => batch::Answer::Unknown(self.look_after(id, &passing)),
            };
            answers.answers.insert(id, answer);
        }
        answers
    }

    async fn find(&self, id: AssistantId) -> Result<Option<Assistant>, NotDone> {
        let reply = match self.transport.read(&path(id)).await {
            Err(Failure::Broken(why)) => {
                let broken = {
                    let mut broken = self.broken();
                    broken.insert(id);
                    broken.len()
                };
                return Err(match broken >= SYSTEMIC {
                    true => self.transport.is_broken(&why),
                    false => Failure::Broken(why),
                }
                .into());
            }
            read => read?,
        };
        self.broken().clear();
        match reply.status {
            StatusCode::NOT_FOUND if !reply.is_html() => Ok(None),
            status if status.is_success() => match Assistant::parse(&reply.body) {
                Some(assistant) if assistant.id == Some(id) => Ok(Some(assistant)),
                Some(another) => Err(is_another(id, &another)),
                None => Err(self.transport.no_langgraph(&reply).into()),
            },
            StatusCode::NOT_FOUND => Err(self.transport.no_langgraph(&reply).into()),
            _ => Err(refused(&reply)),
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
        let stands = |row: &Existing| is_left_alone(write, &wanted, row);
        if let Some(row) = existing.filter(|row| stands(row)) {
            return Ok(Stands {
                row_hash: row.row_hash.clone(),
                is_noted: false,
                untouched: true,
            });
        }
        let stamp = timestamp(OffsetDateTime::now_utc());
        let mut found = existing.cloned();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut lost = NotDone::Again;
        for _ in 0..ATTEMPTS {
            let attempt = match &found {
                None if write.how == How::Insert => self.create(write, &stamp, &wanted).await,
                // It was there a moment ago. As an update it is made anew, if it may be.
                None => return Err(NotDone::Again),
                // Somebody was faster, or it is what we have sent and an agent has been edited since.
                Some(_) if write.how == How::Insert => return Err(NotDone::Again),
                // It has changed hands.
                Some(row) if write.how == How::Adopt && row.owner.as_deref() != Some(SYSTEM) => {
                    return Err(NotDone::Again);
                }
                Some(row) => self.patch(write, &stamp, row).await,
            };
            let row_hash = match attempt {
                Ok(row_hash) => row_hash,
                Err(NotDone::Failed(failure @ (Failure::Lost(_) | Failure::Broken(_)))) => {
                    lost = failure.into();
                    tokio::time::sleep(backoff.pause()).await;
                    let seen = self.find(id).await?;
                    found = seen.as_ref().map(Assistant::existing);
                    match (seen, &found) {
                        (Some(seen), Some(row)) if seen.has(&stamp) || stands(row) => {
                            row.row_hash.clone()
                        }
                        _ => continue,
                    }
                }
                Err(other) => return Err(other),
            };
            *self.last() = Some(id);
            return Ok(Stands {
                row_hash,
                is_noted: false,
                untouched: false,
            });
        }
        Err(lost)
    }

    async fn create(
        &self,
        write: &Write<'_>,
        stamp: &str,
        wanted: &[u8],
    ) -> Result<Vec<u8>, NotDone> {
        let id = write.assistant.id;
        let body = body::create(write, stamp);
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
        if answered.id != Some(id) {
            return Err(is_another(id, &answered));
        }
        let row_hash = answered.existing().row_hash;
        // What was there before is somebody else's, or ours and out of date: as `do_nothing` has it, it is untouched. What says when we have
        // sent it is ours, as the server has it: one that adds something of its own is not written again and again for that.
        match row_hash == wanted || answered.has(stamp) {
            true => Ok(row_hash),
            false => Err(NotDone::Again),
        }
    }

    async fn patch(
        &self,
        write: &Write<'_>,
        stamp: &str,
        found: &Existing,
    ) -> Result<Vec<u8>, NotDone> {
        let id = write.assistant.id;
        let body = body::patch(write, stamp, found);
        let reply = self
            .transport
            .write(&Method::PATCH, &path(id), Some(&body))
            .await?;
        match reply.status {
            status if status.is_success() => {}
            // It is the assistant that is not there, or the graph that it names.
            StatusCode::NOT_FOUND if !reply.is_html() && self.find(id).await?.is_none() => {
                self.is_lost();
                return Err(NotDone::Again);
            }
            _ => return Err(refused(&reply)),
        }
        let answered =
            Assistant::parse(&reply.body).ok_or_else(|| self.transport.no_langgraph(&reply))?;
        match answered.id == Some(id) {
            true => Ok(answered.existing().row_hash),
            false => Err(is_another(id, &answered)),
        }
    }

    async fn delete_one(&self, id: AssistantId) -> Result<(), NotDone> {
        self.last().take_if(|last| *last == id);
        let mut lost = NotDone::Again;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 0..ATTEMPTS {
            match self.transport.write(&Method::DELETE, &path(id), None).await {
                Ok(reply) if reply.status.is_success() => return Ok(()),
                Ok(reply) if reply.status == StatusCode::NOT_FOUND && !reply.is_html() => {
                    return Ok(());
                }
                Ok(reply) if reply.status == StatusCode::NOT_FOUND => {
                    return Err(self.transport.no_langgraph(&reply).into());
                }
                Ok(reply) => return Err(refused(&reply)),
                // What is gone already is deleted: there is no need to look.
                Err(failure @ (Failure::Lost(_) | Failure::Broken(_))) => {
                    lost = failure.into();
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(lost)
    }
}

/// Whether an assistant that was found like this says already what it should.
pub fn says_so_already(write: &Write<'_>, found: &Existing) -> bool {
    is_left_alone(write, &fingerprint::of_write(write), found)
}

fn is_left_alone(write: &Write<'_>, wanted: &[u8], found: &Existing) -> bool {
    // Of whom it takes over nothing may stay.
    let is_taken_over = matches!(write.how, How::Adopt | How::HandOver);
    found.row_hash == wanted && (found.foreign.is_empty() || !is_taken_over)
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

fn is_another(id: AssistantId, answered: &Assistant) -> NotDone {
    let answered = answered
        .id
        .map_or("one that is no uuid".to_owned(), |id| id.to_string());
    NotDone::Refused(format!(
        "the LangGraph server answers with assistant {answered} instead of {id}: does it take two of the same configuration for one?"
    ))
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
