//! Asks the database. All questions are on their way before the first is answered, each behind a savepoint and with the time that is
//! left, so that one that fails or takes too long costs no other its answer.

use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::judge::{self, Seen};
use super::{
    Agents, COUNTED, DEADLINE, DatabaseStatus, Health, Outbox, Running, Status, Subject, TROUBLED,
    Triggers, Troubled,
};
use crate::database::{Database, Error, Param, column, migrations};
use crate::sql;
use crate::store::timestamp;

/// Ahead of the deadline, so that the server's own limit is told as such.
const BEGIN: &str = "begin isolation level read committed, read only; \
     select set_config('statement_timeout', '1500ms', true), set_config('lock_timeout', '500ms', true), \
     set_config('idle_in_transaction_session_timeout', '10s', true), \
     set_config('row_security', 'off', true), set_config('search_path', '', true)";

/// What the database said, part by part.
pub(super) struct Answers {
    pub database: Result<Connected, Error>,
    pub schema: Result<Schema, Error>,
    pub triggers: Result<Triggers, Error>,
    pub outbox: Result<Outbox, Error>,
    pub agents: Result<Agents, Error>,
    pub troubled: Result<Vec<Troubled>, Error>,
}

pub(super) struct Connected {
    pub server: String,
    pub role: String,
    pub listeners: i64,
    /// Connections of workers that do not listen.
    pub others: i64,
    /// There is a table of them.
    pub has_agents: bool,
}

pub(super) struct Schema {
    /// 0: there is none.
    pub version: i32,
    pub scope: Option<String>,
}

impl Status {
    /// How things are now. `running`: what the worker says of itself, if it is one that asks.
    pub async fn gather(subject: &Subject, running: Option<Running>) -> Self {
        let deadline = Instant::now() + DEADLINE;
        let asked = match &subject.database {
            Some(database) => Some(ask(database, deadline).await),
            None => None,
        };
        let (health, reasons) = judge::health(&Seen {
            asked: asked.as_ref().map(Result::as_ref),
            running: running.as_ref(),
        });
        let worker = running.map(|running| running.worker);
        Self::of(subject, asked, worker, health, reasons)
    }

    fn of(
        subject: &Subject,
        asked: Option<Result<Answers, Error>>,
        worker: Option<super::Worker>,
        health: Health,
        reasons: Vec<String>,
    ) -> Self {
        let mut status = Self {
            health,
            reasons,
            version: env!("CARGO_PKG_VERSION"),
            scope: subject.scope.clone(),
            store: subject.store,
            database: None,
            triggers: None,
            outbox: None,
            agents: None,
            troubled: Vec::new(),
            worker,
        };
        let Some(asked) = asked else {
            return status;
        };
        let mut database = DatabaseStatus {
            reachable: false,
            error: None,
            server: None,
            address: subject.address.clone(),
            role: None,
            schema_version: None,
            known_version: migrations::LATEST,
            listeners: None,
        };
        match asked {
            Ok(answers) => {
                database.reachable = true;
                match answers.database {
                    Ok(connected) => {
                        database.server = Some(connected.server);
                        database.role = Some(connected.role);
                        database.listeners = Some(connected.listeners);
                    }
                    Err(e) => database.error = Some(e.to_string()),
                }
                if let Ok(schema) = answers.schema {
                    database.schema_version = Some(schema.version);
                    status.scope = schema.scope.or(status.scope);
                }
                status.triggers = answers.triggers.ok();
                status.outbox = answers.outbox.ok();
                status.agents = answers.agents.ok();
                status.troubled = answers.troubled.unwrap_or_default();
            }
            Err(e) => database.error = Some(e.to_string()),
        }
        status.database = Some(database);
        status
    }
}

/// An error where there is no connection in time.
async fn ask(database: &Database, deadline: Instant) -> Result<Answers, Error> {
    let client = match timeout_at(deadline, database.client()).await {
        Ok(client) => client?,
        Err(_) => return Err(late()),
    };
    let most = i64::try_from(TROUBLED).unwrap_or(i64::MAX);
    let counted = counted();
    let counted = [(&counted as _, Type::INT8)];
    let most = [(&most as _, Type::INT8)];
    // Sent together, answered in this order.
    let (begun, connected, schema, triggers, outbox, agents, troubled) = futures::join!(
        within(deadline, async { Ok(client.batch_execute(BEGIN).await?) }),
        part(&client, deadline, sql!("status_database"), &[], connected),
        part(&client, deadline, sql!("status_schema"), &[], schema),
        part(&client, deadline, sql!("status_triggers"), &[], triggers),
        part(&client, deadline, sql!("status_outbox"), &counted, outbox),
        part(&client, deadline, sql!("status_agents"), &[], agents),
        part(&client, deadline, sql!("status_troubled"), &most, troubled),
    );
    begun?;
    let mut answers = Answers {
        database: connected,
        schema: match schema {
            Err(e) if e.is_schema_drift() => Ok(Schema {
                version: 0,
                scope: None,
            }),
            other => other,
        },
        triggers,
        outbox,
        agents,
        troubled,
    };
    if let Ok(troubled) = &mut answers.troubled {
        name(&client, deadline, troubled).await;
    }
    let ended = within(deadline, async {
        Ok(client.batch_execute("rollback").await?)
    });
    if ended.await.is_ok() {
        client.give_back();
    }
    Ok(answers)
}

impl Subject {
    /// What waits, and nothing else. `None` where that cannot be found out.
    pub async fn outbox(&self) -> Option<Outbox> {
        let database = self.database.as_ref()?;
        let asking = async {
            let client = database.client().await?;
            let rows = client
                .query_typed(sql!("status_outbox"), &[(&counted(), Type::INT8)])
                .await?;
            client.give_back();
            outbox(rows)
        };
        database.within(DEADLINE, asking).await.ok()
    }
}

/// How far changes are counted: one more tells that there are more.
fn counted() -> i64 {
    i64::try_from(COUNTED).unwrap_or(i64::MAX).saturating_add(1)
}

/// As far as that can be done: they are found by their ids, too.
async fn name(client: &Client, deadline: Instant, troubled: &mut [Troubled]) {
    if troubled.is_empty() {
        return;
    }
    let ids: Vec<Uuid> = troubled
        .iter()
        .filter_map(|agent| Uuid::try_parse(&agent.agent_id).ok())
        .collect();
    let names = |rows: Vec<Row>| -> Result<Vec<(Uuid, Option<String>)>, Error> {
        rows.iter()
            .map(|row| Ok((column(row, "id")?, column(row, "name")?)))
            .collect()
    };
    let ids = &[(&ids as _, Type::UUID_ARRAY)];
    let named = part(client, deadline, sql!("status_names"), ids, names).await;
    for (id, name) in named.unwrap_or_default() {
        let id = id.to_string();
        for agent in troubled.iter_mut().filter(|agent| agent.agent_id == id) {
            agent.name.clone_from(&name);
        }
    }
}

/// One question, behind a savepoint.
async fn part<T>(
    client: &Client,
    deadline: Instant,
    statement: &str,
    params: &[Param<'_>],
    read: impl FnOnce(Vec<Row>) -> Result<T, Error>,
) -> Result<T, Error> {
    let asking = async {
        let (begun, rows, ended) = futures::join!(
            client.batch_execute("savepoint part"),
            client.query_typed(statement, params),
            client.batch_execute("rollback to savepoint part"),
        );
        begun?;
        let rows = rows?;
        ended?;
        read(rows)
    };
    within(deadline, asking).await
}

async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout_at(deadline, work)
        .await
        .unwrap_or_else(|_| Err(late()))
}

fn late() -> Error {
    Error::Pool(format!("no answer within {} s", DEADLINE.as_secs()))
}

fn only(rows: &[Row]) -> Result<&Row, Error> {
    rows.first()
        .ok_or_else(|| Error::Setup("an answer without a row".to_owned()))
}

fn connected(rows: Vec<Row>) -> Result<Connected, Error> {
    let row = only(&rows)?;
    let version: &str = column(row, "version")?;
    Ok(Connected {
        server: format!("PostgreSQL {version}"),
        role: column(row, "role")?,
        listeners: column(row, "listeners")?,
        others: column(row, "others")?,
        has_agents: column(row, "has_agents")?,
    })
}

fn schema(rows: Vec<Row>) -> Result<Schema, Error> {
    let row = only(&rows)?;
    Ok(Schema {
        version: column(row, "version")?,
        scope: column(row, "scope")?,
    })
}

fn triggers(rows: Vec<Row>) -> Result<Triggers, Error> {
    let row = only(&rows)?;
    Ok(Triggers {
        expected: column(row, "expected")?,
        missing: column(row, "missing")?,
    })
}

fn outbox(rows: Vec<Row>) -> Result<Outbox, Error> {
    let row = only(&rows)?;
    let limit = i64::try_from(COUNTED).unwrap_or(i64::MAX);
    let (depth, retries): (i64, i64) = (column(row, "depth")?, column(row, "retries")?);
    let age: Option<f64> = column(row, "oldest_age_seconds")?;
    Ok(Outbox {
        depth: depth.min(limit),
        // A clock that was set back makes nothing younger than it is.
        oldest_age_seconds: age.map(|age| age.max(0.0)),
        retries: retries.min(limit),
        at_least: depth.max(retries) > limit,
    })
}

fn agents(rows: Vec<Row>) -> Result<Agents, Error> {
    let row = only(&rows)?;
    Ok(Agents {
        failed: column(row, "failed")?,
        conflict: column(row, "conflict")?,
        held: column(row, "held")?,
        synced: column(row, "synced")?,
        removed: column(row, "removed")?,
    })
}

fn troubled(rows: Vec<Row>) -> Result<Vec<Troubled>, Error> {
    rows.iter()
        .map(|row| {
            let id: Uuid = column(row, "agent_id")?;
            Ok(Troubled {
                agent_id: id.to_string(),
                name: None,
                state: column(row, "state")?,
                error: column(row, "error")?,
                attempts: column(row, "attempts")?,
                last_at: timestamp(column(row, "updated_at")?),
            })
        })
        .collect()
}
