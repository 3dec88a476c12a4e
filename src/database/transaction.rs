//! Transactions within our limits, with as few messages as can be around what is done in them: one begins it and sets its limits, and the
//! last statement takes the commit along.

use std::ops::Deref;
use std::sync::Arc;

use deadpool_postgres::Client;
use futures::FutureExt;
use futures::join;
use tokio_postgres::SimpleQueryRow;

use super::kept::{Kept, Session};
use super::prepared::{Keeping, Prepared, rows};
use super::{Error, Param};

/// Said at the start of every transaction, not of the session: behind a transaction-mode pooler a session is shared.
/// - A worker that is stopped in the middle holds nobody up for longer than ten seconds, and whoever waits for it waits
///   a little longer than that.
/// - Rows that row-level security would hide are an error: hidden agents would look like deleted ones.
/// - Nothing is found by a search path that somebody else set.
/// - No statement here is worth being compiled, whatever the planner believes of a table: that takes up to a second.
const LIMITS: &str = "select set_config('statement_timeout', '30s', true), \
     set_config('idle_in_transaction_session_timeout', '10s', true), \
     set_config('lock_timeout', '12s', true), \
     set_config('row_security', 'off', true), \
     set_config('search_path', '', true), \
     set_config('jit', 'off', true), \
     current_setting('agent_sync.session', true) as mark";

/// How a transaction begins: READ COMMITTED, whatever the role's default.
const WRITING: &str = "read committed, read write";
pub(super) const READING: &str = "read committed, read only";
const SNAPSHOT: &str = "repeatable read, read only";

/// What comes before the statements of [`at_once`].
/// - Whoever waits for our locks while we wait for another does so for less than a tenth of a second.
/// - What the application's triggers have to say is not sent: somebody who is stopped does not read, and the server would
///   wait before its commit until he does.
const AT_ONCE: &str = "set transaction isolation level read committed, read write; \
     select set_config('statement_timeout', '5s', true), \
     set_config('lock_timeout', '50ms', true), \
     set_config('client_min_messages', 'error', true); ";

/// A transaction. One that is dropped before its end is rolled back.
#[derive(Debug)]
pub struct Transaction<'c> {
    client: &'c mut Client,
    /// That of its session ([`super::kept`]), as it was when this began.
    mark: Option<String>,
    is_over: bool,
}

/// Begins a transaction, within our limits.
pub async fn begin(client: &mut Client) -> Result<Transaction<'_>, Error> {
    Transaction::begin(client, WRITING).await
}

/// Begins a transaction in which nothing can be written.
pub async fn begin_reading(client: &mut Client) -> Result<Transaction<'_>, Error> {
    Transaction::begin(client, READING).await
}

/// The same, which sees one state of everything.
pub async fn begin_snapshot(client: &mut Client) -> Result<Transaction<'_>, Error> {
    Transaction::begin(client, SNAPSHOT).await
}

/// Begins a transaction with a statement that sessions keep, all in one message, and returns its rows. `around`: statements with a row each,
/// which set how it is planned, and take that back.
pub async fn begin_with<'c>(
    client: &'c mut Client,
    keeping: &Keeping,
    statement: &Prepared,
    arguments: &str,
    around: [&str; 2],
) -> Result<(Transaction<'c>, Vec<SimpleQueryRow>), Error> {
    let [before, after] = around;
    let message = |run: &str| beginning(WRITING, &format!("{before}{run}{after}"));
    let begun = statement.run(keeping, client, arguments, message).await?;
    // Of the limits, of what comes before, of the statement, and of what comes after.
    let mut rows = rows(begun);
    let found = rows.get_mut(2).map(std::mem::take).unwrap_or_default();
    Ok((Transaction::begun(client, &rows), found))
}

/// What runs within our limits, as one message and one transaction.
pub(super) fn within_limits(mode: &str, statements: &str) -> String {
    format!("set transaction isolation level {mode}; {LIMITS}; {statements}")
}

/// The same, with which a transaction begins that goes on. As that is said at the end, there is none where anything fails before.
fn beginning(mode: &str, statements: &str) -> String {
    format!("{} begin", within_limits(mode, statements))
}

/// Runs statements that lock what somebody else's edit could wait for, in a transaction of their own. Returns the rows of
/// the last one that has any.
///
/// All of it is one message, and the server commits at its end without hearing from us again: however we are stopped,
/// it is before or after, and never with the locks in hand. They run the application's own triggers, so only time is
/// limited: those must find the search path and the row-level security that they expect.
pub async fn at_once(
    client: &tokio_postgres::Client,
    statements: &str,
) -> Result<Vec<SimpleQueryRow>, Error> {
    let said = client.simple_query(&at_once_said(statements)).await?;
    Ok(rows(said).pop().unwrap_or_default())
}

/// That message.
pub fn at_once_said(statements: &str) -> String {
    format!("{AT_ONCE}{statements}")
}

impl<'c> Transaction<'c> {
    async fn begin(client: &'c mut Client, mode: &str) -> Result<Self, Error> {
        let begun = client.simple_query(&beginning(mode, "")).await?;
        Ok(Self::begun(client, &rows(begun)))
    }

    /// `rows`: those of what [`beginning`] says.
    fn begun(client: &'c mut Client, rows: &[Vec<SimpleQueryRow>]) -> Self {
        let limited = rows.first().and_then(|rows| rows.first());
        Self {
            client,
            mark: limited.and_then(|row| row.get("mark")).map(str::to_owned),
            is_over: false,
        }
    }

    pub async fn commit(mut self) -> Result<(), Error> {
        self.is_over = true;
        Ok(self.batch_execute("COMMIT").await?)
    }

    /// Commits with a last statement, both sent together. Where the server refuses it nothing is committed, for it makes a rollback of a
    /// commit that comes after an error. (What can go wrong before it is sent, a parameter of another type, is a fault in the code.)
    /// `kept`: what the session keeps.
    pub async fn commit_with(
        mut self,
        kept: Option<&Kept>,
        statement: &str,
        params: &[Param<'_>],
    ) -> Result<(), Error> {
        let session = Session::new(&self, kept);
        if session.would_keep(statement) {
            // Not after the commit: behind a pooler that may be somebody else's session.
            session.query(statement, params).await?;
            return self.commit().await;
        }
        let (done, committed) = join!(
            session.query(statement, params),
            self.batch_execute("COMMIT")
        );
        self.is_over = true;
        done?;
        Ok(committed?)
    }

    pub async fn rollback(mut self) -> Result<(), Error> {
        self.is_over = true;
        Ok(self.batch_execute("ROLLBACK").await?)
    }

    /// What the session's mark said when this began.
    pub(super) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// Which connection this is on. Another one in the same place has another mark.
    pub(super) fn connection(&self) -> usize {
        Arc::as_ptr(&self.client.statement_cache) as usize
    }
}

impl Deref for Transaction<'_> {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // It is sent as soon as it is asked for, and whoever has the connection next is answered after it.
            let _ = self.batch_execute("ROLLBACK").now_or_never();
        }
    }
}
