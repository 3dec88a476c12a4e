//! `agent-sync sync`: one pass, and the verdict in the exit code; or, with `--dry-run`, what it would do.

mod plan;
mod report;
mod terminal;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{AnyError, Exit, database, stop_signal};
use crate::cli::SyncFlags;
use crate::config::{AUTO_MIGRATE, Config, ON_REMOVE, OnRemove, SCOPE, STORE, Store};
use crate::ids::AgentId;
use crate::pass::{self, Candidates, Extent, Progress, Told};
use crate::removals::MaxRemovals;
use crate::syncer::{Outcome, Summary, Syncer};
use crate::{telemetry, worker};
use plan::Plan;
use report::Report;
use terminal::Terminal;

/// Said where it was told to stop.
const STOPPED: &str = "stopped before the end";

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
    let named: BTreeSet<AgentId> = flags.agent.into_iter().map(AgentId).collect();
    let candidates = match named.is_empty() {
        true => Candidates::Of(scope, extent),
        false => Candidates::Named(named),
    };
    let syncer = worker::syncer(&config, database, worker::place(&config));
    let stop = stop_signal()?;
    match flags.dry_run {
        false => sync(&config, &syncer, &candidates, flags.json, &stop).await,
        true => preview(&config, &syncer, candidates, flags.json, &stop).await,
    }
}

async fn sync(
    config: &Config,
    syncer: &Syncer,
    candidates: &Candidates,
    json: bool,
    stop: &CancellationToken,
) -> Result<Exit, AnyError> {
    let mut report = Report::begin(json);
    let passed = pass(config, syncer, candidates, stop, &mut report).await;
    let error = match &passed {
        Ok(()) => stop.is_cancelled().then(|| STOPPED.to_owned()),
        Err(e) => Some(telemetry::chain(&**e)),
    };
    report.end(error.as_deref());
    passed?;
    if stop.is_cancelled() {
        return Ok(Exit::Failure);
    }
    let Summary { failed, held, .. } = report.summary;
    Ok(Exit::of(failed + held == 0 && !report.has_unknown))
}

async fn pass(
    config: &Config,
    syncer: &Syncer,
    candidates: &Candidates,
    stop: &CancellationToken,
    report: &mut Report,
) -> Result<(), AnyError> {
    let left = worker::prepare(config, syncer).await?;
    if !left.locked.is_empty() {
        warn!(
            missing = left.locked.join(", "),
            "edits go unnoticed until these are installed"
        );
    }
    let terminal = Terminal::show(async || candidates.count(syncer).await).await?;
    let mut progress = Progress::since(Instant::now());
    // Of those that were named, the ones of which nothing was said.
    let mut silent = match candidates {
        Candidates::Named(named) => named.clone(),
        Candidates::Of(..) => BTreeSet::new(),
    };
    pass::sync(syncer, candidates, stop, |told| {
        match told {
            Told::Synced(outcomes) => {
                let spoken_of = outcomes
                    .iter()
                    .filter(|(_, outcome)| *outcome != Outcome::Nothing);
                spoken_of.for_each(|(agent, _)| _ = silent.remove(agent));
                terminal.beside(|| {
                    outcomes
                        .iter()
                        .for_each(|(agent, outcome)| report.tell(*agent, outcome))
                });
            }
            Told::Passed { .. } => report.summary.add(told.summary()),
        }
        terminal.comes_on(told.agents(), &report.so_far());
        if !terminal.is_shown() && progress.is_due(Instant::now()) {
            info!("Sync so far: {}", report.summary);
        }
    })
    .await?;
    if stop.is_cancelled() || silent.is_empty() {
        return Ok(());
    }
    let footing = syncer.footing().await?;
    pass::preview(syncer, footing, &Candidates::Named(silent), |preview| {
        let nothing = |outcome: &Outcome| *outcome == Outcome::Nothing;
        for forecast in preview.forecasts.iter().filter(|f| nothing(&f.outcome)) {
            terminal.beside(|| report.tell_of_nothing(forecast));
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(())
}

async fn preview(
    config: &Config,
    syncer: &Syncer,
    candidates: Candidates,
    json: bool,
    stop: &CancellationToken,
) -> Result<Exit, AnyError> {
    let is_named = matches!(candidates, Candidates::Named(_));
    let mut plan = Plan::begin(json, is_named);
    let looking = look(config, syncer, candidates, &mut plan);
    let looked = tokio::select! {
        looked = looking => looked.map(|()| None),
        () = stop.cancelled() => Ok(Some(STOPPED.to_owned())),
    };
    let error = match &looked {
        Ok(stopped) => stopped.clone(),
        Err(e) => Some(telemetry::chain(&**e)),
    };
    plan.end(error.as_deref());
    match looked? {
        // Whoever reads it does not want to read the rest.
        None if plan.is_cut_off() => Ok(Exit::Failure),
        None => Ok(Exit::of(plan.is_well())),
        Some(_) => Ok(Exit::Failure),
    }
}

async fn look(
    config: &Config,
    syncer: &Syncer,
    mut candidates: Candidates,
    plan: &mut Plan,
) -> Result<(), AnyError> {
    let footing = syncer.footing().await?;
    plan.installed = footing.has_schema;
    if !footing.has_schema {
        let how = match config.auto_migrate {
            true => "a sync installs it first".to_owned(),
            false => format!("run `agent-sync migrate` before a sync ({AUTO_MIGRATE} is false)"),
        };
        warn!("agent-sync is not installed in this database yet: {how}");
        if let Candidates::Of(_, extent) = &mut candidates {
            *extent = Extent::Existing;
        }
    }
    let terminal = Terminal::show(async || candidates.count(syncer).await).await?;
    pass::preview(syncer, footing, &candidates, |preview| {
        let agents = preview.forecasts.len();
        let told = terminal.beside(|| plan.tell(preview));
        terminal.comes_on(agents, &plan.so_far());
        told
    })
    .await?;
    Ok(())
}
