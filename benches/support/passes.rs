//! Passes, and servers for them.

use std::time::Duration;

use agent_sync::access::Access;
use agent_sync::config::Settings;
use agent_sync::database::{Database, DatabaseUrl, migrations};
use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use agent_sync::pass::{self, Extent};
use agent_sync::scope::Scope;
use agent_sync::syncer::{Summary, Syncer};
use tokio_util::sync::CancellationToken;

use super::{AnyError, data};

/// A server with a database `template`, of so many agents, in which everything is installed.
pub async fn server(agents: u32) -> Result<Postgres, AnyError> {
    let mut settings = vec!["fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"];
    let more = std::env::var("BENCH_POSTGRES").unwrap_or_default();
    settings.extend(more.split_whitespace());
    let postgres = Postgres::start(&settings).await?;
    postgres
        .execute("postgres", "create database template")
        .await?;
    postgres.execute("template", SCHEMA).await?;
    let template: DatabaseUrl = postgres.url("template").parse()?;
    migrations::migrate(&Database::new(&template), Duration::ZERO).await?;
    let scope = "insert into agent_sync.settings (scope) values ('all')";
    postgres.execute("template", scope).await?;
    postgres.execute("template", &data(agents)).await?;
    Ok(postgres)
}

/// A pass by a worker that has just started.
pub async fn run(url: &str) -> Result<Summary, AnyError> {
    let url: DatabaseUrl = url.parse()?;
    let syncer = Syncer::new(Database::new(&url), Access::open(), Settings::default());
    let stop = CancellationToken::new();
    Ok(pass::run(&syncer, &Scope::All, Extent::Reach, &stop).await?)
}
