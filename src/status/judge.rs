//! One word for how things are, and why (pure).

use super::gather::{Answers, Schema};
use super::{Agents, COUNTED, Health, Listener, Outbox, Running, Triggers, Worker};
use crate::config::MAX_REMOVALS;
use crate::database::{Error, migrations};

/// Changes that wait for longer than this are late: the worker polls every half minute, whatever it hears.
const LATE_SECONDS: f64 = 60.0;

/// What is known.
pub(super) struct Seen<'a> {
    /// `None` without a database.
    pub asked: Option<Result<&'a Answers, &'a Error>>,
    pub running: Option<&'a Running>,
}

/// The worst of all that is said counts; the worst is said first.
pub(super) fn health(seen: &Seen<'_>) -> (Health, Vec<String>) {
    let mut said = Said::default();
    if let Some(running) = seen.running {
        worker(&mut said, running);
    }
    match seen.asked {
        None => {}
        Some(Err(e)) => said.say(
            Health::Broken,
            format!("the database cannot be reached: {e} (see `agent-sync doctor`)"),
        ),
        Some(Ok(answers)) => asked(&mut said, answers, seen.running),
    }
    said.sum()
}

#[derive(Default)]
struct Said(Vec<(Health, String)>);

impl Said {
    fn say(&mut self, health: Health, why: impl Into<String>) {
        self.0.push((health, why.into()));
    }

    fn sum(mut self) -> (Health, Vec<String>) {
        // Stable: what is equally bad stays in its order.
        self.0.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
        let worst = self
            .0
            .first()
            .map_or(Health::Healthy, |(health, _)| *health);
        (worst, self.0.into_iter().map(|(_, why)| why).collect())
    }
}

fn worker(said: &mut Said, running: &Running) {
    if let Some(pending) = &running.pending {
        said.say(Health::Starting, pending);
    }
    if let Some(stuck) = &running.stuck {
        said.say(Health::Broken, stuck);
    }
    for trouble in &running.trouble {
        said.say(Health::Degraded, trouble);
    }
    let Worker { listener, .. } = &running.worker;
    // While it starts there is nothing to listen for.
    if running.pending.is_none() {
        match listener {
            Some(Listener::PollingOnly) => said.say(
                Health::Degraded,
                "notifications do not arrive, so the worker looks every second instead: use the direct connection or the session pooler \
                 (port 5432)",
            ),
            Some(Listener::Connecting) => said.say(
                Health::Degraded,
                "the listening connection is lost, so the worker looks every second instead",
            ),
            Some(Listener::Listening | Listener::CatchingUp) | None => {}
        }
    }
}

fn asked(said: &mut Said, answers: &Answers, running: Option<&Running>) {
    if let Ok(connected) = &answers.database
        && !connected.has_agents
    {
        // It is none in which anything should be installed.
        said.say(
            Health::Broken,
            "there is no table public.agents: is DATABASE_URL the application's database, and may this role see it?",
        );
        return;
    }
    // A worker that starts may be about to install it.
    let is_starting = running.is_some_and(|running| running.pending.is_some());
    let is_installed = match &answers.schema {
        Ok(Schema { version: 0, .. }) if !is_starting => {
            said.say(
                Health::Broken,
                "agent-sync is not installed in this database: run `agent-sync migrate`",
            );
            false
        }
        Ok(Schema { version: 0, .. }) => false,
        Ok(Schema { version, .. }) if *version > migrations::LATEST => {
            said.say(Health::Broken, Error::Newer(*version).to_string());
            true
        }
        Ok(Schema { version, .. }) if *version < migrations::LATEST && !is_starting => {
            said.say(
                Health::Broken,
                format!(
                    "schema agent_sync is at version {version}, needed is {}: run `agent-sync migrate`",
                    migrations::LATEST
                ),
            );
            true
        }
        Ok(_) => true,
        Err(e) => {
            said.say(
                Health::Broken,
                format!("schema agent_sync cannot be looked at: {e}"),
            );
            // Whatever else is asked fails for the same reason.
            false
        }
    };
    if let Err(e) = &answers.database {
        said.say(
            Health::Degraded,
            format!("the server says nothing of itself: {e}"),
        );
    }
    if !is_installed {
        return;
    }
    triggers(said, answers);
    match &answers.outbox {
        Ok(outbox) => waiting(said, outbox),
        Err(e) => said.say(
            Health::Degraded,
            format!("the outbox cannot be looked at: {e}"),
        ),
    }
    match answers.agents.as_ref().and(answers.troubled.as_ref()) {
        Ok(_) => {}
        Err(e) => said.say(
            Health::Degraded,
            format!("the ledger cannot be looked at: {e}"),
        ),
    }
    if let Ok(agents) = &answers.agents {
        troubled(said, agents);
    }
    if let (None, Ok(connected)) = (running, &answers.database)
        && connected.listeners == 0
    {
        match connected.others {
            0 => said.say(
                Health::Broken,
                "no worker is connected to this database: start `agent-sync serve`",
            ),
            _ => said.say(
                Health::Degraded,
                "no worker listens for changes, though one is connected: it looks every second instead, or is just starting (see `agent-sync doctor`)",
            ),
        }
    }
}

fn triggers(said: &mut Said, answers: &Answers) {
    match &answers.triggers {
        Ok(Triggers { expected, missing }) if !missing.is_empty() => said.say(
            Health::Degraded,
            format!(
                "{} of {expected} triggers are missing, disabled or altered ({}), so such edits are found by the resync only: run `agent-sync \
                 migrate` as the owner of the tables",
                missing.len(),
                missing.join(", ")
            ),
        ),
        Ok(_) => {}
        Err(e) => said.say(
            Health::Degraded,
            format!("the triggers cannot be looked at: {e}"),
        ),
    }
}

fn waiting(said: &mut Said, outbox: &Outbox) {
    if outbox.is_late() {
        let age = outbox.oldest_age_seconds.unwrap_or_default();
        let (changes, age) = (outbox.changes(), duration(age));
        said.say(
            Health::Degraded,
            format!("{changes} waiting, the oldest for {age}"),
        );
    }
}

impl Outbox {
    /// Whether somebody should look why changes wait.
    pub fn is_late(&self) -> bool {
        self.oldest_age_seconds
            .is_some_and(|age| age > LATE_SECONDS)
    }

    pub(super) fn changes(&self) -> String {
        let changes = counted(self.depth, "change", "changes");
        format!("{}{changes}", self.at_least(self.depth))
    }

    /// What to say before one of its numbers.
    pub(super) fn at_least(&self, number: i64) -> &'static str {
        match self.at_least && usize::try_from(number).is_ok_and(|number| number >= COUNTED) {
            true => "at least ",
            false => "",
        }
    }
}

fn troubled(said: &mut Said, agents: &Agents) {
    if agents.failed > 0 {
        said.say(
            Health::Degraded,
            format!(
                "{}: each is tried again with growing pauses, and at once when it is edited",
                counted(agents.failed, "agent fails", "agents fail")
            ),
        );
    }
    if agents.conflict > 0 {
        said.say(
            Health::Degraded,
            format!(
                "of {} somebody else has an assistant under the id",
                counted(agents.conflict, "agent", "agents")
            ),
        );
    }
    if agents.held > 0 {
        said.say(
            Health::Degraded,
            format!(
                "{} held, as too many would go at once ({MAX_REMOVALS}): if they should, `agent-sync sync --allow-removals`",
                counted(agents.held, "agent's removal is", "agents' removals are")
            ),
        );
    }
}

pub(super) fn counted(number: i64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

/// As people say it: the two largest units at most.
pub(super) fn duration(seconds: f64) -> String {
    // Saturates; no wait is that long.
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_two_units_at_most() {
        for (seconds, said) in [
            (-1.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (3600.0, "1 h"),
            (3_660.0, "1 h 1 min"),
            (86_400.0, "1 d"),
            (90_061.0, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), said);
        }
    }

    #[test]
    fn the_worst_is_said_first_and_is_the_word_for_all() {
        let mut said = Said::default();
        said.say(Health::Degraded, "a");
        said.say(Health::Broken, "b");
        said.say(Health::Degraded, "c");
        let worst = (Health::Broken, vec!["b", "a", "c"]);
        let (health, reasons) = said.sum();
        assert_eq!(
            (health, reasons.iter().map(String::as_str).collect()),
            worst
        );
        assert_eq!(Said::default().sum(), (Health::Healthy, Vec::new()));
    }
}
