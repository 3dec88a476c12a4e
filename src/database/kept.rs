//! Statements that a session keeps for a transaction which is about few agents: there, to parse and plan one takes longer than to run it.
//!
//! By the protocol's prepared statements. Their names mean something on the very session on which they were made, and behind a
//! transaction-mode pooler sessions are shared. So the session is given a mark, which nobody else knows, when the first is made on it;
//! and only a transaction that meets the mark which its connection has left uses what that connection has kept. Any other does without.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::prepared::PLANNED;
use super::{Error, POOL_SIZE, Param, Transaction};

/// Of how many connections it is known what they keep.
const MOST: usize = 4 * POOL_SIZE;

/// What the connections of a pool keep.
#[derive(Debug, Default)]
pub struct Keeper {
    /// By connection. Another one in the same place meets another mark.
    connections: Mutex<HashMap<usize, Arc<Kept>>>,
    is_given_up: Arc<AtomicBool>,
}

/// What one session keeps.
#[derive(Debug)]
pub struct Kept {
    mark: String,
    statements: Mutex<HashMap<String, Statement>>,
    is_given_up: Arc<AtomicBool>,
}

/// A transaction, and what its session keeps.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    pub tx: &'a Transaction<'a>,
    kept: Option<&'a Kept>,
}

impl Keeper {
    /// What is kept on this transaction's session. `None`: nothing so far; it is marked, and the next transaction
    /// keeps something.
    pub async fn of(&self, tx: &Transaction<'_>) -> Result<Option<Arc<Kept>>, Error> {
        if self.is_given_up() {
            return Ok(None);
        }
        let connection = tx.connection();
        let known = self.connections().get(&connection).cloned();
        if let Some(kept) = known
            && tx.mark() == Some(&kept.mark)
        {
            return Ok(Some(kept));
        }
        let kept = Kept {
            mark: Uuid::new_v4().to_string(),
            statements: Mutex::default(),
            is_given_up: self.is_given_up.clone(),
        };
        let marking = format!(
            "select pg_catalog.set_config('agent_sync.session', '{}', false)",
            kept.mark
        );
        tx.batch_execute(&marking).await?;
        let mut connections = self.connections();
        if connections.len() >= MOST {
            // Those of connections that are gone, for the most part.
            connections.clear();
        }
        connections.insert(connection, Arc::new(kept));
        Ok(None)
    }

    /// A session has had what nobody else was to have, or lost what it had: it is not ours alone, whatever marks say.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<usize, Arc<Kept>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn statements(&self) -> MutexGuard<'_, HashMap<String, Statement>> {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a statement was not what it should be, the transaction has to begin again, and without any.
    fn judge(&self, error: tokio_postgres::Error) -> Error {
        // It is not there, or is there already: somebody else uses the session, too.
        let is_ours = [
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::DUPLICATE_PSTATEMENT,
        ];
        // Its tables have changed.
        let is_outdated = error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED);
        let is_broken = error.code().is_some_and(|code| is_ours.contains(code));
        if !is_outdated && !is_broken {
            return error.into();
        }
        self.statements().clear();
        self.is_given_up.fetch_or(is_broken, Ordering::Relaxed);
        Error::Pool(format!("a statement that was kept is of no use: {error}"))
    }
}

impl<'a> Session<'a> {
    pub fn new(tx: &'a Transaction<'a>, kept: Option<&'a Kept>) -> Self {
        Self { tx, kept }
    }

    /// What begins an attempt at something.
    pub fn savepoint(self) -> String {
        let planned = self.kept.map_or("", |_| PLANNED);
        format!("{planned}savepoint chunk")
    }

    /// Whether the session is about to keep a statement, which takes another message after it was run.
    pub fn would_keep(self, statement: &str) -> bool {
        self.kept
            .is_some_and(|kept| !kept.statements().contains_key(statement))
    }

    /// Sends a statement at once, whether or not it is kept; so those that are sent together arrive in their order.
    pub async fn query(self, statement: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let Some(kept) = self.kept else {
            return Ok(self.tx.query_typed(statement, params).await?);
        };
        let known = kept.statements().get(statement).cloned();
        if let Some(known) = known {
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|(value, _)| *value).collect();
            let rows = self.tx.query(&known, &params).await;
            return rows.map_err(|e| kept.judge(e));
        }
        let rows = self.tx.query_typed(statement, params).await?;
        let types: Vec<Type> = params.iter().map(|(_, kind)| kind.clone()).collect();
        let made = self.tx.prepare_typed(statement, &types).await;
        let made = made.map_err(|e| kept.judge(e))?;
        kept.statements().insert(statement.to_owned(), made);
        Ok(rows)
    }
}

impl<'a> From<&'a Transaction<'a>> for Session<'a> {
    /// One that keeps nothing.
    fn from(tx: &'a Transaction<'a>) -> Self {
        Self::new(tx, None)
    }
}
