//! Assistants in memory: for a worker without a database, where nothing is synced into it, and for one that serves them itself. They are
//! gone when the process ends, and made anew by the next startup pass.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::batch::{Answer, Answers, How, Stands, Write};
use super::{
    Assistant, Changed, Filter, Found, Listed, New, Order, Page, Patch, Synced, Viewer,
    fingerprint, timestamp, weight,
};
use crate::assistant::METADATA_KEYS;
use crate::ids::{AssistantId, SYSTEM};
use crate::plan::Existing;

#[derive(Debug, Default)]
pub struct Memory {
    assistants: Mutex<HashMap<AssistantId, Found>>,
}

impl Memory {
    pub fn get(&self, id: AssistantId) -> Option<Found> {
        self.lock().get(&id).cloned()
    }

    pub fn create(&self, new: New, now: OffsetDateTime) -> Option<Assistant> {
        match self.lock().entry(new.id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let assistant = new.at(now);
                let made = Found {
                    owner: owner(&assistant),
                    assistant,
                    synced: None,
                };
                Some(place.insert(made).assistant.clone())
            }
        }
    }

    pub fn patch(
        &self,
        id: AssistantId,
        theirs: &str,
        patch: Patch,
        now: OffsetDateTime,
    ) -> Changed<Assistant> {
        match self.lock().get_mut(&id) {
            Some(found) if found.is_of(theirs) => {
                if let Some(synced) = found.synced.as_ref().filter(|_| !patch.is_metadata_only()) {
                    return Changed::Synced(synced.agent);
                }
                let mut patched = found.assistant.clone();
                if !patch.apply(&mut patched) {
                    return Changed::TooLarge;
                }
                patched.version += 1;
                patched.updated_at = now;
                found.assistant.clone_from(&patched);
                Changed::Done(patched)
            }
            _ => Changed::NotTheirs,
        }
    }

    pub fn delete(&self, id: AssistantId, theirs: &str) -> Changed<()> {
        match self.lock().entry(id) {
            Entry::Occupied(place) if place.get().is_of(theirs) => match &place.get().synced {
                Some(synced) => Changed::Synced(synced.agent),
                None => {
                    place.remove();
                    Changed::Done(())
                }
            },
            _ => Changed::NotTheirs,
        }
    }

    pub fn search(
        &self,
        viewer: &Viewer,
        filter: &Filter,
        page: Page,
        fields: &[&str],
    ) -> Option<Listed> {
        let assistants = self.lock();
        let mut matching: Vec<_> = matching(&assistants, viewer, filter).collect();
        matching.sort_by(|a, b| {
            let order = compare(&a.assistant, &b.assistant, page.order);
            match page.ascending {
                true => order,
                false => order.reverse(),
            }
            .then_with(|| a.assistant.id.cmp(&b.assistant.id))
        });
        let (skip, take) = (size(page.offset), size(page.limit));
        let listed = || matching.iter().skip(skip).take(take).copied();
        let bytes: usize = listed()
            .map(|one| weight::of_fields(&one.assistant, fields))
            .sum();
        (bytes <= weight::MAX_PAGE).then(|| Listed {
            found: listed().cloned().collect(),
            more: matching.len().saturating_sub(skip) > take,
        })
    }

    pub fn count(&self, viewer: &Viewer, filter: &Filter) -> i64 {
        let count = matching(&self.lock(), viewer, filter).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    /// Which of these exist, whoever made them.
    pub fn observe(&self, ids: &[AssistantId]) -> HashMap<AssistantId, Existing> {
        let assistants = self.lock();
        let existing = ids.iter().filter_map(|id| Some((*id, assistants.get(id)?)));
        existing
            .map(|(id, found)| (id, existing_of(found)))
            .collect()
    }

    /// Writes the assistants of agents. What is missing from the answers somebody has made or deleted meanwhile.
    pub fn write(&self, writes: &[Write<'_>], now: OffsetDateTime) -> Answers<Stands> {
        let mut assistants = self.lock();
        let mut written = Answers::default();
        for write in writes {
            let id = write.assistant.id;
            let standing = assistants.get(&id);
            let may = match (write.how, standing) {
                (How::Insert, found) => found.is_none(),
                (How::Adopt, Some(found)) => found.is_of(SYSTEM),
                (How::Update | How::HandOver, Some(_)) => true,
                (_, None) => false,
            };
            if may {
                let found = replaced(write, standing.map(|found| &found.assistant), now);
                let stands = Stands {
                    row_hash: fingerprint::of(&found.assistant),
                    untouched: false,
                };
                assistants.insert(id, found);
                written.answers.insert(id, Answer::Done(stands));
            }
        }
        written
    }

    /// Deletes assistants that the ledger says are ours.
    pub fn delete_all(&self, ids: &[AssistantId]) -> Answers<()> {
        let mut assistants = self.lock();
        let mut deleted = Answers::default();
        for id in ids {
            assistants.remove(id);
            deleted.answers.insert(*id, Answer::Done(()));
        }
        deleted
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AssistantId, Found>> {
        self.assistants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn existing_of(found: &Found) -> Existing {
    Existing {
        owner: owner(&found.assistant),
        row_hash: fingerprint::of(&found.assistant),
        // Whoever writes it sees for himself.
        foreign: Vec::new(),
    }
}

/// What stands under the id once this is written.
fn replaced(write: &Write<'_>, before: Option<&Assistant>, now: OffsetDateTime) -> Found {
    let content = write.assistant.content;
    let mut metadata = match (write.how, before) {
        (How::Update, Some(before)) => before.metadata.clone(),
        _ => Map::new(),
    };
    metadata.retain(|key, _| !METADATA_KEYS.contains(&key.as_str()));
    metadata.extend(write.metadata());
    metadata.insert("synced_at".to_owned(), Value::String(timestamp(now)));
    Found {
        assistant: Assistant {
            id: write.assistant.id,
            graph_id: content.graph_id.clone(),
            config: content.config.as_object().cloned().unwrap_or_default(),
            context: Map::new(),
            metadata,
            name: content.name.clone(),
            description: content.description.clone(),
            version: before.map_or(1, |before| before.version + 1),
            created_at: before.map_or(now, |before| before.created_at),
            updated_at: now,
        },
        owner: Some(write.assistant.owner.clone()),
        synced: Some(Synced {
            agent: write.assistant.agent_id,
            organization_id: content.organization_id,
            content_hash: write.content_hash.clone(),
        }),
    }
}

fn owner(assistant: &Assistant) -> Option<String> {
    let owner = assistant.metadata.get("owner").and_then(Value::as_str);
    owner.map(str::to_owned)
}

fn matching<'a>(
    assistants: &'a HashMap<AssistantId, Found>,
    viewer: &Viewer,
    filter: &Filter,
) -> impl Iterator<Item = &'a Found> {
    assistants
        .values()
        .filter(|found| viewer.may_see(found) && matches(&found.assistant, filter))
}

fn matches(assistant: &Assistant, filter: &Filter) -> bool {
    let name = assistant.name.as_deref().unwrap_or_default().to_lowercase();
    filter
        .name
        .as_ref()
        .is_none_or(|part| name.contains(&part.to_lowercase()))
        && filter
            .graph_id
            .as_ref()
            .is_none_or(|graph| *graph == assistant.graph_id)
        && contains_all(&assistant.metadata, &filter.metadata)
}

/// Containment as Postgres' `@>` has it.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => contains_all(whole, part),
        (Value::Array(whole), Value::Array(part)) => part
            .iter()
            .all(|item| whole.iter().any(|candidate| contains(candidate, item))),
        (whole, part) => whole == part,
    }
}

fn contains_all(whole: &Map<String, Value>, part: &Map<String, Value>) -> bool {
    part.iter().all(|(key, value)| {
        whole
            .get(key)
            .is_some_and(|candidate| contains(candidate, value))
    })
}

fn compare(a: &Assistant, b: &Assistant, order: Order) -> Ordering {
    let name = |assistant: &Assistant| assistant.name.as_deref().unwrap_or_default().to_lowercase();
    match order {
        Order::Id => a.id.cmp(&b.id),
        Order::CreatedAt => a.created_at.cmp(&b.created_at),
        Order::UpdatedAt => a.updated_at.cmp(&b.updated_at),
        Order::Name => name(a).cmp(&name(b)),
        Order::GraphId => a.graph_id.to_lowercase().cmp(&b.graph_id.to_lowercase()),
    }
}

fn size(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
