//! Assistants in memory, for a worker without a database. Nothing is synced into it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

use super::{Assistant, New};
use crate::ids::AssistantId;

#[derive(Debug, Default)]
pub struct Memory {
    assistants: Mutex<HashMap<AssistantId, Assistant>>,
}

impl Memory {
    pub fn get(&self, id: AssistantId) -> Option<Assistant> {
        self.assistants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub fn create(&self, new: New, now: OffsetDateTime) -> Option<Assistant> {
        match self
            .assistants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(new.id)
        {
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
}
