//! What the syncer relies on wherever assistants live: one suite for all places.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_sync::agent::Agent;
use agent_sync::assistant::{Assistant, Content};
use agent_sync::config;
use agent_sync::database::begin;
use agent_sync::ids::{AgentId, AssistantId, SYSTEM};
use agent_sync::plan::Existing;
use agent_sync::store::batch::{Answer, Answers, How, Stands, Target, Write};
use agent_sync::store::langgraph::Server;
use agent_sync::store::memory::Memory;
use agent_sync::store::{New, Store};
use hyper::HeaderMap;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::support::database::Role;
use crate::support::double::Double;
use crate::support::langgraph::LangGraph;
use crate::support::{TestDatabase, TestWorker};

/// Where assistants live.
enum Place {
    Table(Box<TestDatabase>),
    Memory(Arc<Memory>),
    Server(Double, Server),
    /// LangGraph's own.
    LangGraph(&'static LangGraph, Server),
}

/// What somebody else's clients talk to.
enum Theirs<'a> {
    Store(Store),
    Double(&'a Double),
    LangGraph(&'a LangGraph),
}

impl Place {
    async fn all() -> Vec<Self> {
        let database = TestDatabase::new().await;
        TestWorker::start(&database, &[]).await.stop().await;
        let double = Double::start().await;
        let server = Server::new(&double.config());
        let mut all = vec![
            Self::Table(Box::new(database)),
            Self::Memory(Arc::default()),
            Self::Server(double, server),
        ];
        if Role::is_first_run() {
            let langgraph = LangGraph::shared().await;
            let config = config::LangGraph {
                url: langgraph.url().parse().expect("a url"),
                headers: HeaderMap::new(),
                timeout: Duration::from_secs(30),
            };
            all.push(Self::LangGraph(langgraph, Server::new(&config)));
        }
        all
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Table(_) => "table",
            Self::Memory(_) => "memory",
            Self::Server(..) => "server",
            Self::LangGraph(..) => "LangGraph's own server",
        }
    }

    fn theirs(&self) -> Theirs<'_> {
        match self {
            Self::Table(database) => Theirs::Store(Store::Postgres(database.pool())),
            Self::Memory(memory) => Theirs::Store(Store::Memory(memory.clone())),
            Self::Server(double, _) => Theirs::Double(double),
            Self::LangGraph(server, _) => Theirs::LangGraph(server),
        }
    }

    async fn observe(&self, ids: &[AssistantId]) -> HashMap<AssistantId, Existing> {
        match self {
            Self::Table(database) => {
                let mut client = database.pool().client().await.expect("a connection");
                let tx = begin(&mut client).await.expect("begun");
                Target::Table((&tx).into()).observe(ids).await
            }
            Self::Memory(memory) => Target::Memory(memory).observe(ids).await,
            Self::Server(_, server) | Self::LangGraph(_, server) => {
                Target::Server(server).observe(ids).await
            }
        }
        .expect("observed")
        .existing
    }

    /// As the syncer does: looks first.
    async fn write(&self, writes: &[Write<'_>]) -> Answers<Stands> {
        let ids: Vec<AssistantId> = writes.iter().map(|write| write.assistant.id).collect();
        let existing = self.observe(&ids).await;
        self.write_unseen(writes, &existing).await
    }

    async fn write_unseen(
        &self,
        writes: &[Write<'_>],
        existing: &HashMap<AssistantId, Existing>,
    ) -> Answers<Stands> {
        match self {
            Self::Table(database) => {
                let mut client = database.pool().client().await.expect("a connection");
                let tx = begin(&mut client).await.expect("begun");
                let written = Target::Table((&tx).into()).write(writes, existing).await;
                tx.commit().await.expect("committed");
                written
            }
            Self::Memory(memory) => Target::Memory(memory).write(writes, existing).await,
            Self::Server(_, server) | Self::LangGraph(_, server) => {
                Target::Server(server).write(writes, existing).await
            }
        }
        .expect("written")
    }

    async fn delete(&self, ids: &[AssistantId]) -> Answers<()> {
        match self {
            Self::Table(database) => {
                let mut client = database.pool().client().await.expect("a connection");
                let tx = begin(&mut client).await.expect("begun");
                let deleted = Target::Table((&tx).into()).delete(ids).await;
                tx.commit().await.expect("committed");
                deleted
            }
            Self::Memory(memory) => Target::Memory(memory).delete(ids).await,
            Self::Server(_, server) | Self::LangGraph(_, server) => {
                Target::Server(server).delete(ids).await
            }
        }
        .expect("deleted")
    }

    /// As the API shows it.
    async fn read(&self, id: AssistantId) -> Option<Value> {
        match self.theirs() {
            Theirs::Store(store) => {
                let found = store.get(id).await.expect("read");
                found.map(|found| found.assistant.to_json())
            }
            Theirs::Double(double) => double.assistant(id.0),
            Theirs::LangGraph(server) => {
                let path = format!("/assistants/{id}");
                let (status, found) = server.request("GET", &path, None).await;
                (status == 200).then_some(found)
            }
        }
    }

    /// Somebody else makes an assistant.
    async fn make(&self, id: AssistantId, metadata: Value) {
        let config = json!({"configurable": {"theirs": true}});
        let body = json!({
            "assistant_id": id, "graph_id": "other", "config": config, "metadata": metadata, "name": "Theirs"
        });
        let store = match self.theirs() {
            Theirs::Store(store) => store,
            Theirs::Double(double) => return double.put(id.0, body),
            Theirs::LangGraph(server) => {
                let made = server.request("POST", "/assistants", Some(&body)).await;
                assert_eq!(made.0, 200, "{made:?}");
                return;
            }
        };
        let new = New {
            id,
            graph_id: "other".to_owned(),
            config: object(config),
            context: object(json!({"theirs": true})),
            metadata: object(metadata),
            name: "Theirs".to_owned(),
            description: None,
        };
        let made = store.create(new).await.expect("made");
        assert!(made.is_some(), "{}", self.name());
    }

    /// Somebody else changes one.
    async fn patch(&self, id: AssistantId, owner: &str, patch: Value) {
        let store = match self.theirs() {
            Theirs::Store(store) => store,
            Theirs::Double(double) => return double.patch(id.0, patch),
            Theirs::LangGraph(server) => {
                let path = format!("/assistants/{id}");
                let patched = server.request("PATCH", &path, Some(&patch)).await;
                assert_eq!(patched.0, 200, "{patched:?}");
                return;
            }
        };
        let patch = agent_sync::store::Patch {
            metadata: patch.get("metadata").cloned().map(object),
            name: patch.get("name").and_then(Value::as_str).map(str::to_owned),
            ..Default::default()
        };
        let changed = store.patch(id, owner, patch).await.expect("patched");
        assert!(
            matches!(changed, agent_sync::store::Changed::Done(_)),
            "{}: {changed:?}",
            self.name()
        );
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn id() -> AssistantId {
    AssistantId(Uuid::new_v4())
}

fn content(prompt: &str) -> Content {
    let agent = Agent {
        organization_id: Some(Uuid::nil()),
        name: Some("Ada".to_owned()),
        description: Some("Counts.".to_owned()),
        system_prompt: Some(prompt.to_owned()),
        sampling_params: object(
            serde_json::from_str(r#"{"temperature": 0.70, "top_p": 1.0, "seed": 12345678901234567, "stop": ["a", null]}"#)
                .expect("JSON"),
        ),
        ..Agent::default()
    };
    Content::of(agent, "model")
}

fn write<'a>(id: AssistantId, owner: &str, content: &'a Content, how: How) -> Write<'a> {
    Write {
        assistant: Assistant {
            id,
            agent_id: AgentId(Uuid::nil()),
            owner: owner.to_owned(),
            content,
        },
        content_hash: b"hash".to_vec(),
        how,
        foreign: None,
        said: None,
    }
}

fn row_hash(answers: &Answers<Stands>, id: AssistantId) -> Vec<u8> {
    match answers.answers.get(&id) {
        Some(Answer::Done(stands)) => stands.row_hash.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_inserted_says_what_the_agent_says() {
    for place in Place::all().await {
        let (id, content) = (id(), content("Count."));
        let sent = object(json!({"theirs": {"a": 1}, "owner": "mallory", "synced_at": "never"}));
        let write = Write {
            foreign: Some(&sent),
            ..write(id, "alice", &content, How::Insert)
        };
        let written = place.write(&[write]).await;
        assert!(written.is_done(id), "{}: {written:?}", place.name());

        let made = place.read(id).await.expect("it is there");
        assert_eq!(made["assistant_id"], json!(id));
        assert_eq!(made["graph_id"], "agent");
        assert_eq!(
            (&made["name"], &made["description"]),
            (&json!("Ada"), &json!("Counts."))
        );
        assert_eq!(made["version"], 1);
        assert_eq!(made["created_at"], made["updated_at"], "{}", place.name());
        let configurable = &made["config"]["configurable"];
        assert_eq!(configurable["system_prompt"], "Count.");
        assert_eq!(configurable["stop"], json!(["a", null]));
        assert_eq!(made["context"], *configurable, "{}", place.name());
        let metadata = &made["metadata"];
        assert_eq!(metadata["owner"], "alice");
        assert_eq!(metadata["theirs"], json!({"a": 1}));
        assert_ne!(metadata["synced_at"], "never");
        assert_eq!(metadata["supabase_agent_id"], json!(Uuid::nil()));
    }
}

#[tokio::test]
async fn an_insert_leaves_alone_what_somebody_made_meanwhile() {
    for place in Place::all().await {
        let (id, content) = (id(), content("Count."));
        place.make(id, json!({"owner": "mallory"})).await;
        let before = place.read(id).await;
        // It was not there when the syncer looked.
        let write = [write(id, SYSTEM, &content, How::Insert)];
        let written = place.write_unseen(&write, &HashMap::new()).await;
        assert!(!written.is_done(id), "{}", place.name());
        assert!(written.stopped.is_none());
        assert_eq!(place.read(id).await, before, "{}", place.name());
    }
}

#[tokio::test]
async fn an_update_replaces_what_the_agent_said_and_keeps_foreign_metadata() {
    for place in Place::all().await {
        let (id, before) = (id(), content("Count."));
        place
            .write(&[write(id, SYSTEM, &before, How::Insert)])
            .await;
        place
            .patch(id, SYSTEM, json!({"metadata": {"pinned": true}}))
            .await;
        let after = Content::of(
            Agent {
                name: Some("Grace".to_owned()),
                ..Agent::default()
            },
            "another",
        );
        let written = place.write(&[write(id, SYSTEM, &after, How::Update)]).await;
        assert!(written.is_done(id), "{}: {written:?}", place.name());
        let made = place.read(id).await.expect("it is there");
        assert_eq!(made["name"], "Grace");
        // Nothing of what it was before, and no null in its place that a runtime could stumble over.
        assert_eq!(
            made["config"]["configurable"],
            json!({"model_name": "another"}),
            "{}",
            place.name()
        );
        assert_eq!(made["context"], made["config"]["configurable"]);
        assert_eq!(made["description"].as_str().unwrap_or_default(), "");
        assert_eq!(made["metadata"]["pinned"], true, "{}", place.name());
        assert!(
            made["metadata"]["supabase_organization_id"].is_null(),
            "{}",
            place.name()
        );
        assert_eq!(made["version"], 3, "{}", place.name());
    }
}

#[tokio::test]
async fn who_gets_an_assistant_gets_nothing_of_the_one_before() {
    for place in Place::all().await {
        let (given, adopted, content) = (id(), id(), content("Count."));
        place
            .write(&[write(given, "alice", &content, How::Insert)])
            .await;
        place
            .patch(given, "alice", json!({"metadata": {"secret": "hers"}}))
            .await;
        place
            .make(adopted, json!({"owner": SYSTEM, "secret": "hers"}))
            .await;
        let writes = [
            write(given, SYSTEM, &content, How::HandOver),
            write(adopted, "bob", &content, How::Adopt),
        ];
        let written = place.write(&writes).await;
        for (id, owner) in [(given, SYSTEM), (adopted, "bob")] {
            assert!(written.is_done(id), "{}: {written:?}", place.name());
            let made = place.read(id).await.expect("it is there");
            assert_eq!(made["metadata"]["owner"], owner);
            assert!(
                made["metadata"]["secret"].is_null(),
                "{}: {made}",
                place.name()
            );
            assert_eq!(made["graph_id"], "agent");
            assert!(made["config"]["configurable"]["theirs"].is_null());
            assert!(made["context"]["theirs"].is_null());
        }
    }
}

#[tokio::test]
async fn only_the_systems_is_adopted_even_when_it_has_changed_hands_since() {
    for place in Place::all().await {
        let (id, content) = (id(), content("Count."));
        place.make(id, json!({"owner": "mallory"})).await;
        let before = place.read(id).await;
        let written = place
            .write(&[write(id, SYSTEM, &content, How::Adopt)])
            .await;
        assert!(!written.is_done(id), "{}", place.name());
        assert_eq!(place.read(id).await, before, "{}", place.name());
    }
}

#[tokio::test]
async fn what_is_gone_is_not_updated() {
    for place in Place::all().await {
        let (id, content) = (id(), content("Count."));
        for how in [How::Update, How::HandOver, How::Adopt] {
            let written = place.write(&[write(id, SYSTEM, &content, how)]).await;
            assert!(!written.is_done(id), "{} {how:?}", place.name());
            assert_eq!(place.read(id).await, None);
        }
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_what_is_gone_is_deleted() {
    for place in Place::all().await {
        let (one, other, content) = (id(), id(), content("Count."));
        let writes = [one, other].map(|id| write(id, SYSTEM, &content, How::Insert));
        place.write(&writes).await;
        for _ in 0..2 {
            let deleted = place.delete(&[one]).await;
            assert!(deleted.is_done(one), "{}", place.name());
            assert_eq!(place.read(one).await, None);
        }
        assert!(place.read(other).await.is_some(), "{}", place.name());
    }
}

#[tokio::test]
async fn a_fingerprint_moves_with_what_an_agent_says_and_with_nothing_else() {
    for place in Place::all().await {
        let (id, content) = (id(), content("Count."));
        let seen = async || place.observe(&[id]).await[&id].row_hash.clone();
        let written = place
            .write(&[write(id, SYSTEM, &content, How::Insert)])
            .await;
        let hash = row_hash(&written, id);
        assert_eq!(seen().await, hash, "{}", place.name());
        place
            .patch(id, SYSTEM, json!({"metadata": {"pinned": true}}))
            .await;
        assert_eq!(seen().await, hash, "{}", place.name());
        let again = place
            .write(&[write(id, SYSTEM, &content, How::Update)])
            .await;
        assert_eq!(row_hash(&again, id), hash, "{}", place.name());
        let others = self::content("Count twice.");
        let written = place
            .write(&[write(id, SYSTEM, &others, How::Update)])
            .await;
        assert_ne!(row_hash(&written, id), hash);
        let written = place
            .write(&[write(id, "bob", &content, How::HandOver)])
            .await;
        assert_ne!(row_hash(&written, id), hash);
    }
}

#[tokio::test]
async fn many_are_written_observed_and_deleted_at_once() {
    for place in Place::all().await {
        let content = content("Count.");
        let ids: Vec<AssistantId> = (0..120).map(|_| id()).collect();
        let writes: Vec<_> = ids
            .iter()
            .map(|id| write(*id, SYSTEM, &content, How::Insert))
            .collect();
        let written = place.write(&writes).await;
        assert!(
            ids.iter().all(|id| written.is_done(*id)),
            "{}",
            place.name()
        );
        let observed = place.observe(&[ids.as_slice(), &[id()]].concat()).await;
        assert_eq!(observed.len(), 120, "{}", place.name());
        assert!(
            observed
                .values()
                .all(|row| row.owner.as_deref() == Some(SYSTEM))
        );
        let deleted = place.delete(&ids).await;
        assert!(
            ids.iter().all(|id| deleted.is_done(*id)),
            "{}",
            place.name()
        );
        assert_eq!(place.observe(&ids).await.len(), 0);
    }
}
