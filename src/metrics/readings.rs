//! What is looked up when somebody asks, and not counted: how things are at this moment. What is not known is left out.

use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

use super::{PREFIX, seconds};
use crate::doorbell::State;

#[derive(Debug)]
pub struct Readings {
    pub version: &'static str,
    pub started_at: OffsetDateTime,
    /// What `/ready` says.
    pub ready: bool,
    /// `None`: there is none.
    pub database_up: Option<bool>,
    /// Whether what is written gets to the place where assistants live.
    pub store_up: bool,
    pub outbox: Option<Outbox>,
    /// By state.
    pub agents: Option<Vec<(&'static str, i64)>>,
    /// `None`: there is nothing to listen to.
    pub listener: Option<State>,
    pub listener_changes: u64,
    pub round_trip: Option<Duration>,
    pub missed_doorbells: u64,
    /// By name.
    pub pools: Vec<(&'static str, Connections)>,
    /// Requests and WebSockets that are being passed through.
    pub streams: Option<usize>,
    pub keys_age: Option<Duration>,
}

/// Changes that wait.
#[derive(Debug)]
pub struct Outbox {
    pub changes: i64,
    pub retries: i64,
    pub oldest_age_seconds: Option<f64>,
}

/// Those of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    pub idle: usize,
    pub busy: usize,
    /// How many wait for one.
    pub waiting: usize,
}

impl Readings {
    pub(super) fn registry(&self) -> Registry {
        let mut all = Registry::with_prefix(PREFIX);
        self.process(&mut all);
        self.health(&mut all);
        if let Some(listener) = self.listener {
            self.listening(&mut all, listener);
        }
        if let Some(outbox) = &self.outbox {
            waiting(&mut all, outbox);
        }
        if let Some(agents) = &self.agents {
            let agents = agents.iter();
            let agents = agents.map(|(state, count)| ([("state", *state)], *count));
            all.register(
                "agents",
                "Agents by the worst state of their assistants",
                Labelled(agents.collect()),
            );
        }
        self.connections(&mut all);
        all
    }

    fn process(&self, all: &mut Registry) {
        all.register(
            "build_info",
            "Always 1; which version this is",
            Labelled(vec![([("version", self.version)], 1)]),
        );
        all.register_with_unit(
            "process_start_time",
            "When the worker started, since 1970",
            Unit::Seconds,
            ConstGauge::new(seconds(self.started_at)),
        );
        if let Some(bytes) = resident_memory() {
            all.register_with_unit(
                "process_resident_memory",
                "What of the process is in memory",
                Unit::Bytes,
                ConstGauge::new(bytes),
            );
        }
    }

    fn health(&self, all: &mut Registry) {
        all.register(
            "ready",
            "1 if /ready says so",
            ConstGauge::new(i64::from(self.ready)),
        );
        if let Some(up) = self.database_up {
            all.register(
                "database_up",
                "1 if the database answers. While it does not, nothing is known of outbox and agents",
                ConstGauge::new(i64::from(up)),
            );
        }
        all.register(
            "store_up",
            "0 while nothing can be written where assistants live: the LangGraph server is down, or refuses the worker",
            ConstGauge::new(i64::from(self.store_up)),
        );
        if let Some(age) = self.keys_age {
            all.register_with_unit(
                "jwks_age",
                "Since the keys that callers are known by were fetched",
                Unit::Seconds,
                ConstGauge::new(age.as_secs_f64()),
            );
        }
    }

    fn listening(&self, all: &mut Registry, listener: State) {
        let states =
            State::ALL.map(|state| ([("state", state.word())], i64::from(state == listener)));
        all.register(
            "listener_state",
            "1 for what the listening connection is doing",
            Labelled(states.to_vec()),
        );
        all.register(
            "listener_changes",
            "How often that has changed",
            ConstCounter::new(self.listener_changes),
        );
        if let Some(round_trip) = self.round_trip {
            all.register_with_unit(
                "doorbell_round_trip",
                "How long the last notification that was sent for a test took to arrive",
                Unit::Seconds,
                ConstGauge::new(round_trip.as_secs_f64()),
            );
        }
        all.register(
            "missed_doorbells",
            "Changes that were found by looking, though notifications arrived and none had announced them",
            ConstCounter::new(self.missed_doorbells),
        );
    }

    fn connections(&self, all: &mut Registry) {
        let connections = self.pools.iter().flat_map(|(name, pool)| {
            [("idle", pool.idle), ("busy", pool.busy)]
                .map(|(state, count)| ([("pool", *name), ("state", state)], signed(count)))
        });
        let connections: Vec<_> = connections.collect();
        if !connections.is_empty() {
            all.register(
                "pool_connections",
                "Connections to the database; the listening one is not among them",
                Labelled(connections),
            );
            let waiting = self.pools.iter();
            let waiting = waiting.map(|(name, pool)| ([("pool", *name)], signed(pool.waiting)));
            all.register(
                "pool_waiting",
                "How many wait for a connection of the pool",
                Labelled(waiting.collect()),
            );
        }
        if let Some(streams) = self.streams {
            all.register(
                "http_streams",
                "Requests and WebSockets that are being passed through",
                ConstGauge::new(signed(streams)),
            );
        }
    }
}

fn waiting(all: &mut Registry, outbox: &Outbox) {
    all.register(
        "outbox_changes",
        "Changes that wait for the worker, counted up to 100,000",
        ConstGauge::new(outbox.changes),
    );
    all.register(
        "outbox_retries",
        "Agents that are to be tried again later, counted up to 100,000",
        ConstGauge::new(outbox.retries),
    );
    all.register_with_unit(
        "outbox_oldest_age",
        "How long the oldest of the changes has waited; 0 where none waits",
        Unit::Seconds,
        ConstGauge::new(outbox.oldest_age_seconds.unwrap_or_default()),
    );
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A gauge's values by their labels.
#[derive(Debug)]
struct Labelled<const N: usize>(Vec<([(&'static str, &'static str); N], i64)>);

impl<const N: usize> EncodeMetric for Labelled<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, value) in &self.0 {
            encoder.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// In bytes, where the kernel says so: Linux.
fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
