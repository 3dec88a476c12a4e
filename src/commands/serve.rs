//! `agent-sync serve`: the worker, until it is told to stop.

use super::{AnyError, Exit, stop_signal};
use crate::config::Config;
use crate::worker::Worker;

pub(super) async fn run(config: Config) -> Result<Exit, AnyError> {
    let worker = Worker::bind(config).await?;
    worker.run(stop_signal()?).await;
    Ok(Exit::Well)
}
