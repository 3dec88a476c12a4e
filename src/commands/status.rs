//! `agent-sync status`: how the installation is.

use super::{AnyError, Exit};
use crate::config::Config;
use crate::database::Database;
use crate::status::{Health, Status, Subject};

/// Healthy: [`Exit::Well`]. Not healthy: [`Exit::Trouble`]. It cannot be found out: [`Exit::Failure`].
pub async fn run(config: &Config, json: bool) -> Result<Exit, AnyError> {
    if super::database(config).is_none() {
        return Ok(Exit::Configuration);
    }
    let database = config
        .database
        .as_ref()
        .map(|url| Database::sized(&url.named("agent-sync status"), 1));
    let status = Status::gather(&Subject::new(config, database), None).await;
    super::print(&match json {
        true => serde_json::to_string(&status)? + "\n",
        false => status.to_string(),
    });
    let is_known = status
        .database
        .is_none_or(|database| database.reachable && database.error.is_none());
    Ok(match status.health {
        _ if !is_known => Exit::Failure,
        Health::Healthy => Exit::Well,
        Health::Degraded | Health::Starting | Health::Broken => Exit::Trouble,
    })
}
