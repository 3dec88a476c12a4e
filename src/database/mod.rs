//! The database: the pool, transactions with their limits, and what an error means.

pub mod kept;
pub mod migrations;
pub mod prepared;
pub mod tls;
mod transaction;
mod url;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Pool, PoolError, QueueMode, RecyclingMethod, Timeouts,
};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Config, Row, types};

use crate::metrics::Connections;

pub use deadpool_postgres::Client;
use kept::Keeper;
pub use kept::Session;
use prepared::Keeping;
pub use tls::Tls;
pub use transaction::{
    Transaction, at_once, at_once_said, begin, begin_reading, begin_snapshot, begin_with,
};
pub use url::{DatabaseUrl, UrlError};

/// The text of `sql/queries/<name>.sql`.
#[macro_export]
macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/sql/queries/",
            $name,
            ".sql"
        ))
    };
}

/// The most agents that one transaction locks. Advisory locks live in a table of fixed size that all sessions of the
/// cluster share.
pub const BATCH: usize = 500;

/// How many connections one worker opens at most, the listening one aside. Supabase's smallest plans have 60 in all.
pub const POOL_SIZE: usize = 7;

/// How long a transaction may take as seen from here ([`Database::within`]); its statements have limits of their own, of
/// thirty seconds.
pub const DEADLINE: Duration = Duration::from_secs(45);

/// How long a session of ours may sit idle in a transaction.
const IDLE: Duration = Duration::from_secs(10);

/// How long a step of taking a connection may last.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of connections to one database.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    pub(crate) keeping: Arc<Keeping>,
    pub keeper: Arc<Keeper>,
    /// Where its connections lead, and as whom.
    login: Arc<Config>,
}

impl Database {
    /// The worker's own. Opens nothing yet.
    pub fn new(url: &DatabaseUrl) -> Self {
        Self::sized(url, POOL_SIZE)
    }

    /// At most so many connections. Opens nothing yet.
    pub fn sized(url: &DatabaseUrl, size: usize) -> Self {
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(url.config().clone(), url.tls().connector(), recycling);
        let timeouts = Timeouts {
            wait: Some(CONNECT_TIMEOUT),
            create: Some(CONNECT_TIMEOUT),
            recycle: Some(CONNECT_TIMEOUT),
        };
        let builder = Pool::builder(manager)
            .max_size(size)
            // The one that was used last has what is needed at hand.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .timeouts(timeouts);
        let pool = builder
            .build()
            .unwrap_or_else(|e| unreachable!("a pool with a runtime always builds: {e}"));
        Self {
            pool,
            keeping: Arc::default(),
            keeper: Arc::default(),
            login: Arc::new(url.named("").config().clone()),
        }
    }

    /// Whether both lead to the same place, as the same role.
    pub fn has_login_of(&self, other: &Self) -> bool {
        self.login == other.login
    }

    /// A connection of the pool's.
    pub async fn client(&self) -> Result<Lease, Error> {
        let client = self.pool.get().await.map_err(|e| match e {
            PoolError::Backend(e) => Error::Postgres(e),
            other => Error::Pool(other.to_string()),
        })?;
        Ok(Lease(Some(client)))
    }

    /// Gives work with the database a deadline of its own. The server's timeouts are of no use where the server, or what
    /// is between, has stopped; and a kernel in between may acknowledge for it. When one connection is dead, so are
    /// probably all that stand idle.
    pub async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => {
                self.forget_idle();
                Err(Error::Pool(format!(
                    "no answer within {:.0} s",
                    limit.as_secs_f64()
                )))
            }
        }
    }

    /// Whether work failed because it was too much, and not because the database is away: it took too long, and right after
    /// that another connection is answered. (A session that sat idle for too long in a transaction, while we were busy
    /// with what we had read in it, often just finds itself closed. Who is cut off sooner than that is nobody's fault.)
    pub async fn is_too_much(&self, error: &Error, took: Duration) -> bool {
        if matches!(error, Error::Server { .. }) {
            return false;
        }
        let too_long = error.is_canceled() || (error.fault() == Fault::Passing && took >= IDLE);
        too_long && self.within(CONNECT_TIMEOUT, self.check()).await.is_ok()
    }

    /// What to say when a connection turned out to be dead by other means.
    pub fn lost(&self) -> Error {
        self.forget_idle();
        Error::Pool("its connections seem to be dead, new ones are made".to_owned())
    }

    /// What the pool's connections are doing.
    pub fn connections(&self) -> Connections {
        let pool = self.pool.status();
        Connections {
            idle: pool.available,
            busy: pool.size.saturating_sub(pool.available),
            waiting: pool.waiting,
        }
    }

    /// Closes the connections that nobody uses. Each keeps as much memory as the largest message took that it has carried.
    pub fn rest(&self) {
        self.forget_idle();
    }

    fn forget_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Whether the database answers, and if not, why.
    pub async fn check(&self) -> Result<(), Error> {
        let client = self.client().await?;
        client.simple_query("select 1").await?;
        client.give_back();
        Ok(())
    }

    /// The same, where the schema is in place: whether it is one that this worker knows.
    pub async fn check_schema(&self) -> Result<(), Error> {
        let client = self.client().await?;
        migrations::check(&client).await?;
        client.give_back();
        Ok(())
    }
}

/// A connection on loan. It goes back to the pool only by [`Lease::give_back`]: one that was dropped in the middle of
/// something (an error, a deadline, a request that was called off) may never answer again, and is closed.
pub struct Lease(Option<Client>);

impl Lease {
    /// Whether nobody has had the connection before.
    pub fn is_new(&self) -> bool {
        let client = self.0.as_ref();
        client.is_some_and(|client| Client::metrics(client).recycle_count == 0)
    }

    pub fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0
            .as_ref()
            .unwrap_or_else(|| unreachable!("a lease ends with its client"))
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Client {
        self.0
            .as_mut()
            .unwrap_or_else(|| unreachable!("a lease ends with its client"))
    }
}

/// A parameter and its type. Statements are sent with their types and unnamed, in one round trip: a named one would be
/// prepared on one server connection and used on another behind a transaction-mode pooler.
pub type Param<'a> = (&'a (dyn types::ToSql + Sync), types::Type);

/// Reads a column of a row that a statement of ours returned.
pub fn column<'a, T: types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, Error> {
    row.try_get(name).map_err(Error::Postgres)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no connection to the database: {0}")]
    Pool(String),
    #[error("{}", describe(.0))]
    Postgres(tokio_postgres::Error),
    #[error("{0}")]
    Setup(String),
    /// Of the LangGraph server on which assistants live. Decided where it is asked.
    #[error("the LangGraph server: {why}")]
    Server { why: String, fault: Fault },
    /// The schema is at this version, a newer worker's.
    #[error(
        "schema agent_sync is at version {0}, and this agent-sync knows only up to {latest}: upgrade it",
        latest = migrations::LATEST
    )]
    Newer(i32),
}

/// What to do about an error. Decided here, for the whole crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The data of some agent: it fails alone, and is tried again with backoff.
    Data,
    /// Another session holds a lock for longer than we wait.
    Locked,
    /// Connections, timeouts, deadlocks, resources: nobody's fault, all of it is tried again.
    Passing,
    /// Missing tables or privileges: tried again too, but an operator has to act.
    Setup,
}

impl From<tokio_postgres::Error> for Error {
    /// Not as a source: what it says is said already.
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl Error {
    pub fn fault(&self) -> Fault {
        let code = match self {
            Self::Pool(_) => return Fault::Passing,
            Self::Setup(_) | Self::Newer(_) => return Fault::Setup,
            Self::Server { fault, .. } => return *fault,
            Self::Postgres(e) => e.code().map(SqlState::code),
        };
        // By class: https://www.postgresql.org/docs/current/errcodes-appendix.html
        match code.map(|code| (code, code.get(..2).unwrap_or_default())) {
            Some(("55P03", _)) => Fault::Locked,
            None | Some((_, "08" | "25" | "40" | "53" | "55" | "57" | "58")) => Fault::Passing,
            Some((_, "0A" | "28" | "3D" | "3F" | "42")) => Fault::Setup,
            // Data exceptions and constraints, and whatever code the application's own triggers raise.
            Some(_) => Fault::Data,
        }
    }

    /// Whether somebody else was faster, and looking again is all there is to do.
    pub fn is_lost_race(&self) -> bool {
        matches!(self, Self::Postgres(e) if e.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE))
    }

    /// Whether the server has cut a statement short, as one that takes longer than it may.
    pub fn is_canceled(&self) -> bool {
        matches!(self, Self::Postgres(e) if e.code() == Some(&SqlState::QUERY_CANCELED))
    }

    /// Whether the server has said so, and goes on answering.
    pub fn is_from_server(&self) -> bool {
        matches!(self, Self::Postgres(e) if e.code().is_some() && !e.is_closed())
    }

    /// What this role lacks a privilege for, in the server's words.
    pub fn denial(&self) -> Option<&str> {
        match self {
            Self::Postgres(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                e.as_db_error().map(DbError::message)
            }
            _ => None,
        }
    }

    /// Whether a table or column that we asked for is not there (any more).
    pub fn is_schema_drift(&self) -> bool {
        matches!(self, Self::Postgres(e) if matches!(e.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN)))
    }
}

/// The message, code and hint of an error from the server, or the chain of causes of any other. Never the detail: it
/// quotes the row.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        // The server's own hint is for owners.
        if db
            .message()
            .starts_with("query would be affected by row-level security")
        {
            return format!(
                "{} (SQLSTATE {}): rows may be hidden from the worker's role, and hidden ones look like deleted ones, so nothing is \
                 synced or removed. Run it as a role that bypasses row-level security (`agent-sync roles` makes one), or `alter role … bypassrls`",
                db.message(),
                db.code().code()
            );
        }
        let hint = match db.hint() {
            Some(hint) => format!("; {hint}"),
            // Not of ownership, which nobody can grant.
            None if db.code() == &SqlState::INSUFFICIENT_PRIVILEGE
                && db.message().starts_with("permission denied") =>
            {
                "; sql/roles.sql grants what a worker needs (`agent-sync roles` prints it): run it again as the owner of the \
                 tables, after each upgrade and wherever a table was made anew"
                    .to_owned()
            }
            None => String::new(),
        };
        return format!("{} (SQLSTATE {}){hint}", message(db), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if text.ends_with("database does not allow writes") {
        text.push_str(
            " (it is a standby, or was made read-only, as Supabase does when the disk is full)",
        );
    }
    text
}

/// Of what is said about data that cannot be read (class 22), not the data: `invalid input syntax for type json: "…"`.
fn message(error: &DbError) -> &str {
    let message = error.message();
    match error.code().code().starts_with("22") {
        true => message.split(": \"").next().unwrap_or_default(),
        false => message,
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}
