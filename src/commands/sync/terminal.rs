//! How far a pass is, as a bar on the terminal. Nothing is drawn where standard error is none.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::telemetry;

/// The bar, which goes when this does.
pub(super) struct Terminal(ProgressBar);

impl Terminal {
    /// `count`: to how many agents the pass comes. Asked only if that is of any use.
    pub async fn show<E>(count: impl AsyncFnOnce() -> Result<u64, E>) -> Result<Self, E> {
        let bar = ProgressBar::no_length();
        if bar.is_hidden() {
            return Ok(Self(bar));
        }
        let template = "{spinner} {bar:20} {pos}/{len} agents  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(count().await?);
        // A batch may take a while.
        bar.enable_steady_tick(Duration::from_millis(120));
        telemetry::make_room_for(&bar);
        bar.force_draw();
        Ok(Self(bar))
    }

    pub fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Writes something while the bar is not there.
    pub fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// `so_far`: what came of them, counted.
    pub fn comes_on(&self, agents: usize, so_far: &[(usize, &str)]) {
        if self.is_shown() {
            self.0.inc(agents as u64);
            let counts = so_far.iter().filter(|(count, _)| *count > 0);
            let counts: Vec<String> = counts.map(|(count, of)| format!("{count} {of}")).collect();
            self.0.set_message(counts.join(", "));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
