//! The doorbell: a connection that LISTENs, and rings whatever it hears.
//!
//! A notification says only "look": its payload is ignored, as anybody may send one. Every time the connection is
//! (re)made, LISTEN comes first and the bell is rung after it, so that what was missed meanwhile is found.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future, stream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::AsyncMessage;
use tracing::{debug, info, warn};

use crate::database::DatabaseUrl;
use crate::retry::Backoff;

/// Lower case, as LISTEN folds it and `pg_notify` does not.
const CHANNEL: &str = "agent_sync";

/// How long connecting and LISTEN may take together.
const SETUP_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection that held for this long was a good one: the next loss is a first one.
const STEADY: Duration = Duration::from_secs(60);

/// Listens for ever. Runs until it is dropped, which it may be at any point.
pub async fn run(url: &DatabaseUrl, bell: &Notify) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut lost = false;
    loop {
        let mut heard_since = None;
        let error = listen(url, bell, &mut heard_since).await;
        if heard_since.is_some_and(|since: Instant| since.elapsed() > STEADY) {
            backoff.reset();
        }
        if heard_since.is_some() || !lost {
            warn!(%error, "the listening connection is lost, polling until there is a new one");
        } else {
            debug!(%error, "no listening connection yet");
        }
        lost = true;
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Listens until the connection is lost, and says why it was; and since when there was one, if there was.
async fn listen(
    url: &DatabaseUrl,
    bell: &Notify,
    heard_since: &mut Option<Instant>,
) -> crate::database::Error {
    let connecting = url.config().connect(url.tls().connector());
    let (client, mut connection) = match tokio::time::timeout(SETUP_TIMEOUT, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(e)) => return e.into(),
        Err(_) => return timed_out(),
    };
    // Polled by hand: driven as a future, the connection would drop its notifications.
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    let hear = async {
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(_)) => bell.notify_one(),
                Ok(_) => {}
                Err(e) => return e.into(),
            }
        }
        crate::database::Error::Pool("the server closed the connection".to_owned())
    };
    let subscribe = async {
        let listen = format!("listen {CHANNEL}");
        match tokio::time::timeout(SETUP_TIMEOUT, client.batch_execute(&listen)).await {
            Ok(Ok(())) => {
                *heard_since = Some(Instant::now());
                info!(channel = CHANNEL, "listening for changes");
                bell.notify_one();
                // The client must outlive the listening: dropping it ends the session.
                future::pending().await
            }
            Ok(Err(e)) => e.into(),
            Err(_) => timed_out(),
        }
    };
    future::select(hear.boxed(), subscribe.boxed())
        .await
        .factor_first()
        .0
}

fn timed_out() -> crate::database::Error {
    crate::database::Error::Pool(format!("no answer within {} s", SETUP_TIMEOUT.as_secs()))
}
