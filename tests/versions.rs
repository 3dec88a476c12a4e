//! What an assistant was before: listed, restored, bounded, and nobody's but those who may see what it is.

use agent_sync::access::Access;
use agent_sync::config::{ROBYN_DEV, SCOPE, Settings};
use agent_sync::ids::AgentId;
use agent_sync::ledger;
use agent_sync::sql;
use agent_sync::syncer::{Entrance, Syncer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Project, TestDatabase, TestWorker, eventually};

const DEV: &[(&str, &str)] = &[(ROBYN_DEV, "true")];

/// Those that are kept besides the current one.
const KEPT: i64 = 20;

/// A worker on each store.
async fn workers() -> Vec<TestWorker> {
    let db = TestDatabase::new().await;
    vec![
        TestWorker::start_with(DEV).await,
        TestWorker::start(&db, DEV).await,
    ]
}

/// An assistant, and a client who may do everything with it.
struct Client<'a> {
    worker: &'a TestWorker,
    path: String,
}

impl<'a> Client<'a> {
    /// Of an assistant that is made like this.
    async fn made(worker: &'a TestWorker, body: Value) -> (Self, Value) {
        let (status, made) = worker.create(body).await;
        assert_eq!(status, 200, "{made}");
        let id = made["assistant_id"].as_str().expect("an id");
        (Self::of(worker, id), made)
    }

    fn of(worker: &'a TestWorker, id: impl std::fmt::Display) -> Self {
        let path = format!("/assistants/{id}");
        Self { worker, path }
    }

    async fn patch(&self, body: Value) -> Value {
        let (status, patched) = self.worker.request("PATCH", &self.path, Some(&body)).await;
        assert_eq!(status, 200, "{patched}");
        patched
    }

    async fn get(&self) -> Value {
        self.worker.request("GET", &self.path, None).await.1
    }

    async fn post(&self, part: &str, body: Value) -> (u16, Value) {
        let path = format!("{}/{part}", self.path);
        self.worker.request("POST", &path, Some(&body)).await
    }

    async fn versions(&self, body: Value) -> Vec<Value> {
        let (status, listed) = self.post("versions", body).await;
        assert_eq!(status, 200, "{listed}");
        listed.as_array().expect("an array").clone()
    }

    async fn numbers(&self) -> Vec<i64> {
        let listed = self.versions(json!({"limit": 1000})).await;
        listed.iter().map(number).collect()
    }

    async fn restore(&self, version: i64) -> Value {
        let (status, restored) = self.post("latest", json!({"version": version})).await;
        assert_eq!(status, 200, "{restored}");
        restored
    }
}

fn number(version: &Value) -> i64 {
    version["version"].as_i64().expect("a version")
}

/// What an answer says of an assistant is one of its versions: all keys but one, and the time is when it became so.
fn as_version(answer: &Value) -> Value {
    let mut version = answer.clone();
    let fields = version.as_object_mut().expect("an object");
    let updated_at = fields.remove("updated_at").expect("a time");
    fields.insert("created_at".to_owned(), updated_at);
    version
}

#[tokio::test]
async fn every_patch_makes_a_version_and_the_newest_is_listed_first() {
    for worker in workers().await {
        let body = json!({"graph_id": "g", "name": "one", "metadata": {"a": 1}});
        let (client, made) = Client::made(&worker, body).await;
        let mut expected = vec![as_version(&made)];
        for patch in [
            json!({"config": {"tags": ["t"], "configurable": {"k": 1}}}),
            json!({"graph_id": "h", "description": "d", "metadata": {"b": {"c": 2}}}),
            json!({}),
        ] {
            expected.insert(0, as_version(&client.patch(patch).await));
        }
        assert_eq!(client.versions(json!({})).await, expected);
        for (body, listed) in [
            (json!({"limit": 1}), &expected[..1]),
            (json!({"limit": 2, "offset": 1}), &expected[1..3]),
            (json!({"offset": 3}), &expected[3..]),
            (json!({"metadata": {}}), &expected[..]),
            (json!({"metadata": {"b": {"c": 2}}}), &expected[..2]),
            (
                json!({"metadata": {"b": {"c": 2}}, "offset": 1}),
                &expected[1..2],
            ),
            (json!({"limit": 1000, "unknown": true}), &expected[..]),
        ] {
            assert_eq!(client.versions(body.clone()).await, listed, "{body}");
        }
        let id = made["assistant_id"].as_str().expect("an id");
        let none = json!({"detail": format!("Assistant {id} not found")});
        for body in [
            json!({"offset": 4}),
            json!({"offset": i64::MAX, "limit": 1000}),
            json!({"metadata": {"b": 1}}),
        ] {
            assert_eq!(
                client.post("versions", body.clone()).await,
                (404, none.clone()),
                "{body}"
            );
        }
        for body in [
            json!([]),
            json!({"limit": 0}),
            json!({"limit": 1001}),
            json!({"offset": -1}),
            json!({"metadata": null}),
        ] {
            assert_eq!(client.post("versions", body.clone()).await.0, 422, "{body}");
        }
        let deleted = worker.request("DELETE", &client.path, None).await;
        assert_eq!(deleted.0, 204);
        assert_eq!(client.post("versions", json!({})).await, (404, none));
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_version_is_restored_as_a_whole_and_the_next_change_comes_after_all_others() {
    for worker in workers().await {
        let body = json!({"graph_id": "g", "name": "one", "description": "first", "context": {"k": 1}, "metadata": {"a": 1}});
        let (client, made) = Client::made(&worker, body).await;
        client
            .patch(
                json!({"graph_id": "h", "name": "two", "context": {"k": 2}, "metadata": {"b": 2}}),
            )
            .await;
        client.patch(json!({"name": "three"})).await;
        let before = client.versions(json!({})).await;
        let restored = client.restore(1).await;
        for (key, value) in made.as_object().expect("an object") {
            match key.as_str() {
                "updated_at" => assert_ne!(&restored[key], value),
                _ => assert_eq!(&restored[key], value, "{key}"),
            }
        }
        assert_eq!(client.get().await, restored);
        assert_eq!(client.versions(json!({})).await, before, "none is new");
        let again = client.restore(1).await;
        assert_eq!(again["version"], 1);
        assert_eq!(client.versions(json!({})).await, before);

        let patched = client.patch(json!({"metadata": {"c": 3}})).await;
        assert_eq!(patched["version"], 4);
        assert_eq!(
            (&patched["name"], &patched["metadata"]),
            (&json!("one"), &json!({"a": 1, "c": 3, "owner": "dev"}))
        );
        let mut expected = before;
        expected.insert(0, as_version(&patched));
        assert_eq!(client.versions(json!({})).await, expected);
        client.restore(4).await;
        client.restore(3).await;
        assert_eq!(client.get().await["name"], "three");

        let id = made["assistant_id"].as_str().expect("an id");
        let missing = |version: &str| json!({"detail": format!("Version {version} not found for assistant {id}")});
        for (body, version) in [
            (json!({"version": 5}), "5"),
            (json!({"version": 0}), "0"),
            (json!({"version": 99_999_999_999_i64}), "99999999999"),
            (json!({}), "None"),
        ] {
            let answer = client.post("latest", body).await;
            assert_eq!(answer, (404, missing(version)));
        }
        for body in [json!([]), json!({"version": "1"}), json!({"version": null})] {
            assert_eq!(client.post("latest", body.clone()).await.0, 422, "{body}");
        }
        let nobodys = Uuid::new_v4();
        let answer = Client::of(&worker, nobodys)
            .post("latest", json!({"version": 1}))
            .await;
        let none = json!({"detail": format!("Assistant {nobodys} not found")});
        assert_eq!(answer, (404, none));
        worker.stop().await;
    }
}

#[tokio::test]
async fn the_twenty_before_the_newest_are_kept() {
    for worker in workers().await {
        let (client, _) = Client::made(&worker, json!({"graph_id": "g"})).await;
        for n in 2..=25 {
            let patched = client.patch(json!({"name": n.to_string()})).await;
            assert_eq!(number(&patched), n);
        }
        let expected = |newest: i64| -> Vec<i64> { (newest - KEPT..=newest).rev().collect() };
        assert_eq!(client.numbers().await, expected(25));
        assert_eq!(client.post("latest", json!({"version": 4})).await.0, 404);
        // Whichever is the current one.
        client.restore(6).await;
        assert_eq!(client.numbers().await, expected(25));
        client.patch(json!({"name": "26"})).await;
        assert_eq!(client.numbers().await, expected(26));
        client.restore(6).await;
        client.patch(json!({"name": "27"})).await;
        assert_eq!(client.numbers().await, expected(27));
        worker.stop().await;
    }
}

/// A database that is migrated, a user's assistant of an agent, and a syncer; no worker runs.
async fn synced() -> (TestDatabase, Syncer, AgentId) {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, DEV).await;
    let agent = db.agent("a").await;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}});
    assert_eq!(worker.create(body).await.0, 200);
    worker.stop().await;
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    (db, syncer, AgentId(agent))
}

#[tokio::test]
async fn each_edit_of_an_agent_makes_a_version_and_twenty_are_kept() {
    let (db, syncer, agent) = synced().await;
    for n in 2..=25 {
        let edit = format!("update public.agents set system_prompt = 'prompt {n}'");
        db.execute(&edit).await;
        let synced = syncer.sync_now(&[agent], Entrance::Change).await;
        synced.expect("synced");
    }
    let worker = TestWorker::start(&db, DEV).await;
    let client = Client::of(&worker, agent.0);
    let listed = client.versions(json!({"limit": 1000})).await;
    let numbers: Vec<i64> = listed.iter().map(number).collect();
    assert_eq!(numbers, (25 - KEPT..=25).rev().collect::<Vec<_>>());
    for version in &listed {
        let prompt = &version["config"]["configurable"]["system_prompt"];
        assert_eq!(*prompt, format!("prompt {}", number(version)));
        assert_eq!(version["context"], version["config"]["configurable"]);
    }
    let times = |version: &Value| version["created_at"].as_str().map(str::to_owned);
    assert!(listed.is_sorted_by_key(|version| std::cmp::Reverse(times(version))));
    // What its owner adds is a version, too.
    client.patch(json!({"metadata": {"mine": 1}})).await;
    let [newest, before] = &client.versions(json!({"limit": 2})).await[..] else {
        panic!("two versions")
    };
    assert_eq!(*before, listed[0]);
    assert_eq!(
        (number(newest), &newest["metadata"]["mine"]),
        (26, &json!(1))
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_synced_assistant_is_not_restored_but_edited() {
    let (db, syncer, agent) = synced().await;
    db.execute("update public.agents set name = 'b'").await;
    let synced = syncer.sync_now(&[agent], Entrance::Change).await;
    synced.expect("synced");
    let worker = TestWorker::start(&db, DEV).await;
    let client = Client::of(&worker, agent.0);
    let before = client.get().await;
    for version in [1, 2, 3] {
        let (status, answer) = client.post("latest", json!({"version": version})).await;
        let detail = answer["detail"].as_str().expect("a detail");
        assert!(
            status == 409
                && detail.contains("edit the agent")
                && detail.contains(&agent.to_string()),
            "{answer}"
        );
    }
    assert_eq!(client.get().await, before);
    assert_eq!(client.numbers().await, [2, 1]);
    worker.stop().await;
}

/// An assistant that is made writes nothing but itself, and so does one that is as it should be.
#[tokio::test]
async fn only_what_changes_has_versions() {
    let db = TestDatabase::new().await;
    for name in ["a", "b", "c"] {
        db.agent(name).await;
    }
    let all = [DEV, &[(SCOPE, "all")]].concat();
    let worker = TestWorker::start(&db, &all).await;
    db.converged().await;
    Client::made(&worker, json!({"graph_id": "g"})).await;
    worker.stop().await;
    TestWorker::start(&db, &all).await.stop().await;
    assert_eq!(db.count("langgraph_server.assistants").await, 4);
    assert_eq!(db.count("agent_sync.versions").await, 0);
}

#[tokio::test]
async fn what_is_deleted_leaves_no_versions() {
    let (db, syncer, agent) = synced().await;
    let versions = "agent_sync.versions";
    for (how, by_client) in [("status = 'disabled'", false), ("name = name", true)] {
        db.execute("update public.agents set status = 'active', name = name || '!'")
            .await;
        syncer
            .sync_now(&[agent], Entrance::Change)
            .await
            .expect("synced");
        db.execute("update public.agents set name = name || '!'")
            .await;
        syncer
            .sync_now(&[agent], Entrance::Change)
            .await
            .expect("synced");
        assert_ne!(db.count(versions).await, 0, "{how}");
        if by_client {
            let worker = TestWorker::start(&db, DEV).await;
            let (client, _) = Client::made(&worker, json!({"graph_id": "g"})).await;
            client.patch(json!({"name": "n"})).await;
            for path in [client.path, format!("/assistants/{agent}")] {
                assert_eq!(worker.request("DELETE", &path, None).await.0, 204);
            }
            worker.stop().await;
        } else {
            db.execute(&format!("update public.agents set {how}")).await;
            syncer
                .sync_now(&[agent], Entrance::Change)
                .await
                .expect("synced");
        }
        assert_eq!(db.count(versions).await, 0, "{how}");
    }
}

/// The scope comes to cover an agent that a user has: the assistant becomes everybody's, what it was does not.
#[tokio::test]
async fn what_an_assistant_was_for_its_former_owner_is_not_the_next_ones_to_see() {
    let (db, _, agent) = synced().await;
    let worker = TestWorker::start(&db, DEV).await;
    let client = Client::of(&worker, agent.0);
    client.patch(json!({"metadata": {"secret": 1}})).await;
    client.patch(json!({"metadata": {"secret": 2}})).await;
    assert_eq!(client.numbers().await, [3, 2, 1]);
    worker.stop().await;
    let worker = TestWorker::start(&db, &[DEV, &[(SCOPE, "all")]].concat()).await;
    let client = Client::of(&worker, agent.0);
    assert_eq!(client.get().await["metadata"]["owner"], "system");
    assert_eq!(client.numbers().await, [4]);
    assert_eq!(db.count("agent_sync.versions").await, 0);
    worker.stop().await;
}

/// A user who is a member of both organizations, so that the assistant stays.
#[tokio::test]
async fn what_an_agent_said_in_another_organization_goes() {
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let (organization, user) = db.organization().await;
    let (other, _) = db.organization().await;
    let agent = db.agent("a").await;
    db.execute(&format!(
        "insert into public.organization_members values ('{other}', '{user}');
         update public.agents set organization_id = '{organization}'"
    ))
    .await;
    let worker = TestWorker::start(&db, &project.variables()).await;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}});
    let made = worker.create_as(&project.token(user), body).await;
    assert_eq!(made.0, 200, "{made:?}");
    let versions = async |expected: &[&str]| {
        let path = format!("/assistants/{agent}/versions");
        let token = project.token(user);
        let (_, listed) = worker
            .request_as(&token, "POST", &path, Some(&json!({})))
            .await;
        let prompts: Vec<_> = listed
            .as_array()
            .expect("an array")
            .iter()
            .map(|version| version["config"]["configurable"]["system_prompt"].clone())
            .collect();
        assert_eq!(prompts, expected);
    };
    let edited = async |prompt: &str, organization: Uuid| {
        db.execute(&format!(
            "update public.agents set system_prompt = '{prompt}', organization_id = '{organization}'"
        ))
        .await;
        db.prompted(agent, prompt).await;
    };
    edited("second", organization).await;
    versions(&["second", "You are a."]).await;
    edited("third", other).await;
    versions(&["third"]).await;
    edited("fourth", other).await;
    versions(&["fourth", "third"]).await;
    // Nor does it come back.
    edited("fifth", organization).await;
    versions(&["fifth"]).await;
    worker.stop().await;
}

/// The syncer's statement begins, a client's change is committed, and only then the statement gets the row: nothing of either is
/// lost, and where the assistant changes hands nothing of the client's is seen.
#[tokio::test]
async fn what_is_changed_while_a_batch_is_on_its_way_becomes_a_version_too() {
    for (owner, expected) in [
        ("dev", &["theirs", "second", "first"][..]),
        ("system", &["theirs"]),
    ] {
        let db = TestDatabase::new().await;
        let worker = TestWorker::start(&db, DEV).await;
        let body = json!({"graph_id": "g", "name": "first"});
        let (client, made) = Client::made(&worker, body).await;
        let id = made["assistant_id"].as_str().expect("an id").to_owned();
        db.execute("select pg_advisory_lock(1)").await;
        let late = "where (select pg_advisory_lock(1)) is not null and a.id = any";
        let statement = ledger::entering(sql!("assistants_update"));
        let statement = statement.replacen("where a.id = any", late, 1);
        assert!(statement.contains(late));
        let params = format!(
            r#"prepare batch as {statement}
               execute batch ('{{{id}}}', '{{{id}}}', '{{null}}', '{{{owner}}}', '{{x}}', '{{null}}', '{{g}}', '{{theirs}}', '{{null}}',
                 array['{{}}'], array['{{"owner": "{owner}"}}'], '{{f}}', '{{f}}')"#
        );
        let session = db.connect().await;
        let batch = tokio::spawn(async move { session.batch_execute(&params).await });
        db.somebody_waits_for_an_agent().await;
        client.patch(json!({"name": "second"})).await;
        db.execute("select pg_advisory_unlock(1)").await;
        batch.await.expect("ran").expect("written");
        let listed = client.versions(json!({})).await;
        let names: Vec<_> = listed.iter().map(|version| &version["name"]).collect();
        assert_eq!(names, expected);
        assert_eq!(number(&listed[0]), 3);
        worker.stop().await;
    }
}

/// However they came to be left: by whoever deletes assistants behind our back, or in a race.
#[tokio::test]
async fn versions_of_somebody_elses_are_neither_listed_nor_restored() {
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let worker = TestWorker::start(&db, &project.variables()).await;
    let (alice, id) = (Uuid::new_v4(), Uuid::new_v4());
    let token = project.token(alice);
    let body = json!({"graph_id": "g", "assistant_id": id, "name": "hers"});
    let made = worker.create_as(&token, body).await;
    assert_eq!(made.0, 200, "{made:?}");
    let path = format!("/assistants/{id}");
    let patch = json!({"name": "hers still"});
    let patched = worker
        .request_as(&token, "PATCH", &path, Some(&patch))
        .await;
    assert_eq!(patched.0, 200, "{patched:?}");
    let org = Uuid::new_v4();
    db.execute(&format!(
        r#"insert into agent_sync.versions (assistant_id, version, graph_id, config, name, metadata, created_at) values
           ('{id}', 7, 'g', '{{}}', 'bobs', '{{"owner": "{}"}}', now()),
           ('{id}', 8, 'g', '{{}}', 'nobodys', null, now()),
           ('{id}', 9, 'g', '{{}}', 'theirs', '{{"owner": "{alice}", "supabase_organization_id": "{org}"}}', now())"#,
        Uuid::new_v4()
    ))
    .await;
    let post = async |part: &str, body: Value| {
        let path = format!("{path}/{part}");
        worker.request_as(&token, "POST", &path, Some(&body)).await
    };
    let (_, listed) = post("versions", json!({})).await;
    let names: Vec<_> = listed
        .as_array()
        .expect("an array")
        .iter()
        .map(|version| &version["name"])
        .collect();
    assert_eq!(names, ["hers still", "hers"]);
    for version in [7, 8, 9] {
        let answer = post("latest", json!({"version": version})).await;
        assert_eq!(answer.0, 404, "{answer:?}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn who_takes_a_deleted_assistants_id_gets_nothing_that_it_was() {
    let (db, syncer, agent) = synced().await;
    let worker = TestWorker::start(&db, DEV).await;
    let (client, made) = Client::made(&worker, json!({"graph_id": "g", "name": "first"})).await;
    for client in [client, Client::of(&worker, agent.0)] {
        client.patch(json!({"metadata": {"mine": 1}})).await;
        client.patch(json!({"metadata": {"mine": 2}})).await;
        assert_eq!(client.numbers().await, [3, 2, 1]);
    }
    worker.stop().await;
    // Behind our back, as a runtime that shares the table does.
    db.execute("delete from langgraph_server.assistants").await;
    let worker = TestWorker::start(&db, DEV).await;
    let again = json!({"graph_id": "g", "assistant_id": made["assistant_id"]});
    let (client, _) = Client::made(&worker, again).await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    for client in [client, Client::of(&worker, agent.0)] {
        assert_eq!(client.numbers().await, [1]);
        client.patch(json!({"metadata": {"mine": 2}})).await;
        assert_eq!(client.numbers().await, [2, 1]);
    }
    // One that is there keeps what it has.
    let taken = json!({"graph_id": "g", "assistant_id": made["assistant_id"]});
    assert_eq!(worker.create(taken).await.0, 409);
    assert_eq!(db.count("agent_sync.versions").await, 2);
    worker.stop().await;
}

#[tokio::test]
async fn what_is_left_of_assistants_that_are_gone_goes_at_the_next_resync() {
    let db = TestDatabase::new().await;
    let often = [DEV, &[("AGENT_SYNC_RESYNC_INTERVAL", "100ms")]].concat();
    let worker = TestWorker::start(&db, &often).await;
    let (gone, made) = Client::made(&worker, json!({"graph_id": "g"})).await;
    let (kept, _) = Client::made(&worker, json!({"graph_id": "g"})).await;
    for client in [&gone, &kept] {
        client.patch(json!({"name": "n"})).await;
    }
    let id = made["assistant_id"].as_str().expect("an id");
    db.execute(&format!(
        "delete from langgraph_server.assistants where id = '{id}'"
    ))
    .await;
    eventually("nothing is left", || async {
        match db.count("agent_sync.versions").await {
            1 => Ok(()),
            n => Err(format!("{n} versions")),
        }
    })
    .await;
    assert_eq!(kept.numbers().await, [2, 1]);
    worker.stop().await;
}

/// What is everybody's who may see its agent was so all along; and who may not see it learns nothing of it.
#[tokio::test]
async fn who_may_see_an_assistant_may_see_what_it_was_and_nobody_else() {
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let (organization, member) = db.organization().await;
    let agent = db.agent("a").await;
    db.execute(&format!(
        "update public.agents set organization_id = '{organization}'"
    ))
    .await;
    let variables = [&project.variables()[..], &[(SCOPE, "all")]].concat();
    let worker = TestWorker::start(&db, &variables).await;
    db.execute("update public.agents set system_prompt = 'new'")
        .await;
    db.prompted(agent, "new").await;
    let ask = async |user: Uuid, method: &str, part: &str, body: Value| {
        let path = format!("/assistants/{agent}/{part}");
        let token = project.token(user);
        worker.request_as(&token, method, &path, Some(&body)).await
    };
    let (status, listed) = ask(member, "POST", "versions", json!({})).await;
    assert_eq!((status, listed.as_array().map(Vec::len)), (200, Some(2)));
    let (status, answer) = ask(member, "POST", "latest", json!({"version": 1})).await;
    assert_eq!(status, 409, "{answer}");
    let (status, schemas) = ask(member, "GET", "schemas", json!({})).await;
    let unknown = json!({"graph_id": "agent", "input_schema": null, "output_schema": null, "state_schema": null,
        "config_schema": null, "context_schema": null});
    assert_eq!((status, schemas), (200, unknown));
    for part in ["graph", "subgraphs", "subgraphs/x"] {
        let (status, answer) = ask(member, "GET", part, json!({})).await;
        let detail = answer["detail"].as_str().expect("a detail");
        assert!(
            status == 404 && detail.contains("has no graphs"),
            "{answer}"
        );
    }

    let stranger = Uuid::new_v4();
    let none = json!({"detail": format!("Assistant {agent} not found")});
    for (part, body) in [("versions", json!({})), ("latest", json!({"version": 1}))] {
        let answer = ask(stranger, "POST", part, body).await;
        assert_eq!(answer, (404, none.clone()), "{part}");
    }
    for part in ["schemas", "graph", "subgraphs"] {
        let answer = ask(stranger, "GET", part, json!({})).await;
        assert_eq!(answer, (404, json!({"detail": "Not Found"})), "{part}");
    }
    // Not even that it is too large.
    db.execute(
        "update agent_sync.versions set config = jsonb_build_object('x', repeat('y', 17000000))",
    )
    .await;
    let (status, answer) = ask(member, "POST", "versions", json!({})).await;
    let detail = answer["detail"].as_str().expect("a detail");
    assert!(status == 422 && detail.contains("16 MiB"), "{answer}");
    let (status, _) = ask(member, "POST", "versions", json!({"limit": 1})).await;
    assert_eq!(status, 200);
    let answer = ask(stranger, "POST", "versions", json!({})).await;
    assert_eq!(answer, (404, none));
    worker.stop().await;
}

#[tokio::test]
async fn in_memory_a_page_of_versions_has_its_limit_too() {
    let variables = [(ROBYN_DEV, "true"), ("AGENT_SYNC_MAX_BODY", "4M")];
    let worker = TestWorker::start_with(&variables).await;
    let (client, _) = Client::made(&worker, json!({"graph_id": "g"})).await;
    for n in 0..17 {
        let large = format!("{n}").repeat(1_000_000 / format!("{n}").len());
        client.patch(json!({"config": {"x": large}})).await;
    }
    let (status, answer) = client.post("versions", json!({"limit": 17})).await;
    let detail = answer["detail"].as_str().expect("a detail");
    assert!(status == 422 && detail.contains("16 MiB"), "{detail}");
    assert_eq!(client.versions(json!({"limit": 16})).await.len(), 16);
    worker.stop().await;
}
