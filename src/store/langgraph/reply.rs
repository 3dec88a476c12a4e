//! What a LangGraph server answers, and how servers say what went wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::gate::Right;

/// The most that is quoted of an answer.
const MAX_QUOTED: usize = 200;

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
    pub retry_after: Option<Duration>,
    /// What was granted, or not.
    pub right: Right,
    /// What is not to be quoted.
    pub secrets: Arc<[String]>,
}

impl Reply {
    /// Somebody in between answers, or another server.
    pub fn is_html(&self) -> bool {
        self.body.trim_ascii_start().starts_with(b"<")
    }

    /// What went wrong, as servers say it in one of three ways. Some quote the key that they do not accept.
    pub fn detail(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = ["detail", "message", "error"]
            .iter()
            .find_map(|name| json.get(name));
        let said = match said {
            Some(Value::String(said)) => said.clone(),
            Some(other) => other.to_string(),
            None => text.into_owned(),
        };
        let mut line = said.lines().next().unwrap_or_default().to_owned();
        for secret in self.secrets.iter() {
            line = line.replace(secret, "***");
        }
        line.chars().take(MAX_QUOTED).collect()
    }
}

/// A `Retry-After`: seconds, or the time until a date, and no more than an hour.
pub fn seconds(header: &HeaderValue) -> Option<Duration> {
    let text = header.to_str().ok()?.trim();
    let seconds = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
            (date - OffsetDateTime::now_utc()).try_into().ok()?
        }
    };
    Some(seconds.min(Duration::from_secs(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Reply {
        Reply {
            status: StatusCode::BAD_REQUEST,
            body: Bytes::from(body.to_owned()),
            retry_after: None,
            right: Right::Read,
            secrets: Arc::from(["lsv2_canary".to_owned()]),
        }
    }

    #[test]
    fn what_went_wrong_is_said_in_several_ways_and_without_the_key() {
        for (body, said) in [
            (
                r#"{"detail": "Graph 'x' not found"}"#,
                "Graph 'x' not found",
            ),
            (r#"{"detail": [{"msg": "no"}]}"#, r#"[{"msg":"no"}]"#),
            (r#"{"error": "no", "details": {}}"#, "no"),
            (r#"{"message": "no", "error": "Bad Request"}"#, "no"),
            (
                r#"{"success": false, "error": {"issues": []}}"#,
                r#"{"issues":[]}"#,
            ),
            ("Internal Server Error", "Internal Server Error"),
            ("first line\nsecond line", "first line"),
            ("key lsv2_canary, lsv2_canary", "key ***, ***"),
            ("", ""),
        ] {
            assert_eq!(reply(body).detail(), said, "{body}");
        }
        let long = reply(&"é".repeat(1000)).detail();
        assert_eq!(long.chars().count(), MAX_QUOTED);
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let pause = |text: &str| seconds(&text.parse().expect("a value"));
        assert_eq!(pause(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(pause("86400"), Some(Duration::from_secs(3600)));
        assert_eq!(
            pause("Fri, 31 Dec 2100 23:59:59 GMT"),
            Some(Duration::from_secs(3600))
        );
        for none in ["", "soon", "-1", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT"] {
            assert_eq!(pause(none), None, "{none}");
        }
    }
}
