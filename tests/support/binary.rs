//! The real binary.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::eventually;

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

/// A running `agent-sync`, and what it prints.
pub struct Running {
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    pub fn start(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(args, variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("agent-sync starts");
        let lines = Arc::default();
        collect(child.stdout.take().expect("stdout"), Arc::clone(&lines));
        collect(child.stderr.take().expect("stderr"), Arc::clone(&lines));
        Self { child, lines }
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
