//! A user, as the database's policies know them: claims, and how they are told to a session.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ROLE;
use crate::database::prepared::array;

/// How long a name may be in SQL.
const LONGEST: usize = 63;

/// A user, as the database's policies know them.
#[derive(Clone, PartialEq)]
pub struct Identity {
    pub user: Uuid,
    claims: Arc<Map<String, Value>>,
}

impl Identity {
    /// One who has just proven these claims.
    pub fn verified(user: Uuid, claims: impl Into<Arc<Map<String, Value>>>) -> Self {
        let claims = claims.into();
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
        Self::verified(user, claims)
    }

    /// The names and values of what tells a session `request.jwt.claims`, and of a setting for each claim as PostgREST before version 9
    /// had it: text as it is, all else as JSON. A claim whose name cannot be a setting's had none there either.
    pub(super) fn settings(&self) -> (Vec<String>, Vec<String>) {
        let all = serde_json::to_string(&*self.claims).unwrap_or_default();
        let claims = ("claims".to_owned(), all);
        let each = self.claims.iter().filter(|(name, _)| is_identifier(name));
        let each = each.map(|(name, value)| {
            let text = value.as_str().map(str::to_owned);
            (
                format!("claim.{name}"),
                text.unwrap_or_else(|| value.to_string()),
            )
        });
        let settings = std::iter::once(claims).chain(each);
        settings
            // Text in a setting ends at a NUL, and none can be sent.
            .filter(|(_, value)| !value.contains('\0'))
            .map(|(name, value)| (format!("request.jwt.{name}"), value))
            .unzip()
    }

    /// The same, as literals.
    pub(super) fn arguments(&self) -> String {
        let (names, values) = self.settings();
        format!("{}, {}", array(names), array(values))
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
    fn a_session_is_told_every_claim_whose_name_can_be_a_settings() {
        let claims = json!({"sub": "it's", "app_metadata": {"a": 1}, "no name": 1, "nul": "\0"});
        let Value::Object(claims) = claims else {
            unreachable!()
        };
        assert_eq!(
            Identity::verified(Uuid::nil(), claims).arguments(),
            r#"E'{"request.jwt.claims","request.jwt.claim.app_metadata","request.jwt.claim.sub"}', "#.to_owned()
                + r#"E'{"{\\"app_metadata\\":{\\"a\\":1},\\"no name\\":1,\\"nul\\":\\"\\\\u0000\\",\\"sub\\":\\"it''s\\"}","{\\"a\\":1}","it''s"}'"#
        );
    }
}
