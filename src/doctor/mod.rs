//! `agent-sync doctor`: what goes wrong in real installations, checked one by one. It writes nothing.
//!
//! A check is a function of the [`Patient`] that asks, and a pure one that says what the answer means. To add one, write the two beside
//! others of their noun, and a line in [`checks`].
//!
//! | module | what is checked |
//! |---|---|
//! | `configuration` | the variables |
//! | `connection` | the way to the database: DNS, TCP, TLS, credentials |
//! | `server` | the database server: standby, poolers, connections, clock |
//! | `source` | the tables that agents are in |
//! | `schema` | what agent-sync has installed: versions, functions, triggers |
//! | `role` | what the role may do and see |
//! | `callers` | whether users can be known, and asked about |
//! | `langgraph` | the servers behind: the one where assistants live, the one that requests are passed through to |
//! | `working` | whether it is at work: workers, outbox, agents |

mod callers;
mod configuration;
mod connection;
mod langgraph;
mod report;
mod role;
mod schema;
mod server;
mod session;
mod source;
mod web;
mod working;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::config::{Config, Variables};
use crate::database::Error;
use crate::status::Status;
use connection::Connection;
pub use report::{Check, Complaint, Report, Verdict};
use session::Session;

/// Who is examined.
struct Patient<'a> {
    config: &'a Config,
    variables: &'a Variables,
    /// `None` without `DATABASE_URL`.
    connection: Option<Connection>,
    status: OnceCell<Status>,
}

/// What a check comes to.
type Found = Result<Verdict, Stop>;

/// Why a check cannot be made.
enum Stop {
    /// An earlier one has failed.
    Skipped(String),
    /// It has no meaning here, and is not told.
    DoesNotApply,
    /// It should have been possible.
    Failed(Error),
}

type Examination = for<'a> fn(&'a Patient<'a>) -> BoxFuture<'a, Found>;

/// All checks, in the order in which they are told: first what others depend on.
fn checks() -> Vec<(String, Examination)> {
    let mut checks: Vec<(&str, Examination)> = vec![
        ("variables", |p| configuration::variables(p).boxed()),
        ("database", |p| configuration::database(p).boxed()),
        ("scope", |p| configuration::scope(p).boxed()),
        ("network", |p| connection::network::check(p).boxed()),
        ("tls", |p| connection::tls::check(p).boxed()),
        ("credentials", |p| connection::credentials::check(p).boxed()),
        ("server", |p| server::version(p).boxed()),
        ("writable", |p| server::writable(p).boxed()),
        ("pooler", |p| server::pooler(p).boxed()),
        ("connections", |p| server::connections(p).boxed()),
        ("notification queue", |p| {
            server::notification_queue(p).boxed()
        }),
        ("two-phase commit", |p| server::two_phase_commit(p).boxed()),
        ("clock", |p| server::clock(p).boxed()),
        ("source tables", |p| source::tables(p).boxed()),
        ("schema", |p| schema::version(p).boxed()),
        ("functions", |p| schema::functions(p).boxed()),
    ];
    checks.extend(schema::triggers());
    checks.extend([
        (
            "privileges",
            (|p| role::privileges(p).boxed()) as Examination,
        ),
        ("hidden rows", |p| role::hidden_rows(p).boxed()),
        ("callers", |p| callers::known(p).boxed()),
        ("keys", |p| callers::keys(p).boxed()),
        ("row-level security", |p| {
            callers::row_level_security(p).boxed()
        }),
        ("role authenticated", |p| callers::authenticated(p).boxed()),
        ("auth.users", |p| callers::users(p).boxed()),
        ("langgraph server", |p| langgraph::server(p).boxed()),
        ("langgraph key", |p| langgraph::key(p).boxed()),
        ("langgraph graphs", |p| langgraph::graphs(p).boxed()),
        ("upstream", |p| langgraph::upstream(p).boxed()),
        ("workers", |p| working::workers(p).boxed()),
        ("outbox", |p| working::outbox(p).boxed()),
        ("agents", |p| working::agents(p).boxed()),
    ]);
    checks
        .into_iter()
        .map(|(name, examine)| (name.to_owned(), examine))
        .collect()
}

/// Makes all checks.
pub async fn examine(config: &Config, variables: &Variables) -> Report {
    let connection = match &config.database {
        Some(url) => Some(Connection::open(url).await),
        None => None,
    };
    let patient = Patient {
        config,
        variables,
        connection,
        status: OnceCell::new(),
    };
    let mut report = Report::default();
    for (name, examine) in checks() {
        let verdict = match examine(&patient).await {
            Ok(verdict) => verdict,
            Err(Stop::DoesNotApply) => continue,
            Err(Stop::Skipped(why)) => Verdict::Skipped(why),
            Err(Stop::Failed(e)) => Verdict::wrong(
                format!("it cannot be found out: {e}"),
                "agent-sync doctor   # again; if it stays so, what does the error say?",
            ),
        };
        report.checks.push(Check { name, verdict });
    }
    report
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Patient<'_> {
    fn connection(&self) -> Result<&Connection, Stop> {
        self.connection.as_ref().ok_or(Stop::DoesNotApply)
    }

    /// What can be asked.
    fn session(&self) -> Result<&Session, Stop> {
        let session = self.connection()?.session.as_ref();
        session.ok_or_else(|| Stop::Skipped("there is no connection to the database".to_owned()))
    }
}
