//! Whose tokens are accepted, and what is warned about at start.

use std::fmt;
use std::net::SocketAddr;

use super::{ROBYN_DEV, Reader, boolean};
use crate::http::url::HttpUrl;

pub const SUPABASE_URL: &str = "SUPABASE_URL";
pub const SUPABASE_JWKS_URL: &str = "SUPABASE_JWKS_URL";
pub const SUPABASE_JWT_SECRET: &str = "SUPABASE_JWT_SECRET";
pub const ALLOW_SERVICE_ROLE: &str = "AGENT_SYNC_ALLOW_SERVICE_ROLE";
pub const ALLOW_ANONYMOUS: &str = "AGENT_SYNC_ALLOW_ANONYMOUS";

/// No shorter secret runs a Supabase stack, and RFC 7518 asks for as much: what is shorter can be guessed from a token.
const MIN_SECRET: usize = 32;

/// Whose tokens are accepted. Without keys, nobody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authentication {
    /// What `iss` must say, where the project is known.
    pub issuer: Option<String>,
    /// Where the project publishes its keys.
    pub jwks: Option<HttpUrl>,
    /// The key of legacy projects.
    pub secret: Option<Secret>,
    /// Whether trusted backends may act as `system`.
    pub allow_service_role: bool,
    /// Whether anonymous sign-ins are users, too.
    pub allow_anonymous: bool,
}

/// The bytes of an HMAC key. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Authentication {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let project = reader.optional(SUPABASE_URL, project);
        let published = project
            .as_ref()
            .map(|url| url.join("/auth/v1/.well-known/jwks.json"));
        Self {
            issuer: project.map(|url| url.join("/auth/v1").to_string()),
            jwks: reader.optional(SUPABASE_JWKS_URL, str::parse).or(published),
            secret: reader.optional(SUPABASE_JWT_SECRET, secret),
            allow_service_role: reader.with_default(ALLOW_SERVICE_ROLE, "false", boolean),
            allow_anonymous: reader.with_default(ALLOW_ANONYMOUS, "false", boolean),
        }
    }

    pub fn has_keys(&self) -> bool {
        self.jwks.is_some() || self.secret.is_some()
    }

    /// What an operator should know of an API that listens here.
    pub fn warnings(&self, dev: bool, api: SocketAddr) -> Vec<String> {
        let mut warnings = Vec::new();
        if dev {
            let caller = match self.has_keys() {
                true => "any authenticated caller",
                false => "anybody who reaches the API",
            };
            warnings.push(format!(
                "{ROBYN_DEV}=true: {caller} may sync any active agent; not for production"
            ));
            if !api.ip().is_loopback() {
                warnings.push(format!(
                    "{ROBYN_DEV}=true, and the API listens on {api}, which other machines may reach"
                ));
            }
        } else if !self.has_keys() {
            warnings.push(format!(
                "no keys to know callers by: every request to the API is refused. Set {SUPABASE_URL}, or \
                 {SUPABASE_JWT_SECRET} for a project with a legacy secret; {ROBYN_DEV}=true is for development"
            ));
        }
        if self.has_keys() && self.issuer.is_none() {
            warnings.push(format!(
                "{SUPABASE_URL} is not set: tokens are accepted whatever issuer they name, if a key has signed them"
            ));
        }
        if let Some(url) = self.jwks.as_ref().filter(|url| url.is_in_the_clear()) {
            warnings.push(format!(
                "the keys are fetched from {url} without encryption: whoever is in between can pass as anybody"
            ));
        }
        warnings
    }
}

/// A project's base URL; what people paste with it (`/`, `/auth/v1`, `/rest/v1`) is left out.
fn project(text: &str) -> Result<HttpUrl, String> {
    let text = text.trim_end_matches('/');
    let base = ["/auth/v1", "/rest/v1"]
        .iter()
        .find_map(|api| text.strip_suffix(api))
        .unwrap_or(text);
    HttpUrl::bare(base)
}

/// A public text taken for the secret would let everybody sign tokens.
fn secret(text: &str) -> Result<Secret, String> {
    let is_api_key = text.starts_with("sb_") || text.starts_with("eyJ");
    let is_public_key = text.starts_with("-----BEGIN") || text.starts_with('{');
    if is_api_key {
        return Err("it is an API key, not the project's JWT secret".to_owned());
    }
    if is_public_key {
        return Err(format!(
            "it is a key of a pair, not a secret; public keys are fetched, see {SUPABASE_JWKS_URL}"
        ));
    }
    if text.len() < MIN_SECRET {
        return Err(format!(
            "it has {} bytes, and no JWT secret of a project has fewer than {MIN_SECRET}",
            text.len()
        ));
    }
    Ok(Secret(text.as_bytes().to_vec()))
}
