//! What must become of some agents' assistants: what is read about them under their locks, and the work that follows from it.

use std::collections::HashMap;
use std::sync::Arc;

use super::permission::Subject;
use super::reach::Reach;
use super::work::Work;
use super::{Entrance, Syncer};
use crate::access::Verdict;
use crate::agent::{DecodeError, Head, Row};
use crate::assistant::{self, Content};
use crate::config::OnRemove;
use crate::database::{Error, Session, Transaction};
use crate::ids::{AgentId, AssistantId};
use crate::ledger;
use crate::plan::{self, Answer, Claim, Existing, Observed, Planned};
use crate::removals::Removals;
use crate::source::Shape;
use crate::store::batch::Counted;

/// An active agent, mapped.
struct Active {
    head: Head,
    content: Content,
}

/// What was read about some agents.
pub(super) struct Seen {
    pub rows: HashMap<AgentId, Row>,
    /// What each of them says, as a hash ([`Shape::look`]).
    pub sources: HashMap<AgentId, Vec<u8>>,
    contents: Vec<(AgentId, Result<Option<Active>, DecodeError>)>,
    pub observed: Observed,
    /// The claim names an id that is another agent's.
    reserved: bool,
}

/// Where it is looked up which assistants exist.
#[derive(Clone, Copy)]
pub(super) enum Existence<'a> {
    In(Counted<'a>),
    /// Where they live outside the database, that was done before.
    Known(&'a HashMap<AssistantId, Existing>),
}

impl Existence<'_> {
    async fn of(self, ids: &[AssistantId]) -> Result<HashMap<AssistantId, Existing>, Error> {
        match self {
            Self::In(target) => Ok(target.observe(ids).await?.existing),
            Self::Known(known) => {
                let known = ids.iter().filter_map(|id| Some((*id, known.get(id)?)));
                Ok(known.map(|(id, row)| (id, row.clone())).collect())
            }
        }
    }
}

/// Where it is looked up what there is.
#[derive(Clone, Copy)]
pub(super) struct Records<'a> {
    pub existence: Existence<'a>,
    /// `false`: our schema is not installed yet, and so nothing is ours.
    pub has_ledger: bool,
}

impl<'a> Records<'a> {
    pub fn of(existence: Existence<'a>) -> Self {
        Self {
            existence,
            has_ledger: true,
        }
    }
}

/// The assistants that agents have, or get, whatever the ledger says.
pub(super) fn ids(agents: &[AgentId], claim: Option<&Claim>) -> Vec<AssistantId> {
    let mut ids: Vec<AssistantId> = agents.iter().map(|agent| agent.canonical()).collect();
    if let Some(claim) = claim {
        ids.extend(agents.iter().map(|agent| agent.copy_for(&claim.owner)));
        ids.extend(claim.assistant_id);
    }
    ids
}

/// The ledger's entries of these agents and under these ids; and which of all those assistants exist.
pub(super) async fn observe(
    session: Session<'_>,
    agents: &[AgentId],
    ids: &[AssistantId],
    records: Records<'_>,
) -> Result<Observed, Error> {
    let entries = async {
        match records.has_ledger {
            true => ledger::read(session, agents, ids).await,
            false => Ok(HashMap::new()),
        }
    };
    // Sent together, answered in this order.
    let (entries, existing) = futures::join!(entries, records.existence.of(ids));
    let (entries, mut existing) = (entries?, existing?);
    let others = entries.keys().filter(|id| !ids.contains(id));
    let others: Vec<AssistantId> = others.copied().collect();
    if !others.is_empty() {
        existing.extend(records.existence.of(&others).await?);
    }
    Ok(Observed { entries, existing })
}

/// What an agent's row says of whether it is to have an assistant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    Missing,
    Off,
    Active,
}

impl Seen {
    pub fn row_of(&self, agent: AgentId) -> Listing {
        match self.rows.get(&agent).map(Row::head) {
            None => Listing::Missing,
            Some(Ok(head)) if !head.is_active() => Listing::Off,
            Some(_) => Listing::Active,
        }
    }

    /// As the agent's row says, active or not.
    pub fn name_of(&self, agent: AgentId) -> Option<String> {
        self.rows.get(&agent)?.name()
    }

    /// Agents that are active, and the assistant that the row of each names, where there is a column for that.
    pub fn named(&self) -> impl Iterator<Item = (AgentId, Option<&str>)> {
        self.contents.iter().filter_map(|(agent, active)| {
            let active = active.as_ref().ok()?.as_ref()?;
            let named = active.head.langgraph_assistant_id.as_ref()?;
            Some((*agent, named.as_deref()))
        })
    }

    /// What active agents are called.
    pub fn names(&self) -> impl Iterator<Item = (AgentId, &str)> {
        self.contents.iter().filter_map(|(agent, active)| {
            let active = active.as_ref().ok()?.as_ref()?;
            Some((*agent, active.content.name.as_deref()?))
        })
    }
}

impl Syncer {
    /// What the mapping goes by, agents aside. (The program's version: should anybody forget to raise the mapping's, it matters until
    /// the next release only.)
    pub(super) fn basis(&self) -> String {
        let (mapping, program) = (assistant::MAPPING_VERSION, env!("CARGO_PKG_VERSION"));
        format!("{mapping} {program} {}", self.settings.default_model)
    }

    /// Reads agents, and maps the active ones.
    pub(super) async fn look(
        &self,
        session: Session<'_>,
        shape: &Shape,
        agents: &[AgentId],
        claim: Option<&Claim>,
        records: Records<'_>,
    ) -> Result<Seen, Error> {
        let ids = ids(agents, claim);
        // Sent together, answered in this order.
        let basis = self.basis();
        let (looked, observed) = futures::join!(
            shape.look(session, agents, &basis),
            observe(session, agents, &ids, records)
        );
        let ((rows, sources), mut observed) = (looked?, observed?);
        let others = observed.alternatives(agents);
        if !others.is_empty() {
            observed.add(observe(session, &[], &others, records).await?);
        }
        let reserved = self
            .names_another_agent(session.tx, shape, agents, claim)
            .await?;
        let contents = agents
            .iter()
            .map(|agent| {
                let active = rows.get(agent).map_or(Ok(None), |row| {
                    let head = row.head()?;
                    if !head.is_active() {
                        return Ok(None);
                    }
                    let content = Content::of(row.decode()?, &self.settings.default_model);
                    Ok(Some(Active { head, content }))
                });
                (*agent, active)
            })
            .collect();
        Ok(Seen {
            rows,
            sources,
            contents,
            observed,
            reserved,
        })
    }

    /// Decides what is to be written and removed. What is written borrows from what was seen.
    pub(super) async fn decide<'a>(
        &self,
        tx: &Transaction<'_>,
        shape: &Arc<Shape>,
        reach: &Reach<'_>,
        seen: &'a Seen,
        entrance: Entrance<'a>,
    ) -> Result<Work<'a>, Error> {
        let claim = entrance.claim();
        let observed = &seen.observed;
        let is_pass = matches!(entrance, Entrance::Pass);
        let mut work = Work::new(claim, self.guard.counts())
            .of_sources(&seen.sources, is_pass || claim.is_some());
        let (mut planned, mut unplanned) = (Vec::new(), Vec::new());
        for (agent, active) in &seen.contents {
            match active {
                Ok(Some(active)) if !seen.reserved => {
                    let in_scope = reach.contains(active.head.organization_id);
                    let (wanted, given) = plan::wanted(*agent, in_scope, claim, observed);
                    work.given = given;
                    let steps = plan::steps(*agent, &active.content, wanted, observed);
                    planned.push((*agent, in_scope, steps));
                    continue;
                }
                Ok(Some(_)) => work.given = Some(Answer::Taken),
                Ok(None) if self.settings.on_remove == OnRemove::Keep => {}
                Ok(None) => work.remove(*agent, observed),
                Err(e) => {
                    let head = seen.rows.get(agent).and_then(|row| row.head().ok());
                    let in_scope = reach.contains(head.and_then(|head| head.organization_id));
                    if in_scope || claim.is_some() || observed.entries_of(*agent).next().is_some() {
                        work.fail(*agent, e.to_string(), in_scope);
                    }
                }
            }
            unplanned.push(*agent);
        }

        let steps = planned.iter().flat_map(|(_, _, steps)| steps);
        let written = steps.map(Subject::of);
        // What stays as it is, because the agent is off or makes no sense, is its users' only as long as they may see the agent.
        let stays = unplanned
            .iter()
            .filter_map(|agent| Some((*agent, seen.rows.get(agent)?.head().ok())))
            .flat_map(|(agent, head)| {
                let organization_id = head.and_then(|head| head.organization_id);
                let entries = observed.entries_of(agent).filter(|e| e.may_stand());
                entries.map(move |entry| Subject::standing(entry, organization_id))
            });
        let subjects: Vec<Subject<'_>> = written.chain(stays).collect();
        let permissions = self
            .permissions(tx, shape, seen, &subjects, entrance)
            .await?;
        for subject in &subjects {
            if let Some(verdict) = permissions.refusal(subject.owner, subject.agent) {
                if claim.is_some_and(|claim| claim.owner == subject.owner) {
                    work.given = None;
                }
                work.refuse(subject, verdict, observed);
            }
        }
        if let Some(claim) = claim {
            let is_granted = |agent| permissions.is_granted(&claim.owner, agent);
            let permitted = seen.sources.iter().filter(|(agent, _)| is_granted(**agent));
            work.permitted = permitted.map(|(id, said)| (*id, said.clone())).collect();
        }
        for (agent, in_scope, mut steps) in planned {
            let is_refused = |owner: &str| permissions.refusal(owner, agent).is_some();
            steps.retain(|planned: &Planned<'_>| !is_refused(&planned.assistant.owner));
            work.plan(agent, in_scope, steps, observed);
        }
        let losing = work.losing();
        if !losing.is_empty() {
            // However small a part of the batch this is: the rest is among the pending changes.
            let batch: Vec<AgentId> = seen.contents.iter().map(|(agent, _)| *agent).collect();
            let removals = Removals {
                agents: &losing,
                batch: &batch,
                pass: is_pass,
            };
            work.objection = self.guard.objection(tx, shape, removals).await?;
        }
        Ok(work)
    }

    /// Whether a claim names an id that is another agent's: its canonical assistant is not anybody's to take. Of an agent that
    /// the claimant may not have, nobody is told that it exists.
    async fn names_another_agent(
        &self,
        tx: &Transaction<'_>,
        shape: &Shape,
        agents: &[AgentId],
        claim: Option<&Claim>,
    ) -> Result<bool, Error> {
        match claim
            .and_then(|claim| claim.assistant_id)
            .map(|id| AgentId(id.0))
        {
            Some(named) if !agents.contains(&named) => {
                let rows = shape.read(tx, &[named]).await?;
                let identity = claim.and_then(|claim| claim.identity.as_ref());
                Ok(match identity {
                    Some(identity) => {
                        let verdict = self.verdict(shape, identity, named, &rows).await?;
                        !matches!(verdict, Verdict::Denied(_))
                    }
                    None => !rows.is_empty(),
                })
            }
            _ => Ok(false),
        }
    }
}
