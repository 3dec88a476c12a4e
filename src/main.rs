//! The binary: parse → configure → log → runtime → command → exit code.

use std::process::ExitCode;

use agent_sync::cli::{Cli, Command};
use agent_sync::config::{
    Config, DATABASE_URL, ON_REMOVE, OnRemove, SCOPE, STORE, Store, Variables,
};
use agent_sync::database::{Database, migrations};
use agent_sync::pass::{self, Extent};
use agent_sync::removals::MaxRemovals;
use agent_sync::scope::Scope;
use agent_sync::worker::{self, Worker};
use agent_sync::{demo, telemetry};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// `EX_USAGE` of sysexits.h: the configuration is not usable, trying again is of no use.
const EXIT_CONFIGURATION: u8 = 64;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or_default();
    let script = match command {
        Command::Migrate { print: true } => Some(migrations::script()),
        Command::Roles => Some(migrations::ROLES.to_owned()),
        _ => None,
    };
    if let Some(script) = script {
        print!("{script}");
        return ExitCode::SUCCESS;
    }
    let mut variables: Variables = std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        })
        .collect();
    if let Command::Demo { langgraph } = &command {
        demo::set_apart(&mut variables, langgraph.as_deref());
    }
    let config = match Config::from_variables(&variables) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("agent-sync: {errors}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    telemetry::init(&config.log);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AnyError::from)
        .and_then(|runtime| runtime.block_on(run(command, config, &variables)));
    match outcome {
        Ok(code) => code,
        Err(e) => {
            eprintln!("agent-sync: {}", telemetry::chain(&*e));
            ExitCode::FAILURE
        }
    }
}

async fn run(
    command: Command,
    config: Config,
    variables: &Variables,
) -> Result<ExitCode, AnyError> {
    match command {
        Command::Serve => {
            let worker = Worker::bind(config).await?;
            worker.run(stop_signal()?).await;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sync {
            scope,
            allow_removals,
        } => sync(config, scope, allow_removals).await,
        Command::Migrate { .. } => migrate(config).await,
        // Printed before anything was configured.
        Command::Roles => Ok(ExitCode::SUCCESS),
        Command::Uninstall => uninstall(config).await,
        Command::Demo { .. } => {
            demo::run(config, variables, stop_signal()?).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One pass, and the verdict in the exit code: scripts and cron jobs look at nothing else.
async fn sync(
    mut config: Config,
    scope: Option<Scope>,
    allow_removals: bool,
) -> Result<ExitCode, AnyError> {
    let Some(database) = database(&config) else {
        return Ok(ExitCode::from(EXIT_CONFIGURATION));
    };
    if config.store == Store::Memory {
        eprintln!(
            "agent-sync: {STORE}=memory: assistants are in the memory of `agent-sync serve`, which nobody else can write to"
        );
        return Ok(ExitCode::from(EXIT_CONFIGURATION));
    }
    // A scope that is named is all that is looked at. Without one, a worker's own pass: the agents of its scope, and all
    // that have an assistant of ours. So a removal is let go wherever it is held, and no other scope comes into being.
    let extent = match scope {
        Some(_) => Extent::Scope,
        None => Extent::Reach,
    };
    let scope = match scope.map_or(config.scope.clone(), Ok) {
        Ok(scope) => scope,
        Err(e) => {
            eprintln!("agent-sync: {SCOPE}: {e}");
            return Ok(ExitCode::from(EXIT_CONFIGURATION));
        }
    };
    config.sync.scope = scope.clone();
    if allow_removals && config.sync.on_remove == OnRemove::Keep {
        warn!("{ON_REMOVE}=keep: nothing is removed, whatever is allowed");
    }
    if allow_removals {
        config.sync.max_removals = MaxRemovals::Unlimited;
    }
    let syncer = worker::syncer(&config, database, worker::place(&config));
    let left = worker::prepare(&config, &syncer).await?;
    if !left.locked.is_empty() {
        warn!(
            missing = left.locked.join(", "),
            "edits go unnoticed until these are installed"
        );
    }
    let stop = stop_signal()?;
    let summary = pass::run(&syncer, &scope, extent, &stop).await?;
    println!("Sync summary: {summary}");
    let done = summary.failed + summary.held == 0 && !stop.is_cancelled();
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn migrate(config: Config) -> Result<ExitCode, AnyError> {
    let Some(database) = database(&config) else {
        return Ok(ExitCode::from(EXIT_CONFIGURATION));
    };
    let left = migrations::migrate(&database, migrations::PATIENCE).await?;
    if left.is_empty() {
        info!("the database is ready for agent-sync");
        return Ok(ExitCode::SUCCESS);
    }
    let mut problems = Vec::new();
    if !left.denied.is_empty() {
        problems.push(format!(
            "still missing, because this role may not install them: {}. Run it as the owner of the tables",
            left.denied.join(", ")
        ));
    }
    if !left.locked.is_empty() {
        problems.push(format!(
            "still missing, because open transactions hold the tables: {}. Run it again when they have ended",
            left.locked.join(", ")
        ));
    }
    Err(problems.join("; ").into())
}

async fn uninstall(config: Config) -> Result<ExitCode, AnyError> {
    let Some(database) = database(&config) else {
        return Ok(ExitCode::from(EXIT_CONFIGURATION));
    };
    let ours = migrations::uninstall(&database, migrations::PATIENCE).await?;
    println!(
        "Removed: schema agent_sync and its triggers.\n\
         Left: {ours} assistants that agent-sync had made, in langgraph_server.assistants, which other assistants share; \
         and their ids in public.agents.langgraph_assistant_id; and the role agent_sync_worker, where there is one."
    );
    Ok(ExitCode::SUCCESS)
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
