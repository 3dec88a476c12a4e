//! Which agents a user may have. The database decides: it is asked in the user's name, the way PostgREST asks, and its own
//! row-level security and grants answer. Nothing here knows what an organization is.
//!
//! The questions have a small pool of their own, since they are asked while a sync holds a connection of the other. A
//! connection goes back only when the session is as it was before, so that nobody ever acts under another's name.

mod glance;
mod identity;
mod together;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row as Record};
use uuid::Uuid;

use glance::Glances;
pub use glance::{Arguments, Glimpse};
pub use identity::Identity;

use crate::agent::{Agent, Head, Row};
use crate::config::{self, Authorize};
use crate::database::{Database, DatabaseUrl, Error, Fault, Param, column};
use crate::ids::AgentId;
use crate::metrics::Connections;
use crate::source::{self, Shape};
use crate::sql;
use crate::store::Synced;

/// The role of signed-in users in a Supabase project.
const ROLE: &str = "authenticated";

/// How many connections the questions need at most: those of requests, and those of syncs that nobody has asked for. However
/// many requests there are, they do not keep the others waiting.
const FOR_REQUESTS: usize = 3;
const FOR_SYNCS: usize = 2;
pub const CONNECTIONS: usize = FOR_REQUESTS + FOR_SYNCS;

/// How long the answers may take. A sync waits for them with a transaction open, which ends after ten idle seconds.
const PATIENCE: Duration = Duration::from_secs(6);

/// How many users are asked about in a transaction.
const TOGETHER: usize = 100;

/// For the whole transaction.
/// - Who waits for a table's lock has us wait behind him, and may be waiting for us: a sync reads the same tables.
/// - What policies have to say by the way is not for the log: it may be whatever a claim says.
const LIMITS: &str = "set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '500ms'; \
     set local client_min_messages = error; ";

/// How it becomes [`ROLE`]. The search path is PostgREST's on Supabase: policies may call functions by their bare names.
const AS_CALLER: &str = "set local row_security = on; set local search_path = public, extensions; \
     set local request.method = 'POST'; set local request.headers = '{}'; set local role = authenticated; ";

/// Which of these agents may this user have?
#[derive(Debug)]
pub struct Question {
    pub identity: Identity,
    pub agents: Vec<AgentId>,
}

/// What the database says to a [`Question`].
#[derive(Debug)]
pub enum Shown {
    /// The agents that the user may read, as they are to that user.
    Rows(HashMap<AgentId, Row>),
    /// Users lack a privilege.
    Denied,
    /// It cannot be told ([`Verdict::Unknown`]).
    Unknown { why: String, passing: bool },
}

/// Who has a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// A request, about its own caller.
    Requests,
    /// A sync, about users who are not here.
    Syncs,
}

impl For {
    /// How long a policy may think about one user. In a sync, others wait.
    fn statement_timeout(self) -> &'static str {
        match self {
            Self::Requests => "5s",
            Self::Syncs => "2s",
        }
    }
}

/// What is known about one user and one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The database shows the user just what the worker has read.
    Granted,
    /// Not so. Why, fit for a log; a client is told nothing.
    Denied(String),
    /// The user is shown something else: the agent was edited between the two reads, or the user sees only a part of it.
    Different,
    /// It cannot be told: because of a lost connection, say (`passing`), or of something an operator has to mend.
    Unknown { why: String, passing: bool },
}

/// Asks the database in users' names.
#[derive(Debug, Clone)]
pub struct Access {
    /// `None`: nobody is asked, everybody may have everything.
    databases: Option<Databases>,
    authorize: Authorize,
    /// Whether users who are not here are asked about.
    pub recheck: bool,
}

#[derive(Debug, Clone)]
struct Databases {
    requests: Database,
    /// Those that wait for them.
    glances: Arc<Glances>,
    syncs: Database,
}

impl Access {
    /// For development, and for whatever has no users.
    pub fn open() -> Self {
        Self {
            databases: None,
            authorize: Authorize::default(),
            recheck: false,
        }
    }

    /// `url`: as whom to log in. That role must be able to become `authenticated`.
    pub fn new(url: &DatabaseUrl, authorize: Authorize, recheck: bool) -> Self {
        let url = url.named("agent-sync access");
        Self {
            databases: Some(Databases {
                requests: Database::sized(&url, FOR_REQUESTS),
                glances: glance::glances(),
                syncs: Database::sized(&url, FOR_SYNCS),
            }),
            authorize,
            recheck,
        }
    }

    pub fn is_open(&self) -> bool {
        self.databases.is_none()
    }

    /// `None`: it has none.
    pub fn connections(&self) -> Option<Connections> {
        let Databases {
            requests, syncs, ..
        } = self.databases.as_ref()?;
        let (requests, syncs) = (requests.connections(), syncs.connections());
        Some(Connections {
            idle: requests.idle + syncs.idle,
            busy: requests.busy + syncs.busy,
            waiting: requests.waiting + syncs.waiting,
        })
    }

    /// One answer a question. Where time runs out, the rest is unknown; who comes first is left to chance, so that it is not
    /// always the same.
    ///
    /// # Errors
    /// Where nobody can be asked at all: the role cannot be taken, or row-level security does not decide.
    pub async fn ask(
        &self,
        asking: For,
        shape: &Shape,
        questions: &[Question],
    ) -> Result<Vec<Shown>, Error> {
        let first = (Uuid::new_v4().as_u128() % questions.len().max(1) as u128) as usize;
        let order: Vec<usize> = (first..questions.len()).chain(0..first).collect();
        let mut answers: Vec<Option<Shown>> = questions.iter().map(|_| None).collect();
        let deadline = Instant::now() + PATIENCE;
        let mut why = "there was no time to ask".to_owned();
        for (group, asked) in order.chunks(TOGETHER).enumerate() {
            let left = deadline.duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let answered = self.ask_together(asking, left, shape, questions, asked);
            match answered.await {
                Ok(shown) => {
                    for (place, shown) in asked.iter().zip(shown) {
                        answers[*place] = Some(shown);
                    }
                }
                Err(e) if group == 0 => return Err(e),
                Err(e) => {
                    why = e.to_string();
                    break;
                }
            }
        }
        let unknown = || Shown::Unknown {
            why: why.clone(),
            passing: true,
        };
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(unknown))
            .collect())
    }

    async fn ask_together(
        &self,
        asking: For,
        patience: Duration,
        shape: &Shape,
        questions: &[Question],
        asked: &[usize],
    ) -> Result<Vec<Shown>, Error> {
        let statement = match self.authorize {
            Authorize::Agent => shape.read_as_caller(),
            Authorize::Source => shape.read_whole(),
        };
        let shown = self.acting(asking, patience, shape, async |client| {
            // All of them are on their way before the first is answered.
            let reads = join_all(asked.iter().map(async |place| {
                let Question { identity, agents } = &questions[*place];
                let agents = &[(agents as _, Type::UUID_ARRAY)];
                read_as(client, identity, statement, agents).await
            }));
            reads.await.into_iter().map(shown).collect()
        });
        let denied = || asked.iter().map(|_| Shown::Denied).collect();
        Ok(shown.await?.unwrap_or_else(denied))
    }

    /// All agents that this user may read, active or not, with their organizations.
    pub async fn list(
        &self,
        shape: &Shape,
        identity: &Identity,
    ) -> Result<Vec<(AgentId, Option<Uuid>)>, Error> {
        let listed = self.acting(For::Requests, PATIENCE, shape, async |client| {
            let records = read_as(client, identity, shape.list_as_caller(), &[]).await?;
            let agent = |record| Ok((column(record, "id")?, column(record, "organization_id")?));
            records.iter().map(agent).collect()
        });
        Ok(listed.await?.unwrap_or_default())
    }

    /// Whether anybody can be asked about at all.
    ///
    /// # Errors
    /// Says what to mend.
    pub async fn check(&self, shape: &Shape) -> Result<(), Error> {
        if !self.is_open() {
            self.is_privileged(shape).await?;
        }
        Ok(())
    }

    /// Whether users may read every column that the mapping uses. If not, all of them are denied every agent.
    ///
    /// # Errors
    /// As of [`Self::check`].
    pub async fn is_privileged(&self, shape: &Shape) -> Result<bool, Error> {
        let acting = self.acting(For::Syncs, PATIENCE, shape, async |_| Ok(()));
        Ok(acting.await?.is_some())
    }

    /// What the answer means for an agent that the worker itself has read like this.
    pub fn verdict(&self, agent: AgentId, read: &Row, shown: &Shown) -> Verdict {
        let theirs = match self.row(agent, read, shown) {
            Ok(theirs) => theirs,
            Err(verdict) => return verdict,
        };
        match (read.decode(), theirs.decode()) {
            (Ok(ours), Ok(theirs)) if ours == theirs => Verdict::Granted,
            // Nothing can be made of it.
            (Err(_), _) => Verdict::Granted,
            _ => Verdict::Different,
        }
    }

    /// An agent as its user is shown it, complete; or what it means that they are not.
    fn row(&self, agent: AgentId, read: &Row, shown: &Shown) -> Result<Row, Verdict> {
        let rows = match shown {
            Shown::Rows(rows) => rows,
            Shown::Denied => {
                return Err(Verdict::Denied(format!(
                    "{ROLE} may not read every column of public.agents that the mapping uses"
                )));
            }
            Shown::Unknown { why, passing } => {
                return Err(Verdict::Unknown {
                    why: why.clone(),
                    passing: *passing,
                });
            }
        };
        let Some(theirs) = rows.get(&agent).cloned() else {
            let why = "the database does not show the agent to its user";
            return Err(Verdict::Denied(why.to_owned()));
        };
        Ok(match self.authorize {
            // Tools and model belong to the agent's configuration.
            Authorize::Agent => Row {
                tools: read.tools.clone(),
                model: read.model.clone(),
                ..theirs
            },
            Authorize::Source => theirs,
        })
    }

    /// Whether a shared assistant may be shown to a user who is shown its agent like this: it says what that row says, or, while an
    /// edit is under way and where the agent fails, what an active one of the same organization has said. An assistant
    /// may outlive its agent, whose id anybody may use who inserts a row.
    pub fn shows(
        &self,
        synced: &Synced,
        read: &Row,
        shown: &Shown,
        hash: impl Fn(Agent) -> Vec<u8>,
    ) -> bool {
        let Ok(theirs) = self.row(synced.agent, read, shown) else {
            return false;
        };
        if self.authorize == Authorize::Source
            && self.verdict(synced.agent, read, shown) != Verdict::Granted
        {
            return false;
        }
        let is_same =
            |head: Head| head.is_active() && head.organization_id == synced.organization_id;
        theirs.head().is_ok_and(is_same)
            || theirs
                .decode()
                .is_ok_and(|agent| hash(agent) == synced.content_hash)
    }

    /// Lends a session that acts as [`ROLE`], in a read-only transaction. `None`: that role may not read all that matters.
    async fn acting<T>(
        &self,
        asking: For,
        patience: Duration,
        shape: &Shape,
        work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let database = match (&self.databases, asking) {
            (Some(databases), For::Requests) => &databases.requests,
            (Some(databases), For::Syncs) => &databases.syncs,
            (None, _) => return Err(Error::Setup("nobody can be asked".to_owned())),
        };
        let asking = async {
            let client = database.client().await?;
            let timeout = asking.statement_timeout();
            let settings = format!("{LIMITS}{AS_CALLER}set local statement_timeout = '{timeout}'");
            // Sent together, answered in this order.
            let (begun, acts, server, acting) = futures::join!(
                client.batch_execute("begin isolation level read committed, read only"),
                client.batch_execute(&settings),
                client.query_typed_one(sql!("server"), &[]),
                client.query_typed_one(shape.acting(), &[]),
            );
            begun?;
            acts.map_err(|e| no_role(e.into()))?;
            if column::<&str>(&server?, "place")? != shape.place() {
                return Err(Error::Pool(format!(
                    "{} leads to another server than the worker's own connection, or the server has just been restarted",
                    config::AUTHENTICATOR_URL
                )));
            }
            let acting = acting?;
            if !column::<bool>(&acting, "secured")? {
                return Err(Error::Setup(format!(
                    "row-level security does not decide which rows of public.agents role {ROLE} may read, so lazy sync is \
                     refused: `alter table public.agents enable row level security`, and see that {ROLE} neither owns it \
                     nor has bypassrls"
                )));
            }
            let done = match column(&acting, "privileged")? {
                true => Some(work(&client).await?),
                false => None,
            };
            let (ended, acted) = futures::join!(
                client.batch_execute("rollback"),
                client.query_typed_one(sql!("acted"), &[]),
            );
            ended?;
            if column(&acted?, "clean")? {
                client.give_back();
            }
            Ok(done)
        };
        database.within(patience, asking).await
    }
}

/// Sends one question, behind a savepoint, so that neither its identity nor its error reaches the next.
async fn read_as(
    client: &Client,
    identity: &Identity,
    statement: &str,
    params: &[Param<'_>],
) -> Result<Vec<Record>, Error> {
    let (names, values) = identity.settings();
    let claims: [Param<'_>; 2] = [(&names, Type::TEXT_ARRAY), (&values, Type::TEXT_ARRAY)];
    let (begun, became, read, ended) = futures::join!(
        client.batch_execute("savepoint asked"),
        client.query_typed_one(sql!("claims"), &claims),
        client.query_typed(statement, params),
        client.batch_execute("rollback to savepoint asked"),
    );
    begun?;
    became?;
    ended?;
    Ok(read?)
}

/// What to do where the role cannot be taken.
fn no_role(error: Error) -> Error {
    match error.fault() {
        Fault::Passing | Fault::Locked => error,
        Fault::Setup | Fault::Data => Error::Setup(format!(
            "the role that lazy sync logs in as cannot become {ROLE} ({}): `grant {ROLE} to` it, or name one that can \
             (PostgREST's authenticator) in {}",
            error
                .denial()
                .map_or_else(|| error.to_string(), str::to_owned),
            config::AUTHENTICATOR_URL
        )),
    }
}

/// An error where nobody is answered any more.
fn shown(read: Result<Vec<Record>, Error>) -> Result<Shown, Error> {
    match read {
        Ok(records) => {
            let rows: Result<_, Error> = records.iter().map(source::row).collect();
            Ok(Shown::Rows(rows?))
        }
        Err(e) if e.is_from_server() => Ok(Shown::Unknown {
            why: match e.denial() {
                Some(denial) => format!("{denial}: a policy needs what role {ROLE} may not do"),
                None => e.to_string(),
            },
            // A policy that takes too long is not somebody's bad luck: it is tried again with growing pauses.
            passing: matches!(e.fault(), Fault::Locked | Fault::Passing) && !e.is_canceled(),
        }),
        Err(e) => Err(e),
    }
}
