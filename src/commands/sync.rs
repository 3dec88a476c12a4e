//! `agent-sync sync`: one pass, and the verdict in the exit code.

use tracing::warn;

use super::{AnyError, Exit, database, stop_signal};
use crate::cli::SyncFlags;
use crate::config::{Config, ON_REMOVE, OnRemove, SCOPE, STORE, Store};
use crate::pass::{self, Extent};
use crate::removals::MaxRemovals;
use crate::worker;

pub(super) async fn run(mut config: Config, flags: SyncFlags) -> Result<Exit, AnyError> {
    let Some(database) = database(&config) else {
        return Ok(Exit::Configuration);
    };
    if config.store == Store::Memory {
        eprintln!(
            "agent-sync: {STORE}=memory: assistants are in the memory of `agent-sync serve`, which nobody else can write to"
        );
        return Ok(Exit::Configuration);
    }
    // A scope that is named is all that is looked at. Without one, a worker's own pass: the agents of its scope, and all
    // that have an assistant of ours. So a removal is let go wherever it is held, and no other scope comes into being.
    let extent = match flags.scope {
        Some(_) => Extent::Scope,
        None => Extent::Reach,
    };
    let scope = match flags.scope.map_or(config.scope.clone(), Ok) {
        Ok(scope) => scope,
        Err(e) => {
            eprintln!("agent-sync: {SCOPE}: {e}");
            return Ok(Exit::Configuration);
        }
    };
    config.sync.scope = scope.clone();
    if flags.allow_removals && config.sync.on_remove == OnRemove::Keep {
        warn!("{ON_REMOVE}=keep: nothing is removed, whatever is allowed");
    }
    if flags.allow_removals {
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
    if stop.is_cancelled() {
        return Ok(Exit::Failure);
    }
    Ok(Exit::of(summary.failed + summary.held == 0))
}
