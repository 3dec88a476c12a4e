//! `agent-sync uninstall`: takes out what `migrate` has put into the database, and says what it leaves.

use super::{AnyError, Exit, database};
use crate::config::Config;
use crate::database::migrations;

pub(super) async fn run(config: &Config) -> Result<Exit, AnyError> {
    let Some(database) = database(config) else {
        return Ok(Exit::Configuration);
    };
    let ours = migrations::uninstall(&database, migrations::PATIENCE).await?;
    println!(
        "Removed: schema agent_sync and its triggers.\n\
         Left: {ours} assistants that agent-sync had made, in langgraph_server.assistants, which other assistants share; \
         and their ids in public.agents.langgraph_assistant_id; and the role agent_sync_worker, where there is one."
    );
    Ok(Exit::Well)
}
