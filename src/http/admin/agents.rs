//! `GET /agents`: which agents there are, in which state, and what is wrong with them. From the ledger, with names from
//! `public.agents`; never what an agent is told, nor how it is configured.
//!
//! Those in the worst state come first, and of those the ones that changed last. A page goes on where the one before ended, so that
//! the hundredth costs what the first does. One question at a time is asked: however many look, the worker's database is not kept busy.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::database::{self, Database, Error, column};
use crate::http::{Answer, Problem, json_answer};
use crate::sql;
use crate::store::timestamp;

/// How long an answer may take, the wait for one's turn included.
const DEADLINE: Duration = Duration::from_secs(4);

/// - The server gives up before we do, and the connection stays good.
/// - One hundred thousand agents are sorted out in memory, and not worth compiling for.
const LIMITS: &str = "set transaction read only; \
     select set_config('statement_timeout', '3s', true), set_config('lock_timeout', '1s', true), \
     set_config('work_mem', '32MB', true), set_config('jit', 'off', true)";

const STATES: [&str; 5] = ["failed", "conflict", "held", "synced", "removed"];

const DEFAULT_LIMIT: u16 = 100;
const MAX_LIMIT: u16 = 500;

/// The longest text that is searched for, in bytes.
const MAX_SEARCH: usize = 200;

/// From how many digits on a search may mean an id. With fewer, too many words are the beginning of one.
const MIN_DIGITS: usize = 4;

#[derive(Debug)]
pub struct Agents {
    /// `None` without a database: then there are none.
    database: Option<Database>,
    turn: Semaphore,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Query {
    state: Option<&'static str>,
    search: Option<String>,
    limit: u16,
    after: Option<Cursor>,
}

/// The last agent of the page before, as it was sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    rank: i32,
    changed_at: OffsetDateTime,
    agent_id: Uuid,
}

impl Agents {
    pub fn new(database: Option<Database>) -> Self {
        Self {
            database,
            turn: Semaphore::new(1),
        }
    }

    /// `{"agents": […], "next": …, "total": …}`.
    pub async fn list(&self, query: Option<&str>) -> Result<Answer, Problem> {
        let query = Query::parse(query.unwrap_or_default())
            .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why))?;
        let Some(database) = &self.database else {
            let none = json!({ "agents": [], "next": null, "total": 0 });
            return Ok(json_answer(StatusCode::OK, &none));
        };
        let turn = timeout(DEADLINE, self.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Problem::overloaded());
        };
        match database.within(DEADLINE, page(database, &query)).await {
            Ok(page) => Ok(json_answer(StatusCode::OK, &page)),
            Err(e) => {
                let why = format!("The agents cannot be listed: {e}");
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
                    .with_header(RETRY_AFTER, "5"))
            }
        }
    }
}

async fn page(database: &Database, query: &Query) -> Result<Value, Error> {
    let mut client = database.client().await?;
    let tx = database::begin(&mut client).await?;
    tx.batch_execute(LIMITS).await?;
    let (from, to) = query.search.as_deref().and_then(ids).unzip();
    let after = query.after;
    let (rank, changed_at, agent_id) = (
        after.map(|cursor| cursor.rank),
        after.map(|cursor| cursor.changed_at),
        after.map(|cursor| cursor.agent_id),
    );
    // One more tells whether there is another page.
    let limit = usize::from(query.limit);
    let looked_at = i64::from(query.limit) + 1;
    let rows = tx
        .query_typed(
            sql!("admin_agents"),
            &[
                (&query.state, Type::TEXT),
                (&query.search, Type::TEXT),
                (&from, Type::UUID),
                (&to, Type::UUID),
                (&rank, Type::INT4),
                (&changed_at, Type::TIMESTAMPTZ),
                (&agent_id, Type::UUID),
                (&looked_at, Type::INT8),
            ],
        )
        .await?;
    tx.rollback().await?;
    client.give_back();

    let total: i64 = match rows.first() {
        Some(row) => column(row, "total")?,
        None => 0,
    };
    let mut agents = Vec::with_capacity(rows.len());
    let mut last = None;
    for row in rows.iter().take(limit) {
        if let Some((agent, cursor)) = agent(row)? {
            agents.push(agent);
            last = Some(cursor);
        }
    }
    let next = last.filter(|_| rows.len() > limit).map(Cursor::encode);
    Ok(json!({ "agents": agents, "next": next, "total": total }))
}

/// `None`: the row of a page without any.
fn agent(row: &Row) -> Result<Option<(Value, Cursor)>, Error> {
    let Some(agent_id) = column::<Option<Uuid>>(row, "agent_id")? else {
        return Ok(None);
    };
    let cursor = Cursor {
        rank: column(row, "rank")?,
        changed_at: column(row, "changed_at")?,
        agent_id,
    };
    let synced_at: Option<OffsetDateTime> = column(row, "synced_at")?;
    let wrote_at = column::<Option<&str>>(row, "wrote_at")?;
    let wrote_at = wrote_at.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let agent = json!({
        "agent_id": agent_id,
        "name": column::<Option<&str>>(row, "name")?,
        "organization_id": column::<Option<&str>>(row, "organization_id")?,
        "state": column::<&str>(row, "state")?,
        "assistants": column::<i64>(row, "assistants")?,
        "synced_at": synced_at.max(wrote_at).map(timestamp),
        "changed_at": timestamp(cursor.changed_at),
        "attempts": column::<i32>(row, "attempts")?,
        "error": column::<Option<&str>>(row, "error")?,
    });
    Ok(Some((agent, cursor)))
}

impl Query {
    /// Of a URL. The error says what is wrong with which parameter.
    fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self {
            state: None,
            search: None,
            limit: DEFAULT_LIMIT,
            after: None,
        };
        let mut seen = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("`{name}` is not UTF-8"))?;
            if seen.contains(&name) {
                return Err(format!("`{name}` is there more than once"));
            }
            seen.push(name);
            let value = value.trim();
            match name {
                _ if value.is_empty() && matches!(name, "state" | "search" | "limit" | "after") => {
                }
                "state" => {
                    let state = STATES.into_iter().find(|state| *state == value);
                    let wrong = || format!("`state` must be one of {}", STATES.join(", "));
                    query.state = Some(state.ok_or_else(wrong)?);
                }
                "search" if value.len() > MAX_SEARCH => {
                    return Err(format!("`search` may have at most {MAX_SEARCH} bytes"));
                }
                "search" if value.contains('\0') => {
                    return Err("`search` must not contain NUL".to_owned());
                }
                "search" => query.search = Some(value.to_owned()),
                "limit" => {
                    let limit = value.parse().ok();
                    query.limit = limit
                        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                        .ok_or_else(|| format!("`limit` must be from 1 to {MAX_LIMIT}"))?;
                }
                "after" => {
                    let cursor = Cursor::decode(value);
                    let wrong = || "`after` must be `next` of the page before".to_owned();
                    query.after = Some(cursor.ok_or_else(wrong)?);
                }
                _ => return Err("There are `state`, `search`, `limit` and `after`".to_owned()),
            }
        }
        Ok(query)
    }
}

/// As forms and `URLSearchParams` encode it.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// The first and the last id that begin like this, if ids do.
fn ids(beginning: &str) -> Option<(Uuid, Uuid)> {
    let digits: String = beginning.chars().filter(|c| *c != '-').collect();
    if !(MIN_DIGITS..=32).contains(&digits.len()) {
        return None;
    }
    let first = Uuid::try_parse(&format!("{digits:0<32}")).ok()?;
    let last = Uuid::try_parse(&format!("{digits:f<32}")).ok()?;
    Some((first, last))
}

impl Cursor {
    fn encode(self) -> String {
        let micros = self.changed_at.unix_timestamp_nanos() / 1000;
        URL_SAFE_NO_PAD.encode(format!("{} {micros} {}", self.rank, self.agent_id.simple()))
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let mut parts = str::from_utf8(&bytes).ok()?.split(' ');
        let mut next = || parts.next();
        let (rank, micros, agent_id) = (next()?, next()?, next()?);
        let nanos = micros.parse::<i64>().ok().map(i128::from)? * 1000;
        Some(Self {
            rank: rank.parse().ok()?,
            changed_at: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
            agent_id: Uuid::try_parse(agent_id).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0001);

    #[test]
    fn what_is_not_asked_for_is_not_limited() {
        let everything = Query {
            state: None,
            search: None,
            limit: 100,
            after: None,
        };
        for text in ["", "&", "state=&search=&limit=&after=", "search=%20+"] {
            assert_eq!(Query::parse(text), Ok(everything.clone()), "{text}");
        }
    }

    #[test]
    fn a_query_is_read_as_forms_write_it() {
        let cursor = Cursor {
            rank: 4,
            changed_at: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_000)
                .expect("a time"),
            agent_id: ID,
        };
        let text = format!(
            "search=front+desk%20%26%C3%A9&state=failed&limit=500&after={}",
            cursor.encode()
        );
        let expected = Query {
            state: Some("failed"),
            search: Some("front desk &é".to_owned()),
            limit: 500,
            after: Some(cursor),
        };
        assert_eq!(Query::parse(&text), Ok(expected));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let long = format!("search={}", "x".repeat(MAX_SEARCH + 1));
        for (text, part) in [
            ("state=broken", "failed, conflict, held, synced, removed"),
            ("limit=0", "from 1 to 500"),
            ("limit=501", "from 1 to 500"),
            ("limit=-1", "from 1 to 500"),
            ("limit=99999999999999999999", "from 1 to 500"),
            ("limit=ten", "from 1 to 500"),
            ("after=x", "`next` of the page before"),
            ("after=NCAxIGE", "`next` of the page before"),
            ("search=%FF", "`search` is not UTF-8"),
            ("search=%00", "NUL"),
            (&long, "at most 200 bytes"),
            ("search=a&search=b", "`search` is there more than once"),
            (
                "filter=a",
                "There are `state`, `search`, `limit` and `after`",
            ),
        ] {
            let error = Query::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_beginning_of_an_id_means_all_that_begin_so() {
        let (first, last) = ids("A000-0000-4").expect("ids");
        assert_eq!(first.to_string(), "a0000000-4000-0000-0000-000000000000");
        assert_eq!(last.to_string(), "a0000000-4fff-ffff-ffff-ffffffffffff");
        assert_eq!(ids(&ID.to_string()), Some((ID, ID)));
        for no in [
            "",
            "ace",
            "desk",
            "a0000000-0000-4000-8000-0000000000011",
            "ééé",
        ] {
            assert_eq!(ids(no), None, "{no}");
        }
    }
}
