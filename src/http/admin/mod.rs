//! The admin server, for operators, probes and scrapers. It shows no prompts, no configurations and no secrets; who may reach it
//! may look.
//!
//! | route | |
//! |---|---|
//! | `/` | the page for people |
//! | `/live`, `/ready` | probes |
//! | `/metrics` | what is counted, for Prometheus |
//! | `/status` | how things are, in one word and why |
//! | `/events`, `/history` | what the worker is doing, and did in the last hour |
//! | `/agents` | which agents there are, and what is wrong with them |

pub mod agents;
pub mod events;
mod history;
mod metrics;
mod page;
mod probes;
mod status;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::auth::Authenticator;
use super::upstream::Upstream;
use super::{Answer, Body, Counts, Handle, NO_ROUTE, Problem};
use crate::activity::Activity;
use crate::database::Database;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::status::Subject;
use crate::store::Place;
use crate::syncer::Syncer;
use agents::Agents;
use events::Events;
use status::Known;

/// How long the database may take to answer a probe.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Admin {
    watched: Watched,
    events: Events,
    /// How things were when somebody asked last.
    known: Known,
}

/// What the admin server tells of.
#[derive(Debug)]
pub struct Watched {
    pub readiness: Arc<Readiness>,
    /// With connections of the admin server's own. `None` in in-memory mode.
    pub database: Option<Database>,
    pub subject: Subject,
    /// Where assistants live.
    pub place: Place,
    /// `None` in in-memory mode.
    pub syncer: Option<Arc<Syncer>>,
    pub authenticator: Arc<Authenticator>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub activity: Arc<Activity>,
    pub agents: Agents,
    pub metrics: Arc<Metrics>,
    pub started_at: OffsetDateTime,
}

/// What it can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Page,
    Live,
    Ready,
    Metrics,
    Status,
    Events,
    History,
    Agents,
}

impl Route {
    /// All that there is. Each answers GET and HEAD.
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/live" => Self::Live,
            "/ready" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/status" => Self::Status,
            "/events" => Self::Events,
            "/history" => Self::History,
            "/agents" => Self::Agents,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Live => "/live",
            Self::Ready => "/ready",
            Self::Metrics => "/metrics",
            Self::Status => "/status",
            Self::Events => "/events",
            Self::History => "/history",
            Self::Agents => "/agents",
        }
    }
}

impl Admin {
    /// Streams of events end when `shutdown` is called.
    pub fn new(watched: Watched, shutdown: CancellationToken) -> Self {
        Self {
            events: Events::new(watched.activity.clone(), shutdown),
            known: Known::default(),
            watched,
        }
    }
}

impl Handle for Admin {
    fn counts(&self, request: &Request<Incoming>) -> Option<Counts<'_>> {
        Some(Counts {
            metrics: &self.watched.metrics,
            server: "admin",
            route: Route::of(request.uri().path()).map_or(NO_ROUTE, Route::word),
        })
    }

    async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        if is_cross_site(request.headers()) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "Not for pages of other sites",
            ));
        }
        let route = Route::of(request.uri().path()).ok_or_else(Problem::not_found)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed("GET, HEAD"));
        }
        let mut answer = match route {
            Route::Page => page::page(),
            Route::Live => self.live(),
            Route::Ready => self.ready().await,
            Route::Metrics => self.metrics(request.headers()).await?,
            Route::Status => self.tell_status().await,
            Route::Events => self.events.answer(&request)?,
            Route::History => self.history().await,
            Route::Agents => self.watched.agents.list(request.uri().query()).await?,
        };
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(answer)
    }
}

/// Whether a page of another site has a browser ask, inside whose network we may be. Browsers say so themselves. A link that somebody
/// follows is not the other page's question: it never sees what comes of it.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let says = |name: &str, word: &str| headers.get(name).is_some_and(|value| value == word);
    let is_link = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
    says("sec-fetch-site", "cross-site") && !is_link
}
