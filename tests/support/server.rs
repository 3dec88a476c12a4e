//! A server of ours with a handler for tests, and clients that behave badly.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_sync::config::Limits;
use agent_sync::http::{self, Answer, Body, Handle, Problem, json_answer, read_json};
use hyper::{Request, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Only reached when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// The size of `/large`.
pub const LARGE: usize = 32 * 1024 * 1024;

/// - `/echo` answers the JSON that it is sent,
/// - `/held` answers once it is let go,
/// - `/large` answers more than any socket's buffer takes,
/// - `/panic` and `/panic-later` panic, whatever else answers `{}`.
struct Handler {
    held: Semaphore,
    go: Semaphore,
}

impl Handle for Handler {
    async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        let ok = |body| Ok(json_answer(StatusCode::OK, &body));
        match request.uri().path() {
            "/echo" => ok(read_json(request.into_body()).await?),
            "/held" => {
                self.held.add_permits(1);
                self.go.acquire().await.expect("open").forget();
                ok(json!({}))
            }
            "/large" => ok(json!("x".repeat(LARGE))),
            "/panic" => panic!("a plain one"),
            "/panic-later" => {
                tokio::task::yield_now().await;
                panic!("with a {}", request.uri())
            }
            _ => ok(json!({})),
        }
    }
}

pub struct TestServer {
    pub address: SocketAddr,
    handler: Arc<Handler>,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl TestServer {
    pub async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let handler = Arc::new(Handler {
            held: Semaphore::new(0),
            go: Semaphore::new(0),
        });
        let run = tokio::spawn(http::serve(listener, handler.clone(), limits, stop.clone()));
        Self {
            address,
            handler,
            stop,
            run,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A client whose request to `/held` is in hand.
    pub async fn held(&self) -> Client {
        let mut client = self.client().await;
        client.send("GET /held HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let held = timeout(DEADLINE, self.handler.held.acquire()).await;
        held.expect("in hand").expect("open").forget();
        client
    }

    /// Lets one `/held` go.
    pub fn let_go(&self) {
        self.handler.go.add_permits(1);
    }

    /// Returns when all its connections have ended.
    pub async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.run)
            .await
            .expect("it stops")
            .expect("no panic");
    }
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
}

/// What a server said, the head in lower case.
#[derive(Debug, PartialEq)]
pub struct Said {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Said {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .split("\r\n")
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn detail(&self) -> (u16, String) {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        assert_eq!(
            body.as_object().map(serde_json::Map::len),
            Some(1),
            "{self:?}"
        );
        (
            self.status,
            body["detail"].as_str().expect("a detail").to_owned(),
        )
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        Self { stream }
    }

    /// A server that refuses early may close before all is sent.
    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(text.as_ref()).await;
    }

    pub async fn ask(&mut self, text: impl AsRef<[u8]>) -> Said {
        self.send(text).await;
        self.answer().await
    }

    pub async fn get(&mut self, path: &str) -> Said {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await
    }

    pub async fn post(&mut self, path: &str, body: &str) -> Said {
        let length = body.len();
        self.ask(format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    /// The next answer on this connection.
    pub async fn answer(&mut self) -> Said {
        timeout(DEADLINE, self.read_answer())
            .await
            .expect("an answer in time")
    }

    /// The next head, of an answer or of a request, as it was sent.
    pub async fn head(&mut self) -> String {
        timeout(DEADLINE, self.read_head())
            .await
            .expect("a head in time")
    }

    async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = self.stream.read_u8().await;
            head.push(
                read.unwrap_or_else(|e| {
                    panic!("no answer: {e}; {}", String::from_utf8_lossy(&head))
                }),
            );
        }
        String::from_utf8(head).expect("text")
    }

    /// Waits until just this has come.
    pub async fn takes(&mut self, expected: &str) {
        let mut taken = vec![0; expected.len()];
        let read = timeout(DEADLINE, self.stream.read_exact(&mut taken)).await;
        read.expect("in time").expect("open");
        assert_eq!(String::from_utf8_lossy(&taken), expected);
    }

    async fn read_answer(&mut self) -> Said {
        let head = self.read_head().await.to_ascii_lowercase();
        let said = Said {
            status: head
                .split(' ')
                .nth(1)
                .and_then(|s| s.parse().ok())
                .expect("a status"),
            head,
            body: String::new(),
        };
        let length = said
            .header("content-length")
            .map_or(0, |l| l.parse().expect("a length"));
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.expect("a body");
        Said {
            body: String::from_utf8(body).expect("text"),
            ..said
        }
    }

    /// Waits until the server has closed the connection, and returns how much it sent before.
    pub async fn closed(&mut self) -> usize {
        let mut rest = Vec::new();
        match timeout(DEADLINE, self.stream.read_to_end(&mut rest)).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) if e.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("not closed: {other:?}"),
        }
        rest.len()
    }

    /// Sends a byte every now and then, until the server has had enough of it.
    pub async fn drip(&mut self, text: &str) -> usize {
        let (mut reader, mut writer) = self.stream.split();
        let mut rest = Vec::new();
        let dripping = async {
            for byte in text.bytes().cycle() {
                if writer.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::future::pending::<()>().await;
        };
        let reading = async {
            let _ = reader.read_to_end(&mut rest).await;
        };
        let ended = async {
            tokio::select! {
                () = dripping => {}
                () = reading => {}
            }
        };
        timeout(DEADLINE, ended).await.expect("closed");
        rest.len()
    }
}
