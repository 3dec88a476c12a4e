//! The admin server, for operators, probes and scrapers. It shows no prompts, no configurations and no secrets; who may reach it
//! may look.
//!
//! | route | |
//! |---|---|
//! | `/live`, `/ready` | probes |
//! | `/events`, `/history` | what the worker is doing, and did in the last hour |

pub mod events;
mod history;
mod probes;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};

use super::{Answer, Body, Handle, Problem};
use crate::activity::Activity;
use crate::database::Database;
use crate::readiness::Readiness;
use crate::store::Place;
use events::Events;

/// How long the database may take to answer a probe.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Admin {
    pub readiness: Arc<Readiness>,
    /// `None` in in-memory mode.
    pub database: Option<Database>,
    /// Where assistants live.
    pub place: Place,
    pub activity: Arc<Activity>,
    pub events: Events,
}

/// What it can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Live,
    Ready,
    Events,
    History,
}

impl Route {
    /// All that there is. Each answers GET and HEAD.
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/live" => Self::Live,
            "/ready" => Self::Ready,
            "/events" => Self::Events,
            "/history" => Self::History,
            _ => return None,
        })
    }
}

impl Handle for Admin {
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
            Route::Live => self.live(),
            Route::Ready => self.ready().await,
            Route::Events => self.events.answer(&request)?,
            Route::History => self.history(),
        };
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(answer)
    }
}

/// Whether a page of another site has a browser ask, inside whose network we may be. Browsers say so themselves.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site")
}
