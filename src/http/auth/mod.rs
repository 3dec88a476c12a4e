//! Who is calling: a request's headers → its token → the claims, verified → a [`Caller`].
//!
//! | module | what it owns |
//! |---|---|
//! | `token` | what a token must be and say (pure) |
//! | `keys` | keys, and the algorithm of each |
//! | `jwks` | when a project's published keys are fetched, and how long they count |
//! | `fetch` | fetching them |

mod fetch;
mod jwks;
pub(crate) mod keys;
pub(crate) mod token;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Problem;
use super::url::HttpUrl;
use crate::access::Identity;
use crate::config::Authentication;
use crate::ids::SYSTEM;
use crate::readiness::Readiness;
use fetch::{Endpoint, FetchError};
use jwks::{Jwks, Source, Unavailable};
use keys::Key;
use token::{Refusal, Rules, Token};

/// Who sent a request, as far as they have proven it.
#[derive(Clone, PartialEq)]
pub enum Caller {
    /// A user of the Supabase project.
    User(User),
    /// A trusted backend (`service_role`): it acts as [`SYSTEM`].
    System,
    /// Anybody, on a worker for development that knows no keys.
    Dev,
}

/// A user, and what their token says.
#[derive(Clone, PartialEq)]
pub struct User {
    /// The claim `sub`.
    pub id: Uuid,
    /// All claims of the token, verified.
    pub claims: Arc<Map<String, Value>>,
}

impl Caller {
    /// The owner of what the caller makes.
    pub fn owner(&self) -> String {
        match self {
            Self::User(user) => user.id.to_string(),
            Self::System => SYSTEM.to_owned(),
            Self::Dev => "dev".to_owned(),
        }
    }

    /// As whom the database is asked. `None`: it is not asked about this caller.
    pub fn identity(&self) -> Option<Identity> {
        match self {
            Self::User(user) => Some(Identity::verified(user.id, user.claims.clone())),
            Self::System | Self::Dev => None,
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.owner())
    }
}

/// How many keys that are of use a project publishes.
pub async fn published(url: &HttpUrl) -> Result<usize, FetchError> {
    let keys = Endpoint::new(url.clone()).fetch().await?;
    Ok(keys.count())
}

/// Finds out who is calling.
#[derive(Debug)]
pub struct Authenticator {
    secret: Option<Key>,
    jwks: Option<Jwks<Endpoint>>,
    rules: Rules,
    /// Without any key, everybody is [`Caller::Dev`].
    dev: bool,
}

impl Authenticator {
    pub fn new(settings: &Authentication, dev: bool) -> Self {
        Self {
            secret: settings
                .secret
                .as_ref()
                .map(|secret| Key::secret(secret.bytes())),
            jwks: settings
                .jwks
                .clone()
                .map(|url| Jwks::new(Endpoint::new(url))),
            rules: Rules {
                issuer: settings.issuer.clone(),
                allow_service_role: settings.allow_service_role,
                allow_anonymous: settings.allow_anonymous,
            },
            dev,
        }
    }

    /// Keeps the project's published keys, until `shutdown` is called. Until they are there, the worker is not ready.
    pub fn keep_keys(
        self: Arc<Self>,
        readiness: Arc<Readiness>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> {
        // With a secret, callers can be known without the published keys: a legacy project may publish none.
        let has_secret = self.secret.is_some();
        let tell = move |unusable: Option<String>| {
            readiness.callers(unusable.filter(|_| !has_secret));
        };
        tell(self.jwks.as_ref().and_then(Jwks::unusable));
        async move {
            if let Some(jwks) = &self.jwks {
                jwks.keep(tell, &shutdown).await;
            }
        }
    }

    /// How long ago the project's published keys were fetched. `None`: they were not, or there are none.
    pub fn keys_age(&self) -> Option<Duration> {
        self.jwks.as_ref()?.age()
    }

    /// The caller of a request with these headers, or why it is refused.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.secret.is_none() && self.jwks.is_none() {
            return match self.dev {
                true => Ok(Caller::Dev),
                false => Err(challenge("This server has no keys to know callers by")),
            };
        }
        let token = Token::parse(bearer(headers)?)?;
        let claims = match &self.jwks {
            _ if token.is_symmetric() => token.verify(self.secret.iter())?,
            Some(jwks) => {
                let keys = jwks.keys_for(token.kid()).await?;
                token.verify(keys.named(token.kid()))?
            }
            None => return Err(Refusal::Signature.into()),
        };
        Ok(self.rules.caller(claims, now())?)
    }
}

/// The token of a request, which has one and says so once.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let header = match (all.next(), all.next()) {
        (None, _) => {
            return Err(challenge(
                "Not authenticated: send `Authorization: Bearer <access token>`",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(challenge(
                "The request has more than one Authorization header",
            ));
        }
        (Some(header), None) => header,
    };
    let text = header.to_str().map_err(|_| Refusal::Malformed)?;
    match text.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim_start()),
        _ => Err(challenge(
            "The Authorization header must be `Bearer <access token>`",
        )),
    }
}

/// Seconds since 1970. A clock before that knows nothing: by it, every token has expired.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(u64::MAX, |since| since.as_secs())
}

/// No token was sent: RFC 6750 wants no more than the scheme then.
fn challenge(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail).with_header(WWW_AUTHENTICATE, "Bearer")
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, error) = match refusal.is_forbidden() {
            false => (StatusCode::UNAUTHORIZED, r#"Bearer error="invalid_token""#),
            true => (
                StatusCode::FORBIDDEN,
                r#"Bearer error="insufficient_scope""#,
            ),
        };
        Self::new(status, refusal.to_string()).with_header(WWW_AUTHENTICATE, error)
    }
}

impl From<Unavailable> for Problem {
    fn from(Unavailable: Unavailable) -> Self {
        let detail = "The keys of this project cannot be fetched at the moment";
        Self {
            detail: detail.to_owned(),
            ..Self::unavailable()
        }
    }
}
