//! The bell: who has it has editors ring. One lock does it, which exists in the database only while somebody wants it.
//!
//! Who edits *tries* to share that lock until the edit is there for everybody to see (`agent_sync.record`, in
//! `sql/migrations/0007_silent_edits.sql`). Who gets it edits in silence; who does not rings. A worker that wants to sleep asks for it for
//! itself, on a connection that is there for nothing else:
//!
//! - From the moment it asks, nobody gets it any more, so whoever edits from then on rings.
//! - It is granted when the last silent edit has ended, however that ended. What such edits have recorded can be seen by then, so one more
//!   look finds it, and then it can sleep.
//! - Where another worker has it, nobody edits in silence, and nobody will as long as we wait: that is just as good.
//! - Should the session end, by whatever fault, the lock goes with it, and editors are silent again: until it is made anew, the outbox is
//!   looked at every second. A session that has ended without our hearing of it is found by the listener's probe.
//!
//! A worker that is awake ([`vigil`](super::vigil)) does not have it. Nobody ever waits for a worker: editors only try, and the server
//! lets nobody who tries wait.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tracing::{debug, warn};

use crate::database::{Database, DatabaseUrl, Error, column};
use crate::doorbell::Doorbell;
use crate::retry::Backoff;
use crate::sql;

/// How long anything may take but waiting for the bell.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The server ends the waiting before that, if the connection is alive.
const WAITING: Duration = Duration::from_secs(150);

/// How long it waits before it finds out for whom, and for how long before it does so again.
const FOR_WHOM: Duration = Duration::from_millis(50);
const FOR_WHOM_AGAIN: Duration = Duration::from_secs(1);

/// What its session says first.
/// - While it waits it holds a snapshot, and so keeps dead rows from being removed: after a while it gives up, and begins anew.
/// - It waits for as long as that, and has the bell for as long as it likes, whatever the role's own settings.
/// - Should the worker be gone, the server finds out, while it waits and afterwards; and the bell is somebody else's.
const SETTINGS: [&str; 7] = [
    "statement_timeout = '2min'",
    "lock_timeout = 0",
    "idle_session_timeout = 0",
    "client_connection_check_interval = '1s'",
    "tcp_keepalives_idle = 30",
    "tcp_keepalives_interval = 10",
    "tcp_keepalives_count = 3",
];

/// Has the bell whenever the worker sleeps. Runs until it is dropped, which it may be at any point; the doorbell is to be disarmed then.
pub async fn keep(url: &DatabaseUrl, database: &Database, doorbell: &Doorbell) -> Infallible {
    let url = url.named("agent-sync bell");
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut told = false;
    loop {
        let before = doorbell.armings();
        let Err(error) = hold(&url, database, doorbell).await;
        doorbell.disarm();
        if doorbell.armings() > before {
            backoff.reset();
            told = false;
        }
        if std::mem::replace(&mut told, true) {
            debug!(%error, "no connection for the bell");
        } else {
            warn!(%error, "no connection for the bell, so nobody rings: the outbox is looked at every second");
        }
        sleep(backoff.pause()).await;
    }
}

/// As long as its connection holds.
async fn hold(
    url: &DatabaseUrl,
    database: &Database,
    doorbell: &Doorbell,
) -> Result<Infallible, Error> {
    let connecting = url.config().connect(url.tls().connector());
    let (client, connection) = within(connecting, "connecting").await?;
    let holding = async {
        let session = Session {
            pid: within(settle(&client), "its settings").await?,
            client,
            url,
            database,
            doorbell,
        };
        loop {
            doorbell.is_awake(false).await;
            session.sleep().await?;
            session.wake().await?;
        }
    };
    match select(pin!(connection), pin!(holding)).await {
        Either::Left((Ok(()), _)) => {
            Err(Error::Pool("the server closed the connection".to_owned()))
        }
        Either::Left((Err(e), _)) => Err(e.into()),
        Either::Right((ended, _)) => ended,
    }
}

/// Returns which session it is.
async fn settle(client: &Client) -> Result<i32, tokio_postgres::Error> {
    for setting in SETTINGS {
        match client.batch_execute(&format!("set {setting}")).await {
            // Not every server knows all of them.
            Err(e) if e.as_db_error().is_none() => return Err(e),
            _ => {}
        }
    }
    let row = client.query_typed_one("select pg_backend_pid()", &[]);
    row.await?.try_get(0)
}

/// The session that has the bell, or waits for it.
struct Session<'a> {
    client: Client,
    pid: i32,
    url: &'a DatabaseUrl,
    database: &'a Database,
    doorbell: &'a Doorbell,
}

impl Session<'_> {
    /// Takes the bell, and has it until the worker is awake.
    async fn sleep(&self) -> Result<(), Error> {
        loop {
            let taking = self.client.query_typed(sql!("bell_take"), &[]);
            match select(pin!(taking), pin!(self.wait())).await {
                Either::Left((Ok(_), _)) => break,
                Either::Left((Err(e), _)) => {
                    let error = Error::from(e);
                    // It has waited for long enough, and begins anew.
                    if !error.is_canceled() {
                        return Err(error);
                    }
                    self.doorbell.disarm();
                }
                Either::Right((Ok(()), taking)) => {
                    self.cancel().await?;
                    // Whether it was cancelled or granted: it is given up.
                    return match within(taking, "cancelling").await {
                        Err(e) if !e.is_canceled() => Err(e),
                        _ => Ok(()),
                    };
                }
                Either::Right((Err(e), _)) => return Err(e),
            }
        }
        self.has_it().await
    }

    /// Until the worker is awake.
    async fn has_it(&self) -> Result<(), Error> {
        let number = self.doorbell.arm();
        let awake = self.doorbell.is_awake(true);
        match select(pin!(awake), pin!(self.doorbell.disarmed(number))).await {
            Either::Left(_) => Ok(()),
            Either::Right(_) => Err(Error::Pool("it does not have the bell any more".to_owned())),
        }
    }

    /// Waits until the worker is awake. Where another worker has the bell, this one sleeps just as well.
    async fn wait(&self) -> Result<(), Error> {
        let mut again = FOR_WHOM;
        let waiting = timeout(WAITING, async {
            loop {
                sleep(std::mem::replace(&mut again, FOR_WHOM_AGAIN)).await;
                match self
                    .database
                    .within(TIMEOUT, self.is_held_by_another())
                    .await
                {
                    Ok(true) => return self.has_it().await,
                    Ok(false) => {}
                    // Until that is known, the outbox is looked at every second.
                    Err(error) => debug!(%error, "cannot find out who has the bell"),
                }
            }
        });
        match select(pin!(self.doorbell.is_awake(true)), pin!(waiting)).await {
            Either::Left(_) => Ok(()),
            Either::Right((Ok(ended), _)) => ended,
            Either::Right((Err(_), _)) => Err(too_long("waiting", WAITING)),
        }
    }

    async fn is_held_by_another(&self) -> Result<bool, Error> {
        let client = self.database.client().await?;
        let params = [(&self.pid as _, Type::INT4)];
        let row = client.query_typed_one(sql!("bell_held"), &params).await?;
        client.give_back();
        column(&row, "is_held")
    }

    /// Ends a statement of its own, if one is under way.
    async fn cancel(&self) -> Result<(), Error> {
        let cancelling = self.client.cancel_token();
        within(
            cancelling.cancel_query(self.url.tls().connector()),
            "cancelling",
        )
        .await
    }

    /// Gives the bell up: whoever edits is silent from now on.
    async fn wake(&self) -> Result<(), Error> {
        self.doorbell.disarm();
        loop {
            let giving_up = self.client.batch_execute("select pg_advisory_unlock_all()");
            match within(giving_up, "giving up the bell").await {
                // By a cancellation that came late.
                Err(e) if e.is_canceled() => {}
                done => return done,
            }
        }
    }
}

async fn within<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    what: &str,
) -> Result<T, Error> {
    match timeout(TIMEOUT, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(too_long(what, TIMEOUT)),
    }
}

fn too_long(what: &str, limit: Duration) -> Error {
    Error::Pool(format!("{what} took longer than {} s", limit.as_secs()))
}
