//! A server that publishes keys, counts how often it is asked, and misbehaves when told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub const PATH: &str = "/auth/v1/.well-known/jwks.json";

type Body = BoxBody<Bytes, Infallible>;

/// What the server does when it is asked.
#[derive(Debug, Clone)]
pub enum Publishes {
    /// A JWKS with these keys.
    Keys(Vec<Value>),
    /// Status 200, and this.
    Text(String),
    Status(u16),
    /// To this URL.
    Redirect(String),
    /// A body that never ends.
    Endless,
    /// Nothing, for as long as the client waits.
    Silence,
    /// Closes the connection.
    HangUp,
}

pub struct JwksServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends with the server.
    _accepting: JoinSet<()>,
}

struct Shared {
    publishes: Mutex<Publishes>,
    held: watch::Sender<bool>,
    fetches: AtomicUsize,
    /// The last request's path with query, and its authorization.
    asked: Mutex<(String, String)>,
}

impl JwksServer {
    pub async fn start(publishes: Publishes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            publishes: Mutex::new(publishes),
            held: watch::Sender::new(false),
            fetches: AtomicUsize::new(0),
            asked: Mutex::default(),
        });
        let (ours, mut accepting) = (shared.clone(), JoinSet::new());
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = ours.clone();
                serving.spawn(async move {
                    let answer = service_fn(|request| shared.answer(request));
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                    let _ = connection.await;
                });
            }
        });
        Self {
            address,
            shared,
            _accepting: accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn publish(&self, publishes: Publishes) {
        *self.shared.publishes.lock().expect("publishes") = publishes;
    }

    /// Holds answers back, or lets them go.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// How often it was asked, answers that are held back included.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::Relaxed)
    }

    pub fn last_asked(&self) -> (String, String) {
        self.shared.asked.lock().expect("asked").clone()
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, &'static str> {
        let authorization = request.headers().get("authorization");
        let authorization = authorization.map_or("", |value| value.to_str().expect("ASCII"));
        *self.asked.lock().expect("asked") = (request.uri().to_string(), authorization.to_owned());
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let publishes = self.publishes.lock().expect("publishes").clone();
        let body = |text: String| Full::new(Bytes::from(text)).boxed();
        let answer = Response::builder();
        let answer = match publishes {
            _ if request.uri().path() != PATH => answer.status(404).body(body(String::new())),
            Publishes::Keys(keys) => answer.body(body(json!({ "keys": keys }).to_string())),
            Publishes::Text(text) => answer.body(body(text)),
            Publishes::Status(status) => answer.status(status).body(body("{}".to_owned())),
            Publishes::Redirect(url) => answer
                .status(302)
                .header("location", url)
                .body(body(String::new())),
            Publishes::Endless => {
                let chunk = || Ok(Frame::data(Bytes::from_static(&[b' '; 8192])));
                answer.body(StreamBody::new(futures::stream::repeat_with(chunk)).boxed())
            }
            Publishes::Silence => std::future::pending().await,
            Publishes::HangUp => return Err("hang up"),
        };
        Ok(answer.expect("an answer"))
    }
}
