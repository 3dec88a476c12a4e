//! Pages in a browser: which origins' may call the API, and what of an answer they may read. Works on heads alone, before anybody is
//! asked who they are: a browser asks first whether it may ask, and does so without a token.
//!
//! Never with credentials: who is calling is in a header that the page itself sets, so no page acts with what a browser keeps.

use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};

use crate::config::Origins;

/// What a page may read of an answer's head, besides what it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-pagination-total, x-pagination-next, content-location, x-request-id",
);

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// For how many seconds a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

#[derive(Debug, Clone)]
pub struct Cors(pub Origins);

impl Cors {
    /// Where a browser asks whether a page may send a request (a preflight): what the answer says, besides [`Self::mark`].
    pub fn preflight(&self, method: &Method, head: &HeaderMap) -> Option<HeaderMap> {
        let is_preflight = method == Method::OPTIONS
            && head.contains_key(ORIGIN)
            && head.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.0 == Origins::None {
            return None;
        }
        let mut answer = HeaderMap::new();
        if self.allowed(head.get(ORIGIN)).is_some() {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
            // Whatever it is: a `*` would not cover authorization.
            if let Some(asked) = head.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
            }
        }
        Some(answer)
    }

    /// Says on an answer, of whatever kind, who may read it, where it is a page that asks. `origin`: the request's. What another server's answer says of that stays,
    /// unless there is a list of origins here.
    pub fn mark(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        if matches!(self.0, Origins::These(_)) {
            // It is another answer for another origin.
            answer.append(VARY, HeaderValue::from_name(ORIGIN));
            answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
            answer.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
            answer.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        } else if origin.is_none() || answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        if let Some(allowed) = self.allowed(origin) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            answer.append(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// The origin that is let in.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match &self.0 {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::None => None,
            Origins::These(origins) => origin
                .filter(|origin| {
                    origins
                        .iter()
                        .any(|one| one.as_bytes() == origin.as_bytes())
                })
                .cloned(),
        }
    }
}
