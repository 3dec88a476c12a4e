//! Bodies on their way through, frame by frame: an upload to the upstream, and its answer. What is not taken at one end is not read
//! at the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{StatusCode, Version};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::Span;

use super::outage::Outages;
use crate::http::Problem;
use crate::http::exchange::Exchange;
use crate::http::slots::Slot;

/// The body of a request. While its next part does not come, the stream gives way to others, and in the end it is broken off.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    exchange: Arc<Exchange>,
    slot: Arc<Slot>,
    gave_way: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How long the next part may take to come.
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether it is the client's turn.
    waits: bool,
}

/// Why the rest of a request does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    #[error("the client broke off its request")]
    Broken,
    #[error("the client stopped sending")]
    Stalled,
    #[error("the client was slow to send, and others wanted the slot")]
    GaveWay,
}

impl Upload {
    pub fn new(
        incoming: Incoming,
        exchange: Arc<Exchange>,
        slot: Arc<Slot>,
        patience: Duration,
    ) -> Self {
        Self {
            gave_way: Box::pin(slot.gave_way()),
            deadline: Box::pin(sleep(patience)),
            waits: false,
            incoming,
            exchange,
            slot,
            patience,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let upload = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut upload.incoming).poll_frame(cx) {
            if std::mem::take(&mut upload.waits) && !upload.slot.works() {
                return Poll::Ready(Some(Err(UploadError::GaveWay)));
            }
            if frame.is_none() || upload.incoming.is_end_stream() {
                upload.exchange.has_read();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| UploadError::Broken)));
        }
        if !upload.waits {
            upload.waits = true;
            upload.slot.waits();
            let deadline = Instant::now() + upload.patience;
            upload.deadline.as_mut().reset(deadline);
        }
        if upload.gave_way.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(UploadError::GaveWay)));
        }
        let stalled = upload.deadline.as_mut().poll(cx);
        stalled.map(|()| Some(Err(UploadError::Stalled)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Broken => Self::new(
                StatusCode::BAD_REQUEST,
                "The request body could not be read",
            ),
            UploadError::Stalled => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "The request body took too long",
            ),
            UploadError::GaveWay => Self::overloaded(),
        }
    }
}

/// The body of the upstream's answer. As long as there is any of it to come, its stream has a slot, and the client's connection
/// works.
#[derive(Debug)]
pub struct Streamed {
    incoming: Incoming,
    _slot: Arc<Slot>,
    outages: Arc<Outages>,
    /// The request's, for what is logged of it.
    span: Span,
    /// The slot of the client's connection, and what its socket is told.
    connection: Option<(Arc<Slot>, Arc<Exchange>)>,
}

impl Streamed {
    pub(super) fn new(incoming: Incoming, slot: Arc<Slot>, outages: Arc<Outages>) -> Self {
        Self {
            incoming,
            _slot: slot,
            outages,
            span: Span::current(),
            connection: None,
        }
    }

    /// It begins on this connection, for a client of this version.
    pub(in crate::http) fn begins(
        &mut self,
        version: Version,
        slot: Arc<Slot>,
        exchange: Arc<Exchange>,
    ) {
        // Where there are no chunks, only a length can say that something is missing.
        let ends_with_connection =
            version == Version::HTTP_10 && self.incoming.size_hint().exact().is_none();
        exchange.streams(ends_with_connection);
        self.connection = Some((slot, exchange));
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match (&frame, &self.connection) {
            (None, Some((_, exchange))) => exchange.has_streamed(),
            (Some(Err(e)), _) => self.span.in_scope(|| self.outages.broke_off(e)),
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some((slot, _)) = &self.connection {
            slot.waits();
        }
    }
}
