//! What each command does, and with which code it ends. Standard output is for what a command was asked for; logs and errors go to
//! standard error.

pub mod health;
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

/// What a command writes that needs no configuration.
pub fn script(command: &Command) -> Option<String> {
    match command {
        Command::Migrate { print: true } => Some(migrations::script()),
        Command::Roles => Some(migrations::ROLES.to_owned()),
        _ => None,
    }
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
        Command::Migrate { .. } => migrate::run(&config).await,
        // Printed before anything was configured.
        Command::Roles => Ok(Exit::Well),
        // Asked before all of it was configured, and on another way.
        Command::Health { live } => Ok(health::run(live, variables)),
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
