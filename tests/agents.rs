//! `GET /agents` of the admin server: which agents, in which order, page by page.

use std::collections::BTreeSet;

use agent_sync::config::SCOPE;
use agent_sync::http::Answer;
use agent_sync::http::admin::agents::Agents;
use agent_sync::sql;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::worker::request;
use crate::support::{TestDatabase, TestWorker, eventually, uuid};

/// What becomes of the ledger's entries, as other tests say how agents get them.
async fn installed() -> TestDatabase {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db
}

fn agents(db: &TestDatabase) -> Agents {
    Agents::new(Some(db.pool()))
}

async fn body(answer: Answer) -> Value {
    let bytes = answer.into_body().collect().await.expect("a body");
    serde_json::from_slice(&bytes.to_bytes()).expect("JSON")
}

/// The answer to this query.
async fn list(agents: &Agents, query: &str) -> Value {
    body(agents.list(Some(query)).await.expect("a page")).await
}

fn names(page: &Value) -> Vec<&str> {
    let agents = page["agents"].as_array().expect("agents");
    agents
        .iter()
        .map(|agent| agent["name"].as_str().unwrap_or("-"))
        .collect()
}

impl TestDatabase {
    /// An agent, and what the ledger says of its assistants: each in a state, so many minutes ago.
    async fn entered(&self, name: &str, id: Uuid, entries: &[(&str, u32)]) {
        self.execute(&format!(
            "insert into public.agents (id, name, status, system_prompt) values ('{id}', '{name}', 'active', 'canary')"
        ))
        .await;
        for (n, (state, minutes)) in entries.iter().enumerate() {
            let assistant = if n == 0 { id } else { Uuid::new_v4() };
            self.execute(&format!(
                "insert into agent_sync.ledger (assistant_id, agent_id, owner, state, content_hash, error, attempts, updated_at)
                 values ('{assistant}', '{id}', 'o', '{state}', case when '{state}' = 'synced' then 'h'::bytea end,
                   case when '{state}' in ('failed', 'conflict', 'held') then '{state} {n}' end, {n},
                   '2026-01-02 03:04:05.678901Z'::timestamptz - interval '{minutes} minutes')"
            ))
            .await;
        }
    }
}

#[tokio::test]
async fn those_in_the_worst_state_come_first_and_then_those_that_changed_last() {
    let db = installed().await;
    let states = [
        ("old", &[("synced", 9)][..]),
        ("gone", &[("removed", 0)]),
        ("new", &[("synced", 5), ("synced", 1)]),
        ("theirs", &[("conflict", 3)]),
        ("held", &[("held", 2)]),
        ("half", &[("synced", 0), ("failed", 8), ("removed", 0)]),
        ("long ago", &[("failed", 60)]),
    ];
    for (n, (name, entries)) in (0..).zip(states) {
        db.entered(name, uuid(n), entries).await;
    }
    let agents = agents(&db);
    let page = list(&agents, "").await;
    assert_eq!(
        names(&page),
        ["half", "long ago", "theirs", "held", "new", "old", "gone"]
    );
    assert_eq!((&page["total"], &page["next"]), (&json!(7), &json!(null)));
    assert_eq!(
        page["agents"][0],
        json!({
            "agent_id": uuid(5), "name": "half", "organization_id": null, "state": "failed", "assistants": 1,
            "synced_at": "2026-01-02T03:04:05.678901+00:00", "changed_at": "2026-01-02T03:04:05.678901+00:00",
            "attempts": 2, "error": "failed 1",
        })
    );
    let new = &page["agents"][4];
    assert_eq!(
        (&new["assistants"], &new["synced_at"], &new["error"]),
        (
            &json!(2),
            &json!("2026-01-02T03:03:05.678901+00:00"),
            &json!(null)
        )
    );
    assert!(!page.to_string().contains("canary"));

    // The worst of an agent's states is the one that is asked for.
    for (state, expected) in [
        ("failed", &["half", "long ago"][..]),
        ("conflict", &["theirs"]),
        ("held", &["held"]),
        ("synced", &["new", "old"]),
        ("removed", &["gone"]),
    ] {
        let page = list(&agents, &format!("state={state}")).await;
        assert_eq!(names(&page), expected);
        assert_eq!(page["total"], expected.len());
    }
}

#[tokio::test]
async fn agents_are_found_by_a_part_of_their_names_and_the_beginning_of_an_id() {
    let db = installed().await;
    let entries = &[("synced", 1), ("synced", 2)][..];
    db.entered("Front Desk 100%", uuid(1), entries).await;
    db.entered("front_office", uuid(2), entries).await;
    db.entered("Büro", Uuid::from_u128(0xbead << 112), entries)
        .await;
    db.entered("bead", uuid(4), entries).await;
    let copy: Uuid = db
        .rows(
            "select assistant_id from agent_sync.ledger where agent_id = $1 and assistant_id <> $1",
            &[&uuid(2)],
        )
        .await[0]
        .get(0);
    let agents = agents(&db);
    let (id, copy) = (uuid(1).to_string(), copy.to_string());
    for (search, expected) in [
        ("FRONT", &["Front Desk 100%", "front_office"][..]),
        ("front+desk", &["Front Desk 100%"]),
        ("100%25", &["Front Desk 100%"]),
        ("_", &["front_office"]),
        ("b%C3%BC", &["Büro"]),
        ("bead", &["Büro", "bead"]),
        ("BEAD00", &["Büro"]),
        (&id, &["Front Desk 100%"]),
        (&id[..35], &["Front Desk 100%", "bead", "front_office"]),
        (&copy, &["front_office"]),
        ("'; drop table agents", &[]),
        ("desk&state=failed", &[]),
    ] {
        let page = list(&agents, &format!("search={search}")).await;
        let found: BTreeSet<_> = names(&page).into_iter().collect();
        assert_eq!(found, expected.iter().copied().collect(), "{search}");
        assert_eq!(page["total"], expected.len(), "{search}");
    }
}

/// Many change at the same moment, as in a pass.
#[tokio::test]
async fn page_by_page_each_agent_comes_once() {
    let db = installed().await;
    db.execute(
        "insert into agent_sync.ledger (assistant_id, agent_id, owner, state, updated_at)
         select id, id, 'system', case when n % 10 = 0 then 'failed' else 'synced' end,
           '2026-01-02 03:04:05.678901Z'::timestamptz + n / 9 * interval '1 microsecond'
         from (select n, gen_random_uuid() as id from generate_series(1, 30) as n) as a",
    )
    .await;
    let agents = agents(&db);
    let all = list(&agents, "limit=500").await;
    let all = all["agents"].as_array().expect("agents");
    assert_eq!(all.len(), 30);
    for limit in [1, 7, 10, 29] {
        let (mut paged, mut after) = (Vec::new(), String::new());
        loop {
            let page = list(&agents, &format!("limit={limit}&after={after}")).await;
            assert_eq!(page["total"], 30);
            paged.extend_from_slice(page["agents"].as_array().expect("agents"));
            assert!(paged.len() <= 30, "{limit}");
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => break,
            }
        }
        assert_eq!(&paged, all, "{limit}");
    }
    let none = list(&agents, "state=removed").await;
    assert_eq!(none, json!({ "agents": [], "next": null, "total": 0 }));
}

#[tokio::test]
async fn a_name_that_the_table_does_not_have_is_left_out() {
    let db = installed().await;
    db.entered("a", uuid(1), &[("synced", 1)]).await;
    db.entered("b", uuid(2), &[("failed", 1)]).await;
    db.execute("delete from public.agents where name = 'b'")
        .await;
    let agents = agents(&db);
    assert_eq!(names(&list(&agents, "").await), ["-", "a"]);
    let organization = Uuid::new_v4();
    db.execute(&format!(
        "update agent_sync.ledger set organization_id = '{organization}';
         alter table public.agents rename column name to title;
         alter table public.agents drop column organization_id cascade"
    ))
    .await;
    let page = list(&agents, "").await;
    assert_eq!(names(&page), ["-", "-"]);
    assert_eq!(
        page["agents"][1]["organization_id"],
        organization.to_string()
    );
    assert_eq!(list(&agents, "search=a").await["total"], 0);
    assert_eq!(
        list(&agents, &format!("search={}", uuid(1))).await["total"],
        1
    );
}

#[tokio::test]
async fn what_cannot_be_listed_is_an_error_that_says_why() {
    let db = installed().await;
    let agents = agents(&db);
    let holder = db.connect().await;
    holder
        .batch_execute("begin; lock table agent_sync.ledger in access exclusive mode")
        .await
        .expect("locked");
    let error = agents.list(None).await.err().expect("it is locked");
    let said = format!("{error:?}");
    assert!(said.contains("503"), "{said}");
    assert!(said.contains("lock timeout"), "{said}");
    holder.batch_execute("rollback").await.expect("let go");
    assert_eq!(list(&agents, "").await["total"], 0);

    let nowhere = Agents::new(None);
    assert_eq!(
        list(&nowhere, "search=a").await,
        json!({ "agents": [], "next": null, "total": 0 })
    );
}

/// How old is what it answers with meanwhile.
#[tokio::test]
async fn of_an_agent_that_fails_it_is_known_when_its_assistant_was_written() {
    let db = TestDatabase::new().await;
    let agent = db.agent("Support").await;
    let worker = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    let asked = async || {
        let (_, page) = request(worker.admin, "GET", "/agents", None).await;
        page["agents"][0].clone()
    };
    let synced_at = async || {
        let assistant = db.assistant(agent).await.expect("its assistant");
        let at = assistant["metadata"]["synced_at"].as_str().expect("a time");
        at.to_owned()
    };
    let before = synced_at().await;
    db.execute("update public.agents set sampling_params = '7'")
        .await;
    eventually("it has failed", || async {
        let agent = asked().await;
        (agent["state"] == "failed")
            .then_some(())
            .ok_or(agent.to_string())
    })
    .await;
    assert_eq!(asked().await["synced_at"], before.replace('Z', "+00:00"));
    // Whoever may write there may have written anything.
    db.execute(
        "update langgraph_server.assistants set metadata = metadata || '{\"synced_at\": \"soon\"}'",
    )
    .await;
    assert_eq!(asked().await["synced_at"], json!(null));
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_lists_its_agents_and_refuses_what_makes_no_sense() {
    let db = TestDatabase::new().await;
    let agent = db.agent("Support").await;
    let worker = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    let (status, page) = request(worker.admin, "GET", "/agents?search=support", None).await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["agents"][0]["agent_id"], agent.to_string());
    assert_eq!(page["agents"][0]["state"], "synced");
    assert!(!page.to_string().contains("You are"), "{page}");
    for (query, detail) in [
        (
            "state=bad",
            "`state` must be one of failed, conflict, held, synced, removed",
        ),
        ("limit=0", "`limit` must be from 1 to 500"),
        ("after=bad", "`after` must be `next` of the page before"),
        (
            "order=name",
            "There are `state`, `search`, `limit` and `after`",
        ),
    ] {
        let answer = request(worker.admin, "GET", &format!("/agents?{query}"), None).await;
        assert_eq!(answer, (400, json!({ "detail": detail })));
    }
    assert_eq!(request(worker.admin, "POST", "/agents", None).await.0, 405);
    worker.stop().await;
}

/// Only those of the page are looked up in the application's table, and their prompts are not looked at.
#[tokio::test]
async fn a_page_of_many_agents_reads_few_rows_of_theirs() {
    let db = installed().await;
    db.execute(
        "insert into public.agents (name, status, system_prompt) select 'a' || n, 'active', repeat('canary', 300) from generate_series(1, 5000) as n;
         insert into agent_sync.ledger (assistant_id, agent_id, owner, state) select id, id, 'system', 'synced' from public.agents;
         analyze public.agents; analyze agent_sync.ledger",
    )
    .await;
    let statement = sql!("admin_agents").trim_end().trim_end_matches(';');
    db.execute(&format!(
        "set search_path = ''; set plan_cache_mode = force_custom_plan;
         prepare page (text, text, uuid, uuid, integer, timestamptz, uuid, bigint) as {statement}"
    ))
    .await;
    let plan = async |parameters: &str| {
        let explain = format!("explain (verbose) execute page ({parameters})");
        let lines = db.client.simple_query(&explain).await.expect("a plan");
        let lines = lines.iter().filter_map(|line| match line {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let first = plan("null, null, null, null, null, null, null, 101").await;
    assert!(
        !first.contains("Seq Scan on public.agents")
            && first.contains("Index Scan using agents_pkey"),
        "{first}"
    );
    let searched = plan("null, 'a1', null, null, null, null, null, 101").await;
    assert_eq!(
        searched.matches("Seq Scan on public.agents").count(),
        1,
        "{searched}"
    );
    for plan in [first, searched] {
        assert!(
            !plan.contains("system_prompt") && !plan.contains("jsonb"),
            "{plan}"
        );
    }
}
