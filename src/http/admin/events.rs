//! `/events`: what is synced, as it happens, as server-sent events. First the last ones, or those after `Last-Event-ID`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use http_body_util::{Either, Full};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use tokio_util::sync::CancellationToken;

use crate::activity::{Activity, Event, Heard, Listener};
use crate::http::exchange::Exchange;
use crate::http::slots::{Slot, Slots};
use crate::http::{Answer, Body, Problem};

/// How many streams there are at a time: each has a connection, of which probes and scrapers need some, too.
const MAX_STREAMS: usize = 16;

/// How long a stream is silent at most, so that whatever is in between keeps it.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where the streams come from.
#[derive(Debug)]
pub struct Events {
    activity: Arc<Activity>,
    streams: Arc<Slots>,
    shutdown: CancellationToken,
}

impl Events {
    /// All streams end when `shutdown` is called.
    pub fn new(activity: Arc<Activity>, shutdown: CancellationToken) -> Self {
        Self {
            activity,
            streams: Slots::new(MAX_STREAMS),
            shutdown,
        }
    }

    pub(super) fn answer(&self, request: &Request<Body>) -> Result<Answer, Problem> {
        let body = if request.method() == Method::HEAD {
            Either::Left(Full::default())
        } else {
            let slot = self.streams.take().ok_or_else(Problem::overloaded)?;
            let last = request.headers().get("last-event-id");
            let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
            Either::Right(Either::Right(EventStream::new(Source {
                begun: false,
                listener: self.activity.listen(last),
                shutdown: self.shutdown.clone(),
                _slot: slot,
            })))
        };
        let mut answer = Response::new(body);
        let headers = answer.headers_mut();
        let kind = HeaderValue::from_static("text/event-stream");
        headers.insert(CONTENT_TYPE, kind);
        // nginx would wait for more.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(answer)
    }
}

/// What a stream consists of.
struct Source {
    begun: bool,
    listener: Listener,
    shutdown: CancellationToken,
    _slot: Slot,
}

impl Source {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if !std::mem::replace(&mut self.begun, true) {
            // How soon to come back when it ends, in milliseconds.
            let mut text = "retry: 2000\n\n".to_owned();
            while let Some(event) = self.listener.missed() {
                text.push_str(&written(&event));
            }
            return Some((text.into(), self));
        }
        let text = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return None,
            heard = self.listener.next() => match heard? {
                Heard::Event(event) => written(&event),
                Heard::Lost(events) => format!("event: lost\ndata: {{\"events\":{events}}}\n\n"),
            },
            () = tokio::time::sleep(KEEPALIVE) => ":\n\n".to_owned(),
        };
        Some((text.into(), self))
    }
}

fn written(event: &Event) -> String {
    let Event { id, kind, data } = event;
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}

/// The body of an answer that lasts as long as its client, or the worker.
pub struct EventStream {
    parts: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    /// The slot of the client's connection.
    connection: Option<Arc<Slot>>,
}

impl EventStream {
    fn new(source: Source) -> Self {
        Self {
            parts: Box::pin(stream::unfold(source, Source::next)),
            connection: None,
        }
    }

    /// It begins on this connection.
    pub(in crate::http) fn begins(&mut self, slot: Arc<Slot>, exchange: Arc<Exchange>) {
        // Wherever it ends, all that has come is whole.
        exchange.streams(false);
        exchange.may_be_cut();
        self.connection = Some(slot);
    }
}

impl hyper::body::Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.as_mut().poll_next(cx);
        part.map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if let Some(slot) = &self.connection {
            slot.waits();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_never_silent_for_long_and_ends_at_once() {
        let (activity, shutdown) = (Activity::default(), CancellationToken::new());
        let source = Source {
            begun: false,
            listener: activity.listen(None),
            shutdown: shutdown.clone(),
            _slot: Slots::new(1).take().expect("a slot"),
        };
        let (first, source) = source.next().await.expect("a beginning");
        assert_eq!(first, "retry: 2000\n\n");
        let began = tokio::time::Instant::now();
        let (second, source) = source.next().await.expect("a comment");
        assert_eq!(
            (second.as_ref(), began.elapsed()),
            (&b":\n\n"[..], KEEPALIVE)
        );
        shutdown.cancel();
        assert!(source.next().await.is_none());
    }
}
