//! When the upstream does not answer: what its clients are told, and what the operator is, once in a while.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper_util::client::legacy;
use tokio::time::Instant;
use tracing::warn;

use super::body::UploadError;
use crate::config::{MAX_STREAMS, UPSTREAM};
use crate::http::Problem;
use crate::telemetry::chain;

/// How long nothing more is said of the same trouble, however many requests meet it.
const SILENCE: Duration = Duration::from_secs(10);

/// What is said of one upstream.
#[derive(Debug)]
pub struct Outages {
    /// As it may be shown.
    url: String,
    unreachable: Seldom,
    broken: Seldom,
    crowded: Seldom,
    /// How it went the last time. The error says what is wrong.
    last: Mutex<Option<Result<(), String>>>,
}

impl Outages {
    pub fn new(url: String) -> Self {
        Self {
            url,
            unreachable: Seldom::default(),
            broken: Seldom::default(),
            crowded: Seldom::default(),
            last: Mutex::default(),
        }
    }

    /// There is an answer.
    pub fn answered(&self) {
        *self.last() = Some(Ok(()));
    }

    pub fn condition(&self) -> Option<String> {
        let last = self.last();
        let word = |last: &Result<(), String>| match last {
            Ok(()) => "reachable".to_owned(),
            Err(why) => why.clone(),
        };
        last.as_ref().map(word)
    }

    fn last(&self) -> MutexGuard<'_, Option<Result<(), String>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no connection, and so the upstream knows nothing of the request.
    pub fn unreachable(&self, why: &str) -> Problem {
        *self.last() = Some(Err(format!("it cannot be reached: {why}")));
        if let Some(unsaid) = self.unreachable.say() {
            warn!(
                upstream = self.url,
                why,
                unsaid,
                "the upstream cannot be reached: is it running, and is {UPSTREAM} right?"
            );
        }
        Problem::new(
            StatusCode::BAD_GATEWAY,
            "The upstream server cannot be reached",
        )
    }

    pub fn slow_to_connect(&self, within: Duration) -> Problem {
        self.unreachable(&format!("no connection within {} s", within.as_secs()));
        Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "The upstream server cannot be reached in time",
        )
    }

    /// There is no answer.
    pub fn no_answer(&self, error: &legacy::Error) -> Problem {
        if error.is_connect() {
            return self.unreachable(&chain(error));
        }
        match upload_error(error) {
            Some(error) => error.into(),
            None => self.unusable(&chain(error)),
        }
    }

    /// What came is none that could go on.
    pub fn unusable(&self, why: &str) -> Problem {
        self.broke(why);
        Problem::new(
            StatusCode::BAD_GATEWAY,
            "The upstream server gave no usable answer",
        )
    }

    /// An answer had begun.
    pub fn broke_off(&self, error: &hyper::Error) {
        if upload_error(error).is_none() {
            self.broke(&chain(error));
        }
    }

    fn broke(&self, why: &str) {
        *self.last() = Some(Err(format!("it gave no whole answer: {why}")));
        if let Some(unsaid) = self.broken.say() {
            warn!(
                upstream = self.url,
                why, unsaid, "the upstream gave no whole answer"
            );
        }
    }

    pub fn crowded(&self) -> Problem {
        if let Some(unsaid) = self.crowded.say() {
            warn!(
                unsaid,
                "as many requests are passed through as may be: more are refused until some end ({MAX_STREAMS})"
            );
        }
        Problem::overloaded()
    }
}

/// The client's doing.
fn upload_error(error: &(dyn Error + 'static)) -> Option<UploadError> {
    match error.downcast_ref() {
        Some(found) => Some(*found),
        None => upload_error(error.source()?),
    }
}

/// Something that is said at once, and then not again for a while.
#[derive(Debug, Default)]
struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether to say it now, and how often it went unsaid before.
    fn say(&self) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| last.elapsed() < SILENCE) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(Instant::now());
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_trouble_is_told_once_in_a_while() {
        let seldom = Seldom::default();
        assert_eq!(seldom.say(), Some(0));
        for _ in 0..1000 {
            assert_eq!(seldom.say(), None);
        }
        tokio::time::advance(SILENCE).await;
        assert_eq!(seldom.say(), Some(1000));
        assert_eq!(seldom.say(), None);
        tokio::time::advance(SILENCE).await;
        assert_eq!(seldom.say(), Some(1));
    }
}
