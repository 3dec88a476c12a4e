//! Lazy sync: a request that names an agent has it synced, if its caller may have it.

use serde_json::Value;
use uuid::Uuid;

use super::Problem;
use super::assistants::problem;
use super::auth::Caller;
use super::create::AssistantCreate;
use crate::access::Verdict;
use crate::database::{Error, Fault};
use crate::ids::{AgentId, AssistantId};
use crate::plan::{Answer, Claim, MOST};
use crate::syncer::{Entrance, Glance, Outcome, Syncer};

/// Why a request that names an agent gets an assistant without it.
pub enum NotSynced {
    /// Fit for a log.
    Because(String),
    /// The id that it names is taken.
    Taken(AssistantId),
}

/// What a caller is told who may not have the agent, too: not even whether there is one. (This goes to the log.)
const NO_SUCH_AGENT: &str = "there is no such active agent that the caller may read";

/// The assistant that is the caller's or everybody's.
pub enum Synced {
    /// As it stands, and as the caller may see it, in JSON.
    Answer(String),
    /// It stands now.
    Assistant(AssistantId),
}

/// Syncs the agent that the request names, where it is not in step already.
pub async fn run(
    syncer: Option<&Syncer>,
    caller: &Caller,
    agent: &Value,
    create: &AssistantCreate,
) -> Result<Result<Synced, NotSynced>, Problem> {
    let skipped = |reason: &str| Ok(Err(NotSynced::Because(reason.to_owned())));
    let Some(syncer) = syncer else {
        return skipped("in memory, nothing is synced");
    };
    let Some(agent) = agent
        .as_str()
        .and_then(|id| Uuid::try_parse(id).ok())
        .map(AgentId)
    else {
        return skipped("supabase_agent_id is not an uuid");
    };
    let failed = |e: Error| match e.fault() {
        // Where the database is down, so is the store: there is nothing to make instead. And what was made instead
        // while a newer worker takes over would be in its way.
        _ if matches!(e, Error::Newer(_)) => Err(problem(&e)),
        Fault::Passing | Fault::Locked => Err(problem(&e)),
        Fault::Setup | Fault::Data => skipped(&format!("the sync failed: {e}")),
    };

    let claim = Claim {
        owner: caller.owner(),
        identity: caller.identity(),
        assistant_id: create.assistant_id,
        if_exists: create.if_exists,
        metadata: create.metadata.clone(),
    };
    match syncer.glance(agent, &claim).await {
        Ok(Glance::InStep(answer)) => return Ok(Ok(Synced::Answer(answer))),
        Ok(Glance::Denied) => return skipped(NO_SUCH_AGENT),
        Ok(Glance::Granted) => {}
        Ok(Glance::Unclear) => {
            if let Some(identity) = &claim.identity {
                // Before the agent is locked: who may not have it must not hold up those who may.
                match syncer.may_have(identity, agent).await {
                    Ok(Verdict::Granted) => {}
                    Ok(Verdict::Denied(_)) => return skipped(NO_SUCH_AGENT),
                    Ok(Verdict::Different | Verdict::Unknown { passing: true, .. }) => {
                        return Err(Problem::unavailable());
                    }
                    Ok(Verdict::Unknown { why, .. }) => return skipped(&why),
                    Err(e) => return failed(e),
                }
            }
        }
        Err(e) => return failed(e),
    }
    let batch = match syncer.sync_now(&[agent], Entrance::Request(&claim)).await {
        Ok(batch) => batch,
        Err(e) => return failed(e),
    };
    match (&batch.answer, batch.outcomes.first()) {
        (_, Some((_, Outcome::Busy))) => Err(Problem::unavailable()),
        (_, Some((_, Outcome::Failed(error)))) => skipped(&format!("the sync failed: {error}")),
        (Some(Answer::Taken), _) => Ok(Err(NotSynced::Taken(
            create.assistant_id.unwrap_or_else(|| agent.canonical()),
        ))),
        (Some(Answer::TooMany), _) => skipped(&format!(
            "the caller has {MOST} assistants of this agent already"
        )),
        (Some(Answer::Assistant(id)), _) => {
            let answer = syncer.glance_again(agent, &claim, &batch).await;
            Ok(Ok(answer.map_or(Synced::Assistant(*id), Synced::Answer)))
        }
        (None, _) => skipped(NO_SUCH_AGENT),
    }
}
