//! What each command does, and with which code it ends. Standard output is for what a command was asked for; logs and errors go to
//! standard error.

mod doctor;
mod health;
mod migrate;
mod serve;
mod status;
mod sync;
mod uninstall;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cli::Command;
use crate::config::{Config, DATABASE_URL, Variables};
use crate::database::{Database, migrations};
use crate::demo;

/// Why a command could not run, or not to its end.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How a command ended. Scripts and cron jobs look at nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Well,
    /// It could not run, or not to its end.
    Failure,
    /// It ran, and something is wrong: agents failed or are held, a check did not pass.
    Trouble,
    /// The configuration is not usable, or the command line: trying again is of no use. `EX_USAGE` of sysexits.h.
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Well => 0,
            Exit::Failure => 1,
            Exit::Trouble => 2,
            Exit::Configuration => 64,
        })
    }
}

impl Exit {
    /// [`Exit::Well`], unless something is wrong.
    pub fn of(well: bool) -> Self {
        match well {
            true => Self::Well,
            false => Self::Trouble,
        }
    }
}

/// What needs no configuration is done at once, and `Some` is how it ended.
pub fn at_once(command: &Command, variables: &Variables) -> Option<Exit> {
    match command {
        Command::Migrate { print: true } => print(&migrations::script()),
        Command::Roles => print(migrations::ROLES),
        // Whatever else is wrong with it, the running worker is asked.
        Command::Health { live } => return Some(health::run(*live, variables)),
        _ => return None,
    }
    Some(Exit::Well)
}

/// What the environment says does not count for every command.
pub fn set_apart(command: &Command, variables: &mut Variables) {
    if let Command::Demo { langgraph } = command {
        demo::set_apart(variables, langgraph.as_deref());
    }
}

/// Runs a command to its end.
pub async fn run(
    command: Command,
    config: Config,
    variables: &Variables,
) -> Result<Exit, AnyError> {
    match command {
        Command::Serve => serve::run(config).await,
        Command::Sync(flags) => sync::run(config, flags).await,
        Command::Status { json } => status::run(&config, json).await,
        Command::Doctor { json } => doctor::run(&config, variables, json).await,
        Command::Migrate { .. } => migrate::run(&config).await,
        // Done at once, before anything was configured.
        Command::Roles | Command::Health { .. } => Ok(Exit::Well),
        Command::Uninstall => uninstall::run(&config).await,
        Command::Demo { .. } => {
            demo::run(config, variables, stop_signal()?).await?;
            Ok(Exit::Well)
        }
    }
}

/// The database that a command is about.
fn database(config: &Config) -> Option<Database> {
    if config.database.is_none() {
        eprintln!("agent-sync: {DATABASE_URL} is not set: which database is meant?");
    }
    config.database.as_ref().map(Database::new)
}

/// Calls off the work at the first SIGTERM or SIGINT; the second one ends the process at once.
fn stop_signal() -> Result<CancellationToken, AnyError> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                stop.cancel();
            } else {
                warn!("stopped at once");
                std::process::exit(130);
            }
        }
    });
    Ok(stopped)
}

/// To standard output. Whoever reads it may have seen enough: `| head`.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
