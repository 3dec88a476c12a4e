//! A URL of a server that is asked. What may be secret in it is shown nowhere: user, password, and query.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;

/// `http://` or `https://`.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Without the userinfo.
    uri: Uri,
    /// The userinfo, as a server wants to have it.
    authorization: Option<HeaderValue>,
    has_fragment: bool,
}

impl FromStr for HttpUrl {
    type Err = String;

    /// The error names no part of the URL.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || "it is not a URL like https://host or http://host:8000".to_owned();
        let given: Uri = text.parse().map_err(|_| invalid())?;
        let scheme = given.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err("it does not begin with https:// (or http://)".to_owned());
        }
        let authority = given.authority().ok_or_else(invalid)?.as_str();
        // A password that is not written as it should be ends the authority early, and its rest would be shown.
        if text.matches('@').count() > authority.matches('@').count() {
            return Err(
                "it has an `@` behind the host: in a password, write / as %2F, ? as %3F and # as %23; elsewhere, @ as %40"
                    .to_owned(),
            );
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let path = given.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(host.to_ascii_lowercase())
            .path_and_query(path)
            .build()
            .map_err(|_| invalid())?;
        let only = uri.host().unwrap_or_default();
        // What follows a host is a port, and that is a number.
        if only.is_empty() || (only.len() < host.len() && uri.port_u16().is_none()) {
            return Err(invalid());
        }
        Ok(Self {
            uri,
            authorization: user.map(basic).transpose().map_err(|()| invalid())?,
            has_fragment: text.contains('#'),
        })
    }
}

fn basic(user: &str) -> Result<HeaderValue, ()> {
    let decoded: Vec<u8> = percent_decode_str(user).collect();
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(decoded))).map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(value)
}

impl HttpUrl {
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// One with only a scheme, a host, perhaps a port, and a path.
    pub fn bare(text: &str) -> Result<Self, String> {
        let url: Self = text.parse()?;
        if url.authorization.is_none() && !url.has_more_than_a_path() {
            Ok(url)
        } else {
            Err("it must have neither a user, nor a query, nor a fragment".to_owned())
        }
    }

    /// The same, for others.
    pub fn without_user(&self) -> Self {
        Self {
            authorization: None,
            ..self.clone()
        }
    }

    pub fn has_more_than_a_path(&self) -> bool {
        self.uri.query().is_some() || self.has_fragment
    }

    /// This, with more of a path.
    pub fn join(&self, path: &str) -> Self {
        let base = self.uri.path().trim_end_matches('/');
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = format!("{base}{path}").parse().ok();
        Self {
            uri: Uri::from_parts(parts).unwrap_or_else(|_| self.uri.clone()),
            ..self.clone()
        }
    }

    /// Whether it is the same server by another path.
    pub fn leads_into(&self, other: &Self) -> bool {
        let path = |url: &Self| url.uri.path().trim_end_matches('/').to_owned();
        self.uri.authority() == other.uri.authority() && path(self) != path(other)
    }

    /// Readable on its way through a network.
    pub fn is_in_the_clear(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
        let is_local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        self.uri.scheme_str() == Some("http") && !is_local
    }
}

/// Scheme, host, port and path.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |host| host.as_str());
        let scheme = self.uri.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{authority}{}", self.uri.path())
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> HttpUrl {
        text.parse().expect(text)
    }

    #[test]
    fn what_may_be_secret_is_sent_and_never_shown() {
        let url = url("https://user:p%40ss@Host:8443/keys?apikey=canary#part");
        assert_eq!(
            format!("{url} {url:?}"),
            ["https://host:8443/keys"; 2].join(" ")
        );
        assert_eq!(
            url.uri().to_string(),
            "https://host:8443/keys?apikey=canary"
        );
        let expected = format!("Basic {}", STANDARD.encode("user:p@ss"));
        assert_eq!(url.authorization().expect("sent"), expected.as_str());
    }

    #[test]
    fn a_password_that_ends_the_authority_early_is_not_shown() {
        for bad in ["12/canary", "12?canary", "12#canary", "12/canary?a=1"] {
            let bad = format!("https://canary:{bad}@host/keys");
            let error = bad.parse::<HttpUrl>().expect_err(&bad);
            assert!(
                error.contains("%2F") && !error.contains("canary"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        for bad in [
            "canary",
            "canary:80",
            "ftp://canary",
            "https://",
            "https:///canary",
            "https://u:canary@",
            "http://canary host/",
            "https://canary:99999999/",
            "",
        ] {
            let error = bad.parse::<HttpUrl>().expect_err(bad);
            assert!(!error.contains("canary"), "{bad}: {error}");
        }
    }

    #[test]
    fn only_plain_http_beyond_this_machine_is_in_the_clear() {
        for local in [
            "http://localhost:54321",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "https://ref.supabase.co",
        ] {
            assert!(!url(local).is_in_the_clear(), "{local}");
        }
        for clear in [
            "http://kong:8000",
            "http://10.0.0.1",
            "http://localhost.example.com",
        ] {
            assert!(url(clear).is_in_the_clear(), "{clear}");
        }
    }

    #[test]
    fn paths_are_joined() {
        for base in ["https://host", "https://host/", "https://HOST"] {
            assert_eq!(
                url(base).join("/auth/v1").to_string(),
                "https://host/auth/v1"
            );
        }
        assert_eq!(
            url("https://host/a/").join("/b").to_string(),
            "https://host/a/b"
        );
    }
}
