//! Whether the users whose assistants are about to be written may have the agents. The database is asked after their rows were
//! read: whoever is shown the same then may be given it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tracing::warn;
use uuid::Uuid;

use super::decide::Seen;
use super::{Entrance, Syncer};
use crate::access::{Arguments, For, Glimpse, Identity, Question, Shown, Verdict};
use crate::agent::{Agent, Row};
use crate::assistant::{Assistant, Content};
use crate::database::prepared::text;
use crate::database::{DEADLINE, Error, Fault, Transaction, begin};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::plan::{Claim, Entry, Planned};
use crate::source::Shape;
use crate::store::Synced;

/// How often agents are read that are edited just then.
const ATTEMPTS: usize = 4;

/// As `encode` has it.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a user may not have an agent that is shown in part, or otherwise than it is.
const PARTLY: &str = "the database does not show its user all of it";

/// A user's assistant that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub agent: AgentId,
    pub assistant: AssistantId,
    pub owner: &'a str,
    /// The agent's, now.
    pub organization_id: Option<Uuid>,
    /// Content is to be written into it.
    pub is_written: bool,
}

impl<'a> Subject<'a> {
    pub fn of(planned: &'a Planned<'_>) -> Self {
        let assistant = &planned.assistant;
        Self {
            agent: assistant.agent_id,
            assistant: assistant.id,
            owner: &assistant.owner,
            organization_id: assistant.content.organization_id,
            is_written: planned.step.writes(),
        }
    }

    /// One that nothing happens to.
    pub fn standing(entry: &'a Entry, organization_id: Option<Uuid>) -> Self {
        Self {
            agent: entry.agent_id,
            assistant: entry.assistant_id,
            owner: &entry.owner,
            organization_id,
            is_written: false,
        }
    }
}

/// Verdicts by owner and agent. About whom there is none nobody had to ask.
#[derive(Debug, Default)]
pub struct Permissions(HashMap<String, HashMap<AgentId, Verdict>>);

impl Permissions {
    /// Why this user may not have the agent.
    pub fn refusal(&self, owner: &str, agent: AgentId) -> Option<&Verdict> {
        let verdict = self.0.get(owner)?.get(&agent)?;
        (*verdict != Verdict::Granted).then_some(verdict)
    }

    /// Whether this user was asked about, and may have the agent just as it was read.
    pub fn is_granted(&self, owner: &str, agent: AgentId) -> bool {
        let verdicts = self.0.get(owner);
        verdicts.and_then(|verdicts| verdicts.get(&agent)) == Some(&Verdict::Granted)
    }

    fn of(&mut self, owner: &str) -> &mut HashMap<AgentId, Verdict> {
        self.0.entry(owner.to_owned()).or_default()
    }

    fn differing(&self) -> Vec<AgentId> {
        let all = self.0.values().flatten();
        let differing = all.filter(|(_, verdict)| **verdict == Verdict::Different);
        differing.map(|(agent, _)| *agent).collect()
    }

    /// Where the agent was not edited meanwhile, its user sees something else because that is all there is to be seen.
    fn settle(&mut self, is_unchanged: impl Fn(AgentId) -> bool) {
        for (agent, verdict) in self.0.values_mut().flatten() {
            if *verdict == Verdict::Different && is_unchanged(*agent) {
                *verdict = Verdict::Denied(PARTLY.to_owned());
            }
        }
    }
}

impl Syncer {
    /// Asks about every user's assistant that content is to be written into, and in a pass about all of them.
    pub(super) async fn permissions(
        &self,
        tx: &Transaction<'_>,
        shape: &Arc<Shape>,
        seen: &Seen,
        subjects: &[Subject<'_>],
        entrance: Entrance<'_>,
    ) -> Result<Permissions, Error> {
        let (rows, observed) = (&seen.rows, &seen.observed);
        let mut permissions = Permissions::default();
        if self.access.is_open() {
            return Ok(permissions);
        }
        let claim = entrance.claim();
        let mut asked: BTreeMap<&str, Vec<AgentId>> = BTreeMap::new();
        for subject in subjects {
            let is_due = subject.is_written || matches!(entrance, Entrance::Pass);
            if subject.owner == SYSTEM || !is_due {
                continue;
            }
            let (owner, agent) = (subject.owner, subject.agent);
            let is_claimant = claim.is_some_and(|claim| claim.owner == owner);
            let written_for = observed.entries.get(&subject.assistant);
            let has_moved = shape.has_organizations()
                && written_for
                    .is_some_and(|entry| entry.organization_id != subject.organization_id);
            if is_claimant || self.access.recheck {
                // Until there is an answer.
                let unanswered = Verdict::Unknown {
                    why: "nobody has answered".to_owned(),
                    passing: true,
                };
                permissions.of(owner).insert(agent, unanswered);
                asked.entry(owner).or_default().push(agent);
            } else if has_moved {
                let moved = "the agent has moved to another organization";
                let moved = Verdict::Denied(moved.to_owned());
                permissions.of(owner).insert(agent, moved);
            }
        }

        let (mut questions, mut owners, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        for (owner, agents) in asked {
            let claimant = claim.filter(|claim| claim.owner == owner);
            if let (Some(claim), &[agent]) = (claimant, agents.as_slice())
                && let Some(verdict) = self.verdict_at_a_glance(shape, claim, agent, seen).await
            {
                permissions.of(owner).insert(agent, verdict);
                continue;
            }
            match (
                claimant.and_then(|claim| claim.identity.clone()),
                Uuid::try_parse(owner),
            ) {
                (Some(identity), _) => {
                    questions.push(Question { identity, agents });
                    owners.push(owner);
                }
                (None, Ok(user)) => absent.push((user, owner, agents)),
                // Made while nobody had to say who they are.
                (None, Err(_)) => {
                    let nobody = Verdict::Denied("its owner is no user's id".to_owned());
                    let verdicts = agents.into_iter().map(|agent| (agent, nobody.clone()));
                    permissions.of(owner).extend(verdicts);
                }
            }
        }
        let users: Vec<Uuid> = absent.iter().map(|(user, ..)| *user).collect();
        let identities = shape.identities(tx, &users).await?;
        for ((_, owner, agents), identity) in absent.into_iter().zip(identities) {
            questions.push(Question { identity, agents });
            owners.push(owner);
        }
        let asking = match claim {
            Some(_) => For::Requests,
            None => For::Syncs,
        };
        let shown = self.ask(asking, shape, &questions).await;
        for ((owner, question), shown) in owners.into_iter().zip(questions).zip(shown) {
            let verdicts = question.agents.into_iter().filter_map(|agent| {
                let verdict = self.access.verdict(agent, rows.get(&agent)?, &shown);
                Some((agent, verdict))
            });
            permissions.of(owner).extend(verdicts);
        }
        let differing = permissions.differing();
        if !differing.is_empty() {
            let now = shape.read(tx, &differing).await?;
            permissions.settle(|agent| now.get(&agent) == rows.get(&agent));
        }
        Ok(permissions)
    }

    /// Whether the claimant may have the agent just as it was read, where one look is enough to tell.
    async fn verdict_at_a_glance(
        &self,
        shape: &Arc<Shape>,
        claim: &Claim,
        agent: AgentId,
        seen: &Seen,
    ) -> Option<Verdict> {
        if !self.access.is_asked_in_one(&self.database) {
            return None;
        }
        let arguments = Arguments {
            agent,
            owner: &claim.owner,
            basis: &self.basis(),
        };
        let identity = claim.identity.as_ref()?;
        let glance = self
            .access
            .glance(&self.database, shape, identity, &arguments);
        let Glimpse { rows, shown } = glance.await.ok()??;
        let row = rows.first()?;
        let said = text(row, "said").ok()??;
        let is_as_read = said == hex(seen.sources.get(&agent)?);
        let is_shown = shown.is_some() && text(row, "shown").ok()? == shown.as_deref();
        (is_as_read && is_shown).then_some(Verdict::Granted)
    }

    /// One answer a question, whatever happens: whoever cannot be asked about must not hold up the others.
    async fn ask(&self, asking: For, shape: &Shape, questions: &[Question]) -> Vec<Shown> {
        if questions.is_empty() {
            return Vec::new();
        }
        match self.access.ask(asking, shape, questions).await {
            Ok(shown) => shown,
            Err(e) => {
                // Another server, since that one has been restarted, say.
                self.source.outdated();
                let unknown = || Shown::Unknown {
                    why: e.to_string(),
                    passing: matches!(e.fault(), Fault::Passing | Fault::Locked),
                };
                questions.iter().map(|_| unknown()).collect()
            }
        }
    }

    /// Whether a user who asks for this agent may have it.
    pub async fn may_have(&self, identity: &Identity, agent: AgentId) -> Result<Verdict, Error> {
        let mut before = None;
        for _ in 0..ATTEMPTS {
            let (shape, mut rows) = self.read(&[agent]).await?;
            let verdict = self.verdict(&shape, identity, agent, &rows).await?;
            let row = rows.remove(&agent);
            if verdict != Verdict::Different {
                return Ok(verdict);
            }
            if before == row {
                return Ok(Verdict::Denied(PARTLY.to_owned()));
            }
            before = row;
        }
        Ok(Verdict::Different)
    }

    /// Which of these shared assistants the user may see, whose contents were read before. `None`: somebody about whom nobody
    /// is asked.
    pub async fn may_see(
        &self,
        identity: Option<&Identity>,
        shared: &[(AssistantId, &Synced)],
    ) -> Result<HashSet<AssistantId>, Error> {
        let Some(identity) = identity.filter(|_| !self.access.is_open()) else {
            return Ok(shared.iter().map(|(id, _)| *id).collect());
        };
        let agents: Vec<AgentId> = shared.iter().map(|(_, synced)| synced.agent).collect();
        let (shape, rows) = self.read(&agents).await?;
        let question = Question {
            identity: identity.clone(),
            agents,
        };
        let asked = self.access.ask(For::Requests, &shape, &[question]).await;
        let shown = asked.inspect_err(|_| self.source.outdated())?;
        let is_shown = |id: AssistantId, synced: &Synced| {
            let hash = |agent: Agent| {
                let content = Content::of(agent, &self.settings.default_model);
                let assistant = Assistant {
                    id,
                    agent_id: synced.agent,
                    owner: SYSTEM.to_owned(),
                    content: &content,
                };
                assistant.hash()
            };
            let row = rows.get(&synced.agent)?;
            let shown = shown.first()?;
            self.access.shows(synced, row, shown, hash).then_some(id)
        };
        Ok(shared
            .iter()
            .filter_map(|(id, synced)| is_shown(*id, synced))
            .collect())
    }

    async fn read(&self, agents: &[AgentId]) -> Result<(Arc<Shape>, HashMap<AgentId, Row>), Error> {
        let reading = async {
            let mut client = self.database.client().await?;
            let tx = begin(&mut client).await?;
            let shape = self.source.shape(&tx).await?;
            let rows = shape.read(&tx, agents).await?;
            tx.commit().await?;
            client.give_back();
            Ok((shape, rows))
        };
        self.database.within(DEADLINE, reading).await
    }

    /// Whether users can be asked about at all; if not, what to mend.
    pub async fn check_access(&self) -> Result<(), Error> {
        let client = self.database.client().await?;
        let shape = self.source.shape(&client).await?;
        client.give_back();
        self.access.check(&shape).await
    }

    /// All agents that the user may read, with their organizations. `None`: nobody is asked.
    pub async fn readable(
        &self,
        identity: &Identity,
    ) -> Result<Option<Vec<(AgentId, Option<Uuid>)>>, Error> {
        if self.access.is_open() {
            return Ok(None);
        }
        let client = self.database.client().await?;
        let shape = self.source.shape(&client).await?;
        client.give_back();
        self.access.list(&shape, identity).await.map(Some)
    }

    /// What the database says of an agent that was read just now. It is asked about one that does not exist, too: how long an
    /// answer takes tells nobody that there is one.
    pub(super) async fn verdict(
        &self,
        shape: &Shape,
        identity: &Identity,
        agent: AgentId,
        rows: &HashMap<AgentId, Row>,
    ) -> Result<Verdict, Error> {
        if self.access.is_open() {
            return Ok(Verdict::Granted);
        }
        let question = Question {
            identity: identity.clone(),
            agents: vec![agent],
        };
        let asked = self.access.ask(For::Requests, shape, &[question]).await;
        // Another server, since that one has been restarted, say.
        let shown = asked.inspect_err(|_| self.source.outdated())?;
        let verdict = match (rows.get(&agent), shown.first()) {
            (Some(row), Some(shown)) => self.access.verdict(agent, row, shown),
            _ => Verdict::Denied("there is no such agent".to_owned()),
        };
        if let Verdict::Unknown { why, .. } = &verdict {
            warn!(%agent, user = ?identity, why, "it cannot be told whether the user may have the agent");
        }
        Ok(verdict)
    }
}
