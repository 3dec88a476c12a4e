//! Who gets which assistant: the design's table, on the syncer itself, since the API knows only one caller yet.

use agent_sync::access::Access;
use agent_sync::config::Settings;
use agent_sync::ids::{AgentId, AssistantId};
use agent_sync::plan::{Answer, Claim, IfExists, MOST};
use agent_sync::syncer::{Entrance, Released, Syncer};
use serde_json::Map;
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker};

fn claim(owner: &str) -> Claim {
    Claim {
        owner: owner.to_owned(),
        identity: None,
        assistant_id: None,
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    }
}

fn named(owner: &str, id: Uuid, if_exists: IfExists) -> Claim {
    Claim {
        assistant_id: Some(AssistantId(id)),
        if_exists,
        ..claim(owner)
    }
}

/// A database that is migrated, with an agent in it, and a syncer; no worker runs.
async fn setting() -> (TestDatabase, Syncer, AgentId) {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    let agent = AgentId(db.agent("a").await);
    let syncer = Syncer::new(db.pool(), Access::open(), Settings::default());
    (db, syncer, agent)
}

async fn ask(syncer: &Syncer, agent: AgentId, claim: &Claim) -> Option<Answer> {
    syncer
        .sync_now(&[agent], Entrance::Request(claim))
        .await
        .expect("synced")
        .answer
}

async fn owner(db: &TestDatabase, id: AssistantId) -> String {
    db.assistant(id.0).await.expect("an assistant")["metadata"]["owner"]
        .as_str()
        .expect("an owner")
        .to_owned()
}

#[tokio::test]
async fn the_first_who_asks_gets_the_canonical_one_and_the_next_a_copy() {
    let (db, syncer, agent) = setting().await;
    let copy = AssistantId(Uuid::new_v5(&agent.0, b"bob"));
    for _ in 0..2 {
        assert_eq!(
            ask(&syncer, agent, &claim("alice")).await,
            Some(Answer::Assistant(agent.canonical()))
        );
        assert_eq!(
            ask(&syncer, agent, &claim("bob")).await,
            Some(Answer::Assistant(copy))
        );
    }
    assert_eq!(
        (owner(&db, agent.canonical()).await, owner(&db, copy).await),
        ("alice".into(), "bob".into())
    );

    // Both are kept in step, disabled and enabled together, under their ids and owners.
    db.execute("update public.agents set name = 'b'").await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(
        db.count("langgraph_server.assistants where name = 'b' and version = 2")
            .await,
        2
    );
    db.execute("update public.agents set status = 'disabled'")
        .await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
    assert_eq!(ask(&syncer, agent, &claim("carol")).await, None);
    db.execute("update public.agents set status = 'active'")
        .await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(
        (owner(&db, agent.canonical()).await, owner(&db, copy).await),
        ("alice".into(), "bob".into())
    );
}

#[tokio::test]
async fn what_is_the_systems_is_everybodys() {
    let (db, syncer, agent) = setting().await;
    db.execute("insert into agent_sync.settings (scope) values ('all') on conflict (singleton) do update set scope = 'all'").await;
    assert_eq!(
        ask(&syncer, agent, &claim("alice")).await,
        Some(Answer::Assistant(agent.canonical()))
    );
    assert_eq!(owner(&db, agent.canonical()).await, "system");
    assert_eq!(db.count("langgraph_server.assistants").await, 1);
}

#[tokio::test]
async fn the_agents_own_id_named_by_a_second_user() {
    let (db, syncer, agent) = setting().await;
    ask(&syncer, agent, &claim("alice")).await;
    assert_eq!(
        ask(&syncer, agent, &named("bob", agent.0, IfExists::Raise)).await,
        Some(Answer::Taken)
    );
    assert_eq!(db.count("langgraph_server.assistants").await, 1);
    let copy = agent.copy_for("bob");
    assert_eq!(
        ask(&syncer, agent, &named("bob", agent.0, IfExists::DoNothing)).await,
        Some(Answer::Assistant(copy))
    );
    assert_eq!(owner(&db, copy).await, "bob");
}

#[tokio::test]
async fn a_named_id_of_another_users_synced_assistant_is_taken() {
    let (_db, syncer, agent) = setting().await;
    let id = Uuid::new_v4();
    assert_eq!(
        ask(&syncer, agent, &named("alice", id, IfExists::Raise)).await,
        Some(Answer::Assistant(AssistantId(id)))
    );
    for if_exists in [IfExists::Raise, IfExists::DoNothing] {
        assert_eq!(
            ask(&syncer, agent, &named("bob", id, if_exists)).await,
            Some(Answer::Taken)
        );
    }
    assert_eq!(
        ask(&syncer, agent, &named("alice", id, IfExists::DoNothing)).await,
        Some(Answer::Assistant(AssistantId(id)))
    );
}

/// Each is written with every edit of the agent: without a limit one user could keep the worker busy for all.
#[tokio::test]
async fn one_user_has_at_most_ten_assistants_of_an_agent() {
    let (db, syncer, agent) = setting().await;
    for n in 0..12 {
        let id = Uuid::new_v4();
        let expected = match n < MOST {
            true => Answer::Assistant(AssistantId(id)),
            false => Answer::TooMany,
        };
        assert_eq!(
            ask(&syncer, agent, &named("mallory", id, IfExists::Raise)).await,
            Some(expected)
        );
    }
    assert_eq!(db.count("langgraph_server.assistants").await, 10);
    assert_eq!(db.count("agent_sync.ledger").await, 10);
    // Others have their own ten.
    let id = Uuid::new_v4();
    assert_eq!(
        ask(&syncer, agent, &named("alice", id, IfExists::Raise)).await,
        Some(Answer::Assistant(AssistantId(id)))
    );
}

#[tokio::test]
async fn squatted_ids_are_never_filled() {
    let (db, syncer, agent) = setting().await;
    let squat = |id: AssistantId| {
        format!(
            "insert into langgraph_server.assistants (id, metadata) values ('{id}', '{{\"owner\": \"mallory\", \"supabase_agent_id\": \"{agent}\"}}')"
        )
    };
    db.execute(&squat(agent.canonical())).await;
    let copy = agent.copy_for("alice");
    assert_eq!(
        ask(&syncer, agent, &claim("alice")).await,
        Some(Answer::Assistant(copy))
    );

    db.execute(&squat(agent.copy_for("bob"))).await;
    let Some(Answer::Assistant(random)) = ask(&syncer, agent, &claim("bob")).await else {
        panic!("bob gets one")
    };
    assert!(random != agent.canonical() && random != agent.copy_for("bob"));
    assert_eq!(
        ask(&syncer, agent, &claim("bob")).await,
        Some(Answer::Assistant(random)),
        "kept in the ledger"
    );
    assert_eq!(
        db.count(
            "langgraph_server.assistants where metadata ->> 'owner' = 'mallory' and config is null"
        )
        .await,
        2
    );
}

#[tokio::test]
async fn an_id_that_was_squatted_while_its_agent_was_off_is_not_filled_when_it_is_on_again() {
    let (db, syncer, agent) = setting().await;
    db.execute("insert into agent_sync.settings (scope) values ('all') on conflict (singleton) do update set scope = 'all'").await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    db.execute("update public.agents set status = 'disabled'")
        .await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, metadata) values ('{agent}', '{{\"owner\": \"mallory\"}}');
         update public.agents set status = 'active'"
    ))
    .await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(owner(&db, agent.canonical()).await, "mallory");
    assert_eq!(
        db.count("agent_sync.ledger where state = 'conflict'").await,
        1
    );
}

#[tokio::test]
async fn one_agents_named_id_cannot_be_another_agents_assistant() {
    let (db, syncer, agent) = setting().await;
    let other = AgentId(db.agent("other").await);
    let shared = Uuid::new_v4();
    ask(&syncer, agent, &named("alice", shared, IfExists::Raise)).await;
    assert_eq!(
        ask(&syncer, other, &named("alice", shared, IfExists::DoNothing)).await,
        Some(Answer::Taken)
    );
    assert_eq!(
        db.assistant(shared).await.expect("an assistant")["name"],
        "a"
    );
}

#[tokio::test]
async fn another_agents_id_is_nobodys_to_name() {
    let (db, syncer, agent) = setting().await;
    let other = AgentId(db.agent("other").await);
    for if_exists in [IfExists::Raise, IfExists::DoNothing] {
        assert_eq!(
            ask(&syncer, agent, &named("alice", other.0, if_exists)).await,
            Some(Answer::Taken)
        );
    }
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
    assert_eq!(db.count("agent_sync.ledger").await, 0);
}

#[tokio::test]
async fn what_a_user_put_on_an_assistant_is_gone_when_it_becomes_the_systems() {
    let (db, syncer, agent) = setting().await;
    let mut claim = claim("alice");
    claim.metadata.insert("note".to_owned(), "private".into());
    ask(&syncer, agent, &claim).await;
    assert_eq!(
        db.count("langgraph_server.assistants where metadata ->> 'note' = 'private'")
            .await,
        1
    );
    db.execute("insert into agent_sync.settings (scope) values ('all') on conflict (singleton) do update set scope = 'all'").await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(owner(&db, agent.canonical()).await, "system");
    assert_eq!(
        db.count("langgraph_server.assistants where metadata ? 'note'")
            .await,
        0
    );
}

/// Whose it is has been looked at before, without the agent's lock; it may have been handed over since.
#[tokio::test]
async fn an_assistant_is_released_by_its_owner_and_as_its_agents_only() {
    let (db, syncer, agent) = setting().await;
    let other = AgentId(db.agent("other").await);
    for (asked_for, owner) in [(agent, "alice"), (other, "alice"), (other, "bob")] {
        ask(&syncer, asked_for, &claim(owner)).await;
    }
    let (alices, bobs) = (agent.canonical(), other.copy_for("bob"));
    for (agent, assistant, owner) in [
        (agent, alices, "bob"),
        (other, alices, "alice"),
        (other, bobs, "alice"),
        (agent, bobs, "bob"),
        (agent, AssistantId(Uuid::new_v4()), "alice"),
    ] {
        let released = syncer.release(agent, assistant, owner).await;
        assert_eq!(released.expect("an answer"), Released::NotTheirs);
    }
    assert_eq!(db.count("langgraph_server.assistants").await, 3);
    assert_eq!(db.count("agent_sync.ledger").await, 3);
    for (agent, assistant, owner) in [(agent, alices, "alice"), (other, bobs, "bob")] {
        let released = syncer.release(agent, assistant, owner).await;
        assert_eq!(released.expect("an answer"), Released::Done);
        assert!(db.assistant(assistant.0).await.is_none());
    }
    assert_eq!(db.count("agent_sync.ledger").await, 1);
}

/// Somebody makes an assistant under the id that a request names, between our look and our insert.
#[tokio::test]
async fn losing_the_race_for_an_id_registers_nothing() {
    let (db, syncer, agent) = setting().await;
    let id = Uuid::new_v4();
    let squatter = db.connect().await;
    squatter
        .batch_execute(&format!(
            "begin; insert into langgraph_server.assistants (id) values ('{id}')"
        ))
        .await
        .expect("being made");
    let claim = named("alice", id, IfExists::Raise);
    let outcomes = syncer
        .sync_now(&[agent], Entrance::Request(&claim))
        .await
        .expect("looked")
        .outcomes;
    assert_eq!(outcomes, [(agent, agent_sync::syncer::Outcome::Busy)]);
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    squatter.batch_execute("commit").await.expect("made");
    assert_eq!(ask(&syncer, agent, &claim).await, Some(Answer::Taken));
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(db.count("langgraph_server.assistants").await, 1);
    assert_eq!(
        db.count("agent_sync.ledger").await,
        0,
        "an agent out of scope stays out of it"
    );
}

#[tokio::test]
async fn a_conflict_is_forgotten_when_nobody_has_the_id_any_more() {
    let (db, syncer, agent) = setting().await;
    let scope = |scope: &str| {
        format!(
            "insert into agent_sync.settings (scope) values ('{scope}') on conflict (singleton) do update set scope = '{scope}'"
        )
    };
    db.execute(&scope("all")).await;
    db.execute(&format!(
        "insert into langgraph_server.assistants (id) values ('{agent}')"
    ))
    .await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(
        db.count("agent_sync.ledger where state = 'conflict'").await,
        1
    );
    // Also of an agent that has left the scope.
    db.execute(&scope("none")).await;
    db.execute(&format!(
        "delete from langgraph_server.assistants where id = '{agent}'"
    ))
    .await;
    syncer
        .sync_now(&[agent], Entrance::Pass)
        .await
        .expect("synced");
    // What it had in its place stays, like all that was made.
    assert_eq!(
        db.count("agent_sync.ledger where state <> 'synced'").await,
        0
    );
    assert_eq!(owner(&db, agent.copy_for("system")).await, "system");
}

#[tokio::test]
async fn an_agent_made_under_an_id_that_is_given_away_is_a_conflict() {
    let (db, syncer, first) = setting().await;
    let id = Uuid::new_v4();
    let named = named("alice", id, IfExists::Raise);
    syncer
        .sync_now(&[first], Entrance::Request(&named))
        .await
        .expect("synced");
    db.execute(&format!(
        "insert into public.agents (id, name, status) values ('{id}', 'second', 'active')"
    ))
    .await;
    let second = AgentId(id);
    let batch = syncer
        .sync_now(&[second], Entrance::Request(&claim("carol")))
        .await
        .expect("synced");
    assert_eq!(
        batch.answer,
        Some(Answer::Assistant(second.copy_for("carol")))
    );
    assert_eq!(db.assistant(id).await.expect("alice's")["name"], "a");

    db.execute("insert into agent_sync.settings (scope) values ('all') on conflict (singleton) do update set scope = 'all'")
        .await;
    let batch = syncer
        .sync_now(&[second], Entrance::Pass)
        .await
        .expect("synced");
    assert_eq!(
        batch.outcomes,
        [(second, agent_sync::syncer::Outcome::Conflict)]
    );
    let assistant = db.assistant(id).await.expect("alice's");
    assert_eq!(
        (&assistant["name"], &assistant["metadata"]["owner"]),
        (&"a".into(), &"alice".into())
    );
}
