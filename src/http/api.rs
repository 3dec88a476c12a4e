//! The API as a client sees it: `/assistants` is ours, and anything else the upstream's, where there is one.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::assistants::Assistants;
use super::relay::Relay;
use super::route::Route;
use super::upstream::Upstream;
use super::{Answer, Body, Cors, Counts, Handle, NO_ROUTE, Problem};
use crate::metrics::Metrics;

#[derive(Debug)]
pub struct Api {
    pub assistants: Served,
    /// `None`: there is nothing behind us.
    pub upstream: Option<Arc<Upstream>>,
    pub cors: Cors,
    pub metrics: Arc<Metrics>,
}

impl Api {
    /// The servers that requests are passed through to.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let behind = match &self.assistants {
            Served::Here(_) => None,
            Served::There(relay) => Some(&relay.upstream),
        };
        let mut upstreams: Vec<_> = self.upstream.iter().chain(behind).cloned().collect();
        upstreams.dedup_by(|one, other| Arc::ptr_eq(one, other));
        upstreams
    }

    fn route(&self, path: &str) -> &'static str {
        match Route::of(path) {
            _ if self.upstream.is_some() && !is_ours(path) => "upstream",
            Some(route) => route.word(),
            None => NO_ROUTE,
        }
    }
}

/// Who answers for `/assistants`.
#[derive(Debug)]
pub enum Served {
    /// We do, from a store of our own.
    Here(Assistants),
    /// The server on which they live, for the most part.
    There(Relay),
}

impl Handle for Api {
    fn cors(&self) -> Option<&Cors> {
        Some(&self.cors)
    }

    fn counts(&self, request: &Request<Incoming>) -> Option<Counts<'_>> {
        Some(Counts {
            metrics: &self.metrics,
            server: "api",
            route: self.route(request.uri().path()),
        })
    }

    fn passes(&self, request: &Request<Incoming>) -> bool {
        let path = request.uri().path();
        match &self.assistants {
            _ if !is_ours(path) => self.upstream.is_some(),
            Served::Here(_) => false,
            Served::There(relay) => relay.passes(request.method(), path),
        }
    }

    async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        match (&self.upstream, &self.assistants) {
            (Some(upstream), _) if !is_ours(request.uri().path()) => upstream.pass(request).await,
            (_, Served::Here(assistants)) => assistants.handle(request).await,
            (_, Served::There(relay)) => relay.handle(request).await,
        }
    }
}

/// Whether a path is `/assistants` or below it, in the eyes of any server: one may decode it first, pass over empty segments,
/// resolve `..`, leave out what follows a semicolon, take a backslash for a slash, or not mind a line feed at the end (Python's `$`). Else
/// it was for the client to say whether it is us who answers. Where `..` leads out of everything that is the upstream's, it is nobody's,
/// and so ours to refuse.
pub(super) fn is_ours(path: &str) -> bool {
    let path: Cow<'_, [u8]> = percent_decode_str(path).into();
    let mut resolved: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| b"/\\".contains(byte)) {
        let name = segment.split(|byte| *byte == b';').next();
        match name.unwrap_or_default().trim_ascii() {
            b"" | b"." => {}
            b".." => {
                if resolved.pop().is_none() {
                    return true;
                }
            }
            name => resolved.push(name),
        }
    }
    resolved.first() == Some(&&b"assistants"[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assistants_are_ours_however_they_are_written() {
        for ours in [
            "/assistants",
            "/assistants/",
            "/assistants/search",
            "//assistants",
            "/%61ssistants/x",
            "/.//assistants%2Fx",
            "/threads/../assistants",
            "/threads/x/%2e%2e/%2E./assistants/x",
            "/..",
            "/threads/../../elsewhere",
            "/assistants%0A",
            "/assistants%20/x",
            "/;/assistants;x/y",
            "/threads/..;/assistants",
            "/threads%5C..%5Cassistants",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in [
            "/",
            "",
            "*",
            "/ok",
            "/assistant",
            "/assistantsx",
            "/Assistants",
            "/threads/assistants",
            "/assistants/../threads",
            "/threads/a..b/..",
            "/%2561ssistants",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }
}
