//! The bodies of `POST /assistants/search` and `/count`: LangGraph's `AssistantSearchRequest`.

use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::Problem;
use super::fields::Fields;
use crate::store::{Filter, Order, Page};

pub const PAGINATION_TOTAL: HeaderName = HeaderName::from_static("x-pagination-total");
pub const PAGINATION_NEXT: HeaderName = HeaderName::from_static("x-pagination-next");

/// The fields of an assistant that a search may be asked for.
const FIELDS: [&str; 10] = [
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
];

const ORDERS: [(&str, Order); 5] = [
    ("assistant_id", Order::Id),
    ("created_at", Order::CreatedAt),
    ("updated_at", Order::UpdatedAt),
    ("name", Order::Name),
    ("graph_id", Order::GraphId),
];

#[derive(Debug)]
pub struct AssistantSearch {
    pub filter: Filter,
    pub page: Page,
    /// The fields that are asked for.
    pub select: Vec<&'static str>,
}

impl AssistantSearch {
    pub fn parse(body: Value) -> Result<Self, Problem> {
        let mut fields = Fields::of(body)?;
        let filter = Filter {
            metadata: fields.object("metadata")?.unwrap_or_default(),
            graph_id: fields.text("graph_id")?,
            name: fields.text("name")?,
        };
        let ascending = [("asc", true), ("desc", false)];
        let page = Page {
            limit: fields.limit()?,
            offset: fields.offset()?,
            order: fields.word("sort_by", &ORDERS)?.unwrap_or(Order::CreatedAt),
            ascending: fields.word("sort_order", &ascending)?.unwrap_or(false),
        };
        let select = fields.texts("select")?;
        match select
            .iter()
            .find(|field| !FIELDS.contains(&field.as_str()))
        {
            Some(_) => Err(Problem::unprocessable(format!(
                "select must be some of {}",
                FIELDS.join(", ")
            ))),
            None => Ok(Self {
                filter,
                page,
                select: FIELDS
                    .into_iter()
                    .filter(|field| select.is_empty() || select.iter().any(|s| s == field))
                    .collect(),
            }),
        }
    }

    /// What the official server says of a page with so many on it. Its total is none: it says whether there are more.
    pub fn page_headers(&self, listed: usize, more: bool) -> Vec<(HeaderName, HeaderValue)> {
        let Page { limit, offset, .. } = self.page;
        if more {
            let next = offset.saturating_add(limit);
            let total = next.saturating_add(1);
            return vec![
                (PAGINATION_TOTAL, total.into()),
                (PAGINATION_NEXT, next.into()),
            ];
        }
        let listed = i64::try_from(listed).unwrap_or(i64::MAX);
        vec![(PAGINATION_TOTAL, offset.saturating_add(listed).into())]
    }

    /// Of an assistant's fields, those that were asked for.
    pub fn selected(&self, assistant: Value) -> Value {
        match assistant {
            Value::Object(fields) => {
                let selected: Map<_, _> = fields
                    .into_iter()
                    .filter(|(name, _)| self.select.contains(&name.as_str()))
                    .collect();
                Value::Object(selected)
            }
            whole => whole,
        }
    }
}
