//! A connection that has switched to another protocol (WebSocket): bytes, both ways, until one side hangs up.

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::time::timeout;
use tracing::debug;

use crate::http::slots::Slot;

/// How long the one side may go on when the other has said its last.
const LINGER: Duration = Duration::from_secs(5);

/// Both ends, as soon as their connections are let go; and the slot of the stream, which it keeps.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) _slot: Arc<Slot>,
}

impl Tunnel {
    pub(in crate::http) async fn run(&self) {
        match tokio::try_join!(self.client.clone(), self.upstream.clone()) {
            Ok((client, upstream)) => join(TokioIo::new(client), TokioIo::new(upstream)).await,
            Err(e) => debug!(error = %e, "the connection did not switch"),
        }
    }
}

async fn join(client: impl AsyncRead + AsyncWrite, upstream: impl AsyncRead + AsyncWrite) {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_upstream, mut to_upstream) = split(upstream);
    let asking = async {
        let _ = copy(&mut from_client, &mut to_upstream).await;
        let _ = to_upstream.shutdown().await;
    };
    let answering = async {
        let _ = copy(&mut from_upstream, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    let (mut asking, mut answering) = (std::pin::pin!(asking), std::pin::pin!(answering));
    let _ = tokio::select! {
        () = asking.as_mut() => timeout(LINGER, answering).await,
        () = answering.as_mut() => timeout(LINGER, asking).await,
    };
}
