//! A worker in front of a server whose part the test plays, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use agent_sync::config::{Limits, ROBYN_DEV, UPSTREAM};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::TestWorker;
use super::server::Client;

/// Only reached when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Front {
    pub worker: TestWorker,
    listener: TcpListener,
}

impl Front {
    /// With no deadline that a test could meet by accident.
    pub async fn start() -> Self {
        Self::limited(|_| ()).await
    }

    pub async fn limited(limit: impl FnOnce(&mut Limits)) -> Self {
        Self::with("", &[(ROBYN_DEV, "true")], limit).await
    }

    /// The URL of the upstream has this path.
    pub async fn with(
        path: &str,
        variables: &[(&str, &str)],
        limit: impl FnOnce(&mut Limits),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let url = format!("http://{address}{path}");
        let all = [&[(UPSTREAM, url.as_str())], variables].concat();
        let worker = TestWorker::start_limited(&all, |limits| {
            let long = Duration::from_secs(600);
            limits.head_timeout = long;
            limits.body_timeout = long;
            limits.answer_timeout = long;
            limit(limits);
        });
        Self {
            worker: worker.await,
            listener,
        }
    }

    /// As the upstream is named in the log, and in `Host`.
    pub fn upstream(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.worker.api).await
    }

    /// The next connection that the upstream is asked on.
    pub async fn accept(&self) -> Client {
        let accepted = timeout(DEADLINE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("asked in time").expect("accepted");
        Client { stream }
    }

    /// A client that has asked for a path, and the upstream's connection with its request read.
    pub async fn asked(&self, path: &str) -> (Client, Client) {
        let mut client = self.client().await;
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let mut upstream = self.accept().await;
        upstream.head().await;
        (client, upstream)
    }

    /// One whose answer has begun, with its first event.
    pub async fn streaming(&self) -> (Client, Client) {
        let (mut client, mut upstream) = self.asked("/stream").await;
        upstream
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.takes("3\r\none\r\n").await;
        (client, upstream)
    }
}
