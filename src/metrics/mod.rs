//! What is counted, for Prometheus. One set a worker: nothing is global.
//!
//! What happens is counted as it happens, at one place each, for the price of an atomic or a lock that nobody holds for long. What can
//! be looked up is looked up when somebody asks ([`Readings`]). Labels have few values, all known here: no ids, no paths.

mod classic;
mod readings;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

pub use classic::classic;
pub use readings::{Connections, Outbox, Readings};

/// What every name begins with.
const PREFIX: &str = "agent_sync";

/// In seconds: from an edit that is synced at once to one that waits for a database.
const DELAYS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// In seconds: from a dozen agents to a hundred thousand.
const PASSES: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];

/// What has been counted since the start.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    syncs: Family<Two, Counter>,
    change_delay: Histogram,
    batch_duration: Family<One, Histogram, fn() -> Histogram>,
    passes: Family<Two, Counter>,
    pass_duration: Family<One, Histogram, fn() -> Histogram>,
    last_pass: Family<One, Gauge<f64, AtomicU64>>,
    store_calls: Family<Two, Counter>,
    store_errors: Family<Two, Counter>,
    http_requests: Family<Answered, Counter>,
    http_duration: Family<Two, Histogram, fn() -> Histogram>,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    server: &'static str,
    route: &'static str,
    status: u16,
}

/// Which passes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Startup,
    Resync,
}

impl Pass {
    fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Resync => "resync",
        }
    }
}

fn delays() -> Histogram {
    Histogram::new(DELAYS)
}

fn passes() -> Histogram {
    Histogram::new(PASSES)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            syncs: Family::default(),
            change_delay: delays(),
            batch_duration: Family::new_with_constructor(delays),
            passes: Family::default(),
            pass_duration: Family::new_with_constructor(passes),
            last_pass: Family::default(),
            store_calls: Family::default(),
            store_errors: Family::default(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(delays),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// Each with its help, to which a full stop is added.
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "syncs",
            "Agents that were looked at, by the door through which they came and by what came of it",
            self.syncs.clone(),
        );
        registry.register_with_unit(
            "change_delay",
            "From an edit to the commit after which its assistants are as it says. Retries of agents that failed do not count",
            Unit::Seconds,
            self.change_delay.clone(),
        );
        registry.register_with_unit(
            "batch_duration",
            "How long agents that are synced together take, by the door through which they came",
            Unit::Seconds,
            self.batch_duration.clone(),
        );
        registry.register(
            "passes",
            "Looks at every agent: at the start, and at every interval",
            self.passes.clone(),
        );
        registry.register_with_unit(
            "pass_duration",
            "How long a pass takes, whatever came of it",
            Unit::Seconds,
            self.pass_duration.clone(),
        );
        registry.register_with_unit(
            "last_successful_pass_timestamp",
            "When a pass last got through. Not there before one has",
            Unit::Seconds,
            self.last_pass.clone(),
        );
        registry.register(
            "store_calls",
            "What the worker asked of the place where assistants live: statements, or requests to a LangGraph server",
            self.store_calls.clone(),
        );
        registry.register(
            "store_errors",
            "Those of them that failed",
            self.store_errors.clone(),
        );
        registry.register(
            "http_requests",
            "Requests that were answered, by the server (api, admin), the route, and the status of the answer",
            self.http_requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "From the head of a request to the head of its answer",
            Unit::Seconds,
            self.http_duration.clone(),
        );
    }

    /// All that there can be of it is there from the start: else the first of each kind would be no increase.
    pub fn begin(&self, doors: &[&'static str], outcomes: &[&'static str]) {
        for door in doors {
            drop(self.batch_duration.get_or_create(&[("door", *door)]));
            for outcome in outcomes {
                let labels = [("door", *door), ("outcome", *outcome)];
                drop(self.syncs.get_or_create(&labels));
            }
        }
        for pass in [Pass::Startup, Pass::Resync] {
            drop(self.pass_duration.get_or_create(&[("kind", pass.word())]));
            for result in ["success", "failure"] {
                let labels = [("kind", pass.word()), ("result", result)];
                drop(self.passes.get_or_create(&labels));
            }
        }
    }

    /// A batch stands.
    pub fn batch(
        &self,
        door: &'static str,
        counts: &[(&'static str, usize)],
        delays: &[Duration],
        took: Duration,
    ) {
        for (outcome, count) in counts.iter().filter(|(_, count)| *count > 0) {
            let labels = [("door", door), ("outcome", *outcome)];
            self.syncs.get_or_create(&labels).inc_by(*count as u64);
        }
        for delay in delays {
            self.change_delay.observe(delay.as_secs_f64());
        }
        let duration = self.batch_duration.get_or_create(&[("door", door)]);
        duration.observe(took.as_secs_f64());
    }

    /// A pass has ended.
    pub fn pass(&self, pass: Pass, is_success: bool, took: Duration) {
        let kind = ("kind", pass.word());
        let result = match is_success {
            true => "success",
            false => "failure",
        };
        self.passes.get_or_create(&[kind, ("result", result)]).inc();
        let duration = self.pass_duration.get_or_create(&[kind]);
        duration.observe(took.as_secs_f64());
        if is_success {
            let now = seconds(OffsetDateTime::now_utc());
            self.last_pass.get_or_create(&[kind]).set(now);
        }
    }

    /// To count what is asked of one kind of store.
    pub fn store(&self, store: &'static str) -> StoreCalls {
        StoreCalls {
            store,
            calls: self.store_calls.clone(),
            errors: self.store_errors.clone(),
        }
    }

    /// A server has answered. `route`: of those that there are, never what a client says.
    pub fn answered(
        &self,
        server: &'static str,
        route: &'static str,
        status: StatusCode,
        took: Duration,
    ) {
        let code = status.as_u16();
        let answered = Answered {
            server,
            route,
            // An upstream may answer with any number.
            status: match status.canonical_reason() {
                Some(_) => code,
                None => code / 100 * 100,
            },
        };
        self.http_requests.get_or_create(&answered).inc();
        let duration = self
            .http_duration
            .get_or_create(&[("server", server), ("route", route)]);
        duration.observe(took.as_secs_f64());
    }

    /// All of it as OpenMetrics text, with what is read just now.
    ///
    /// # Errors
    /// None: a string takes whatever is written to it.
    pub fn text(&self, readings: &Readings) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(32 * 1024);
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &readings.registry())?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Counts what is asked of a store.
#[derive(Debug, Clone)]
pub struct StoreCalls {
    store: &'static str,
    calls: Family<Two, Counter>,
    errors: Family<Two, Counter>,
}

impl StoreCalls {
    pub fn count(&self, operation: &'static str, is_error: bool) {
        let labels = [("store", self.store), ("operation", operation)];
        self.calls.get_or_create(&labels).inc();
        let errors = self.errors.get_or_create(&labels);
        if is_error {
            errors.inc();
        }
    }
}

/// Since 1970.
fn seconds(at: OffsetDateTime) -> f64 {
    at.unix_timestamp_nanos() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_there_is_no_name_for_counts_as_its_class() {
        let metrics = Metrics::default();
        for status in [200, 299, 599, 503, 999] {
            let status = StatusCode::from_u16(status).expect("a status");
            metrics.answered("api", "upstream", status, Duration::ZERO);
        }
        let counted = |status| {
            let answered = Answered {
                server: "api",
                route: "upstream",
                status,
            };
            metrics.http_requests.get_or_create(&answered).get()
        };
        assert_eq!([200, 500, 503, 900].map(counted), [2, 1, 1, 1]);
    }
}
