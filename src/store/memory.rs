//! Assistants in memory, for a worker without a database. Nothing is synced into it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{Assistant, Changed, Filter, Found, New, Order, Page, Patch, Viewer, weight};
use crate::ids::AssistantId;

#[derive(Debug, Default)]
pub struct Memory {
    assistants: Mutex<HashMap<AssistantId, Assistant>>,
}

impl Memory {
    pub fn get(&self, id: AssistantId) -> Option<Found> {
        self.lock().get(&id).map(found)
    }

    pub fn create(&self, new: New, now: OffsetDateTime) -> Option<Assistant> {
        match self.lock().entry(new.id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let assistant = Assistant {
                    id: new.id,
                    graph_id: new.graph_id,
                    config: new.config,
                    context: new.context,
                    metadata: new.metadata,
                    name: Some(new.name),
                    description: new.description,
                    version: 1,
                    created_at: now,
                    updated_at: now,
                };
                Some(place.insert(assistant).clone())
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
            Some(assistant) if owner(assistant) == Some(theirs) => {
                let mut patched = assistant.clone();
                if !patch.apply(&mut patched) {
                    return Changed::TooLarge;
                }
                patched.version += 1;
                patched.updated_at = now;
                assistant.clone_from(&patched);
                Changed::Done(patched)
            }
            _ => Changed::NotTheirs,
        }
    }

    pub fn delete(&self, id: AssistantId, theirs: &str) -> Changed<()> {
        match self.lock().entry(id) {
            Entry::Occupied(place) if owner(place.get()) == Some(theirs) => {
                place.remove();
                Changed::Done(())
            }
            _ => Changed::NotTheirs,
        }
    }

    pub fn search(
        &self,
        viewer: &Viewer,
        filter: &Filter,
        page: Page,
        fields: &[&str],
    ) -> Option<Vec<Found>> {
        let assistants = self.lock();
        let mut matching: Vec<_> = matching(&assistants, viewer, filter).collect();
        matching.sort_by(|a, b| {
            let order = compare(a, b, page.order);
            match page.ascending {
                true => order,
                false => order.reverse(),
            }
            .then_with(|| a.id.cmp(&b.id))
        });
        let (skip, take) = (size(page.offset), size(page.limit));
        let listed = || matching.iter().skip(skip).take(take).copied();
        let bytes: usize = listed().map(|one| weight::of_fields(one, fields)).sum();
        (bytes <= weight::MAX_PAGE).then(|| listed().map(found).collect())
    }

    pub fn count(&self, viewer: &Viewer, filter: &Filter) -> i64 {
        let count = matching(&self.lock(), viewer, filter).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AssistantId, Assistant>> {
        self.assistants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(assistant: &Assistant) -> Option<&str> {
    assistant.metadata.get("owner").and_then(Value::as_str)
}

fn matching<'a>(
    assistants: &'a HashMap<AssistantId, Assistant>,
    viewer: &Viewer,
    filter: &Filter,
) -> impl Iterator<Item = &'a Assistant> {
    assistants
        .values()
        .filter(|assistant| owner(assistant) == Some(&viewer.owner) && matches(assistant, filter))
}

fn found(assistant: &Assistant) -> Found {
    Found {
        assistant: assistant.clone(),
        owner: owner(assistant).map(str::to_owned),
        synced: None,
    }
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
