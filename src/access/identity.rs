//! A user, as the database's policies know them: claims, and how they are told to a session.

use std::fmt::{self, Write};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ROLE;
use crate::database::prepared::literal;

/// How long a name may be in SQL.
const LONGEST: usize = 63;

/// A user, as the database's policies know them.
#[derive(Clone, PartialEq)]
pub struct Identity {
    pub user: Uuid,
    claims: Map<String, Value>,
}

impl Identity {
    /// One who has just proven these claims.
    pub fn verified(user: Uuid, claims: Map<String, Value>) -> Self {
        Self { user, claims }
    }

    /// One who is not here, with what can be known of their claims.
    pub fn absent(user: Uuid, app_metadata: Option<Value>, is_anonymous: Option<bool>) -> Self {
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(user));
        claims.insert("role".to_owned(), json!(ROLE));
        claims.insert("aud".to_owned(), json!(ROLE));
        let known = [
            ("app_metadata", app_metadata),
            ("is_anonymous", is_anonymous.map(Value::Bool)),
        ];
        for (name, value) in known {
            claims.extend(value.map(|value| (name.to_owned(), value)));
        }
        Self { user, claims }
    }

    /// What tells a session `request.jwt.claims`, and a setting for each claim as PostgREST before version 9 had it: text as it is, all
    /// else as JSON. A claim whose name cannot be a setting's had none there either. It answers with one row.
    ///
    /// Not with `set`: of that, `pg_stat_statements` keeps the text, one for each caller, and with it what the claims say.
    pub(super) fn settings(&self) -> String {
        let mut settings = String::new();
        let mut set = |name: &str, value: &str| {
            // Text in a setting ends at a NUL, and none can be sent.
            if !value.contains('\0') {
                let comma = if settings.is_empty() { "" } else { ", " };
                let value = literal(value);
                let _ = write!(settings, "{comma}('request.jwt.{name}', {value})");
            }
        };
        set("claims", &json!(self.claims).to_string());
        for (name, value) in self.claims.iter().filter(|(name, _)| is_identifier(name)) {
            let name = format!("claim.{name}");
            match value.as_str() {
                Some(text) => set(&name, text),
                None => set(&name, &value.to_string()),
            }
        }
        format!(
            "select pg_catalog.count(pg_catalog.set_config(name, value, true)) from (values {settings}) as s (name, value); "
        )
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        // A longer one would be cut off, and then be another's.
        && name.len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_told_in_a_query_whose_text_nobody_keeps() {
        let claims = json!({"sub": "it's", "app_metadata": {"a": 1}, "no name": 1, "nul": "\0"});
        let Value::Object(claims) = claims else {
            unreachable!()
        };
        assert_eq!(
            Identity::verified(Uuid::nil(), claims).settings(),
            r#"select pg_catalog.count(pg_catalog.set_config(name, value, true)) from (values ('request.jwt.claims', "#.to_owned()
                + r#"E'{"app_metadata":{"a":1},"no name":1,"nul":"\\u0000","sub":"it''s"}'), ('request.jwt.claim.app_metadata', "#
                + r#"E'{"a":1}'), ('request.jwt.claim.sub', E'it''s')) as s (name, value); "#
        );
    }
}
