//! Assistants in memory: for a worker without a database, where nothing is synced into it, and for one that serves them itself. They are
//! gone when the process ends, and made anew by the next startup pass.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::batch::{Answer, Answers, How, Stands, Write};
use super::{
    Assistant, Changed, Filter, Found, KEPT, Listed, New, Order, Page, Patch, Synced, Versions,
    Viewer, fingerprint, timestamp, weight,
};
use crate::assistant::METADATA_KEYS;
use crate::ids::{AssistantId, SYSTEM};
use crate::plan::Existing;

/// Every field of an assistant that may be large.
const FIELDS: [&str; 6] = [
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "metadata",
];

#[derive(Debug, Default)]
pub struct Memory {
    assistants: Mutex<HashMap<AssistantId, Kept>>,
}

/// An assistant, and what it was before.
#[derive(Debug)]
struct Kept {
    now: Found,
    /// By version, each as it was: its last update is when it was made. One that was made the current one again is here, too.
    before: BTreeMap<i32, Assistant>,
}

impl Kept {
    fn new(now: Found) -> Self {
        Self {
            now,
            before: BTreeMap::new(),
        }
    }

    /// The number of a version that comes after all others.
    fn next_version(&self) -> i32 {
        let last = self.before.last_key_value();
        let last = last
            .map_or(0, |(last, _)| *last)
            .max(self.now.assistant.version);
        last.saturating_add(1)
    }

    /// What it was so far becomes one of its versions; those older than the twenty before a new one go. Where it becomes another
    /// owner's or another organization's, all of them go.
    fn becomes(&mut self, next: Assistant) {
        let was = std::mem::replace(&mut self.now.assistant, next);
        if hands(&was) != hands(&self.now.assistant) {
            return self.before.clear();
        }
        let made = self.before.get(&was.version);
        let made = made.map_or(was.updated_at, |before| before.updated_at);
        let was = Assistant {
            updated_at: made,
            ..was
        };
        self.before.insert(was.version, was);
        let oldest = self.now.assistant.version.saturating_sub(KEPT);
        self.before.retain(|version, _| *version >= oldest);
    }

    /// All versions, the newest first.
    fn versions(&self) -> impl Iterator<Item = Assistant> {
        let now = &self.now.assistant;
        let made = self.before.get(&now.version).unwrap_or(now).updated_at;
        let now = (now.version, (now, made));
        let before = self
            .before
            .iter()
            .map(|(v, was)| (*v, (was, was.updated_at)));
        let all: BTreeMap<_, _> = before.chain([now]).collect();
        all.into_values().rev().map(|(version, made)| Assistant {
            created_at: made,
            ..version.clone()
        })
    }
}

/// Whose it is, in two ways.
fn hands(assistant: &Assistant) -> [Option<&Value>; 2] {
    ["owner", "supabase_organization_id"].map(|key| assistant.metadata.get(key))
}

impl Memory {
    pub fn get(&self, id: AssistantId) -> Option<Found> {
        self.lock().get(&id).map(|kept| kept.now.clone())
    }

    pub fn create(&self, new: New, now: OffsetDateTime) -> Option<Assistant> {
        match self.lock().entry(new.id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let made = place.insert(Kept::new(by_client(new.at(now))));
                Some(made.now.assistant.clone())
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
        let is_metadata_only = patch.is_metadata_only();
        self.change(id, theirs, is_metadata_only, |kept| {
            let mut patched = kept.now.assistant.clone();
            if !patch.apply(&mut patched) {
                return Changed::TooLarge;
            }
            patched.version = kept.next_version();
            patched.updated_at = now;
            kept.becomes(patched);
            Changed::Done(kept.now.assistant.clone())
        })
    }

    pub fn restore(
        &self,
        id: AssistantId,
        theirs: &str,
        version: i64,
        now: OffsetDateTime,
    ) -> Changed<Assistant> {
        self.change(id, theirs, false, |kept| {
            let created_at = kept.now.assistant.created_at;
            let mut versions = kept.versions();
            let Some(was) = versions.find(|was| i64::from(was.version) == version) else {
                return Changed::NoVersion;
            };
            drop(versions);
            kept.becomes(Assistant {
                created_at,
                updated_at: now,
                ..was
            });
            Changed::Done(kept.now.assistant.clone())
        })
    }

    fn change(
        &self,
        id: AssistantId,
        theirs: &str,
        even_if_synced: bool,
        change: impl FnOnce(&mut Kept) -> Changed<Assistant>,
    ) -> Changed<Assistant> {
        match self.lock().get_mut(&id) {
            Some(kept) if kept.now.is_of(theirs) => match &kept.now.synced {
                Some(synced) if !even_if_synced => Changed::Synced(synced.agent),
                _ => change(kept),
            },
            _ => Changed::NotTheirs,
        }
    }

    pub fn versions(&self, id: AssistantId, asked: &Versions) -> Option<Listed> {
        let assistants = self.lock();
        let kept = assistants.get(&id).into_iter();
        let versions = kept.flat_map(|kept| kept.versions().map(|was| of(was, &kept.now)));
        let is_meant = |was: &Found| contains_all(&was.assistant.metadata, &asked.metadata);
        let matching = versions.filter(is_meant);
        let mut page = matching.skip(size(asked.offset));
        let listed: Vec<_> = page.by_ref().take(size(asked.limit)).collect();
        let bytes = listed
            .iter()
            .map(|was| weight::of_fields(&was.assistant, &FIELDS));
        (bytes.sum::<usize>() <= weight::MAX_PAGE).then(|| Listed {
            more: page.next().is_some(),
            found: listed,
        })
    }

    pub fn delete(&self, id: AssistantId, theirs: &str) -> Changed<()> {
        match self.lock().entry(id) {
            Entry::Occupied(place) if place.get().now.is_of(theirs) => {
                match &place.get().now.synced {
                    Some(synced) => Changed::Synced(synced.agent),
                    None => {
                        place.remove();
                        Changed::Done(())
                    }
                }
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
            .map(|(id, kept)| (id, existing_of(&kept.now)))
            .collect()
    }

    /// Writes the assistants of agents. What is missing from the answers somebody has made or deleted meanwhile.
    pub fn write(&self, writes: &[Write<'_>], now: OffsetDateTime) -> Answers<Stands> {
        let mut assistants = self.lock();
        let mut written = Answers::default();
        for write in writes {
            let id = write.assistant.id;
            match (write.how, assistants.get_mut(&id)) {
                (How::Insert, None) => {
                    let made = is_now(write, assistant_of(write, None, 1, now));
                    assistants.insert(id, Kept::new(made));
                }
                (How::Adopt, Some(kept)) if !is_systems(&kept.now) => continue,
                (How::Insert, Some(_)) | (_, None) => continue,
                (_, Some(kept)) => {
                    let version = kept.next_version();
                    let before = &kept.now.assistant;
                    kept.becomes(assistant_of(write, Some(before), version, now));
                    if write.how != How::Update {
                        kept.before.clear();
                    }
                    kept.now = is_now(write, kept.now.assistant.clone());
                }
            }
            let stands = assistants.get(&id).map(|kept| Stands {
                row_hash: fingerprint::of(&kept.now.assistant),
                is_noted: false,
                untouched: false,
            });
            written
                .answers
                .extend(stands.map(|stands| (id, Answer::Done(stands))));
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

    fn lock(&self) -> MutexGuard<'_, HashMap<AssistantId, Kept>> {
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
        row_version: None,
    }
}

/// What stands under the id once this is written.
fn assistant_of(
    write: &Write<'_>,
    before: Option<&Assistant>,
    version: i32,
    now: OffsetDateTime,
) -> Assistant {
    let content = write.assistant.content;
    let mut metadata = match (write.how, before) {
        (How::Update, Some(before)) => before.metadata.clone(),
        _ => Map::new(),
    };
    metadata.retain(|key, _| !METADATA_KEYS.contains(&key.as_str()));
    metadata.extend(write.metadata());
    metadata.insert("synced_at".to_owned(), Value::String(timestamp(now)));
    Assistant {
        id: write.assistant.id,
        graph_id: content.graph_id.clone(),
        config: content.config.as_object().cloned().unwrap_or_default(),
        context: Map::new(),
        metadata,
        name: content.name.clone(),
        description: content.description.clone(),
        version,
        created_at: before.map_or(now, |before| before.created_at),
        updated_at: now,
    }
}

fn by_client(assistant: Assistant) -> Found {
    Found {
        owner: owner(&assistant),
        assistant,
        synced: None,
    }
}

/// With what the ledger says of it.
fn is_now(write: &Write<'_>, assistant: Assistant) -> Found {
    Found {
        assistant,
        owner: Some(write.assistant.owner.clone()),
        synced: Some(Synced {
            agent: write.assistant.agent_id,
            organization_id: write.assistant.content.organization_id,
            content_hash: write.content_hash.clone(),
        }),
    }
}

/// As its metadata says.
fn is_systems(found: &Found) -> bool {
    owner(&found.assistant).as_deref() == Some(SYSTEM)
}

fn owner(assistant: &Assistant) -> Option<String> {
    let owner = assistant.metadata.get("owner").and_then(Value::as_str);
    owner.map(str::to_owned)
}

fn matching<'a>(
    assistants: &'a HashMap<AssistantId, Kept>,
    viewer: &Viewer,
    filter: &Filter,
) -> impl Iterator<Item = &'a Found> {
    assistants
        .values()
        .map(|kept| &kept.now)
        .filter(|found| viewer.may_see(found) && matches(&found.assistant, filter))
}

/// A version is whose the assistant is now.
fn of(version: Assistant, now: &Found) -> Found {
    Found {
        assistant: version,
        owner: now.owner.clone(),
        synced: now.synced.clone(),
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_changes_hands_has_no_versions() {
        let with = |version: i32, key: &str, value: &str| Assistant {
            id: AssistantId(Uuid::nil()),
            graph_id: "g".to_owned(),
            config: Map::new(),
            context: Map::new(),
            metadata: [(key.to_owned(), json!(value))].into_iter().collect(),
            name: None,
            description: None,
            version,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        };
        for (key, kept) in [("owner", 1), ("supabase_organization_id", 1), ("mine", 4)] {
            let mut assistant = Kept::new(by_client(with(1, key, "a")));
            assistant.becomes(with(2, key, "a"));
            assistant.becomes(with(3, key, "a"));
            assert_eq!(assistant.versions().count(), 3);
            assistant.becomes(with(4, key, "b"));
            assert_eq!(assistant.versions().count(), kept, "{key}");
        }
    }
}
