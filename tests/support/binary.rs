//! The real binary.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{TestDatabase, eventually};

pub const FREE_PORTS: &[(&str, &str)] = &[
    ("AGENT_SYNC_HTTP_ADDR", "127.0.0.1:0"),
    ("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1:0"),
];

/// `agent-sync` with these arguments and nothing in its environment but `PATH` and these variables.
pub fn command(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-sync"));
    command
        .args(args)
        .env_clear()
        .envs(variables.iter().copied());
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .kill_on_drop(true);
    command
}

/// What a command came to.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `agent-sync` to its end, as [`command`] makes it.
pub async fn run(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let output = command(args, variables).output().await.expect("ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A running `agent-sync`, and what it prints.
pub struct Running {
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

/// What it said is said of a test that fails.
impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the worker said:\n{}", self.output());
        }
    }
}

impl Running {
    pub fn start(args: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn(command(args, variables))
    }

    /// Whatever runs `agent-sync`.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("agent-sync starts");
        let lines = Arc::default();
        collect(child.stdout.take().expect("stdout"), Arc::clone(&lines));
        collect(child.stderr.take().expect("stderr"), Arc::clone(&lines));
        Self { child, lines }
    }

    /// `agent-sync serve` on this database, on free ports.
    pub fn serve(database: &TestDatabase, variables: &[(&str, &str)]) -> Self {
        let own = [("DATABASE_URL", database.url.as_str())];
        Self::start(&[], &[&own, FREE_PORTS, variables].concat())
    }

    /// The address of the API, once it is told.
    pub async fn api(&self) -> SocketAddr {
        self.address("api=").await
    }

    /// The address of the admin server, once it is told.
    pub async fn admin(&self) -> SocketAddr {
        self.address("admin=").await
    }

    /// A client that has sent a request's head and never sends its body. The server says "continue" once it waits for
    /// that: from then on the request is in hand.
    pub async fn request_in_hand(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.api().await)
            .await
            .expect("connected");
        let head = b"POST /assistants HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n";
        client.write_all(head).await.expect("sent");
        let mut told = [0; 12];
        client
            .read_exact(&mut told)
            .await
            .expect("told to continue");
        client
    }

    /// The address of the API, in a log of this format.
    pub async fn api_in(&self, format: &str) -> SocketAddr {
        match format {
            "json" => {
                let line = self.line("agent-sync started").await;
                let line: serde_json::Value = serde_json::from_str(&line).expect("json");
                line["api"]
                    .as_str()
                    .expect("an address")
                    .parse()
                    .expect("an address")
            }
            _ => self.api().await,
        }
    }

    async fn address(&self, field: &str) -> SocketAddr {
        let line = self.line("agent-sync started").await;
        let address = line
            .split(field)
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        address.expect("an address").parse().expect("an address")
    }

    pub fn output(&self) -> String {
        self.lines.lock().expect("lines").join("\n")
    }

    /// Waits for a line that contains this, and returns it.
    pub async fn line(&self, containing: &str) -> String {
        eventually(&format!("a line with `{containing}`"), || async {
            let lines = self.output();
            lines.contains(containing).then_some(()).ok_or(lines)
        })
        .await;
        self.output()
            .lines()
            .find(|line| line.contains(containing))
            .expect("just seen")
            .to_owned()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("still running").to_string();
        let sent = std::process::Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("kill");
        assert!(sent.success());
    }

    /// Waits for the end, and returns the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(std::time::Duration::from_secs(30), self.child.wait())
            .await
            .expect("it ends")
            .expect("a status")
            .code()
    }
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static, into: Arc<Mutex<Vec<String>>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            into.lock().expect("lines").push(line);
        }
    });
}
