//! A worker that serves, as the binary does.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::AnyError;

/// What callers' tokens are signed with.
pub const SECRET: &str = "a-jwt-secret-of-a-bench-with-at-least-32-bytes";

/// Ends with its owner.
pub struct Server {
    pub child: Child,
    pub api: SocketAddr,
    pub admin: SocketAddr,
}

impl Server {
    /// Returns when it knows its ports.
    pub fn start(url: &str, scope: &str) -> Result<Self, AnyError> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_agent-sync"))
            .env("DATABASE_URL", url)
            .env("SUPABASE_JWT_SECRET", SECRET)
            .env("AGENT_SYNC_SCOPE", scope)
            .env("AGENT_SYNC_HTTP_ADDR", "127.0.0.1:0")
            .env("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let started = lines
            .find_map(|line| line.ok().filter(|line| line.contains("agent-sync started")))
            .ok_or("it does not start")?;
        std::thread::spawn(move || lines.for_each(drop));
        let address = |field: &str| {
            let address = started.split(field).nth(1)?.split(' ').next()?;
            address.parse().ok()
        };
        Ok(Self {
            api: address("api=").ok_or("no address")?,
            admin: address("admin=").ok_or("no address")?,
            child,
        })
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Result<(), AnyError> {
        while !self.get("/ready").await?.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What the admin server answers.
    pub async fn get(&self, path: &str) -> Result<String, AnyError> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
