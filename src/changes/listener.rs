//! The listening connection: it LISTENs, and rings whatever it hears.
//!
//! A notification says only "look": its payload is ignored, as anybody may send one. Every time the connection is
//! (re)made, LISTEN comes first and the bell is rung after it, so that what was missed meanwhile is found.
//!
//! Whether it still hears is found out by one check: every ten seconds a notification goes out on *another* connection,
//! to a channel of this worker's own, and must arrive. It finds half-open connections, an `unlisten *`, poolers that
//! swallow notifications, and a pool that points at another database. The same statement asks, as an editor would, whether
//! somebody wants to be rung for.
//!
//! As long as it hears, editors are had to ring for it ([`bell`]).

use std::time::Duration;

use futures::{FutureExt, StreamExt, future, stream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};
use tracing::debug;
use uuid::Uuid;

use super::bell;
use crate::database::{Database, DatabaseUrl, Error, column};
use crate::doorbell::{Doorbell, State};
use crate::retry::Backoff;
use crate::sql;

/// Lower case, as LISTEN folds it and `pg_notify` does not.
const CHANNEL: &str = "agent_sync";

/// How long connecting may take, and LISTEN.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is made sure that notifications arrive, and how long one may take.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after a probe that could not be sent.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// A connection that held for this long was a good one: the next loss is a first one.
const STEADY: Duration = Duration::from_secs(60);

/// How long a connection that hears nothing is left before there is another try.
const DEAF_PAUSE: Duration = Duration::from_secs(60);

/// Why listening ended.
enum Ended {
    Lost(Error),
    /// A probe did not arrive; nor did any before it, if it was the first.
    Deaf {
        first: bool,
    },
}

/// Listens for ever. Runs until it is dropped, which it may be at any point.
pub async fn run(url: &DatabaseUrl, database: &Database, doorbell: &Doorbell) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let started = Instant::now();
        let ended = listen(url, database, doorbell).await;
        doorbell.disarm();
        let pause = match ended {
            Ended::Deaf { first: true } => {
                doorbell.now(
                    State::PollingOnly,
                    "notifications do not arrive on this connection. Behind a transaction-mode pooler (Supabase: port 6543) they \
                     never do: use the direct connection or the session pooler (port 5432)",
                );
                DEAF_PAUSE
            }
            ended => {
                if started.elapsed() > STEADY {
                    backoff.reset();
                }
                match ended {
                    Ended::Lost(error) => doorbell.now(State::Connecting, &error.to_string()),
                    Ended::Deaf { .. } => {
                        doorbell.now(State::Connecting, "notifications no longer arrive");
                        doorbell.declare_dead();
                    }
                }
                backoff.pause()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Listens until that ends.
async fn listen(url: &DatabaseUrl, database: &Database, doorbell: &Doorbell) -> Ended {
    let url = url.named("agent-sync listener");
    let (client, mut connection) =
        match timeout(SETUP_TIMEOUT, url.config().connect(url.tls().connector())).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(e)) => return Ended::Lost(e.into()),
            Err(_) => return Ended::Lost(timed_out("connecting")),
        };
    let own_channel = format!("{CHANNEL}_probe_{}", Uuid::new_v4().simple());
    let (heard, mut last_heard) = watch::channel(0_u64);
    let hears = Notify::new();
    // Polled by hand: driven as a future, the connection would drop its notifications.
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    let hear = async {
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(note)) if note.channel() == own_channel => {
                    heard.send_replace(note.payload().parse().unwrap_or(0));
                }
                Ok(AsyncMessage::Notification(_)) => doorbell.heard(),
                Ok(_) => {}
                Err(e) => return Ended::Lost(e.into()),
            }
        }
        Ended::Lost(Error::Pool("the server closed the connection".to_owned()))
    };
    let probe = async {
        match timeout(SETUP_TIMEOUT, subscribe(&client, &own_channel)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Ended::Lost(e),
            Err(_) => return Ended::Lost(timed_out("LISTEN")),
        }
        // A retry behind a pooler is nothing new, as long as it hears nothing.
        if doorbell.state() != State::PollingOnly {
            doorbell.now(State::CatchingUp, "subscribed");
        }
        doorbell.ring();
        for number in 1.. {
            let (sent, armed) = (Instant::now(), doorbell.armed());
            let probing = notify(database, &own_channel, number);
            let is_free = match database.within(PROBE_TIMEOUT, probing).await {
                Ok(is_free) => is_free,
                Err(e) => {
                    // It says nothing about listening if not even speaking works.
                    debug!(error = %e, "could not send a probe");
                    tokio::time::sleep(PROBE_PAUSE).await;
                    continue;
                }
            };
            // Unless it has been given up meanwhile.
            if is_free && armed.is_some() && doorbell.armed() == armed {
                doorbell.disarm();
            }
            if timeout(PROBE_TIMEOUT, last_heard.wait_for(|last| *last >= number))
                .await
                .is_err()
            {
                return Ended::Deaf {
                    first: doorbell.state() != State::Listening,
                };
            }
            doorbell.heard_after(sent.elapsed());
            doorbell.now(State::Listening, "notifications arrive");
            hears.notify_one();
            tokio::time::sleep(PROBE_EVERY).await;
        }
        future::pending().await
    };
    // Not before: a pooler would lend out the lock with the session.
    let ring = async {
        hears.notified().await;
        match bell::keep(&url, database, doorbell).await {}
    };
    future::select_all([hear.boxed(), probe.boxed(), ring.boxed()])
        .await
        .0
}

async fn subscribe(client: &Client, own_channel: &str) -> Result<(), Error> {
    let listen = format!("listen {CHANNEL}; listen {own_channel}");
    match client.batch_execute(&listen).await {
        // Postgres up to 17 may have truncated the commit log that old entries of the queue refer to. Looking at the queue
        // makes it forget them (https://github.com/PostgREST/postgrest/pull/4858).
        Err(e) if e.code() == Some(&SqlState::UNDEFINED_FILE) => {
            client
                .batch_execute("select pg_notification_queue_usage()")
                .await?;
            Ok(client.batch_execute(&listen).await?)
        }
        listened => Ok(listened?),
    }
}

/// Returns whether somebody who edits would be silent.
async fn notify(database: &Database, channel: &str, number: u64) -> Result<bool, Error> {
    let client = database.client().await?;
    let payload = number.to_string();
    let params = [(&channel as _, Type::TEXT), (&payload as _, Type::TEXT)];
    let row = client.query_typed_one(sql!("probe"), &params).await?;
    client.give_back();
    column(&row, "is_free")
}

fn timed_out(step: &str) -> Error {
    Error::Pool(format!(
        "{step} took longer than {} s",
        SETUP_TIMEOUT.as_secs()
    ))
}
