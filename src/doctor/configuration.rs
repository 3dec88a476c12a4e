//! The variables: what is misspelt, and what has no effect. What cannot be used at all is told before any command begins.

use super::{Found, Patient, Stop, Verdict};
use crate::config::secrets::{IN_FILES, file_variable};
use crate::config::{DATABASE_URL, LANGGRAPH_API_URL, NAMES, SCOPE, STORE, Store, Variables};
use crate::scope::{Scope, ScopeError};

/// Whatever begins with it is meant for us.
const PREFIX: &str = "AGENT_SYNC_";

/// How many letters may be wrong in a name for which another is suggested.
const TYPOS: usize = 3;

pub async fn variables(patient: &Patient<'_>) -> Found {
    let is_langgraph = matches!(patient.config.store, Store::LangGraph(_));
    Ok(judge_variables(patient.variables, is_langgraph))
}

fn judge_variables(variables: &Variables, is_langgraph: bool) -> Verdict {
    let files = IN_FILES.map(file_variable);
    let known = || NAMES.into_iter().chain(files.iter().map(String::as_str));
    let set = variables
        .iter()
        .filter(|(_, value)| !value.trim().is_empty());
    let unknown: Vec<&str> = set
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with(PREFIX) && !known().any(|known| known == *name))
        .collect();
    if !unknown.is_empty() {
        let suggestions = unknown.iter().map(|name| {
            let near = known()
                .map(|known| (distance(name, known), known))
                .min()
                .filter(|(distance, _)| *distance <= TYPOS);
            match near {
                Some((_, near)) => format!("write {near} for {name}"),
                None => format!("unset {name}; the README lists all there are"),
            }
        });
        return Verdict::warning(
            format!("not known, and so without effect: {}", unknown.join(", ")),
            suggestions.collect::<Vec<_>>().join("\n"),
        );
    }
    let url = variables.get(LANGGRAPH_API_URL);
    if !is_langgraph && url.is_some_and(|url| !url.trim().is_empty()) {
        return Verdict::warning(
            format!("{LANGGRAPH_API_URL} is set, and no assistant is made on that server"),
            format!("{STORE}=langgraph, or unset {LANGGRAPH_API_URL}"),
        );
    }
    Verdict::ok("all that are set are known")
}

/// How many letters must be put in, left out or changed to make the one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, facing) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *facing);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

pub async fn database(patient: &Patient<'_>) -> Found {
    match patient.connection {
        Some(_) => Err(Stop::DoesNotApply),
        None => Ok(Verdict::warning(
            format!("{DATABASE_URL} is not set: nothing is synced, and assistants are in memory"),
            format!(
                "{DATABASE_URL}=postgresql://… (Supabase: Connect, \"Session pooler\" or \"Direct connection\")"
            ),
        )),
    }
}

pub async fn scope(patient: &Patient<'_>) -> Found {
    patient.connection()?;
    Ok(judge_scope(&patient.config.scope))
}

fn judge_scope(scope: &Result<Scope, ScopeError>) -> Verdict {
    match scope {
        Ok(Scope::None) => {
            Verdict::ok("none: an agent gets an assistant when somebody asks for it")
        }
        Ok(scope) => Verdict::ok(scope.to_string()),
        Err(e) => Verdict::wrong(
            format!("{e}. There is no startup pass, and the scope stored last counts"),
            format!("{SCOPE}=all, or none, or org:<uuid>[,org:<uuid>…]"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(names: &[&str]) -> Variables {
        let set = names
            .iter()
            .map(|name| ((*name).to_owned(), "x".to_owned()));
        set.collect()
    }

    #[test]
    fn misspelt_variables_are_found_and_the_right_ones_named() {
        let wrong = variables(&[
            "AGENT_SYNC_SCOP",
            "AGENT_SYNC_NONSENSE",
            "PATH",
            "SUPABASE_ANON_KEY",
        ]);
        let Verdict::Warning(complaint) = judge_variables(&wrong, false) else {
            panic!("a warning");
        };
        assert!(
            complaint
                .what
                .ends_with(": AGENT_SYNC_NONSENSE, AGENT_SYNC_SCOP"),
            "{complaint:?}"
        );
        assert!(
            complaint
                .mend
                .ends_with("write AGENT_SYNC_SCOPE for AGENT_SYNC_SCOP"),
            "{complaint:?}"
        );
        let right = variables(&[NAMES.as_slice(), &["AGENT_SYNC_LANGGRAPH_HEADERS_FILE"]].concat());
        assert!(matches!(judge_variables(&right, true), Verdict::Ok(_)));
        let empty = Variables::from([("AGENT_SYNC_SCOP".to_owned(), " ".to_owned())]);
        assert!(matches!(judge_variables(&empty, true), Verdict::Ok(_)));
    }

    #[test]
    fn a_server_that_nothing_is_pushed_to_is_told() {
        let set = variables(&[LANGGRAPH_API_URL]);
        assert!(matches!(judge_variables(&set, false), Verdict::Warning(_)));
        assert!(matches!(judge_variables(&set, true), Verdict::Ok(_)));
    }

    #[test]
    fn distances_are_counted_in_letters() {
        for (one, other, letters) in [
            ("", "", 0),
            ("a", "", 1),
            ("abc", "abd", 1),
            ("abc", "bc", 1),
            ("SCOPE", "SCPOE", 2),
        ] {
            assert_eq!(distance(one, other), letters, "{one} {other}");
            assert_eq!(distance(other, one), letters, "{one} {other}");
        }
    }
}
