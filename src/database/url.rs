//! `DATABASE_URL`, as people paste it from Supabase and out of other tools' settings.
//!
//! tokio-postgres knows neither `sslmode=verify-full` and `verify-ca` nor `sslrootcert` (they are honoured here), nor what ORMs and
//! drivers put there for themselves (it is ignored). What is left goes to tokio-postgres. What cannot work is refused with what to do
//! about it, and never with a part of the URL.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::tls::{Tls, Verify};

/// Where the database is and how to talk to it. `Debug` shows nothing of it: where a password is not written as it should be,
/// any part may hold a piece of it.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: Config,
    tls: Tls,
    verify: Verify,
}

/// Flags that ORMs, drivers and poolers have for themselves: they change nothing here.
const IGNORED: [&str; 22] = [
    "client_encoding",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "max_pool_size",
    "pgbouncer",
    "pool_max_conns",
    "pool_mode",
    "pool_size",
    "pool_timeout",
    "prepareThreshold",
    "prepare_threshold",
    "prepared_statements",
    "schema",
    "socket_timeout",
    "sslcompression",
    "sslsni",
    "statement_cache_capacity",
    "statement_cache_size",
    "supa",
    "uselibpqcompat",
    "workaround",
];

/// Options that cannot be honoured, and must not be ignored: what to do instead.
const REFUSED: [(&str, &str); 10] = [
    (
        "passfile",
        "write the password out, or see DATABASE_URL_FILE",
    ),
    ("requiressl", "write sslmode=require"),
    ("service", "write out what the service says"),
    ("ssl", "write sslmode=require, or verify-full"),
    ("sslaccept", "write sslmode=verify-full, or require"),
    ("sslcert", NO_CLIENT_CERTIFICATE),
    ("sslcrl", "revocation lists are not looked at"),
    ("sslkey", NO_CLIENT_CERTIFICATE),
    ("sslpassword", NO_CLIENT_CERTIFICATE),
    ("sslidentity", NO_CLIENT_CERTIFICATE),
];

const NO_CLIENT_CERTIFICATE: &str = "client certificates are not known here, log in with a password; the server's root certificate is sslrootcert";

/// What stands where people are to put something of their own: in Supabase's dashboard, in its guides, and in our README.
const PLACEHOLDERS: [&str; 7] = [
    "[your",
    "<your",
    "[password]",
    "<password>",
    "<ref>",
    "your-project-ref",
    "…",
];

/// What is wrong with the URL; never a part of it that may hold the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a postgresql:// URL{0}")]
    Scheme(&'static str),
    #[error("its sslmode is unknown: use disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    #[error("{0}")]
    Tls(String),
    #[error(
        "it has an option that is not known (if a `?` belongs to the password, write it as %3F)"
    )]
    Option,
    #[error("its option {name} is not supported: {instead}")]
    Refused {
        name: &'static str,
        instead: &'static str,
    },
    #[error("it names no host")]
    Host,
    #[error("it has more than one `@` (if one belongs to the password, write it as %40)")]
    At,
    #[error(
        "it has an `@` behind the `?` (if the `?` belongs to the password, write it as %3F; elsewhere, write `@` as %40)"
    )]
    Question,
    #[error(
        "there is still a placeholder in it, such as [YOUR-PASSWORD]: put what it stands for in its place, without the brackets"
    )]
    Placeholder,
    #[error(
        "its port is no number (an IPv6 address stands in brackets: [2001:db8::1]:5432; in a password, write `/` as %2F, `?` as %3F and `#` as %23)"
    )]
    Port,
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

    /// How much of the server's certificate is checked.
    pub fn verify(&self) -> Verify {
        self.verify
    }

    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }
}

impl FromStr for DatabaseUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(UrlError::Scheme(instead_of_a_url(url)));
        }
        let plain = percent_decode_str(url).decode_utf8_lossy().to_lowercase();
        if PLACEHOLDERS.iter().any(|text| plain.contains(text)) {
            return Err(UrlError::Placeholder);
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        // What comes behind a half of a password would be looked up by name, for all to read.
        if query.contains('@') {
            return Err(UrlError::Question);
        }
        if base.matches('@').count() > 1 {
            return Err(UrlError::At);
        }
        let (mut mode, mut root_cert, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let Some((name, instead)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
                return Err(UrlError::Refused { name, instead });
            }
            match name {
                "sslmode" => mode = Some(value),
                "sslrootcert" => root_cert = Some(percent_decode_str(value).decode_utf8_lossy()),
                _ if IGNORED.contains(&name) => {}
                _ => rest.push(pair),
            }
        }
        // As libpq has it: the host's own roots, which say little unless the name is right, too.
        let is_system = root_cert.as_deref() == Some("system");
        if is_system {
            root_cert = None;
            match mode {
                None | Some("verify-full") => mode = Some("verify-full"),
                Some(_) => {
                    return Err(UrlError::Tls(
                        "sslrootcert=system goes with sslmode=verify-full only".to_owned(),
                    ));
                }
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
            match cause.as_str() {
                unknown if unknown.starts_with("unknown option") => UrlError::Option,
                "invalid value for option `port`" => UrlError::Port,
                _ => UrlError::Parse(cause),
            }
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(UrlError::Host);
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
        Ok(Self {
            config,
            tls,
            verify,
        })
    }
}

/// A guess at what else it is.
fn instead_of_a_url(text: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
    if starts(&["'", "\"", "`"]) {
        ": it begins with a quotation mark (docker's --env-file takes those for a part of the value)"
    } else if starts(&["http://", "https://"]) {
        ": that of the project goes into SUPABASE_URL, and this one is under Connect in its dashboard"
    } else if starts(&["psql ", "DATABASE_URL=", "export "]) {
        ": only the URL itself goes here, without the command"
    } else if starts(&["jdbc:", "postgresql+", "postgres+"]) {
        ": leave out what names a driver before ://"
    } else if text.contains("host=") {
        ": write it as postgresql://user:password@host:5432/database"
    } else {
        ""
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn password(text: &str) -> String {
        let url = url(text);
        String::from_utf8_lossy(url.config().get_password().expect("a password")).into_owned()
    }

    #[test]
    fn passwords_work_encoded_and_where_nothing_is_ambiguous_as_they_are() {
        for (written, password_is) in [
            ("p%40ss%2Fw%3Frd%23%5B%5D%25%3A%20", "p@ss/w?rd#[]%: "),
            ("p%C3%A9", "pé"),
            ("a#b", "a#b"),
            ("a/b", "a/b"),
            ("a:b", "a:b"),
            ("a%b", "a%b"),
            ("a&b=c", "a&b=c"),
            ("[secret]", "[secret]"),
            ("a+b c", "a+b c"),
        ] {
            for rest in [
                "db.x.supabase.co:5432/postgres",
                "h/postgres?sslmode=require",
            ] {
                let given = password(&format!("postgresql://postgres:{written}@{rest}"));
                assert_eq!(given, password_is, "{written}");
            }
        }
    }

    #[test]
    fn hosts_of_all_kinds() {
        for (written, host, port) in [
            ("db.ref.supabase.co:5432", "db.ref.supabase.co", 5432),
            (
                "aws-0-eu-central-1.pooler.supabase.com:6543",
                "aws-0-eu-central-1.pooler.supabase.com",
                6543,
            ),
            ("[::1]:5433", "::1", 5433),
            ("[2001:db8::1]:5432", "2001:db8::1", 5432),
            ("127.0.0.1:5432", "127.0.0.1", 5432),
        ] {
            for scheme in ["postgres", "postgresql"] {
                let url = url(&format!("{scheme}://postgres.ref:p@{written}/postgres"));
                let config = url.config();
                assert_eq!(
                    config.get_hosts(),
                    [Host::Tcp(host.to_owned())],
                    "{written}"
                );
                assert_eq!(config.get_ports(), [port]);
                assert_eq!(config.get_user(), Some("postgres.ref"));
                assert_eq!(config.get_dbname(), Some("postgres"));
            }
        }
        assert_eq!(
            url("postgresql://u:p@[::1]/db").config().get_hosts().len(),
            1
        );
    }

    #[test]
    fn what_orms_and_poolers_add_changes_nothing() {
        for option in [
            "pgbouncer=true",
            "pgbouncer=true&connection_limit=1&pool_timeout=20",
            "supa=base-pooler.x",
            "schema=public",
            "statement_cache_size=0&prepared_statements=false&prepareThreshold=0",
            "workaround=supabase-pooler.vercel",
            "uselibpqcompat=true",
            "pgbouncer",
            "&",
        ] {
            for (mode, is) in [
                ("", SslMode::Prefer),
                ("&sslmode=require", SslMode::Require),
            ] {
                let url = url(&format!("postgresql://u:p@h:5432/db?{option}{mode}"));
                assert_eq!(url.config().get_ssl_mode(), is, "{option}");
                assert_eq!(url.config().get_dbname(), Some("db"));
            }
        }
        // How Supabase's first pooler was told the project.
        let with_options = url("postgresql://u:p@h/db?options=reference%3Dabc");
        assert_eq!(with_options.config().get_options(), Some("reference=abc"));
        let ours = url("postgresql://u:p@h/db?application_name=mine&connect_timeout=300");
        assert_eq!(ours.config().get_application_name(), Some("mine"));
    }

    #[test]
    fn each_sslmode_is_what_it_says() {
        for (query, mode, verify) in [
            ("", SslMode::Prefer, Verify::Nothing),
            ("sslmode=disable", SslMode::Disable, Verify::Nothing),
            ("sslmode=allow", SslMode::Prefer, Verify::Nothing),
            ("sslmode=prefer", SslMode::Prefer, Verify::Nothing),
            ("sslmode=require", SslMode::Require, Verify::Nothing),
            ("sslmode=verify-ca", SslMode::Require, Verify::Chain),
            (
                "sslmode=verify-full",
                SslMode::Require,
                Verify::ChainAndHost,
            ),
            ("sslrootcert=system", SslMode::Require, Verify::ChainAndHost),
            (
                "sslmode=verify-full&sslrootcert=system",
                SslMode::Require,
                Verify::ChainAndHost,
            ),
        ] {
            let url = url(&format!("postgresql://u:p@h/db?{query}"));
            assert_eq!(
                (url.config().get_ssl_mode(), url.verify()),
                (mode, verify),
                "{query}"
            );
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do_and_without_the_password() {
        for (written, says) in [
            (
                "postgresql://postgres:[YOUR-PASSWORD]@db.ref.supabase.co:5432/postgres",
                "placeholder",
            ),
            (
                "postgresql://postgres:%5BYOUR-PASSWORD%5D@db.ref.supabase.co:5432/postgres",
                "placeholder",
            ),
            (
                "postgresql://postgres.[YOUR-PROJECT-REF]:canary@h:5432/postgres",
                "placeholder",
            ),
            (
                "postgresql://agent_sync_worker:…@db.<ref>.supabase.co:5432/postgres",
                "placeholder",
            ),
            ("postgresql://u:can@ary@host/db", "%40"),
            ("postgresql://u:can@ary/x@host/db", "%40"),
            ("postgresql://u:can?ary@host/db", "%3F"),
            ("postgresql://u:can@ary?x@host/db", "%3F"),
            ("postgresql://u:12?connection_limit=canary@host/db", "%3F"),
            ("postgresql://u:p@host/db?canary=1", "not known"),
            ("postgresql://u:p@2001:db8::1:5432/db", "in brackets"),
            ("postgresql://u:canary/x", "in brackets"),
            ("postgresql://u:p@host:canary/db", "no number"),
            ("postgresql://u:p@/canary", "no host"),
            ("postgresql://u:p@h/db?sslmode=no-verify", "verify-full"),
            (
                "postgresql://u:p@h/db?sslmode=require&sslrootcert=system",
                "verify-full only",
            ),
            (
                "postgresql://u:p@h/db?sslcert=canary.pem&sslkey=canary",
                "client certificates",
            ),
            ("postgresql://u:p@h/db?ssl=true", "sslmode=require"),
            ("postgresql://u:p@h/db?service=canary", "service"),
            ("'postgresql://u:canary@h/db'", "quotation mark"),
            ("psql postgresql://u:canary@h/db", "without the command"),
            (
                "DATABASE_URL=postgresql://u:canary@h/db",
                "without the command",
            ),
            ("https://canary.supabase.co", "SUPABASE_URL"),
            ("jdbc:postgresql://h/db?password=canary", "names a driver"),
            ("postgresql+asyncpg://u:canary@h/db", "names a driver"),
            (
                "host=h user=u password=canary",
                "postgresql://user:password@host",
            ),
            ("canary", "not a postgresql:// URL"),
        ] {
            let error = written
                .parse::<DatabaseUrl>()
                .expect_err(written)
                .to_string();
            assert!(error.contains(says), "{written}: {error}");
            for part in ["canary", "can@", "ary@", "12"] {
                assert!(!error.contains(part), "{written}: {error}");
            }
        }
    }
}
