//! Statements that a session keeps ready: where they are long, to parse and plan one takes longer than to run it.
//!
//! By SQL's own `prepare`, under a name that says what is in it. The protocol's prepared statements have names that mean something
//! else to each client, and behind a transaction-mode pooler their sessions are shared: somebody else's would run. This one is the
//! right one wherever it is there; where it is not, it is made; and where it is missing again and again, this is of no use: whoever asks
//! goes another way, or has it made and taken back each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use uuid::Uuid;

use super::transaction::{self, READING};
use super::{DEADLINE, Database, Error};

/// A statement with parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    name: String,
    prepare: String,
}

impl Prepared {
    /// `types`: those of its parameters.
    pub fn new(types: &str, statement: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (types, statement).hash(&mut hasher);
        let name = format!("agent_sync_{:016x}", hasher.finish());
        let statement = statement.trim_end().trim_end_matches(';');
        let types = match types {
            "" => String::new(),
            types => format!("({types})"),
        };
        Self {
            prepare: format!("prepare {name} {types} as {statement};\n"),
            name,
        }
    }

    /// What makes it.
    pub fn prepare(&self) -> &str {
        &self.prepare
    }

    /// What runs it. `arguments`: literals.
    pub fn execute(&self, arguments: &str) -> String {
        match arguments {
            "" => format!("execute {};", self.name),
            arguments => format!("execute {} ({arguments});", self.name),
        }
    }

    /// What makes it, runs it and takes it back, under a name that nobody else has.
    fn once(&self, arguments: &str) -> String {
        let once = Self {
            name: format!("agent_sync_{}", Uuid::new_v4().simple()),
            prepare: String::new(),
        };
        let prepare = self.prepare.replacen(&self.name, &once.name, 1);
        let execute = once.execute(arguments);
        format!("{prepare}{execute} deallocate {};", once.name)
    }

    /// Sends a message with what runs it; where it is missing, with what makes it, too; and where sessions keep nothing, with what takes it
    /// back. The message is no transaction's, or begins one at its end.
    pub async fn run(
        &self,
        keeping: &Keeping,
        client: &Client,
        arguments: &str,
        message: impl Fn(&str) -> String,
    ) -> Result<Vec<SimpleQueryMessage>, Error> {
        match self.run_kept(keeping, client, arguments, &message).await? {
            Some(sent) => Ok(sent),
            None => Ok(client.simple_query(&message(&self.once(arguments))).await?),
        }
    }

    /// The same. `None`: sessions here keep nothing, and nothing was done.
    pub async fn run_kept(
        &self,
        keeping: &Keeping,
        client: &Client,
        arguments: &str,
        message: impl Fn(&str) -> String,
    ) -> Result<Option<Vec<SimpleQueryMessage>>, Error> {
        if !keeping.is_of_use() {
            return Ok(None);
        }
        let execute = self.execute(arguments);
        for prepare in ["", &self.prepare] {
            let said = message(&format!("{prepare}{execute}"));
            let sent = client.simple_query(&said).await.map_err(Error::from);
            keeping.is_missing(&sent);
            // It is not there. Or it is there already: behind a pooler, this may be another session than just now.
            if !sent.as_ref().is_err_and(|e| self.is_named_in(e)) {
                return sent.map(Some);
            }
        }
        Ok(None)
    }

    /// Whether it is this one that an error is about. However the server puts it, it names it.
    pub fn is_named_in(&self, error: &Error) -> bool {
        match error {
            Error::Postgres(e) => e
                .as_db_error()
                .is_some_and(|e| e.message().contains(&self.name)),
            _ => false,
        }
    }
}

/// How a statement that is kept is planned: for whatever may come, and for tables that have grown since. (Where a table has to be read
/// in full all the same, that makes a plan look as if it were worth compiling, which takes a third of a second.)
pub const PLANNED: &str = "set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; set local jit = off; ";

/// Makes statements on a session that is new, before the first message in which one of them is missing: the server's log quotes such a
/// message, and what a caller claims stands in it. One that is there already, behind a pooler, stays.
pub async fn make(client: &Client, statements: &[&Prepared]) {
    let made = statements
        .iter()
        .map(|one| client.simple_query(&one.prepare));
    join_all(made).await;
}

/// A text as a literal, whatever is in it and whatever the server makes of backslashes elsewhere. (But for a NUL, which cannot be sent.)
pub fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 3);
    literal.push_str("E'");
    write(&mut literal, text, |byte| match byte {
        b'\'' => Some("''"),
        b'\\' => Some(r"\\"),
        _ => None,
    });
    literal.push('\'');
    literal
}

/// Texts as the literal of an array.
pub fn array(texts: impl IntoIterator<Item: AsRef<str>>) -> String {
    let mut array = String::from("E'{");
    for (place, text) in texts.into_iter().enumerate() {
        array.push_str(if place == 0 { "\"" } else { ",\"" });
        // What the array has escaped, the literal escapes once more.
        write(&mut array, text.as_ref(), |byte| match byte {
            b'\'' => Some("''"),
            b'"' => Some(r#"\\""#),
            b'\\' => Some(r"\\\\"),
            _ => None,
        });
        array.push('"');
    }
    array.push_str("}'");
    array
}

/// Writes a text with something else instead of some ASCII characters.
fn write(written: &mut String, text: &str, instead: impl Fn(u8) -> Option<&'static str>) {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if let Some(instead) = instead(byte) {
            written.push_str(&text[from..at]);
            written.push_str(instead);
            from = at + 1;
        }
    }
    written.push_str(&text[from..]);
}

/// How a pool fares with statements that its sessions keep.
#[derive(Debug, Default)]
pub struct Keeping(AtomicI64);

/// How much more often a statement may be missing than it is there.
const PATIENCE: i64 = 256;

impl Keeping {
    /// Whether sessions here keep anything.
    pub fn is_of_use(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= PATIENCE
    }

    /// Takes in what came of a statement that was taken to be there. `true`: it is not.
    pub fn is_missing<T>(&self, sent: &Result<T, Error>) -> bool {
        let missing = SqlState::INVALID_SQL_STATEMENT_NAME;
        let is_missing = matches!(sent, Err(Error::Postgres(e)) if e.code() == Some(&missing));
        let count = |n: i64| match is_missing {
            true => Some(n + 8),
            false => (n > 0).then(|| n - 1),
        };
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        is_missing
    }
}

/// The rows of a message with several statements, by statement, of those that have any columns.
pub fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<SimpleQueryRow>> {
    let mut rows: Vec<Vec<SimpleQueryRow>> = Vec::new();
    for message in messages {
        match (message, rows.last_mut()) {
            (SimpleQueryMessage::RowDescription(_), _) => rows.push(Vec::new()),
            (SimpleQueryMessage::Row(row), Some(rows)) => rows.push(row),
            _ => {}
        }
    }
    rows
}

impl Database {
    /// Reads by a statement that sessions keep, in a transaction of its own, and in one message. `None`: sessions here keep nothing.
    pub async fn read_prepared(
        &self,
        statement: &Prepared,
        arguments: &str,
    ) -> Result<Option<Vec<SimpleQueryRow>>, Error> {
        let reading = async {
            let client = self.client().await?;
            let message =
                |run: &str| transaction::within_limits(READING, &format!("{PLANNED}{run}"));
            let sent = statement
                .run_kept(&self.keeping, &client, arguments, message)
                .await?;
            client.give_back();
            // Those of the last statement that has any.
            Ok(sent.and_then(|messages| rows(messages).pop()))
        };
        self.within(DEADLINE, reading).await
    }
}

/// A column of a row that came as text.
pub fn text<'a>(row: &'a SimpleQueryRow, name: &str) -> Result<Option<&'a str>, Error> {
    row.try_get(name).map_err(Error::Postgres)
}

/// The same, read as what it is.
pub fn value<T: std::str::FromStr>(row: &SimpleQueryRow, name: &str) -> Result<Option<T>, Error> {
    let text = text(row, name)?;
    text.map(|text| text.parse().map_err(|_| unexpected(name)))
        .transpose()
}

/// A column that is never null.
pub fn required<T: std::str::FromStr>(row: &SimpleQueryRow, name: &str) -> Result<T, Error> {
    value(row, name)?.ok_or_else(|| unexpected(name))
}

pub fn unexpected(column: &str) -> Error {
    Error::Setup(format!(
        "the database says something unexpected in column {column}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_ends_where_the_text_does() {
        for (text, expected) in [
            ("", r"E''"),
            ("plain", r"E'plain'"),
            ("it's", r"E'it''s'"),
            (r"\'", r"E'\\'''"),
            (r"a\", r"E'a\\'"),
            ("ü'€", "E'ü''€'"),
        ] {
            assert_eq!(literal(text), expected);
        }
    }

    #[test]
    fn an_array_has_each_text_as_it_is() {
        for (texts, expected) in [
            (&[][..], r"E'{}'"),
            (&["", "null", "a,b}"], r#"E'{"","null","a,b}"}'"#),
            (&[r#"it's "so""#, r"\"], r#"E'{"it''s \\"so\\"","\\\\"}'"#),
        ] {
            assert_eq!(array(texts), expected);
        }
    }
}
