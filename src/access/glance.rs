//! A glance at one agent, as the worker and then as one user, in as little time as possible; and at several, each of another user's,
//! where they would have to wait for each other.
//!
//! Where users are asked about by the same login as the worker's, all of it is one message. Whatever goes wrong in it, the rest is not
//! done: the transaction has failed; and what is read says by itself in whose name that was. Users are told apart by a savepoint: what
//! one has claimed, or a policy has set, is taken back before the next one's turn. Where anything goes wrong for one of several, each is
//! asked about alone.

use std::fmt;
use std::sync::{Arc, LazyLock};

use tokio_postgres::SimpleQueryRow;

use super::together::Together;
use super::{AS_CALLER, Access, Databases, FOR_REQUESTS, For, Identity, LIMITS, PATIENCE};
use crate::config::Authorize;
use crate::database::prepared::{self, PLANNED, Prepared, literal};
use crate::database::{Database, Error, Lease, column};
use crate::ids::AgentId;
use crate::source::Shape;
use crate::sql;

/// How many glances are one message at most. With more of them, nobody gets more done, and everybody waits for the slowest.
const MOST: usize = 8;

/// How long a policy may think about one of several users. Who takes longer is asked about alone.
const TIMEOUT: &str = "500ms";

/// How the login role looks at the tables itself: as in any other transaction of the worker's.
const AS_WORKER: &str = "set local row_security = off; set local search_path = ''; ";

/// How policies are planned is the application's affair.
const AS_EVER: &str = "set local plan_cache_mode to default; set local enable_seqscan to default; ";

static CLAIMS: LazyLock<Prepared> =
    LazyLock::new(|| Prepared::new("text[], text[]", sql!("claims")));

/// Asked at the end.
static ACTED: LazyLock<Prepared> = LazyLock::new(|| Prepared::new("", sql!("acted")));

/// What a glance shows.
#[derive(Debug)]
pub struct Glimpse {
    /// To the worker: what comes of `glance.sql`.
    pub rows: Vec<SimpleQueryRow>,
    /// To the caller: the agent, as a hash (`glance_as_caller.sql`).
    pub shown: Option<String>,
}

/// What `glance.sql` is asked.
#[derive(Debug)]
pub struct Arguments<'a> {
    pub agent: AgentId,
    /// Who asks for it.
    pub owner: &'a str,
    /// What else the mapping goes by.
    pub basis: &'a str,
}

impl fmt::Display for Arguments<'_> {
    /// As literals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, basis) = (literal(self.owner), literal(self.basis));
        write!(f, "'{}', {owner}, {basis}", self.agent)
    }
}

/// Glances that wait.
pub type Glances = Together<Asked, Seen>;

pub fn glances() -> Arc<Glances> {
    Arc::new(Together::new(FOR_REQUESTS, MOST))
}

/// What one glance asks. Arguments are literals.
#[derive(Debug)]
pub struct Asked {
    shape: Arc<Shape>,
    /// Of `glance.sql`. `None`: the worker has looked already.
    look: Option<String>,
    /// Of `claims.sql`.
    claims: String,
    /// Of `glance_as_caller.sql`.
    read: String,
}

/// What came of it.
#[derive(Debug)]
pub enum Seen {
    /// To the worker, unless it had looked already; and to the caller.
    Rows {
        looked: Vec<SimpleQueryRow>,
        read: Vec<SimpleQueryRow>,
    },
    /// It takes [`Access::ask`] to tell.
    Unclear,
}

impl Access {
    /// Whether [`Self::glance`] takes no connection of the worker's own.
    pub fn is_asked_in_one(&self, worker: &Database) -> bool {
        let databases = self.databases.as_ref();
        databases.is_some_and(|databases| databases.requests.has_login_of(worker))
    }

    /// A glance at one agent, as the worker and then as one user. `None`: it takes [`Self::ask`] to tell. `arguments`: of `glance.sql`.
    pub async fn glance(
        &self,
        worker: &Database,
        shape: &Arc<Shape>,
        identity: &Identity,
        arguments: &Arguments<'_>,
    ) -> Result<Option<Glimpse>, Error> {
        let Some(databases) = &self.databases else {
            return Ok(None);
        };
        let (mut before, mut look) = (None, Some(arguments.to_string()));
        if !self.is_asked_in_one(worker) {
            let glance = &shape.glances(self.authorize).glance;
            let arguments = look.take().unwrap_or_default();
            before = worker.read_prepared(glance, &arguments).await?;
            if before.is_none() {
                return Ok(None);
            }
        }
        let asked = Arc::new(Asked {
            shape: shape.clone(),
            look,
            claims: identity.arguments(),
            read: format!("'{}', {}", arguments.agent, literal(arguments.basis)),
        });
        let glancing = async {
            let put = async |asked: &[Arc<Asked>]| databases.put(self.authorize, asked).await;
            match databases.glances.ask(asked.clone(), put).await? {
                None => Ok(put(&[asked]).await?.pop()),
                seen => Ok(seen),
            }
        };
        match databases.requests.within(PATIENCE, glancing).await? {
            Some(Seen::Rows { looked, read }) if is_true(&read, "secured")? => {
                let shown = read.first().map(|row| prepared::text(row, "shown"));
                Ok(Some(Glimpse {
                    shown: shown.transpose()?.flatten().map(str::to_owned),
                    rows: before.unwrap_or(looked),
                }))
            }
            _ => Ok(None),
        }
    }
}

impl Databases {
    /// Glances, all in one transaction. Nothing for several means: one by one.
    async fn put(&self, authorize: Authorize, asked: &[Arc<Asked>]) -> Result<Vec<Seen>, Error> {
        if !self.requests.keeping.is_of_use() {
            return Ok(asked.iter().map(|_| Seen::Unclear).collect());
        }
        let statements = statements(authorize, asked);
        let client = self.requests.client().await?;
        if client.is_new() {
            prepared::make(&client, &statements).await;
        }
        let mut prepare = "";
        let mut tries = statements.len();
        let sent = loop {
            let message = message(authorize, asked, prepare);
            let sent = client.simple_query(&message).await.map_err(Error::from);
            if !self.requests.keeping.is_missing(&sent) || tries == 0 {
                break sent;
            }
            // Made on the next try, it is there from then on.
            tries -= 1;
            let is_named = |one: &&&Prepared| sent.as_ref().is_err_and(|e| one.is_named_in(e));
            let missing = statements.iter().find(is_named);
            prepare = missing.map_or("", |missing| missing.prepare());
            client.batch_execute("rollback").await?;
        };
        match sent {
            Err(e) if e.is_from_server() => {
                client.batch_execute("rollback").await?;
                let acted = client.query_typed_one(sql!("acted"), &[]).await?;
                if column(&acted, "clean")? {
                    client.give_back();
                }
                Ok(match asked.len() {
                    1 => vec![Seen::Unclear],
                    _ => Vec::new(),
                })
            }
            sent => told(client, asked, prepared::rows(sent?)),
        }
    }
}

/// What is kept of what is asked, each once.
fn statements(authorize: Authorize, asked: &[Arc<Asked>]) -> Vec<&Prepared> {
    let mut statements = vec![&*CLAIMS, &*ACTED];
    for asked in asked {
        let glances = asked.shape.glances(authorize);
        for statement in [&glances.glance, &glances.as_caller] {
            if !statements.contains(&statement) {
                statements.push(statement);
            }
        }
    }
    statements
}

/// First what each asks as the worker, then what they ask as users.
fn message(authorize: Authorize, asked: &[Arc<Asked>], prepare: &str) -> String {
    let more = asked.len() > 1;
    let timeout = match more {
        true => TIMEOUT,
        false => For::Requests.statement_timeout(),
    };
    let mut message = format!(
        "begin isolation level read committed, read only; {LIMITS}set local statement_timeout = '{timeout}'; {prepare}"
    );
    let mut say = |text: &str| message.push_str(text);
    match looks(asked) {
        true => {
            say(AS_WORKER);
            say(PLANNED);
            for asked in asked {
                let glance = &asked.shape.glances(authorize).glance;
                asked
                    .look
                    .iter()
                    .for_each(|look| say(&glance.execute(look)));
            }
            say(AS_EVER);
        }
        false => {
            say(sql!("server"));
            say("; ");
        }
    }
    say(AS_CALLER);
    for (place, asked) in asked.iter().enumerate() {
        if place > 0 {
            say("rollback to savepoint asked; ");
        } else if more {
            say("savepoint asked; ");
        }
        say(&CLAIMS.execute(&asked.claims));
        say(&asked
            .shape
            .glances(authorize)
            .as_caller
            .execute(&asked.read));
    }
    say("rollback; ");
    say(&ACTED.execute(""));
    message
}

/// Whether it is asked here what the worker sees. (All have it so, or none.)
fn looks(asked: &[Arc<Asked>]) -> bool {
    asked.iter().all(|asked| asked.look.is_some())
}

/// Who was told what. `rows`: by statement, of those that have any columns.
fn told(
    client: Lease,
    asked: &[Arc<Asked>],
    rows: Vec<Vec<SimpleQueryRow>>,
) -> Result<Vec<Seen>, Error> {
    let mut rows = rows.into_iter();
    let mut next = || rows.next().unwrap_or_default();
    let looks = looks(asked);
    let mut looked = Vec::new();
    let mut here = None;
    match looks {
        true => looked.extend(asked.iter().map(|_| next())),
        false => {
            let row = next().into_iter().next();
            let place = row.as_ref().map(|row| prepared::text(row, "place"));
            here = place.transpose()?.flatten().map(str::to_owned);
        }
    }
    let mut looked = looked.into_iter();
    let mut seen = Vec::new();
    for asked in asked {
        let (_claims, read) = (next(), next());
        let looked = looked.next().unwrap_or_default();
        seen.push(
            match looks || here.as_deref() == Some(asked.shape.place()) {
                true => Seen::Rows { looked, read },
                // It leads to another server than the worker's own connection.
                false => Seen::Unclear,
            },
        );
    }
    if is_true(&next(), "clean")? {
        client.give_back();
    }
    Ok(seen)
}

/// Whether the only row of a statement says so.
fn is_true(rows: &[SimpleQueryRow], name: &str) -> Result<bool, Error> {
    let row = rows.first().map(|row| prepared::text(row, name));
    Ok(row.transpose()?.flatten() == Some("t"))
}
