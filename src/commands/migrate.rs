//! `agent-sync migrate`: makes the database ready, or says what is still missing, and why.

use tracing::info;

use super::{AnyError, Exit, database};
use crate::config::Config;
use crate::database::migrations;

pub(super) async fn run(config: &Config) -> Result<Exit, AnyError> {
    let Some(database) = database(config) else {
        return Ok(Exit::Configuration);
    };
    let left = migrations::migrate(&database, migrations::PATIENCE).await?;
    if left.is_empty() {
        info!("the database is ready for agent-sync");
        return Ok(Exit::Well);
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
