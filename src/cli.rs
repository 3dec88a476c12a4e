//! Commands and flags.

use clap::{Args, Parser, Subcommand};

use uuid::Uuid;

use crate::scope::Scope;

/// Keeps LangGraph assistants equal to the agents in a Supabase database.
///
/// Configured by environment variables; the README lists them all.
#[derive(Debug, Parser)]
#[command(name = "agent-sync", version, about, long_about)]
pub struct Cli {
    /// `serve` if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Clone, Default, Subcommand)]
pub enum Command {
    /// Run the worker: startup pass, change loop, lazy sync (the default)
    #[default]
    Serve,
    /// Look at every agent of a scope once, sync what differs, and end
    Sync(SyncFlags),
    /// Say how the installation is: connection, triggers, outbox, agents by state. Exit code 0: healthy; 2: not; 1: it cannot be told
    Status {
        /// As JSON, as the admin server's /status has it
        #[arg(long)]
        json: bool,
    },
    /// Ask the running worker whether it is ready: for a container's health check. Exit code 0 or 1, the reasons in one line
    Health {
        /// Whether it answers at all
        #[arg(long)]
        live: bool,
    },
    /// Check all that goes wrong in real installations, and say what mends it. Writes nothing. Exit code 0: nothing is wrong; 2: something is
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Install or upgrade what the worker needs in the database
    Migrate {
        /// Write the SQL to standard output instead, fit for supabase/migrations/<timestamp>_agent_sync.sql
        #[arg(long)]
        print: bool,
    },
    /// Write the SQL of the worker's login role to standard output, for psql or Supabase's SQL editor
    Roles,
    /// Remove what `migrate` installed: schema agent_sync and its triggers. Assistants stay
    Uninstall,
    /// Try it: a throw-away PostgreSQL with a few agents, and the worker on it
    Demo {
        /// Assistants live on this LangGraph server, such as one that `langgraph dev` runs: http://127.0.0.1:2024
        #[arg(long, value_name = "URL")]
        langgraph: Option<String>,
    },
}

#[derive(Debug, Clone, Default, Args)]
pub struct SyncFlags {
    /// `all`, or `org:<uuid>[,org:<uuid>...]`. If not given: AGENT_SYNC_SCOPE, and all that have an assistant already
    #[arg(long)]
    pub scope: Option<Scope>,
    /// Just this agent; may be given several times. It still has to be in scope, or have an assistant already
    #[arg(long, value_name = "UUID")]
    pub agent: Vec<Uuid>,
    /// Say what would be done, field by field, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove what has to be removed, however much it is, and let go what is held
    #[arg(long)]
    pub allow_removals: bool,
    /// Write one JSON document to standard output. Agents that are as they should be are only counted
    #[arg(long)]
    pub json: bool,
}
