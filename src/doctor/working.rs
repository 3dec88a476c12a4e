//! Whether it is at work: what `agent-sync status` says, as far as somebody should look at it.

use super::schema::needs_installation;
use super::{Found, Patient, Stop, Verdict};
use crate::database::Database;
use crate::status::{Agents, DatabaseStatus, Outbox, Status, Subject};

impl Patient<'_> {
    /// Asked once.
    async fn status(&self) -> Result<&Status, Stop> {
        let session = self.session()?;
        needs_installation(session).await?;
        if !session.is_writable() {
            return Err(Stop::Skipped("nothing can be written there".to_owned()));
        }
        let gathering = async {
            let database = Database::sized(&session.url.named("agent-sync doctor"), 1);
            Status::gather(&Subject::new(self.config, Some(database)), None).await
        };
        Ok(self.status.get_or_init(|| gathering).await)
    }
}

pub async fn workers(patient: &Patient<'_>) -> Found {
    let status = patient.status().await?;
    let database = status.database.as_ref();
    match database.and_then(|DatabaseStatus { listeners, .. }| *listeners) {
        Some(listeners) => Ok(judge_workers(listeners)),
        None => Err(Stop::Skipped("the server does not say".to_owned())),
    }
}

fn judge_workers(listeners: i64) -> Verdict {
    match listeners {
        0 => Verdict::warning(
            "no worker listens for changes: none runs, or it polls",
            "agent-sync serve",
        ),
        1 => Verdict::ok("1 listens for changes"),
        listeners => Verdict::ok(format!("{listeners} listen for changes")),
    }
}

pub async fn outbox(patient: &Patient<'_>) -> Found {
    match &patient.status().await?.outbox {
        Some(outbox) => Ok(judge_outbox(outbox)),
        None => Err(Stop::Skipped("it cannot be looked at".to_owned())),
    }
}

fn judge_outbox(outbox: &Outbox) -> Verdict {
    match outbox.is_late() {
        true => Verdict::warning(
            outbox.to_string(),
            "agent-sync sync   # or start a worker; if one runs, what does its log say?",
        ),
        false => Verdict::ok(outbox.to_string()),
    }
}

pub async fn agents(patient: &Patient<'_>) -> Found {
    match &patient.status().await?.agents {
        Some(agents) => Ok(judge_agents(agents)),
        None => Err(Stop::Skipped("the ledger cannot be looked at".to_owned())),
    }
}

fn judge_agents(agents: &Agents) -> Verdict {
    let mut mend = Vec::new();
    if agents.failed > 0 || agents.conflict > 0 {
        mend.push("agent-sync status   # says which, and why");
    }
    if agents.held > 0 {
        mend.push("agent-sync sync --allow-removals   # if so many are to go");
    }
    match mend.is_empty() {
        true => Verdict::ok(agents.to_string()),
        false => Verdict::warning(agents.to_string(), mend.join("\n")),
    }
}
