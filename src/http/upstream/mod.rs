//! The server that we stand in front of: requests go on to it, and its answers back, as they are and as they come.
//!
//! Nothing is read ahead, nothing is parsed, and nobody's credentials are looked at: who may do what there, that server decides.
//! What passes through has slots of its own and no time limits but for standing still: a stream may last for hours. Whoever hangs
//! up, a client or the server, the other one is told at once by the end of its connection.
//!
//! | module | what it owns |
//! |---|---|
//! | `head` | what of a message's head goes on (pure) |
//! | `body` | bodies on their way through |
//! | `tunnel` | connections that become WebSockets |
//! | `outage` | what is said when there is no answer |

mod body;
mod head;
mod outage;
mod tunnel;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::connector::{Connector, connector};
use super::slots::{Slot, Slots};
use super::url::HttpUrl;
use super::{Answer, Body, Peer, Problem, empty_answer};
use crate::config::Limits;
use body::Upload;
use outage::Outages;

pub use body::Streamed;
pub use tunnel::Tunnel;

/// For everything from looking up the host to the end of the TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection is kept for the next request. Many servers close theirs after 5 s, and a request that is sent just then
/// is lost.
const IDLE: Duration = Duration::from_secs(3);
const MAX_IDLE: usize = 32;

/// What one connection reads ahead.
const MAX_BUFFER: usize = 64 * 1024;

/// What is sent on: a body that we have read, or one that is still coming.
type Sent = Either<Full<Bytes>, Upload>;

#[derive(Debug)]
pub struct Upstream {
    url: HttpUrl,
    /// Without TLS nothing is sent, and the error says why.
    client: Result<Client<Connector, Sent>, String>,
    streams: Arc<Slots>,
    /// How long a client may pause while it sends.
    patience: Duration,
    outages: Arc<Outages>,
}

impl Upstream {
    pub fn new(url: HttpUrl, limits: &Limits) -> Self {
        let client = |connector| {
            Client::builder(TokioExecutor::new())
                // Without a timer nothing is closed that is idle.
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .http1_max_buf_size(MAX_BUFFER)
                .build(connector)
        };
        Self {
            client: connector(CONNECT).map(client),
            streams: Slots::new(limits.max_streams),
            patience: limits.body_timeout,
            outages: Arc::new(Outages::new(url.to_string())),
            url,
        }
    }

    /// How many requests and WebSockets are being passed through.
    pub fn streams(&self) -> usize {
        self.streams.taken()
    }

    /// How it went the last time: `reachable`, or what is wrong with it. `None`: nobody has asked for it yet.
    pub fn condition(&self) -> Option<String> {
        self.outages.condition()
    }

    /// Passes a request through, its body as it comes.
    pub async fn pass(&self, request: Request<Body>) -> Result<Answer, Problem> {
        let slot = self.stream()?;
        let request = request.map(|body| {
            if let Some(slot) = &body.slot {
                slot.give_back();
            }
            match body.incoming.is_end_stream() {
                true => Either::Left(Full::default()),
                false => Either::Right(Upload::new(
                    body.incoming,
                    body.exchange,
                    slot.clone(),
                    self.patience,
                )),
            }
        });
        self.send(request, slot).await
    }

    /// Passes a request through whose body has been read, and perhaps changed.
    pub async fn pass_read(&self, request: Request<Bytes>) -> Result<Answer, Problem> {
        let slot = self.stream()?;
        let request = request.map(|body| Either::Left(Full::new(body)));
        self.send(request, slot).await
    }

    fn stream(&self) -> Result<Arc<Slot>, Problem> {
        let slot = self.streams.take().map(Arc::new);
        slot.ok_or_else(|| self.outages.crowded())
    }

    async fn send(&self, mut request: Request<Sent>, slot: Arc<Slot>) -> Result<Answer, Problem> {
        let client = self.client.as_ref();
        let client = client.map_err(|why| self.outages.unreachable(why))?;
        let switching = self.prepare(&mut request)?;
        let mut connection = capture_connection(&mut request);
        let answer = tokio::select! {
            answer = client.request(request) => {
                answer.map_err(|e| self.outages.no_answer(&e))?
            }
            () = slow_to_connect(&mut connection) => {
                return Err(self.outages.slow_to_connect(CONNECT));
            }
        };
        match (answer.status(), switching) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => self.switch(answer, client, slot),
            (StatusCode::SWITCHING_PROTOCOLS, None) => {
                Err(self.outages.unusable("it switches protocols unasked"))
            }
            _ => self.answer(answer, slot),
        }
    }

    /// Makes of a client's request one to the upstream. Returns the client's connection where it may become a WebSocket.
    fn prepare(&self, request: &mut Request<Sent>) -> Result<Option<OnUpgrade>, Problem> {
        if !head::is_plainly_framed(request.headers()) {
            return Err(Problem::new(
                StatusCode::NOT_IMPLEMENTED,
                "Of the transfer codings, only chunked is supported",
            )
            // Whoever sent it may see its end elsewhere than we do.
            .with_header(CONNECTION, "close"));
        }
        *request.uri_mut() = head::target(&self.url, request.uri()).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "The request target is no path, or too long",
            )
        })?;
        let is_empty = request.body().is_end_stream();
        let switches = is_empty
            && request.method() == Method::GET
            && head::is_websocket(request.version(), request.headers());
        let switching = switches.then(|| hyper::upgrade::on(&mut *request));
        let peer = request.extensions().get().map(|Peer(ip)| *ip);
        request.extensions_mut().clear();
        *request.version_mut() = Version::HTTP_11;
        let length = request.body().size_hint().exact();
        let headers = request.headers_mut();
        head::pass_request(headers, peer);
        if switches {
            head::switch(headers);
        }
        // One of the two, or neither where there was none.
        match (headers.remove(CONTENT_LENGTH), length) {
            (None, Some(0)) => {}
            (_, Some(length)) => {
                headers.insert(CONTENT_LENGTH, length.into());
            }
            (_, None) => {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Ok(switching)
    }

    fn answer(&self, answer: Response<Incoming>, slot: Arc<Slot>) -> Result<Answer, Problem> {
        if !head::is_plainly_framed(answer.headers()) {
            let why = "of the transfer codings, only chunked is supported";
            return Err(self.outages.unusable(why));
        }
        self.outages.answered();
        let (mut parts, incoming) = answer.into_parts();
        let is_empty = incoming.is_end_stream();
        parts.version = Version::HTTP_11;
        head::pass_answer(&mut parts.headers, is_empty);
        head::redirect_here(&self.url, &mut parts.headers);
        let body = match is_empty {
            true => Either::Left(Full::default()),
            false => {
                let streamed = Streamed::new(incoming, slot, self.outages.clone());
                Either::Right(Either::Left(streamed))
            }
        };
        Ok(Response::from_parts(parts, body))
    }

    /// The answer to a client whose connection becomes a WebSocket; the rest is the server's.
    fn switch(
        &self,
        answer: Response<Incoming>,
        client: OnUpgrade,
        slot: Arc<Slot>,
    ) -> Result<Answer, Problem> {
        if !head::is_websocket(Version::HTTP_11, answer.headers()) {
            return Err(self
                .outages
                .unusable("it switches to another protocol than asked"));
        }
        self.outages.answered();
        let mut switched = empty_answer(StatusCode::SWITCHING_PROTOCOLS);
        *switched.headers_mut() = answer.headers().clone();
        head::pass_answer(switched.headers_mut(), true);
        head::switch(switched.headers_mut());
        switched.extensions_mut().insert(Tunnel {
            client,
            upstream: hyper::upgrade::on(answer),
            _slot: slot,
        });
        Ok(switched)
    }
}

/// Returns when there is no connection yet, and it is too late. How long the answer takes then is the upstream's business.
async fn slow_to_connect(connection: &mut CaptureConnection) {
    let connected = connection.wait_for_connection_metadata();
    if timeout(CONNECT, connected).await.is_ok() {
        pending().await
    }
}
