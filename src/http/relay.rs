//! `/assistants` where assistants live on a LangGraph server: passed on to it with the caller's own credentials, and who may see and change
//! what there, that server decides. But for two things:
//!
//! - A create that names an agent is ours: who asks proves it to us, and gets that agent's assistant.
//! - What is kept equal to an agent is changed by nobody but us: PATCH, `latest` and DELETE of what the ledger knows end here.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, Request, StatusCode};
use serde_json::{Map, Value};

use super::assistants::{exists, no_assistant, no_assistant_with, not_synced, problem, read_only};
use super::auth::{Authenticator, Caller};
use super::body;
use super::create::AssistantCreate;
use super::fields::{assistant_id, unlink};
use super::lazy_sync::{self, NotSynced, Synced};
use super::route::{self, Part, Route};
use super::upstream::Upstream;
use super::{Answer, Body, Problem, empty_answer, json_answer, redirect, text_answer};
use crate::assistant::METADATA_KEYS;
use crate::ids::{AgentId, AssistantId, SYSTEM};
use crate::store::langgraph::Server;
use crate::syncer::{Released, Syncer};

#[derive(Debug)]
pub struct Relay {
    /// The same server, as clients see it.
    pub upstream: Arc<Upstream>,
    pub server: Arc<Server>,
    pub syncer: Arc<Syncer>,
    pub authenticator: Arc<Authenticator>,
}

/// What is looked at before it goes on, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guarded {
    Create,
    Change(Change, AssistantId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Patch,
    Latest,
    Delete,
}

impl Relay {
    /// Whether a request goes on as it comes.
    pub fn passes(&self, method: &Method, path: &str) -> bool {
        matches!(guarded(method, path), Ok(None))
    }

    pub async fn handle(&self, request: Request<Body>) -> Result<Answer, Problem> {
        match guarded(request.method(), request.uri().path()) {
            Ok(None) => self.upstream.pass(request).await,
            Ok(Some(Guarded::Create)) => self.create(request).await,
            Ok(Some(Guarded::Change(change, id))) => self.change(change, id, request).await,
            Err(refused) => match route::without_slash(request.uri()) {
                Some(moved) => redirect(&moved),
                None => Err(refused),
            },
        }
    }

    async fn create(&self, request: Request<Body>) -> Result<Answer, Problem> {
        let request = read(request).await?;
        // What we cannot read might name anything.
        let json = body::parse(request.body())?;
        if !names_an_agent(&json) {
            return self.bare(request, &json).await;
        }
        let caller = self.authenticator.caller(request.headers()).await?;
        let unlinked = unlink(json.clone());
        let bare = request.map(|_| Bytes::from(unlinked.to_string()));
        let create = AssistantCreate::parse(json)?;
        let Some(agent) = &create.agent else {
            return self.bare(bare, &unlinked).await;
        };
        let synced = lazy_sync::run(Some(&self.syncer), &caller, agent, &create).await?;
        let because = match synced {
            Ok(Synced::Answer(answer)) => return Ok(text_answer(StatusCode::OK, answer)),
            Ok(Synced::Assistant(id)) => {
                match self.server.get(id).await.map_err(|e| problem(&e))? {
                    Some(assistant) => return Ok(json_answer(StatusCode::OK, &assistant)),
                    None => "the assistant was removed at once".to_owned(),
                }
            }
            Err(NotSynced::Taken(id)) => return Err(exists(id)),
            Err(NotSynced::Because(reason)) => reason,
        };
        not_synced(agent, &because);
        self.bare(bare, &unlinked).await
    }

    /// An assistant from the request alone (`json`: its body). Where one of ours is missing on the server, nobody else's takes its place:
    /// what its agent says would be written into it.
    async fn bare(&self, request: Request<Bytes>, json: &Value) -> Result<Answer, Problem> {
        let named = json.get("assistant_id").and_then(Value::as_str);
        if let Some(id) = named.map_or(Ok(None), readable)? {
            let known = self.syncer.entry(id).await.map_err(|e| problem(&e))?;
            let is_missing = known.is_some()
                && self
                    .server
                    .get(id)
                    .await
                    .map_err(|e| problem(&e))?
                    .is_none();
            if is_missing {
                self.server.is_lost();
                return Err(Problem::unavailable());
            }
        }
        self.upstream.pass_read(request).await
    }

    async fn change(
        &self,
        change: Change,
        id: AssistantId,
        request: Request<Body>,
    ) -> Result<Answer, Problem> {
        let known = self.syncer.entry(id).await.map_err(|e| problem(&e))?;
        let Some((agent, owner)) = known else {
            return self.upstream.pass(request).await;
        };
        let caller = self.authenticator.caller(request.headers()).await?;
        let is_theirs = owner == caller.owner();
        match change {
            Change::Delete if is_theirs => self.delete(agent, id, &owner).await,
            Change::Patch if is_theirs => {
                let request = read(request).await?;
                match is_foreign_metadata(&body::parse(request.body())?) {
                    true => self.upstream.pass_read(request).await,
                    false => Err(read_only(id, agent)),
                }
            }
            Change::Latest if is_theirs => Err(read_only(id, agent)),
            _ => Err(self.not_theirs(&caller, change, id, agent, &owner).await?),
        }
    }

    async fn delete(
        &self,
        agent: AgentId,
        id: AssistantId,
        owner: &str,
    ) -> Result<Answer, Problem> {
        let released = self.syncer.release(agent, id, owner).await;
        match released.map_err(|e| problem(&e))? {
            Released::Done => Ok(empty_answer(StatusCode::NO_CONTENT)),
            Released::NotTheirs => Err(no_assistant_with(id)),
            Released::Busy => Err(Problem::unavailable()),
        }
    }

    /// Why a caller may not change it: it is everybody's who may see the agent, or as far as they may know there is none.
    async fn not_theirs(
        &self,
        caller: &Caller,
        change: Change,
        id: AssistantId,
        agent: AgentId,
        owner: &str,
    ) -> Result<Problem, Problem> {
        let may_know = owner == SYSTEM
            && match caller.identity() {
                Some(identity) => {
                    let readable = self.syncer.readable(&identity).await;
                    let readable = readable.map_err(|e| problem(&e))?;
                    readable.is_none_or(|agents| agents.iter().any(|(a, _)| *a == agent))
                }
                None => true,
            };
        // In the server's words for each.
        Ok(match change {
            _ if may_know => read_only(id, agent),
            Change::Delete => no_assistant_with(id),
            Change::Patch | Change::Latest => no_assistant(id),
        })
    }
}

/// What of a request concerns us. Whatever might change an assistant, and cannot be told for sure, goes no further.
fn guarded(method: &Method, path: &str) -> Result<Option<Guarded>, Problem> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(None);
    }
    let route = Route::of(path).ok_or_else(Problem::not_found)?;
    route.check(method)?;
    let Route::Assistants(part) = route else {
        return Ok(None);
    };
    let (change, id) = match part {
        Part::All => return Ok(Some(Guarded::Create)),
        Part::Search | Part::Count => return Ok(None),
        Part::One(id) if *method == Method::PATCH => (Some(Change::Patch), id),
        Part::One(id) => (Some(Change::Delete), id),
        Part::Latest(id) => (Some(Change::Latest), id),
        Part::Versions(id) | Part::Schemas(id) | Part::Graph(id) => (None, id),
    };
    let id = readable(id)?;
    Ok(change
        .zip(id)
        .map(|(change, id)| Guarded::Change(change, id)))
}

/// The uuid that an id is. `None`: it is none for any server; some have other ids, and those are none of ours.
///
/// # Errors
/// Some server might read an uuid from it that we do not. Python's finds one behind `urn:` and `0x`, with hyphens anywhere, underscores,
/// digits of any script and spaces around them; and before that, whatever is percent-encoded is decoded.
fn readable(id: &str) -> Result<Option<AssistantId>, Problem> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_no_digit = |byte: u8| byte.is_ascii_alphabetic() && !byte.is_ascii_hexdigit();
    match assistant_id(id) {
        Ok(id) => Ok(Some(id)),
        Err(_)
            if id.bytes().all(is_plain)
                && id
                    .bytes()
                    .any(|byte| is_no_digit(byte) && !b"xX".contains(&byte)) =>
        {
            Ok(None)
        }
        Err(refused) => Err(refused),
    }
}

async fn read(request: Request<Body>) -> Result<Request<Bytes>, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body.read().await?;
    Ok(Request::from_parts(parts, Bytes::from(bytes)))
}

fn names_an_agent(create: &Value) -> bool {
    let agent = create
        .get("metadata")
        .and_then(|metadata| metadata.get("supabase_agent_id"));
    agent.is_some_and(|agent| !agent.is_null())
}

/// Whether a patch leaves alone what is kept equal to an agent, and whose it is.
fn is_foreign_metadata(patch: &Value) -> bool {
    let is_foreign = |metadata: &Map<String, Value>| {
        !METADATA_KEYS.iter().any(|key| metadata.contains_key(*key))
    };
    patch.as_object().is_some_and(|fields| {
        fields
            .iter()
            .all(|(field, value)| field == "metadata" && value.as_object().is_some_and(is_foreign))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    const ID: &str = "a0000000-0000-4000-8000-000000000001";

    fn of(method: &str, path: &str) -> Result<Option<Guarded>, Problem> {
        guarded(&method.parse().expect("a method"), path)
    }

    #[test]
    fn whatever_reads_goes_on_and_whatever_changes_an_assistant_is_looked_at() {
        let id = AssistantId(ID.parse().expect("an id"));
        for path in [
            "/assistants",
            "//assistants/x",
            "/assistants/x/schemas",
            "/assistants/",
        ] {
            assert_eq!(of("GET", path), Ok(None), "{path}");
        }
        for part in ["search", "count", &format!("{ID}/versions")] {
            assert_eq!(
                of("POST", &format!("/assistants/{part}")),
                Ok(None),
                "{part}"
            );
        }
        assert_eq!(of("POST", "/assistants"), Ok(Some(Guarded::Create)));
        let simple = ID.replace('-', "");
        for spelled in [
            ID,
            &ID.to_uppercase(),
            &simple,
            &format!("urn:uuid:{ID}"),
            &format!("{{{ID}}}"),
        ] {
            for (method, path, change) in [
                ("PATCH", format!("/assistants/{spelled}"), Change::Patch),
                ("DELETE", format!("/assistants/{spelled}"), Change::Delete),
                (
                    "POST",
                    format!("/assistants/{spelled}/latest"),
                    Change::Latest,
                ),
            ] {
                let expected = Ok(Some(Guarded::Change(change, id)));
                assert_eq!(of(method, &path), expected, "{method} {path}");
            }
        }
    }

    #[test]
    fn what_some_server_might_take_for_an_id_goes_no_further() {
        let digits = ID.replace('-', "");
        for spelled in [
            // Python takes all of these.
            format!("-{}", digits),
            format!("a0-{}", &digits[2..]),
            format!("uuid:{}", digits.replace("00001", "0_001")),
            digits.replace('1', "\u{0661}"),
            digits.replace('1', "%31"),
            format!("urn%3Auuid%3A{ID}"),
            format!("%75rn:uuid:{ID}"),
            format!("uurn:uid:{ID}"),
            format!("0x{}", &digits[2..]),
            format!("0%78{}", &digits[2..]),
            format!("+{}", &digits[1..]),
            format!("x%2f..%2f{ID}"),
            "mine%20".to_owned(),
            "mine:yours".to_owned(),
            format!("{ID}%2F"),
            format!("{{{ID}"),
        ] {
            for method in ["PATCH", "DELETE"] {
                let path = format!("/assistants/{spelled}");
                assert_ne!(of(method, &path), Ok(None), "{method} {path}");
            }
        }
        for (method, path) in [
            ("PATCH", format!("//assistants/{ID}")),
            ("PATCH", format!("/assistants//{ID}")),
            ("DELETE", format!("/assistants/{ID}/")),
            ("PATCH", format!("/threads/../assistants/{ID}")),
            ("PUT", format!("/assistants/{ID}")),
            ("POST", format!("/assistants/{ID}/else")),
            ("POST", format!("/assistants/{ID}")),
            ("POST", format!("/assistants/{ID}%2Flatest/versions")),
        ] {
            assert!(of(method, &path).is_err(), "{method} {path}");
        }
        // Other servers' own.
        assert_eq!(of("PATCH", "/assistants/my-assistant"), Ok(None));
    }

    #[test]
    fn only_foreign_metadata_of_a_synced_assistant_may_be_patched() {
        for (patch, allowed) in [
            (json!({"metadata": {"pinned": true}}), true),
            (json!({}), true),
            (json!({"metadata": {"owner": "mallory"}}), false),
            (json!({"metadata": {"pinned": true}, "name": "x"}), false),
            (json!({"metadata": null}), false),
            (json!({"context": {}}), false),
            (json!([]), false),
        ] {
            assert_eq!(is_foreign_metadata(&patch), allowed, "{patch}");
        }
    }

    #[test]
    fn an_agent_is_named_by_metadata() {
        let named = json!({"metadata": {"supabase_agent_id": Uuid::nil()}});
        assert!(names_an_agent(&named));
        assert!(!names_an_agent(
            &json!({"metadata": {"supabase_agent_id": null}})
        ));
        assert!(!names_an_agent(&json!({"metadata": 1})));
    }
}
