//! The database server, and what is between it and us.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{FutureExt, StreamExt, stream};
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};
use uuid::Uuid;

use super::connection::credentials::is_supabase_pooler;
use super::session::Session;
use super::{Found, Patient, Stop, Verdict};
use crate::config::DATABASE_URL;
use crate::database::{DatabaseUrl, Error, column};
use crate::sql;
use crate::worker;

/// `create or replace trigger` came with it.
const OLDEST: i32 = 140_000;

/// How many connections a worker takes at most.
const OF_A_WORKER: i64 = worker::CONNECTIONS as i64;

/// How long a notification may take.
const RING: Duration = Duration::from_secs(5);

/// By how many seconds clocks may differ before it is told, and before it does harm: tokens are good for half a minute more or less.
const DIFFERENT: f64 = 2.0;
const HARMFUL: f64 = 30.0;

/// How full the queue of notifications is when somebody should look, and when edits are about to fail.
const FILLING: f64 = 0.25;
const FULL: f64 = 0.9;

pub async fn version(patient: &Patient<'_>) -> Found {
    let row = patient.session()?.ask_one(sql!("doctor_server")).await?;
    let (version, number): (&str, i32) = (column(&row, "version")?, column(&row, "number")?);
    let (database, role): (&str, &str) = (column(&row, "database")?, column(&row, "role")?);
    Ok(match number {
        number if number < OLDEST => Verdict::wrong(
            format!("PostgreSQL {version} is too old"),
            "upgrade it to 14 or later",
        ),
        _ => Verdict::ok(format!(
            "PostgreSQL {version}, database {database}, as {role}"
        )),
    })
}

pub async fn writable(patient: &Patient<'_>) -> Found {
    let row = patient.session()?.ask_one(sql!("doctor_server")).await?;
    let database: &str = column(&row, "database")?;
    Ok(judge_writable(
        column(&row, "in_recovery")?,
        column(&row, "read_only")?,
        database,
    ))
}

fn judge_writable(in_recovery: bool, read_only: bool, database: &str) -> Verdict {
    match (in_recovery, read_only) {
        (true, _) => Verdict::wrong(
            "this is a standby (a read replica): nothing can be written there, and it sends no notifications",
            format!("name the primary in {DATABASE_URL}"),
        ),
        (false, true) => Verdict::wrong(
            "this database takes no writes at the moment (default_transaction_read_only is on; Supabase does that when the disk is full)",
            format!(
                "PGOPTIONS='-c default_transaction_read_only=off' psql \"$OWNER_URL\" -c 'alter database \"{database}\" set default_transaction_read_only = off'   # \
                 once there is room on the disk"
            ),
        ),
        (false, false) => Verdict::ok("it is the primary, and takes writes"),
    }
}

pub async fn pooler(patient: &Patient<'_>) -> Found {
    let session = patient.session()?;
    let row = session.ask_one(sql!("doctor_server")).await?;
    if column(&row, "in_recovery")? {
        return Err(Stop::Skipped("nobody can listen on a standby".to_owned()));
    }
    let between = between(session).await?;
    Ok(judge_pooler(between, &session.url))
}

/// What two connections have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// Both are the same to the server, while neither is in a transaction.
    Shared,
    /// A notification of one has not arrived on the other.
    Deaf,
    /// It has.
    Nothing,
}

/// A second connection listens, the first one rings. As the listener does it.
async fn between(session: &Session) -> Result<Between, Error> {
    let (listening, mut connection) = session
        .config
        .connect(session.url.tls().connector())
        .await?;
    let (heard, mut has_heard) = tokio::sync::watch::channel(false);
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    let hear = async {
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, AsyncMessage::Notification(_)) {
                heard.send_replace(true);
            }
        }
        std::future::pending().await
    };
    let probe = async {
        if backend(&listening).await? == backend(session.client()).await? {
            return Ok(Between::Shared);
        }
        let channel = format!("agent_sync_probe_{}", Uuid::new_v4().simple());
        listening
            .batch_execute(&format!("listen {channel}"))
            .await?;
        session
            .client()
            .execute_typed("select pg_notify($1, '')", &[(&channel, Type::TEXT)])
            .await?;
        let arrived = timeout(RING, has_heard.wait_for(|heard| *heard)).await;
        let arrived = arrived.is_ok_and(|heard| heard.is_ok());
        let _ = listening
            .batch_execute(&format!("unlisten {channel}"))
            .await;
        Ok(match arrived {
            true => Between::Nothing,
            false => Between::Deaf,
        })
    };
    futures::future::select(hear.boxed(), probe.boxed())
        .await
        .factor_first()
        .0
}

async fn backend(client: &Client) -> Result<i32, Error> {
    let row = client
        .query_typed_one("select pg_backend_pid() as pid", &[])
        .await?;
    column(&row, "pid")
}

fn judge_pooler(between: Between, url: &DatabaseUrl) -> Verdict {
    let shown = match between {
        Between::Nothing => {
            return Verdict::ok("notifications arrive from one connection on another");
        }
        Between::Shared => "two of our connections are one to the server",
        Between::Deaf => "a notification of one connection does not arrive on another",
    };
    let config = url.config();
    let port = *config.get_ports().first().unwrap_or(&5432);
    let supabase = port == 6543 || config.get_hosts().iter().any(is_supabase_pooler);
    let mend = match supabase {
        true => format!(
            "in {DATABASE_URL}, write port 5432 instead of {port}: Supabase's session pooler, or the database itself"
        ),
        false => format!(
            "in {DATABASE_URL}, name the server's own port (PostgreSQL: 5432) instead of the pooler's, {port}; or pool_mode = session in the pooler"
        ),
    };
    Verdict::warning(
        format!(
            "a pooler in transaction mode is in between ({shown}): notifications never arrive through it, so the worker polls every second"
        ),
        mend,
    )
}

pub async fn connections(patient: &Patient<'_>) -> Found {
    let row = patient
        .session()?
        .ask_one(sql!("doctor_connections"))
        .await?;
    let limits = [
        (SERVERS, "server_limit", "server_has"),
        (ROLES, "role_limit", "role_has"),
        (DATABASES, "database_limit", "database_has"),
    ];
    let limits = limits.map(|(whose, limit, has)| -> Result<Room, Error> {
        Ok(Room {
            whose,
            limit: column(&row, limit)?,
            has: column(&row, has)?,
        })
    });
    let limits: Vec<Room> = limits.into_iter().collect::<Result<_, _>>()?;
    Ok(judge_connections(&limits, column(&row, "ours")?))
}

const SERVERS: &str = "the server's";
const ROLES: &str = "this role's";
const DATABASES: &str = "this database's";

struct Room {
    whose: &'static str,
    /// Negative: none.
    limit: i64,
    has: i64,
}

/// `ours`: how many connections workers have already.
fn judge_connections(rooms: &[Room], ours: i64) -> Verdict {
    let limited = rooms.iter().filter(|room| room.limit >= 0);
    let tightest = limited.min_by_key(|room| room.limit - room.has);
    let Some(Room { whose, limit, has }) = tightest else {
        return Verdict::ok("there is no limit");
    };
    // This command's own does not count.
    let (has, needed) = ((has - 1).max(0), (OF_A_WORKER - ours).max(0));
    let free = (limit - has).max(0);
    if free >= needed {
        return Verdict::ok(format!("{free} of {whose} {limit} are free"));
    }
    let raise = match *whose {
        ROLES => "psql \"$OWNER_URL\" -c 'alter role … connection limit …'",
        DATABASES => "psql \"$OWNER_URL\" -c 'alter database … connection limit …'",
        _ => {
            "raise max_connections (Supabase: a larger compute), or let other clients go through a pooler"
        }
    };
    Verdict::warning(
        format!(
            "{free} of {whose} {limit} connections are free, and a worker takes up to {OF_A_WORKER}"
        ),
        format!(
            "psql \"${DATABASE_URL}\" -c 'select usename, application_name, count(*) from pg_stat_activity group by 1, 2 order by 3 desc'   # who has them\n{raise}"
        ),
    )
}

pub async fn notification_queue(patient: &Patient<'_>) -> Found {
    let statement = "select pg_notification_queue_usage() as usage";
    let row = patient.session()?.ask_one(statement).await?;
    Ok(judge_queue(column(&row, "usage")?))
}

fn judge_queue(usage: f64) -> Verdict {
    let share = format!("{:.0} % full", usage * 100.0);
    let mend = "psql \"$OWNER_URL\" -c \"select pid, usename, application_name, xact_start from pg_stat_activity where xact_start < now() - interval '1 minute' order by \
                xact_start\"   # one of these has said LISTEN and does not end its transaction: select pg_terminate_backend(pid)";
    match usage {
        full if full >= FULL => Verdict::wrong(
            format!("the queue of notifications is {share}: edits fail once it is full"),
            mend,
        ),
        filling if filling >= FILLING => {
            Verdict::warning(format!("the queue of notifications is {share}"), mend)
        }
        _ => Verdict::ok(share),
    }
}

pub async fn two_phase_commit(patient: &Patient<'_>) -> Found {
    let row = patient
        .session()?
        .ask_one(sql!("doctor_two_phase_commit"))
        .await?;
    let age: Option<f64> = column(&row, "oldest_age_seconds")?;
    Ok(judge_two_phase_commit(
        column(&row, "allowed")?,
        column(&row, "standing")?,
        age.unwrap_or_default(),
    ))
}

/// A minute is long for what two servers are to agree upon.
fn judge_two_phase_commit(allowed: i64, standing: i64, age: f64) -> Verdict {
    match (allowed, standing) {
        (0, _) => Verdict::ok("switched off"),
        (_, standing) if standing > 0 && age > 60.0 => Verdict::warning(
            format!(
                "{}: they hold their locks until somebody ends them",
                match standing {
                    1 => format!("1 prepared transaction has stood for {age:.0} s"),
                    _ =>
                        format!("{standing} prepared transactions stand, the oldest for {age:.0} s"),
                }
            ),
            "psql \"$OWNER_URL\" -c 'select gid, prepared, owner from pg_prepared_xacts order by prepared'   # commit prepared, or rollback prepared",
        ),
        _ => Verdict::ok(
            "possible; not for edits of agents, as Postgres prepares no transaction that notifies",
        ),
    }
}

pub async fn clock(patient: &Patient<'_>) -> Found {
    let session = patient.session()?;
    let (sent, before) = (Instant::now(), now());
    let statement = "select extract(epoch from clock_timestamp())::float8 as now";
    let row = session.ask_one(statement).await?;
    let took = sent.elapsed().as_secs_f64();
    let theirs: f64 = column(&row, "now")?;
    // It was looked at somewhere on the way.
    let difference = before + took / 2.0 - theirs;
    Ok(judge_clock(difference, took / 2.0, "the database's"))
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// `ahead`: by how many seconds this machine's clock is; it may be so much `more_or_less`.
pub fn judge_clock(ahead: f64, more_or_less: f64, whose: &str) -> Verdict {
    let difference = (ahead.abs() - more_or_less).max(0.0);
    let direction = match ahead > 0.0 {
        true => "ahead of",
        false => "behind",
    };
    let told = format!("this machine's clock is {difference:.0} s {direction} {whose}");
    let mend = "set the clocks by NTP: timedatectl status; chronyc tracking";
    match difference {
        harmful if harmful >= HARMFUL => Verdict::wrong(
            format!("{told}: tokens count as expired too early, or too late"),
            mend,
        ),
        different if different >= DIFFERENT => Verdict::warning(told, mend),
        _ => Verdict::ok(format!("as {whose}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(verdict: &Verdict) -> &'static str {
        verdict.word()
    }

    #[test]
    fn clocks_may_differ_by_a_moment_and_by_how_long_the_question_took() {
        for (ahead, more_or_less, is) in [
            (0.0, 0.0, "ok"),
            (1.9, 0.0, "ok"),
            (-2.1, 0.0, "warning"),
            (2.1, 0.5, "ok"),
            (29.0, 0.0, "warning"),
            (31.0, 0.0, "wrong"),
            (-31.0, 0.0, "wrong"),
        ] {
            assert_eq!(
                word(&judge_clock(ahead, more_or_less, "its")),
                is,
                "{ahead}"
            );
        }
    }

    #[test]
    fn the_tightest_limit_counts_and_what_workers_have_already_is_theirs() {
        let rooms = |server: (i64, i64), role: (i64, i64)| {
            let room = |whose, (limit, has)| Room { whose, limit, has };
            [room(SERVERS, server), room(ROLES, role)]
        };
        for (server, role, ours, is) in [
            ((97, 20), (-1, 5), 0, "ok"),
            ((97, 90), (-1, 5), 0, "warning"),
            ((97, 90), (-1, 5), OF_A_WORKER - 7, "ok"),
            ((97, 20), (10, 5), 0, "warning"),
            ((97, 97), (10, 10), OF_A_WORKER, "ok"),
        ] {
            assert_eq!(
                word(&judge_connections(&rooms(server, role), ours)),
                is,
                "{server:?} {role:?}"
            );
        }
    }

    #[test]
    fn a_queue_is_told_when_it_fills_and_is_wrong_before_edits_fail() {
        assert_eq!(
            [0.0, 0.3, 0.95].map(|usage| word(&judge_queue(usage))),
            ["ok", "warning", "wrong"]
        );
    }

    #[test]
    fn prepared_transactions_are_told_when_nobody_ends_them() {
        let judged = |allowed, standing, age| word(&judge_two_phase_commit(allowed, standing, age));
        assert_eq!(judged(0, 0, 0.0), "ok");
        assert_eq!(judged(10, 1, 5.0), "ok");
        assert_eq!(judged(10, 1, 600.0), "warning");
    }

    #[test]
    fn a_pooler_of_supabase_has_another_port() {
        for (url, port) in [
            (
                "postgresql://postgres.ref:p@aws-0-eu.pooler.supabase.com:6543/postgres",
                "write port 5432 instead of 6543",
            ),
            (
                "postgresql://postgres:p@db.ref.supabase.co:6543/postgres",
                "write port 5432 instead of 6543",
            ),
            (
                "postgresql://u:p@pgbouncer:6432/db",
                "instead of the pooler's, 6432",
            ),
        ] {
            let url: DatabaseUrl = url.parse().expect("a url");
            for between in [Between::Shared, Between::Deaf] {
                let Verdict::Warning(complaint) = judge_pooler(between, &url) else {
                    panic!("a warning");
                };
                assert!(complaint.mend.contains(port), "{complaint:?}");
            }
            assert_eq!(word(&judge_pooler(Between::Nothing, &url)), "ok");
        }
    }
}
