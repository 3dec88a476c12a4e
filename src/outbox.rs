//! `agent_sync.outbox`: what changed. Rows are claimed under `for update skip locked` and deleted in the transaction
//! that wrote the assistants, so a claim that is cut off is simply claimed again, by whichever worker is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::types::Type;
use tracing::warn;
use uuid::Uuid;

use crate::database::kept::Kept;
use crate::database::prepared::{self, Prepared, array, literal, required, value};
use crate::database::{Client, Database, Error, Param, Session, Transaction, begin_with, column};
use crate::ids::AgentId;
use crate::source::Shape;
use crate::sql;

/// Changes that name an agent, locked for this transaction.
#[derive(Debug)]
pub struct Claimed {
    pub at: Instant,
    /// By agent: the rows, and how long before that the edits in them were made.
    pub changes: BTreeMap<AgentId, Vec<Change>>,
    /// Rows that name no agent there could be.
    pub senseless: Vec<i64>,
    /// There is probably more than one batch.
    pub many: bool,
    /// The organization whose turn was last ([`Order::Turns`]).
    pub turn: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub id: i64,
    pub age: Duration,
    /// The retry of a failed agent: nobody rang for it.
    pub retry: bool,
}

impl Default for Claimed {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            changes: BTreeMap::new(),
            senseless: Vec::new(),
            many: false,
            turn: None,
        }
    }
}

impl Claimed {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.senseless.is_empty()
    }

    pub fn agents(&self) -> Vec<AgentId> {
        self.changes.keys().copied().collect()
    }

    /// How many edits had been waiting for longer than this.
    pub fn overdue(&self, than: Duration) -> usize {
        self.changes
            .values()
            .flatten()
            .filter(|change| !change.retry && change.age > than)
            .count()
    }

    fn rows(&self, is_done: impl Fn(AgentId) -> bool) -> Vec<i64> {
        let done = self.changes.iter().filter(|(agent, _)| is_done(**agent));
        done.flat_map(|(_, changes)| changes)
            .map(|change| change.id)
            .chain(self.senseless.iter().copied())
            .collect()
    }
}

/// In which order changes are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order<'a> {
    /// The oldest first.
    Age,
    /// A part of them from each organization, so that a bulk edit of one does not keep another waiting. Costs more, and
    /// is of use only where there is more than one batch. `after` the one whose turn was last.
    Turns { after: &'a str },
}

/// What is asked again and again. Sessions keep it: to plan one takes ten times as long as to run it.
static LEFT: LazyLock<Prepared> = LazyLock::new(|| Prepared::new("text[]", sql!("left")));
static LOOK: LazyLock<Prepared> = LazyLock::new(|| Prepared::new("text[]", sql!("look")));
static BY_AGE: LazyLock<Prepared> =
    LazyLock::new(|| Prepared::new("text[], bigint", sql!("claim")));
static IN_TURNS: LazyLock<Prepared> =
    LazyLock::new(|| Prepared::new("text[], bigint, text", sql!("claim_in_turns")));

/// Begins a transaction in which up to `limit` changes are claimed that are due, of agents that are not to be left for later.
pub async fn claim<'c>(
    database: &Database,
    client: &'c mut Client,
    order: Order<'_>,
    later: &[AgentId],
    limit: usize,
) -> Result<(Transaction<'c>, Claimed), Error> {
    let mut arguments = format!("{}, {limit}", listed(later));
    let statement = match order {
        Order::Age => &*BY_AGE,
        Order::Turns { after } => {
            arguments.push_str(&format!(", {}", literal(after)));
            &*IN_TURNS
        }
    };
    let around = [sql!("by_index"), sql!("by_any_plan")];
    let (tx, rows) = begin_with(client, &database.keeping, statement, &arguments, around).await?;
    let turn = match (order, rows.first()) {
        (Order::Turns { .. }, Some(row)) => value(row, "turn")?,
        _ => None,
    };
    let mut claimed = Claimed {
        // Those in turn and the oldest may be the same.
        many: rows.len() >= limit / 2,
        turn,
        ..Claimed::default()
    };
    for row in &rows {
        let id = required(row, "id")?;
        let age: i64 = required(row, "age_ms")?;
        // Not what cannot be read, which is no reason to drop it.
        let key: String = required(row, "key")?;
        match Uuid::try_parse(&key) {
            Ok(agent) => {
                let age = Duration::from_millis(age.try_into().unwrap_or(0));
                let change = Change {
                    id,
                    age,
                    retry: row.get("retry") == Some("t"),
                };
                claimed
                    .changes
                    .entry(AgentId(agent))
                    .or_default()
                    .push(change);
            }
            Err(_) => {
                warn!(row = id, "dropped a change whose key is not an uuid");
                claimed.senseless.push(id);
            }
        }
    }
    Ok((tx, claimed))
}

/// The changes of these agents were dealt with. Only what was claimed goes: what came in since was not read.
pub async fn settle(
    session: Session<'_>,
    claimed: &Claimed,
    is_done: impl Fn(AgentId) -> bool,
) -> Result<(), Error> {
    delete(session, &claimed.rows(is_done)).await
}

/// The changes of all of them were: with that the transaction commits. `kept`: what its session keeps.
pub async fn settle_last(
    tx: Transaction<'_>,
    kept: Option<&Kept>,
    claimed: &Claimed,
) -> Result<(), Error> {
    let rows = claimed.rows(|_| true);
    let params = [(&rows as _, Type::INT8_ARRAY)];
    tx.commit_with(kept, sql!("delete_claimed"), &params).await
}

/// Takes pending retries of these agents out.
pub async fn clear_retries(tx: &Transaction<'_>, agents: &[AgentId]) -> Result<(), Error> {
    if !agents.is_empty() {
        let agents: Vec<String> = agents.iter().map(ToString::to_string).collect();
        tx.execute_typed(sql!("clear_retries"), &[(&agents, Type::TEXT_ARRAY)])
            .await?;
    }
    Ok(())
}

/// Makes every agent count as changed.
pub async fn everything_changed(client: &tokio_postgres::Client) -> Result<(), Error> {
    client
        .execute_typed(sql!("everything_changed"), &[])
        .await?;
    Ok(())
}

/// Whether the outbox has grown so far that looking at every agent is less work.
pub async fn is_overgrown(client: &tokio_postgres::Client) -> Result<bool, Error> {
    let row = client.query_typed_one(sql!("overgrown"), &[]).await?;
    column(&row, "overgrown")
}

/// Replaces up to `limit` changes by one of every agent. Returns how many were replaced.
pub async fn collapse(tx: &Transaction<'_>, limit: usize) -> Result<usize, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let row = tx
        .query_typed_one(sql!("collapse"), &[(&limit, Type::INT8)])
        .await?;
    let collapsed: i64 = column(&row, "collapsed")?;
    Ok(usize::try_from(collapsed).unwrap_or_default())
}

/// Puts agents back, each due after a while.
pub async fn schedule(tx: &Transaction<'_>, retries: &[(AgentId, Duration)]) -> Result<(), Error> {
    if retries.is_empty() {
        return Ok(());
    }
    let agents: Vec<String> = retries.iter().map(|(agent, _)| agent.to_string()).collect();
    let delays: Vec<i64> = retries
        .iter()
        .map(|(_, delay)| i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
        .collect();
    tx.execute_typed(
        sql!("schedule_retry"),
        &[(&agents, Type::TEXT_ARRAY), (&delays, Type::INT8_ARRAY)],
    )
    .await?;
    Ok(())
}

/// What is left in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// There are changes that name no agent.
    pub shared: bool,
    /// There are changes of agents to claim.
    pub of_agents: bool,
    /// How long until there may be something to claim. `None`: never, as it is empty.
    pub due: Option<Duration>,
    /// How many changes have ever been recorded, committed or not. `None`: this role may not know.
    pub recorded: Option<i64>,
}

/// What is left, but for these agents.
pub async fn left(database: &Database, client: &Client, later: &[AgentId]) -> Result<Left, Error> {
    let row = ask(database, client, ("left", &LEFT), later).await?;
    let wait: Option<i64> = value(&row, "wait_ms")?;
    Ok(Left {
        shared: row.get("shared") == Some("t"),
        of_agents: row.get("of_agents") == Some("t"),
        due: wait.map(|ms| Duration::from_millis(ms.try_into().unwrap_or(0))),
        recorded: value(&row, "recorded")?,
    })
}

/// What somebody sees who just looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// How many changes have ever been recorded, committed or not.
    pub recorded: i64,
    /// There is something to claim.
    pub is_pending: bool,
}

/// Looks whether there is anything to claim but of these agents.
pub async fn look(database: &Database, client: &Client, later: &[AgentId]) -> Result<Look, Error> {
    let row = ask(database, client, ("look", &LOOK), later).await?;
    Ok(Look {
        recorded: required(&row, "recorded")?,
        is_pending: row.get("is_pending") == Some("t"),
    })
}

/// Asks a question that has one row for an answer. Its name is for those who look at what sessions do.
async fn ask(
    database: &Database,
    client: &Client,
    (name, statement): (&str, &Prepared),
    later: &[AgentId],
) -> Result<SimpleQueryRow, Error> {
    let message = |run: &str| format!("/* agent-sync: {name} */ {}{run}", sql!("by_index"));
    let later = listed(later);
    let sent = statement
        .run(&database.keeping, client, &later, message)
        .await?;
    let row = prepared::rows(sent).pop().and_then(|mut rows| rows.pop());
    row.ok_or_else(|| Error::Setup("an answer without a row".to_owned()))
}

/// As a literal.
fn listed(agents: &[AgentId]) -> String {
    array(agents.iter().map(ToString::to_string))
}

/// Replaces changes that name no agent by changes of the agents that they touch. False when there were none.
///
/// Which agents those are is decided here, not in the trigger: links that another transaction had not committed when
/// the tool was edited are seen now, or they bring a change of their own.
pub async fn spread(tx: &Transaction<'_>, shape: &Shape) -> Result<bool, Error> {
    const LIMIT: i64 = 1000;
    let rows = tx
        .query_typed(sql!("claim_shared"), &[(&LIMIT, Type::INT8)])
        .await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let (mut ids, mut everything) = (Vec::new(), false);
    // Whoever waits for an agent's change has waited since then.
    let mut since: Option<OffsetDateTime> = None;
    let mut keys: BTreeMap<&str, BTreeSet<Uuid>> = BTreeMap::new();
    for row in &rows {
        ids.push(column::<i64>(row, "id")?);
        let changed_at = column(row, "changed_at")?;
        since = Some(since.map_or(changed_at, |since| since.min(changed_at)));
        let key: Option<&str> = column(row, "key")?;
        let followed = shape
            .spread(column(row, "source")?)
            .zip(key.and_then(|key| Uuid::try_parse(key).ok()));
        match followed {
            Some((statement, key)) => _ = keys.entry(statement).or_default().insert(key),
            None => everything = true,
        }
    }
    if everything {
        let params = [(&since as _, Type::TIMESTAMPTZ)];
        tx.execute_typed(shape.spread_everything(), &params).await?;
    } else {
        for (statement, keys) in keys {
            let keys: Vec<Uuid> = keys.into_iter().collect();
            let params: [Param<'_>; 2] = [(&keys, Type::UUID_ARRAY), (&since, Type::TIMESTAMPTZ)];
            tx.execute_typed(statement, &params).await?;
        }
    }
    delete(tx.into(), &ids).await?;
    Ok(true)
}

async fn delete(session: Session<'_>, ids: &[i64]) -> Result<(), Error> {
    session
        .query(sql!("delete_claimed"), &[(&ids, Type::INT8_ARRAY)])
        .await?;
    Ok(())
}
