//! `DATABASE_URL`, as people paste it from Supabase.
//!
//! tokio-postgres knows neither `sslmode=verify-full` and `verify-ca` nor `sslrootcert` (they are honoured here), nor
//! `pgbouncer=true` (an ORM's flag; ignored). What is left goes to tokio-postgres.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::{Tls, Verify};

/// Where the database is and how to talk to it. `Debug` shows nothing of it: where a password is not written as it should be,
/// any part may hold a piece of it.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: Config,
    tls: Tls,
}

/// What is wrong with the URL; never a part of it that may hold the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a postgresql:// URL")]
    Scheme,
    #[error("its sslmode is unknown: use disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    #[error("{0}")]
    Tls(String),
    #[error(
        "it has an option that is not known (if a `?` belongs to the password, write it as %3F)"
    )]
    Option,
    #[error("it names no host")]
    Host,
    #[error("its host has an `@` (if that belongs to the password, write it as %40)")]
    At,
    #[error("it cannot be parsed: {0}")]
    Parse(String),
}

impl DatabaseUrl {
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same, for connections of this name.
    pub fn named(&self, application: &str) -> Self {
        let mut named = self.clone();
        named.config.application_name(application);
        named
    }

    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }
}

impl FromStr for DatabaseUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(UrlError::Scheme);
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut root_cert, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("sslmode", value) => mode = Some(value),
                ("sslrootcert", value) => {
                    root_cert = Some(percent_decode_str(value).decode_utf8_lossy())
                }
                ("pgbouncer", _) => {}
                _ => rest.push(pair),
            }
        }
        let (ssl_mode, verify) = match mode {
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("prefer" | "allow") => (SslMode::Prefer, Verify::Nothing),
            // As libpq has it: a root certificate turns `require` into `verify-ca`.
            Some("require") if root_cert.is_some() => (SslMode::Require, Verify::Chain),
            Some("require") => (SslMode::Require, Verify::Nothing),
            Some("verify-ca") => (SslMode::Require, Verify::Chain),
            Some("verify-full") => (SslMode::Require, Verify::ChainAndHost),
            Some(_) => return Err(UrlError::SslMode),
        };
        let mut config = Config::from_str(&format!("{base}?{}", rest.join("&"))).map_err(|e| {
            // "invalid connection string" says nothing; its source does. But for the name of an unknown option: that is
            // a piece of the password where there is a `?` in it.
            let cause = std::error::Error::source(&e).unwrap_or(&e).to_string();
            if cause.starts_with("unknown option") {
                UrlError::Option
            } else {
                UrlError::Parse(cause)
            }
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(UrlError::Host);
        }
        // The half of a password would be looked up by name, for all to read.
        let has_at = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(has_at) {
            return Err(UrlError::At);
        }
        if config.get_application_name().is_none() {
            config.application_name("agent-sync");
        }
        config
            .ssl_mode(ssl_mode)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(Duration::from_secs(5))
            // Defaults find a dead peer after two hours.
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(15));
        let tls = Tls::new(verify, root_cert.as_deref()).map_err(UrlError::Tls)?;
        Ok(Self { config, tls })
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}
