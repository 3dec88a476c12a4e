//! A status for people to read.

use std::fmt;

use crate::telemetry::printable;

use super::judge::{counted, duration};
use super::{Agents, DatabaseStatus, Health, Outbox, Status, Triggers, Troubled};

/// How wide the first column is.
const COLUMN: usize = 10;

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Starting => "starting",
            Self::Broken => "broken",
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.health)?;
        for reason in &self.reasons {
            writeln!(f, "- {reason}")?;
        }
        writeln!(f)?;
        let mut line = |name: &str, text: &str| writeln!(f, "{name:COLUMN$}{text}");
        if let Some(database) = &self.database {
            line("database", &said_of(database))?;
            if database.reachable {
                line("workers", &listening(database.listeners))?;
            }
        }
        let scope = self.scope.as_deref().unwrap_or("not known");
        line(
            "scope",
            &format!("{scope}; assistants are {}", self.place()),
        )?;
        if let Some(triggers) = &self.triggers {
            line("triggers", &standing(triggers))?;
        }
        if let Some(outbox) = &self.outbox {
            line("outbox", &outbox.to_string())?;
        }
        if let Some(agents) = &self.agents {
            line("agents", &agents.to_string())?;
        }
        if !self.troubled.is_empty() {
            writeln!(f)?;
        }
        let mut last = None;
        for agent in &self.troubled {
            writeln!(f, "{:COLUMN$}{}", agent.state, named(agent))?;
            // What is held is held for one reason.
            if agent.error != last {
                for error in agent.error.iter().flat_map(|error| error.lines()) {
                    writeln!(f, "{:COLUMN$}{}", "", printable(error.trim_end()))?;
                }
                last.clone_from(&agent.error);
            }
        }
        let told = i64::try_from(self.troubled.len()).unwrap_or(i64::MAX);
        let troubled = self.agents.as_ref().map_or(0, Agents::troubled);
        match troubled - told {
            more if more > 0 => writeln!(f, "{:COLUMN$}and {more} more", ""),
            _ => Ok(()),
        }
    }
}

impl Status {
    fn place(&self) -> &'static str {
        match self.store {
            "langgraph" => "on a LangGraph server",
            "memory" => "in the worker's memory",
            _ => "in langgraph_server.assistants",
        }
    }
}

impl Agents {
    fn troubled(&self) -> i64 {
        self.failed + self.conflict + self.held
    }
}

fn said_of(database: &DatabaseStatus) -> String {
    let mut said = database.address.clone().unwrap_or_default();
    if !database.reachable {
        return format!("{said}, not reached");
    }
    if let Some(server) = &database.server {
        said.push_str(&format!(", {server}"));
    }
    if let Some(role) = &database.role {
        said.push_str(&format!(", as {role}"));
    }
    match database.schema_version {
        Some(0) => said.push_str("; schema agent_sync is not there"),
        Some(version) => said.push_str(&format!("; schema agent_sync at version {version}")),
        None => {}
    }
    said
}

fn listening(listeners: Option<i64>) -> String {
    match listeners {
        None => "not known".to_owned(),
        Some(0) => "none listens for changes".to_owned(),
        Some(listeners) => {
            format!("{} for changes", counted(listeners, "listens", "listen"))
        }
    }
}

fn standing(triggers: &Triggers) -> String {
    let missing = i64::try_from(triggers.missing.len()).unwrap_or(i64::MAX);
    let (stand, expected) = (triggers.expected - missing, triggers.expected);
    format!("{stand} of {expected} stand")
}

impl fmt::Display for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.depth, self.oldest_age_seconds) {
            (0, _) => f.write_str("empty")?,
            (_, None) => write!(f, "{} waiting", self.changes())?,
            (_, Some(age)) => {
                let (changes, age) = (self.changes(), duration(age));
                write!(f, "{changes} waiting, the oldest for {age}")?;
            }
        }
        match self.retries {
            0 => Ok(()),
            retries => {
                let again = counted(retries, "agent is", "agents are");
                write!(f, "; {}{again} to be tried again", self.at_least(retries))
            }
        }
    }
}

/// Those that there are; `synced` in any case.
impl fmt::Display for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} synced", self.synced)?;
        let others = [
            (self.failed, "failed"),
            (self.conflict, "in conflict"),
            (self.held, "held"),
            (self.removed, "removed"),
        ];
        let mut others = others.into_iter().filter(|(count, _)| *count > 0);
        others.try_for_each(|(count, state)| write!(f, ", {count} {state}"))
    }
}

fn named(agent: &Troubled) -> String {
    let id = &agent.agent_id;
    let mut said = match &agent.name {
        Some(name) => format!("{} ({id})", printable(name)),
        None => id.clone(),
    };
    if agent.attempts > 0 {
        let times = counted(agent.attempts.into(), "time", "times in a row");
        said.push_str(&format!(", {times}"));
    }
    // To the second.
    let at = agent.last_at.get(..19).unwrap_or(&agent.last_at);
    said.push_str(&format!(", last at {at}Z"));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(depth: i64, age: Option<f64>, retries: i64, at_least: bool) -> String {
        let outbox = Outbox {
            depth,
            oldest_age_seconds: age,
            retries,
            at_least,
        };
        outbox.to_string()
    }

    #[test]
    fn the_outbox_is_told_in_words() {
        assert_eq!(outbox(0, None, 0, false), "empty");
        assert_eq!(
            outbox(0, None, 1, false),
            "empty; 1 agent is to be tried again"
        );
        assert_eq!(
            outbox(1, Some(0.3), 0, false),
            "1 change waiting, the oldest for 0 s"
        );
        assert_eq!(
            outbox(100_000, Some(7_260.0), 2, true),
            "at least 100000 changes waiting, the oldest for 2 h 1 min; 2 agents are to be tried again"
        );
    }
}
