//! The image, in a container that may do nothing: its root is read-only, it has no capability and gets none, and it is nobody.

use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::process::Command;

use super::binary::{Ended, Running};

/// Where a container is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// Where the tests' servers are.
    Host,
    /// Alone.
    None,
}

/// A container that runs. It goes with this.
pub struct Container {
    name: String,
    /// What it prints, and its exit code.
    pub running: Running,
}

impl Container {
    /// `agent-sync serve` with these variables, and with these options of `podman run`.
    pub fn serve(network: Network, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let name = name();
        let own = ["--name", name.as_str()];
        let running = Running::spawn(run(
            network,
            &[own.as_slice(), options].concat(),
            variables,
            &[],
        ));
        Self { name, running }
    }

    /// Runs the image's own health check in it, with these variables besides its own.
    pub async fn health(&self, variables: &[(&str, &str)]) -> Output {
        let check = inspect().await["Healthcheck"]["Test"].clone();
        let words: Vec<&str> = check
            .as_array()
            .expect("a health check")
            .iter()
            .map(|word| word.as_str().expect("a word"))
            .collect();
        assert_eq!(words[0], "CMD", "there is no shell: {words:?}");
        let mut exec = podman(&["exec"]);
        set(&mut exec, variables);
        exec.arg(&self.name).args(&words[1..]);
        exec.output().await.expect("podman")
    }

    /// What the kernel says of its process: a field of `/proc/<pid>/status`.
    pub async fn status(&self, field: &str) -> String {
        let mut inspect = podman(&["inspect", "--format", "{{.State.Pid}}", &self.name]);
        let output = inspect.output().await.expect("podman");
        let pid = String::from_utf8(output.stdout).expect("a number");
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        let status = status.expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.expect("the field")
            .trim_matches([':', '\t'])
            .to_owned()
    }

    /// Stops it as an orchestrator does: the signal that the image names, and after the grace the end.
    pub async fn stop(&mut self) -> Option<i32> {
        let stop = podman(&["stop", "--time", "20", &self.name]).output();
        assert!(stop.await.expect("podman").status.success());
        self.running.ended().await
    }
}

impl Drop for Container {
    /// Ended or not: with podman's client only the client is killed.
    fn drop(&mut self) {
        let _ = std::process::Command::new("podman")
            .args(["rm", "--force", "--ignore", "--time", "0", &self.name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Runs a command of the image's to its end.
pub async fn ended(
    network: Network,
    options: &[&str],
    variables: &[(&str, &str)],
    args: &[&str],
) -> Ended {
    let output = run(network, options, variables, args).output().await;
    let output = output.expect("podman");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// By its id: the name may be given to what another checkout builds.
fn image() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image.id");
    let id = std::fs::read_to_string(file);
    id.unwrap_or_else(|e| panic!("{file}: {e}: run `make image-local`"))
}

/// What podman knows about the image.
pub async fn inspect() -> Value {
    let output = podman(&["image", "inspect", &image()]).output().await;
    let output = output.expect("podman is installed by `make podman`");
    assert!(
        output.status.success(),
        "the image is gone: run `make image-local`: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let images: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    images[0].clone()
}

fn run(network: Network, options: &[&str], variables: &[(&str, &str)], args: &[&str]) -> Command {
    let mut run = podman(&[
        "run",
        "--rm",
        "--pull=never",
        "--read-only",
        "--cap-drop=ALL",
    ]);
    run.arg("--security-opt=no-new-privileges");
    run.arg(match network {
        Network::Host => "--network=host",
        Network::None => "--network=none",
    });
    // Checked when a test wants it to be. And no more than what any machine has to give.
    run.args(["--no-healthcheck", "--ulimit=nofile=1024:4096"])
        .arg("--ulimit=nproc=1024:4096")
        .args(options);
    set(&mut run, variables);
    run.arg(image()).args(args);
    run
}

fn set(command: &mut Command, variables: &[(&str, &str)]) {
    for (name, value) in variables {
        command.arg("--env").arg(format!("{name}={value}"));
    }
}

fn podman(args: &[&str]) -> Command {
    let mut podman = Command::new("podman");
    podman.args(args).stdin(Stdio::null()).kill_on_drop(true);
    podman
}

fn name() -> String {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    format!("agent-sync-test-{}-{number}", std::process::id())
}
