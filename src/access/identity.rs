//! A user, as the database's policies know them: claims, and how they are told to a session.

use std::fmt;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ROLE;

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

    /// `request.jwt.claims`, and a setting for each claim as PostgREST before version 9 had it: text as it is, all else as
    /// JSON. A claim whose name cannot be a setting's had none there either.
    pub fn settings(&self) -> (Vec<String>, Vec<String>) {
        self.settings_of().unzip()
    }

    /// Each with its value.
    pub(super) fn settings_of(&self) -> impl Iterator<Item = (String, String)> {
        let legacy = self
            .claims
            .iter()
            .filter(|(name, _)| is_identifier(name))
            .map(|(name, value)| {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                (format!("request.jwt.claim.{name}"), text)
            });
        let whole = json!(self.claims).to_string();
        // Text in a setting ends at a NUL, and none can be sent.
        std::iter::once(("request.jwt.claims".to_owned(), whole))
            .chain(legacy)
            .filter(|(_, value)| !value.contains('\0'))
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
}
