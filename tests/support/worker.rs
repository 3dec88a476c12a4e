//! A worker in this process, as `agent-sync serve` runs it, and its two servers as a client sees them.

use std::net::SocketAddr;

use agent_sync::config::{self, Config, Limits, Variables};
use agent_sync::worker::Worker;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{TestDatabase, eventually};

pub struct TestWorker {
    pub api: SocketAddr,
    pub admin: SocketAddr,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl TestWorker {
    /// A worker on this database, with these variables set; ready.
    pub async fn start(database: &TestDatabase, variables: &[(&str, &str)]) -> Self {
        let worker = Self::start_with(
            &[&[(config::DATABASE_URL, database.url.as_str())], variables].concat(),
        )
        .await;
        worker.ready().await;
        worker
    }

    /// A worker with these variables set, perhaps not ready yet.
    pub async fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_limited(variables, |_| ()).await
    }

    /// One whose API has limits that no variable sets.
    pub async fn start_limited(
        variables: &[(&str, &str)],
        limit: impl FnOnce(&mut Limits),
    ) -> Self {
        let mut all: Variables = [
            (config::HTTP_ADDR, "127.0.0.1:0"),
            (config::ADMIN_ADDR, "127.0.0.1:0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        all.extend(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let mut config = Config::from_variables(&all).expect("a configuration");
        limit(&mut config.limits);
        let worker = Worker::bind(config).await.expect("bound");
        let (api, admin, stop) = (
            worker.http_addr(),
            worker.admin_addr(),
            CancellationToken::new(),
        );
        let run = tokio::spawn(worker.run(stop.clone()));
        Self {
            api,
            admin,
            stop,
            run,
        }
    }

    pub async fn ready(&self) {
        eventually("the worker is ready", || async {
            match request(self.admin, "GET", "/ready", None).await {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status} {body}")),
            }
        })
        .await;
    }

    /// Sends a request to the API.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        request(
            self.api,
            method,
            path,
            body.map(ToString::to_string).as_deref(),
        )
        .await
    }

    /// Sends a request to the API, as whom this token proves.
    pub async fn request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _, text) = exchange(self.api, &bytes).await;
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    pub async fn create_as(&self, token: &str, body: Value) -> (u16, Value) {
        self.request_as(token, "POST", "/assistants", Some(&body))
            .await
    }

    pub async fn create(&self, body: Value) -> (u16, Value) {
        self.request("POST", "/assistants", Some(&body)).await
    }

    /// Stops as SIGTERM does, and waits until it has.
    pub async fn stop(self) {
        self.stop.cancel();
        self.run.await.expect("the worker ends");
    }
}

/// One HTTP/1.1 exchange. The body comes back as JSON, or as text where it is none.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> (u16, Value) {
    let body = body.unwrap_or_default();
    let (status, _, text) = exchange(
        address,
        &format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
    )
    .await;
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// Sends bytes, and returns status, head and body of the answer.
pub async fn exchange(address: SocketAddr, bytes: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // A server that refuses early may close before all is sent.
    let _ = stream.write_all(bytes.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}
