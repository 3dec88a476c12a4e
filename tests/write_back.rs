//! How agents' rows come to name their assistants. One agent goes by a statement that the session keeps; whether it has it or not, whatever
//! is in between, makes no difference to what is written.

use agent_sync::database::{Client, Database};
use agent_sync::ids::{AgentId, AssistantId};
use agent_sync::write_back::WriteBack;
use futures::future::join_all;
use uuid::Uuid;

use crate::support::pgbouncer::Pgbouncer;
use crate::support::{TestDatabase, eventually};

async fn agents(db: &TestDatabase, many: usize) -> Vec<(AgentId, AssistantId)> {
    let mut agents = Vec::new();
    for n in 0..many {
        let agent = AgentId(db.agent(&format!("agent {n}")).await);
        agents.push((agent, agent.canonical()));
    }
    agents
}

/// What a session keeps, and how often that was planned for what it was called with, and how often it was not.
async fn kept(client: &Client) -> Vec<(i64, i64)> {
    let kept = "select custom_plans, generic_plans from pg_prepared_statements where from_sql and name like 'agent_sync_%'";
    let rows = client.query(kept, &[]).await.expect("asked");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn one_agent_is_written_by_a_statement_that_is_planned_once_and_several_by_one_for_them_all()
{
    let db = TestDatabase::new().await;
    let agents = agents(&db, 12).await;
    let pool = db.pool();
    let write_back = WriteBack::new(pool.clone());
    let client = pool.client().await.expect("a connection");
    write_back.run(&client, &agents[..4]).await;
    assert_eq!(kept(&client).await, []);
    for agent in &agents[4..] {
        write_back.run(&client, &[*agent]).await;
    }
    // The server tries five plans before it keeps one.
    assert_eq!(kept(&client).await, [(5, 3)]);
    db.written_back(12).await;
}

#[tokio::test]
async fn a_session_that_has_lost_what_it_kept_or_has_it_already_writes_all_the_same() {
    let db = TestDatabase::new().await;
    let agents = agents(&db, 4).await;
    let pool = db.pool();
    let write_back = WriteBack::new(pool.clone());
    let client = pool.client().await.expect("a connection");
    for (n, agent) in agents.iter().enumerate() {
        write_back.run(&client, &[*agent]).await;
        // Without another attempt.
        db.written_back(n as i64 + 1).await;
        assert_eq!(kept(&client).await.len(), 1);
        client.batch_execute("discard all").await.expect("done");
    }
}

#[tokio::test]
async fn behind_a_pooler_whichever_session_it_comes_to_one_agent_is_written() {
    let db = TestDatabase::new().await;
    let agents = agents(&db, 40).await;
    let pooler = Pgbouncer::before(&db).await;
    let pool = Database::new(&pooler.url.parse().expect("a url"));
    let write_back = WriteBack::new(pool.clone());
    // Four at a time, each over whichever of four sessions is free.
    for four in agents.chunks(4) {
        join_all(four.iter().map(async |agent| {
            let client = pool.client().await.expect("a connection");
            write_back.run(&client, &[*agent]).await;
            client.give_back();
        }))
        .await;
    }
    // Nobody tries again.
    assert_eq!(
        db.count("public.agents where langgraph_assistant_id = id::text")
            .await,
        40
    );
}

#[tokio::test]
async fn where_sessions_keep_nothing_one_agent_is_written_as_many_are() {
    let db = TestDatabase::new().await;
    let agents = agents(&db, 50).await;
    let pool = db.pool();
    let write_back = WriteBack::new(pool.clone());
    let client = pool.client().await.expect("a connection");
    for agent in &agents {
        client.batch_execute("discard all").await.expect("done");
        write_back.run(&client, &[*agent]).await;
    }
    assert_eq!(kept(&client).await, []);
    assert_eq!(
        db.count("public.agents where langgraph_assistant_id = id::text")
            .await,
        50
    );
}

#[tokio::test]
async fn one_agent_whose_row_an_editor_holds_is_passed_over_and_written_when_it_is_free() {
    let db = TestDatabase::new().await;
    let agents = agents(&db, 2).await;
    let pool = db.pool();
    let write_back = WriteBack::new(pool.clone());
    let client = pool.client().await.expect("a connection");
    let retrying = write_back.retry();
    tokio::pin!(retrying);
    for agent in &agents {
        let editor = db.connect().await;
        let hold = format!(
            "begin; select from public.agents where id = '{}' for update",
            agent.0
        );
        editor.batch_execute(&hold).await.expect("held");
        write_back.run(&client, &[*agent]).await;
        let (id, another) = (agent.0.0, Uuid::new_v4());
        let named = format!("public.agents where id = '{id}' and langgraph_assistant_id = '{id}'");
        assert_eq!(db.count(&named).await, 0);
        let edit = format!(
            "update public.agents set langgraph_assistant_id = '{another}' where id = '{id}'; commit"
        );
        editor.batch_execute(&edit).await.expect("edited");
        let written = eventually("it is written", || async {
            (db.count(&named).await == 1)
                .then_some(())
                .ok_or("not yet".to_owned())
        });
        tokio::select! {
            () = written => {}
            () = &mut retrying => {}
        }
    }
}
