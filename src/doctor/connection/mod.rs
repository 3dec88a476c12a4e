//! The way to the database: is there such a host, does anything answer there, is it encrypted and the right one, and are we let in.

pub mod credentials;
pub mod network;
pub mod tls;

use std::error::Error as _;
use std::io;
use std::time::Duration;

use rustls::CertificateError;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::session::Session;
use crate::database::DatabaseUrl;
use crate::telemetry::chain;
use network::Knock;

/// How long logging in may take.
const LOGIN: Duration = Duration::from_secs(10);

pub struct Connection {
    url: DatabaseUrl,
    /// Each host, and what came of knocking there.
    hosts: Vec<(String, Knock)>,
    pub session: Option<Session>,
    /// Why there is no session, though a host answers.
    refusal: Option<Refusal>,
}

/// Why a host that answers lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    NoTls,
    WantsTls(String),
    Certificate(Certificate),
    Tls(String),
    /// SQLSTATE and message.
    Login(String, String),
    /// The server wants one.
    NoPassword,
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certificate {
    UnknownIssuer,
    OtherName,
    Expired,
    NotYet,
}

impl Connection {
    pub async fn open(url: &DatabaseUrl) -> Self {
        let mut connection = Self {
            url: url.clone(),
            hosts: network::knock(url).await,
            session: None,
            refusal: None,
        };
        let mut knocks = connection.hosts.iter();
        if knocks.any(|(_, knock)| matches!(knock, Knock::Answers { .. })) {
            match log_in(url).await {
                Ok(session) => connection.session = Some(session),
                Err(refusal) => connection.refusal = Some(refusal),
            }
        }
        connection
    }

    /// On this machine, nobody reads along.
    fn is_here(&self) -> bool {
        let mut knocks = self.hosts.iter();
        knocks.all(|(_, knock)| *knock == Knock::Answers { is_here: true })
    }
}

/// As the worker does; and where that fails because nothing may be written there, without asking for that.
async fn log_in(url: &DatabaseUrl) -> Result<Session, Refusal> {
    let mut config = url.named("agent-sync doctor").config().clone();
    // With `prefer` it is not told which it was.
    let is_preferred = config.get_ssl_mode() == SslMode::Prefer;
    if is_preferred {
        config.ssl_mode(SslMode::Require);
    }
    loop {
        let is_encrypted = config.get_ssl_mode() == SslMode::Require;
        let opening = timeout(LOGIN, Session::open(url, &config, is_encrypted));
        let error = match opening.await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(Refusal::Other(format!(
                    "nobody is let in within {} s",
                    LOGIN.as_secs()
                )));
            }
        };
        let refusal = Refusal::of(&error);
        let asks_to_write = config.get_target_session_attrs() != TargetSessionAttrs::Any;
        if refusal == Refusal::NoTls && is_preferred && is_encrypted {
            config.ssl_mode(SslMode::Disable);
        } else if is_read_only(&error) && asks_to_write {
            config.target_session_attrs(TargetSessionAttrs::Any);
        } else {
            return Err(refusal);
        }
    }
}

/// How tokio-postgres says that nothing can be written there.
fn is_read_only(error: &tokio_postgres::Error) -> bool {
    let cause = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    cause.is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

impl Refusal {
    fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let message = db.message().to_owned();
            // pg_hba.conf names the kind of connection that it has no line for.
            let wants_tls = message.ends_with("no encryption") || message.ends_with("SSL off");
            return match wants_tls {
                true => Self::WantsTls(message),
                false => Self::Login(db.code().code().to_owned(), message),
            };
        }
        let mut cause = error.source();
        while let Some(e) = cause {
            let inner = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let tls = e
                .downcast_ref::<rustls::Error>()
                .or_else(|| inner?.downcast_ref());
            if let Some(tls) = tls {
                return Self::of_tls(tls);
            }
            cause = e.source();
        }
        let said = chain(error);
        match () {
            () if said.ends_with("server does not support TLS") => Self::NoTls,
            () if said.ends_with("password missing") => Self::NoPassword,
            () if said.starts_with("error performing TLS handshake") => Self::Tls(said),
            () => Self::Other(said),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(why) = error else {
            return Self::Tls(error.to_string());
        };
        Self::Certificate(match why {
            // Of a root that has the right name and another key, the signature is bad.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Certificate::UnknownIssuer
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Certificate::OtherName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Certificate::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Certificate::NotYet
            }
            _ => return Self::Tls(error.to_string()),
        })
    }

    fn is_about_tls(&self) -> bool {
        matches!(
            self,
            Self::NoTls | Self::WantsTls(_) | Self::Certificate(_) | Self::Tls(_)
        )
    }
}
