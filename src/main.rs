//! The binary: parse → configure → log → runtime → command → exit code.

use std::process::ExitCode;

use agent_sync::cli::Cli;
use agent_sync::commands::{self, AnyError, Exit};
use agent_sync::config::{Config, Variables, secrets};
use agent_sync::telemetry;
use clap::Parser;

/// A worker at rest is to be small, whatever it did before.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command.unwrap_or_default(),
        // --help and --version, too. Where standard output is closed, nobody reads it.
        Err(usage) => {
            let _ = usage.print();
            return match usage.use_stderr() {
                true => Exit::Configuration.into(),
                false => Exit::Well.into(),
            };
        }
    };
    let mut variables: Variables = std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        })
        .collect();
    if let Some(exit) = commands::at_once(&command, &variables) {
        return exit.into();
    }
    commands::set_apart(&command, &mut variables);
    let config = match Config::from_variables_and_files(&variables, secrets::on_disk) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("agent-sync: {errors}");
            return Exit::Configuration.into();
        }
    };
    telemetry::init(&config.log);
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AnyError::from)
        .and_then(|runtime| runtime.block_on(commands::run(command, config, &variables)));
    match ended {
        Ok(exit) => exit.into(),
        Err(e) => {
            eprintln!("agent-sync: {}", telemetry::chain(&*e));
            if e.is::<agent_sync::database::Error>() {
                eprintln!("`agent-sync doctor` finds out what is wrong, and what mends it");
            }
            Exit::Failure.into()
        }
    }
}
