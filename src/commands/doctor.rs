//! `agent-sync doctor`: what is wrong with the installation, and what mends it.

use super::{AnyError, Exit};
use crate::config::{Config, Variables};
use crate::doctor;

pub async fn run(config: &Config, variables: &Variables, json: bool) -> Result<Exit, AnyError> {
    let report = doctor::examine(config, variables).await;
    super::print(&match json {
        true => format!("{}\n", report.json()),
        false => report.to_string(),
    });
    Ok(Exit::of(report.is_well()))
}
