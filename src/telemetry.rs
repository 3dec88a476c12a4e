//! Logs: to standard error, text or JSON. Standard output is for what a command was asked for.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, WeakProgressBar};
use tracing::{Level, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Once a process; a second call changes nothing.
pub fn init(log: &Log) {
    // What the pool has to say of a lost connection is said better by whoever wanted one.
    let filter = format!("deadpool.postgres=off,{}", log.filter);
    let filter: Targets = filter
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    // It says what it sends at these levels: agents, and callers' claims. No filter asks for that.
    let silent = Targets::new()
        .with_default(Level::TRACE)
        .with_target("tokio_postgres", Level::INFO);
    let builder = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_writer(|| Lines)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => builder
            .with_target(false)
            .finish()
            .with(filter)
            .with(silent)
            .try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .finish()
            .with(filter)
            .with(silent)
            .try_init(),
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// The progress bar on the terminal, if there is one: a line is written while it is not there.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// From now on, and as long as there is this bar.
pub fn make_room_for(bar: &ProgressBar) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
}

/// Standard error, a line at a time.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar.and_then(|bar| bar.upgrade()) {
            Some(bar) => bar.suspend(|| io::stderr().write_all(line))?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// One line, with the spans that it happened in: a request's has its id. A message that was put together at run time stays
/// unsaid: there may be anything in it.
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>();
    let place = panic.location().map(ToString::to_string);
    error!(
        message = "panicked",
        place = place.unwrap_or_default(),
        why = message.copied().unwrap_or("not said here")
    );
}

/// An error with its causes: the useful half is often among them.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Text that somebody else has written, for a terminal: what would move the cursor or begin a line of its own is shown as such.
pub fn printable(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => c,
    };
    text.chars().map(shown).collect()
}
