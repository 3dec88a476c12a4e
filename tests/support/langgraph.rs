//! LangGraph's own server (`langgraph dev`, installed by `make langgraph`) with the graphs of tests/fixtures/langgraph, and its
//! SDKs.
//!
//! A shell stands between, the keeper, as it does for PostgreSQL: it starts the server in a temporary directory, ends it when told
//! to or when this process is gone, and removes the directory.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf, absolute};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use uuid::Uuid;

use super::worker::exchange;

/// Arguments: the directory, then the command. It reads lines: a signal that ends the server, then anything that starts it again.
/// At the end of its input nobody needs either. The server is a group of processes.
const KEEPER: &str = r#"
trap '' INT TERM HUP PIPE
dir=$1
shift
exec 2>>"$dir/log"
while :; do
  (
    setsid sh -c 'echo $$ >"$0/pid"; exec "$@"' "$dir" "$@"
    echo "the server has ended: $?"
  ) >>"$dir/log" </dev/null &
  read -r signal || signal=
  kill -s "${signal:-KILL}" -- -"$(cat "$dir/pid")"
  wait "$!"
  [ -n "$signal" ] && echo ended && read -r _ || break
done
rm -rf "$dir"
"#;

/// The users of a server with auth: token and identity.
pub const ALICE: (&str, Uuid) = ("alices-token", Uuid::from_u128(0xa11ce));
pub const BOB: (&str, Uuid) = ("bobs-token", Uuid::from_u128(0xb0b));

/// Sent as `x-api-key`, it is let in to everything on a server with auth.
pub const KEY: &str = "the-key-of-a-server";

/// Only reached when the code is wrong.
pub const DEADLINE: Duration = Duration::from_secs(60);

static SHARED: OnceCell<LangGraph> = OnceCell::const_new();
static SHARED_WITH_AUTH: OnceCell<LangGraph> = OnceCell::const_new();

/// What becomes of the assistants when the server starts anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It stops in an orderly way, and finds them again.
    Kept,
    /// It is killed, and its files are removed.
    Lost,
}

pub struct LangGraph {
    pub address: SocketAddr,
    directory: PathBuf,
    _keeper: Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl LangGraph {
    /// One for all tests, which keep to their own assistants. Everybody is let in.
    ///
    /// It ends with the process: its keeper reads our pipe.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(Self::start).await
    }

    /// The same with auth: it lets in [`ALICE`] and [`BOB`], each to what is their own, and whoever has the [`KEY`].
    pub async fn shared_with_auth() -> &'static Self {
        SHARED_WITH_AUTH.get_or_init(Self::start_with_auth).await
    }

    pub async fn start() -> Self {
        Self::start_as("langgraph.json").await
    }

    pub async fn start_with_auth() -> Self {
        Self::start_as("auth.json").await
    }

    async fn start_as(settings: &str) -> Self {
        let python = python();
        let directory =
            std::env::temp_dir().join(format!("agent-sync-langgraph-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&directory).expect("a directory");
        for file in std::fs::read_dir(fixtures("langgraph")).expect("fixtures") {
            let file = file.expect("a fixture");
            let copy = directory.join(file.file_name());
            std::fs::copy(file.path(), copy).expect("copied");
        }
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port");
        let users = json!({ ALICE.0: ALICE.1, BOB.0: BOB.1 });
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "sh"])
            .arg(&directory)
            .arg(python)
            .args(["-m", "langgraph_cli", "dev"])
            .args(["--no-browser", "--no-reload", "--host", "127.0.0.1"])
            // Runs at a time.
            .args(["--n-jobs-per-worker", "10"])
            .args(["--port", &address.port().to_string()])
            .args(["--config", settings])
            .envs([("AUTH_KEY", KEY), ("AUTH_USERS", &users.to_string())])
            // What it waits for its runs when it stops.
            .env("BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS", "1");
        let mut keeper = alone(&mut command, &directory)
            // Ctrl-C at the terminal reaches only us.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let server = Self {
            address,
            directory,
            orders: keeper.stdin.take().expect("its input"),
            said: BufReader::new(keeper.stdout.take().expect("its output")).lines(),
            _keeper: keeper,
        };
        server.answers().await;
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where a test may put what its runs look for.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Ends the server. It is started again by [`Self::start_again`], at the same address.
    pub async fn stop(&mut self, state: State) {
        let signal: &[u8] = match state {
            State::Kept => b"TERM\n",
            State::Lost => b"KILL\n",
        };
        self.orders.write_all(signal).await.expect("its keeper");
        let said = timeout(DEADLINE, self.said.next_line()).await;
        let said = said.expect("it ends").expect("its keeper");
        assert_eq!(said.as_deref(), Some("ended"), "{}", self.log());
        if state == State::Lost {
            let files = self.directory.join(".langgraph_api");
            std::fs::remove_dir_all(files).expect("its files");
        }
        std::fs::write(self.directory.join("log"), "").expect("a new log");
    }

    pub async fn start_again(&mut self) {
        self.orders.write_all(b"\n").await.expect("its keeper");
        self.answers().await;
    }

    pub async fn restart(&mut self, state: State) {
        self.stop(state).await;
        self.start_again().await;
    }

    async fn answers(&self) {
        super::eventually("LangGraph's server answers", || async {
            let log = self.log();
            for wrong in ["the server has ended", "is already in use"] {
                assert!(!log.contains(wrong), "LangGraph's server: {log}");
            }
            if TcpStream::connect(self.address).await.is_err() {
                return Err(log);
            }
            match self.request("GET", "/ok", None).await {
                (200, _) => Ok(()),
                (status, _) => Err(format!("{status}: {log}")),
            }
        })
        .await;
    }

    /// Sends a request, as who sees and may do everything.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-api-key: {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _, text) = exchange(self.address, &bytes).await;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, body)
    }
}

/// Python with LangGraph's server and SDK.
fn python() -> PathBuf {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/langgraph");
    let venv = std::env::var_os("LANGGRAPH_VENV").unwrap_or_else(|| installed.into());
    let python = absolute(venv).expect("a path").join("bin/python");
    assert!(
        python.exists(),
        "no Python at {}: run `make langgraph`, or set LANGGRAPH_VENV",
        python.display()
    );
    python
}

pub(super) fn fixtures(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(of)
}

/// A program of tests/fixtures/sdk.
pub(super) fn program(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(fixtures("sdk").join(name));
    command
}

/// With nothing in its environment that would make it call home, or that an API key could be in.
pub(super) fn alone<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    let ours: Vec<_> = command
        .as_std()
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command
        .env_clear()
        .envs(ours)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .envs([
            ("LANGSMITH_TRACING", "false"),
            ("LANGGRAPH_CLI_NO_ANALYTICS", "1"),
            ("LANGGRAPH_NO_VERSION_CHECK", "true"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONUNBUFFERED", "1"),
        ])
        .current_dir(home)
}
