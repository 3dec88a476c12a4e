//! `AGENT_SYNC_SCOPE`: which agents the startup pass takes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Which agents get an assistant without anybody asking for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    None,
    All,
    /// Never empty.
    Organizations(BTreeSet<Uuid>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{entry}` is not a scope: expected `none`, `all`, or `org:<uuid>[,org:<uuid>...]`")]
pub struct ScopeError {
    /// The entry that cannot be understood, as it was written.
    pub entry: String,
}

impl Scope {
    /// Whether an agent of this organization is in scope.
    pub fn contains(&self, organization: Option<Uuid>) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Organizations(listed) => organization.is_some_and(|id| listed.contains(&id)),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    /// Forgives case, blanks and empty entries, and drops duplicates.
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let entries: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .collect();
        if entries
            .iter()
            .all(|entry| entry.eq_ignore_ascii_case("none"))
        {
            return Ok(Self::None);
        }
        if entries
            .iter()
            .all(|entry| entry.eq_ignore_ascii_case("all"))
        {
            return Ok(Self::All);
        }
        entries
            .into_iter()
            .map(organization)
            .collect::<Result<_, _>>()
            .map(Self::Organizations)
    }
}

fn organization(entry: &str) -> Result<Uuid, ScopeError> {
    let (kind, id) = entry.split_once(':').unwrap_or((entry, ""));
    match Uuid::try_parse(id.trim()) {
        Ok(id) if kind.trim().eq_ignore_ascii_case("org") => Ok(id),
        _ => Err(ScopeError {
            entry: entry.to_owned(),
        }),
    }
}

impl fmt::Display for Scope {
    /// The canonical spelling, which parses to the same scope.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::All => f.write_str("all"),
            Self::Organizations(listed) => {
                for (position, id) in listed.iter().enumerate() {
                    let comma = if position == 0 { "" } else { "," };
                    write!(f, "{comma}org:{id}")?;
                }
                Ok(())
            }
        }
    }
}
