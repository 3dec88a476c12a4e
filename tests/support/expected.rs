//! Whether every assistant is what its agent maps to, by an independent mapping (`tests/fixtures/expected.sql`).

use serde_json::{Value, json};

use super::TestDatabase;

const EXPECTED: &str = include_str!("../fixtures/expected.sql");

impl TestDatabase {
    /// The ids at which assistants and agents differ: stale, missing, or left over. For scope `all`.
    pub async fn differences(&self) -> Vec<String> {
        self.differences_but_for(&[]).await
    }

    /// The same, where these ids are somebody else's.
    pub async fn differences_but_for(&self, foreign: &[&str]) -> Vec<String> {
        let statement = format!(
            "select coalesce(e.id, a.id) || case
               when a.id is null then ' is missing'
               when e.id is null then ' should not be there'
               else ' differs: ' || jsonb_build_array(to_jsonb(e), to_jsonb(a))::text end as difference
             from (
               select * from ({EXPECTED}) as canonical
               union all
               -- In the place of one that is somebody else's.
               select l.assistant_id::text, e.graph_id, e.name, e.description, e.config, e.metadata
               from agent_sync.ledger as l
               join ({EXPECTED}) as e on e.id = l.agent_id::text
               where l.owner = 'system' and l.assistant_id <> l.agent_id
             ) as e
             full join langgraph_server.assistants as a on a.id = e.id
             where coalesce(e.id, a.id) <> all ($2) and (a.id is null or e.id is null
               or (a.graph_id, a.name, a.description, a.config, a.metadata - 'synced_at')
                 is distinct from (e.graph_id, e.name, e.description, e.config, e.metadata)
               or not a.metadata ? 'synced_at'
               or a.context <> '{{}}')"
        );
        let rows = self.rows(&statement, &[&"openai:gpt-4o", &foreign]).await;
        rows.iter().map(|row| row.get("difference")).collect()
    }

    /// Puts what a LangGraph server shows into the table, so that it can be compared there: without what servers add to it.
    pub async fn copy(&self, mut assistants: Vec<Value>) {
        for assistant in &mut assistants {
            let mirrored = assistant["config"]["configurable"].clone();
            if assistant["context"] == mirrored {
                assistant["context"] = json!({});
            }
            if assistant["description"] == "" {
                assistant["description"] = Value::Null;
            }
            if let Some(metadata) = assistant["metadata"].as_object_mut() {
                metadata.retain(|_, value| !value.is_null());
            }
        }
        let statement = "insert into langgraph_server.assistants (id, graph_id, config, context, metadata, name, description, version)
            select a->>'assistant_id', a->>'graph_id', a->'config', a->'context', a->'metadata', a->>'name', a->>'description',
              (a->>'version')::int
            from jsonb_array_elements($1::text::jsonb) as a";
        let rows = Value::Array(assistants).to_string();
        let copying = async {
            let client = &self.client;
            client
                .batch_execute("begin; delete from langgraph_server.assistants")
                .await?;
            client.execute(statement, &[&rows]).await?;
            client.batch_execute("commit").await
        };
        copying.await.expect("copied");
    }

    /// Waits until the outbox is empty and every assistant is what it should be.
    pub async fn converged(&self) {
        super::eventually("every assistant equals its agent", || {
            self.is_converged(&[])
        })
        .await;
    }

    /// Whether it is so now; but for these ids, which are somebody else's.
    pub async fn is_converged(&self, foreign: &[&str]) -> Result<(), String> {
        let pending = self.count("agent_sync.outbox").await;
        let differences = self.differences_but_for(foreign).await;
        match differences.first() {
            None if pending == 0 => Ok(()),
            first => Err(format!(
                "{pending} changes pending, {} differences, {first:?}",
                differences.len()
            )),
        }
    }

    /// The versions of all assistants, added up: moves whenever any of them is written.
    pub async fn versions(&self) -> i64 {
        self.rows(
            "select coalesce(sum(version), 0)::int8 from langgraph_server.assistants",
            &[],
        )
        .await[0]
            .get(0)
    }
}
