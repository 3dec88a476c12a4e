//! Whether the users whose assistants are about to be written may have the agents. The database is asked after their rows were
//! read: whoever is shown the same then may be given it.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::Transaction;
use tracing::warn;
use uuid::Uuid;

use super::{Entrance, Syncer};
use crate::access::{For, Identity, Question, Shown, Verdict};
use crate::agent::Row;
use crate::database::{DEADLINE, Error, Fault, begin};
use crate::ids::{AgentId, SYSTEM};
use crate::plan::{Observed, Planned};
use crate::source::Shape;

/// How often agents are read that are edited just then.
const ATTEMPTS: usize = 4;

/// Verdicts about owners and agents. About whom there is none nobody had to ask.
#[derive(Debug, Default)]
pub struct Permissions(HashMap<(String, AgentId), Verdict>);

/// What may happen, and what may not.
type Divided<'a> = (Vec<Planned<'a>>, Vec<(Planned<'a>, Verdict)>);

impl Permissions {
    pub fn divide<'a>(&self, agent: AgentId, steps: Vec<Planned<'a>>) -> Divided<'a> {
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        for planned in steps {
            match self.0.get(&(planned.assistant.owner.clone(), agent)) {
                None | Some(Verdict::Granted) => granted.push(planned),
                Some(verdict) => refused.push((planned, verdict.clone())),
            }
        }
        (granted, refused)
    }
}

impl Permissions {
    fn differing(&self) -> Vec<AgentId> {
        let differing = self.0.iter().filter(|(_, v)| **v == Verdict::Different);
        differing.map(|((_, agent), _)| *agent).collect()
    }

    /// Where the agent was not edited meanwhile, its user sees something else because that is all there is to be seen.
    fn settle(&mut self, is_unchanged: impl Fn(AgentId) -> bool) {
        for ((_, agent), verdict) in &mut self.0 {
            if *verdict == Verdict::Different && is_unchanged(*agent) {
                *verdict =
                    Verdict::Denied("the database does not show its user all of it".to_owned());
            }
        }
    }
}

impl Syncer {
    /// Asks about every user's assistant that new content is to be written into, and in a pass about all of them.
    pub(super) async fn permissions(
        &self,
        tx: &Transaction<'_>,
        shape: &Shape,
        rows: &HashMap<AgentId, Row>,
        planned: &[(AgentId, Vec<Planned<'_>>)],
        observed: &Observed,
        entrance: Entrance<'_>,
    ) -> Result<Permissions, Error> {
        let mut permissions = Permissions::default();
        if self.access.is_open() {
            return Ok(permissions);
        }
        let claim = entrance.claim();
        let mut asked: BTreeMap<String, Vec<AgentId>> = BTreeMap::new();
        for (agent, planned) in planned
            .iter()
            .flat_map(|(agent, steps)| steps.iter().map(move |step| (*agent, step)))
        {
            let owner = &planned.assistant.owner;
            let is_claimant = claim.is_some_and(|claim| claim.owner == *owner);
            let is_due = planned.step.writes() || matches!(entrance, Entrance::Pass);
            if owner == SYSTEM || !is_due {
                continue;
            }
            if is_claimant || self.access.recheck {
                asked.entry(owner.clone()).or_default().push(agent);
            } else if observed
                .entries
                .get(&planned.assistant.id)
                .is_some_and(|entry| {
                    entry.organization_id != planned.assistant.content.organization_id
                })
            {
                let moved =
                    Verdict::Denied("the agent has moved to another organization".to_owned());
                permissions.0.insert((owner.clone(), agent), moved);
            }
        }

        let (mut questions, mut owners, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        for (owner, agents) in asked {
            let claimant = claim.filter(|claim| claim.owner == owner);
            match (
                claimant.and_then(|claim| claim.identity.clone()),
                Uuid::try_parse(&owner),
            ) {
                (Some(identity), _) => {
                    questions.push(Question { identity, agents });
                    owners.push(owner);
                }
                (None, Ok(user)) => absent.push((user, owner, agents)),
                // Made while nobody had to say who they are.
                (None, Err(_)) => {
                    let nobody = Verdict::Denied("its owner is no user's id".to_owned());
                    permissions.0.extend(
                        agents
                            .into_iter()
                            .map(|agent| ((owner.clone(), agent), nobody.clone())),
                    );
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
            for agent in question.agents {
                if let Some(row) = rows.get(&agent) {
                    let verdict = self.access.verdict(agent, row, &shown);
                    permissions.0.insert((owner.clone(), agent), verdict);
                }
            }
        }
        let differing = permissions.differing();
        if !differing.is_empty() {
            let now = shape.read(tx, &differing).await?;
            permissions.settle(|agent| now.get(&agent) == rows.get(&agent));
        }
        Ok(permissions)
    }

    /// One answer a question, whatever happens: whoever cannot be asked about must not hold up the others.
    async fn ask(&self, asking: For, shape: &Shape, questions: &[Question]) -> Vec<Shown> {
        if questions.is_empty() {
            return Vec::new();
        }
        match self.access.ask(asking, shape, questions).await {
            Ok(shown) => shown,
            Err(e) => {
                let unknown = || Shown::Unknown {
                    why: e.to_string(),
                    passing: matches!(e.fault(), Fault::Passing | Fault::Locked),
                };
                questions.iter().map(|_| unknown()).collect()
            }
        }
    }

    /// Which of these agents the user may have. `None`: somebody about whom nobody is asked.
    pub async fn permitted(
        &self,
        identity: Option<&Identity>,
        agents: &[AgentId],
    ) -> Result<HashSet<AgentId>, Error> {
        let mut before = HashMap::new();
        for _ in 0..ATTEMPTS {
            let asking = async {
                let mut client = self.database.client().await?;
                let tx = begin(&mut client).await?;
                let shape = self.source.shape(tx.client()).await?;
                let rows = shape.read(&tx, agents).await?;
                tx.commit().await?;
                client.give_back();
                let verdicts = self.verdicts(&shape, identity, agents, &rows).await?;
                Ok((rows, verdicts))
            };
            let (rows, verdicts) = self.database.within(DEADLINE, asking).await?;
            let is_edited = verdicts.iter().any(|(agent, verdict)| {
                *verdict == Verdict::Different && rows.get(agent) != before.get(agent)
            });
            if !is_edited {
                let granted = verdicts
                    .into_iter()
                    .filter(|(_, verdict)| *verdict == Verdict::Granted)
                    .map(|(agent, _)| agent);
                return Ok(granted.collect());
            }
            before = rows;
        }
        Err(Error::Pool(
            "the agents are being edited, it cannot be told who may read them".to_owned(),
        ))
    }

    /// Whether users can be asked about at all; if not, what to mend.
    pub async fn check_access(&self) -> Result<(), Error> {
        let client = self.database.client().await?;
        let shape = self.source.shape(&client).await?;
        client.give_back();
        self.access.check(&shape).await
    }

    /// All agents that the user may read. `None`: nobody is asked.
    pub async fn readable(&self, identity: &Identity) -> Result<Option<Vec<AgentId>>, Error> {
        if self.access.is_open() {
            return Ok(None);
        }
        let client = self.database.client().await?;
        let shape = self.source.shape(&client).await?;
        client.give_back();
        self.access.list(&shape, identity).await.map(Some)
    }

    /// What the database says of agents whose rows were read just now. It is asked about those that do not exist, too: how
    /// long an answer takes tells nobody that there is one.
    pub(super) async fn verdicts(
        &self,
        shape: &Shape,
        identity: Option<&Identity>,
        agents: &[AgentId],
        rows: &HashMap<AgentId, Row>,
    ) -> Result<HashMap<AgentId, Verdict>, Error> {
        let Some(identity) = identity.filter(|_| !self.access.is_open()) else {
            return Ok(rows
                .keys()
                .map(|agent| (*agent, Verdict::Granted))
                .collect());
        };
        let question = Question {
            identity: identity.clone(),
            agents: agents.to_vec(),
        };
        let shown = self.access.ask(For::Requests, shape, &[question]).await?;
        let mut verdicts = HashMap::new();
        for (agent, row) in rows {
            for shown in &shown {
                let verdict = self.access.verdict(*agent, row, shown);
                if let Verdict::Unknown { why, .. } = &verdict {
                    warn!(%agent, user = ?identity, why, "it cannot be told whether the user may have the agent");
                }
                verdicts.insert(*agent, verdict);
            }
        }
        Ok(verdicts)
    }
}
