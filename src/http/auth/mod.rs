//! Who is calling.

use std::fmt;

use hyper::HeaderMap;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Problem;
use crate::access::Identity;
use crate::ids::SYSTEM;

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
    pub claims: Map<String, Value>,
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

/// Finds out who is calling.
#[derive(Debug)]
pub struct Authenticator;

impl Authenticator {
    /// The caller of a request with these headers, or why it is refused.
    pub async fn caller(&self, _headers: &HeaderMap) -> Result<Caller, Problem> {
        Ok(Caller::Dev)
    }
}
