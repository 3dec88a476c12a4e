//! What a sync would do. The same reading and deciding as for a sync, but in transactions that can write nothing, and what is decided is
//! carried out on paper only.
//!
//! No lock and no lease is taken: who looks must not keep anybody waiting. So what is edited or synced meanwhile may be seen as it was
//! before, or as it is after; the agents of one call are read as of one moment. What only a write would show (a graph that the server
//! does not have, a trigger that refuses the row) is not foreseen.

use std::collections::HashMap;

use serde_json::Value;

use super::decide::{self, Existence, Listing, Records, Seen};
use super::forecast::{Change, Forecast, Preview, shown, why};
use super::outcome::{Batch, Outcome};
use super::reach::{Reach, shared_scope};
use super::work::Work;
use super::{Entrance, Syncer};
use crate::database::migrations::{self, Footing};
use crate::database::{Error, Fault, begin_reading, begin_snapshot};
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::ledger;
use crate::plan::Existing;
use crate::scope::Scope;
use crate::store::batch::{Target, Unseen};
use crate::store::{document, table};

/// How many assistants of one agent are told of one by one: each of its users may have some, and they all say the same.
const LISTED: usize = 10;

/// Whose contents are in memory at a time.
const COMPARED: usize = 8;

impl Syncer {
    /// What there is of what a sync needs.
    pub async fn footing(&self) -> Result<Footing, Error> {
        self.step(async {
            let mut client = self.database.client().await?;
            let tx = begin_reading(&mut client).await?;
            let footing = migrations::footing(&tx).await?;
            self.source.inspect(&tx).await?;
            tx.commit().await?;
            client.give_back();
            Ok(footing)
        })
        .await
    }

    /// What a pass that comes to these agents would do: at most [`Syncer::batch_size`]. An agent whose data the database cannot read fails alone.
    pub async fn preview(&self, footing: Footing, agents: &[AgentId]) -> Result<Preview, Error> {
        self.place.check()?;
        let mut preview = Preview::default();
        let mut chunks = vec![agents];
        while let Some(chunk) = chunks.pop().filter(|chunk| !chunk.is_empty()) {
            let error = match Box::pin(self.preview_chunk(footing, chunk)).await {
                Ok(part) => {
                    preview.forecasts.extend(part.forecasts);
                    preview.objection = preview.objection.or(part.objection);
                    continue;
                }
                Err(error) => error,
            };
            match chunk {
                _ if error.fault() != Fault::Data => {
                    if error.is_schema_drift() || error.denial().is_some() {
                        self.source.outdated();
                    }
                    return Err(error);
                }
                &[agent] => preview
                    .forecasts
                    .push(Forecast::of(agent, Outcome::Failed(error.to_string()))),
                _ => {
                    let (left, right) = chunk.split_at(chunk.len() / 2);
                    chunks.extend([right, left]);
                }
            }
        }
        Ok(preview)
    }

    async fn preview_chunk(&self, footing: Footing, agents: &[AgentId]) -> Result<Preview, Error> {
        let (existing, unseen) = self.what_exists(footing, agents).await?;
        let mut preview = Preview::default();
        preview.forecasts.extend(unseen.iter().map(|(agent, why)| {
            let outcome = match why {
                Unseen::Refused(why) => Outcome::Failed(why.clone()),
                Unseen::Unknown(_) => Outcome::Busy,
            };
            Forecast::of(*agent, outcome)
        }));
        let seen = agents.iter().filter(|agent| !unseen.contains_key(agent));
        let agents: Vec<AgentId> = seen.copied().collect();

        let looking = async {
            let mut client = self.database.client().await?;
            let tx = begin_snapshot(&mut client).await?;
            let shape = self.source.shape(&tx).await?;
            let shared = match footing.has_schema {
                true => shared_scope((&tx).into()).await?,
                false => Scope::None,
            };
            let existence = match &existing {
                Some(existing) => Existence::Known(existing),
                None => Existence::In(self.counted(Target::Table((&tx).into()))),
            };
            let records = Records {
                existence,
                has_ledger: footing.has_schema,
            };
            let seen = self
                .look((&tx).into(), &shape, &agents, None, records)
                .await?;
            tx.commit().await?;
            client.give_back();
            Ok((shape, shared, seen))
        };
        let (shape, shared, seen) = self.step(looking).await?;
        let reach = Reach {
            shared,
            own: &self.settings.scope,
        };
        let deciding = async {
            let mut client = self.database.client().await?;
            // It is asked twice whether an agent is edited just now, so not as of one moment.
            let tx = begin_reading(&mut client).await?;
            let work = self
                .decide(&tx, &shape, &reach, &seen, Entrance::Pass)
                .await?;
            tx.commit().await?;
            client.give_back();
            Ok(work)
        };
        let mut work = self.step(deciding).await?;

        let mut changes = self.changes(&work, &seen).await?;
        work.rehearse(&self.place, &seen.observed);
        let Batch {
            outcomes,
            write_back,
            objection,
            ..
        } = self.batch(work, &seen, false);
        preview.objection = objection;
        let outcomes: HashMap<AgentId, Outcome> = outcomes.into_iter().collect();
        let write_back: HashMap<AgentId, AssistantId> = write_back.into_iter().collect();
        for agent in agents {
            let outcome = outcomes.get(&agent).cloned().unwrap_or(Outcome::Nothing);
            let Changes { told, more, name } = changes.remove(&agent).unwrap_or_default();
            // Most are as they should be, and nobody is told of those.
            let its_name = match outcome {
                Outcome::Skipped => None,
                _ => seen.name_of(agent).map(|name| shown(&name)),
            };
            preview.forecasts.push(Forecast {
                name: its_name.or(name),
                is_known: seen.row_of(agent) != Listing::Missing
                    || seen.observed.entries_of(agent).next().is_some(),
                why: why(&seen, &reach, agent, &outcome),
                changes: told,
                more,
                write_back: write_back.get(&agent).copied(),
                ..Forecast::of(agent, outcome)
            });
        }
        Ok(preview)
    }

    /// Which of the agents' assistants exist, where that is not asked of the runtime's table along with the agents; and of which agents
    /// it cannot be told.
    async fn what_exists(
        &self,
        footing: Footing,
        agents: &[AgentId],
    ) -> Result<
        (
            Option<HashMap<AssistantId, Existing>>,
            HashMap<AgentId, Unseen>,
        ),
        Error,
    > {
        let ids: Vec<AssistantId> = agents
            .iter()
            .flat_map(|agent| [agent.canonical(), agent.copy_for(SYSTEM)])
            .collect();
        let Some(target) = self.beyond() else {
            if footing.has_schema && footing.has_assistants {
                return Ok((None, HashMap::new()));
            }
            let looking = async {
                let mut client = self.database.client().await?;
                let tx = begin_snapshot(&mut client).await?;
                let existing = match footing.has_assistants {
                    true => table::observe_foreign(&tx, &ids).await?,
                    false => HashMap::new(),
                };
                tx.commit().await?;
                client.give_back();
                Ok(existing)
            };
            return Ok((Some(self.step(looking).await?), HashMap::new()));
        };
        let reading = async {
            let mut client = self.database.client().await?;
            let tx = begin_snapshot(&mut client).await?;
            let entries = match footing.has_schema {
                true => ledger::read((&tx).into(), agents, &decide::ids(agents, None)).await?,
                false => HashMap::new(),
            };
            tx.commit().await?;
            client.give_back();
            Ok(entries)
        };
        let entries = self.step(reading).await?;
        let found = self.find(target, agents, Entrance::Pass, entries).await?;
        Ok((Some(found.existing), found.unseen))
    }

    /// What would happen to each assistant, by agent.
    async fn changes(
        &self,
        work: &Work<'_>,
        seen: &Seen,
    ) -> Result<HashMap<AgentId, Changes>, Error> {
        let mut changes: HashMap<AgentId, Changes> = HashMap::new();
        let mut listed = Vec::new();
        for deed in work.deeds(&self.place, &seen.observed) {
            let of_agent = changes.entry(deed.agent).or_default();
            of_agent.more += 1;
            if of_agent.more <= LISTED {
                listed.push(deed);
            }
        }
        for deeds in listed.chunks(COMPARED) {
            let there = deeds.iter().filter(|deed| deed.is_there);
            let ids: Vec<AssistantId> = there.map(|deed| deed.assistant).collect();
            let said = self.said(&ids).await?;
            for deed in deeds {
                let said = said.get(&deed.assistant);
                let now = said.map(|said| document::now(&self.place, said));
                let of_agent = changes.entry(deed.agent).or_default();
                of_agent.more -= 1;
                let name = now.as_ref().and_then(|now| now.get("name"));
                if let Some(name) = name.and_then(Value::as_str) {
                    of_agent.name = Some(shown(name));
                }
                of_agent
                    .told
                    .push(Change::of(&self.place, deed, now, &seen.observed));
            }
        }
        Ok(changes)
    }

    async fn said(&self, ids: &[AssistantId]) -> Result<HashMap<AssistantId, Value>, Error> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        if let Some(target) = self.place.beyond() {
            return target.said(ids).await;
        }
        self.step(async {
            let mut client = self.database.client().await?;
            let tx = begin_snapshot(&mut client).await?;
            let said = Target::Table((&tx).into()).said(ids).await?;
            tx.commit().await?;
            client.give_back();
            Ok(said)
        })
        .await
    }
}

/// What would happen to the assistants of an agent.
#[derive(Default)]
struct Changes {
    told: Vec<Change>,
    more: usize,
    /// What one of them is called now.
    name: Option<String>,
}
