//! How far a pass is, as a bar on the terminal. Nothing is drawn where standard error is none.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::telemetry;

/// The bar, which goes when this does.
pub(super) struct Terminal(ProgressBar);

impl Terminal {
    /// `count`: to how many agents the pass comes. Asked only if that is of any use.
    pub async fn show<E>(count: impl AsyncFnOnce() -> Result<u64, E>) -> Result<Self, E> {
        let bar = ProgressBar::new(0);
        if bar.is_hidden() {
            return Ok(Self(bar));
        }
        bar.set_length(count().await?);
        if let Ok(style) = ProgressStyle::with_template(
            "{spinner} {bar:30} {pos}/{len} agents, {eta} left  {wide_msg}",
        ) {
            bar.set_style(style);
        }
        // A batch may take a while.
        bar.enable_steady_tick(Duration::from_millis(120));
        telemetry::make_room_for(&bar);
        Ok(Self(bar))
    }

    pub fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Writes something while the bar is not there.
    pub fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    pub fn comes_on(&self, agents: usize, so_far: &impl Display) {
        if self.is_shown() {
            self.0.inc(agents as u64);
            self.0.set_message(so_far.to_string());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
