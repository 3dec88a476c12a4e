//! The startup pass: creates, updates, skips, repairs; by scope; and never in the way of the server.

use std::sync::mpsc;
use std::time::Duration;

use agent_sync::config::{AUTHENTICATOR_URL, DATABASE_URL, ROBYN_DEV, SCOPE};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::binary::Running;
use crate::support::worker::request;
use crate::support::{Project, TestDatabase, TestWorker, eventually, uuid};

const ALL: &[(&str, &str)] = &[(SCOPE, "all")];

#[tokio::test]
async fn every_active_agent_gets_an_assistant_and_its_row_names_it() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let worker = TestWorker::start(&db, ALL).await;

    assert_eq!(db.count("langgraph_server.assistants").await, 10);
    assert_eq!(db.differences().await, Vec::<String>::new());
    let named = "public.agents where langgraph_assistant_id = id::text";
    assert_eq!(db.count(named).await, 10);
    assert_eq!(
        db.count("agent_sync.ledger where state = 'synced' and owner = 'system'")
            .await,
        10
    );
    assert_eq!(
        db.count("langgraph_server.assistants where version = 1 and created_at = updated_at")
            .await,
        10
    );
    worker.stop().await;
}

#[tokio::test]
async fn the_summary_is_logged_as_promised() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    db.forget_edits().await;
    let first = Running::serve(&db, &[(SCOPE, "ALL ")]);
    let line = first.line("Startup sync summary").await;
    assert!(
        line.ends_with("Startup sync summary: total=10 created=10 updated=0 skipped=0 failed=0"),
        "{line}"
    );
    drop(first);

    db.execute(
        "update public.agents set name = 'Renamed' where name = 'Gear Advisor';
         insert into langgraph_server.assistants (id, metadata) values ('a0000000-0000-4000-8000-000000000004', '{}');
         update public.agents set status = 'active' where name = 'Holiday Campaign';
         update public.agents set status = 'disabled' where name = 'Front Desk';
         update public.agents set sampling_params = '[]' where name = 'Stock Watcher';
         delete from agent_sync.outbox",
    )
    .await;
    let second = Running::serve(&db, &[(SCOPE, "all")]);
    let line = second.line("Startup sync summary").await;
    assert!(
        line.ends_with("Startup sync summary: total=11 created=0 updated=1 skipped=7 failed=1 removed=1 conflict=1"),
        "{line}"
    );
}

#[tokio::test]
async fn a_second_pass_writes_nothing() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    TestWorker::start(&db, ALL).await.stop().await;
    let rows = "select md5(string_agg(to_jsonb(a)::text || a.xmin, '' order by id)) from langgraph_server.assistants a";
    let agents =
        "select md5(string_agg(to_jsonb(a)::text || a.xmin, '' order by id)) from public.agents a";
    let ledger = "select md5(string_agg(to_jsonb(l)::text || l.xmin, '' order by assistant_id)) from agent_sync.ledger l";
    let before: Vec<String> = vec![
        one(&db, rows).await,
        one(&db, agents).await,
        one(&db, ledger).await,
    ];

    TestWorker::start(&db, ALL).await.stop().await;
    assert_eq!(
        before,
        vec![
            one(&db, rows).await,
            one(&db, agents).await,
            one(&db, ledger).await
        ]
    );
}

#[tokio::test]
async fn an_update_keeps_what_is_not_ours() {
    let db = TestDatabase::new().await;
    let id = db.agent("Ada").await;
    TestWorker::start(&db, ALL).await.stop().await;
    db.execute(&format!(
        "update langgraph_server.assistants set metadata = metadata || '{{\"pinned\": true}}' where id = '{id}';
         update public.agents set name = 'Grace' where id = '{id}'"
    ))
    .await;
    let before = db.assistant(id).await.expect("an assistant");
    TestWorker::start(&db, ALL).await.stop().await;

    let after = db.assistant(id).await.expect("an assistant");
    assert_eq!(after["name"], "Grace");
    assert_eq!(after["version"], 2);
    assert_eq!(after["metadata"]["pinned"], true);
    assert_eq!(after["created_at"], before["created_at"]);
    assert_ne!(after["updated_at"], before["updated_at"]);
    assert_ne!(
        after["metadata"]["synced_at"],
        before["metadata"]["synced_at"]
    );
}

#[tokio::test]
async fn an_assistant_that_was_edited_or_deleted_behind_our_back_is_repaired() {
    let db = TestDatabase::new().await;
    let organization = db.organization().await.0;
    let edits = [
        "graph_id = 'evil'",
        "name = 'evil'",
        "name = null",
        "description = 'evil'",
        "config = config || '{\"recursion_limit\": 1}'",
        "config = '{}'",
        "context = '{\"system_prompt\": \"evil\"}'",
        "metadata = metadata || '{\"owner\": \"mallory\"}'",
        "metadata = metadata || '{\"supabase_agent_id\": \"evil\"}'",
        "metadata = metadata || '{\"supabase_organization_id\": \"evil\"}'",
        "metadata = '[]'",
        "metadata = null",
    ];
    let mut agents = Vec::new();
    for edit in edits {
        agents.push((db.agent("a").await, edit));
    }
    let deleted = db.agent("deleted").await;
    db.execute(&format!(
        "update public.agents set organization_id = '{organization}'"
    ))
    .await;
    TestWorker::start(&db, ALL).await.stop().await;
    for (agent, edit) in agents {
        db.execute(&format!(
            "update langgraph_server.assistants set {edit} where id = '{agent}'"
        ))
        .await;
    }
    db.execute(&format!(
        "delete from langgraph_server.assistants where id = '{deleted}'"
    ))
    .await;
    assert_eq!(db.differences().await.len(), edits.len() + 1);
    TestWorker::start(&db, ALL).await.stop().await;
    assert_eq!(db.differences().await, Vec::<String>::new());
}

/// Deleted while nothing was recorded: no outbox row tells, only the ledger does.
#[tokio::test]
async fn a_pass_removes_the_assistants_of_agents_that_are_gone_whatever_its_scope() {
    for scope in ["all", "org:00000000-0000-4000-8000-000000000000"] {
        let db = TestDatabase::new().await;
        let (gone, off) = (db.agent("gone").await, db.agent("off").await);
        TestWorker::start(&db, ALL).await.stop().await;
        db.execute(&format!(
            "delete from public.agents where id = '{gone}'; update public.agents set status = 'draft' where id = '{off}';
             truncate agent_sync.outbox"
        ))
        .await;
        TestWorker::start(&db, &[(SCOPE, scope)]).await.stop().await;
        assert_eq!(
            db.count("langgraph_server.assistants").await,
            0,
            "scope {scope}"
        );
    }
}

#[tokio::test]
async fn a_first_pass_that_fails_is_survived_and_tried_again() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    let agent = db.agent("a").await;
    db.execute("truncate agent_sync.outbox; alter table langgraph_server.assistants rename column config to settings").await;
    let running = Running::serve(&db, ALL);
    running.line("the startup pass failed").await;
    let admin = running.admin().await;
    eventually("it is ready all the same", || async {
        match request(admin, "GET", "/ready", None).await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    db.execute("alter table langgraph_server.assistants rename column settings to config")
        .await;
    db.synced(agent).await;
    running
        .line("Startup sync summary: total=1 created=1")
        .await;
}

/// As a statement that takes too long.
#[tokio::test]
async fn a_pass_goes_on_without_an_agent_that_cannot_be_synced_in_time() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute(
        "create function public.refuse() returns trigger language plpgsql as $$
         begin raise exception 'too slow' using errcode = '57014'; end $$;
         create trigger refuse before insert or update on langgraph_server.assistants
           for each row when (new.name = '7') execute function public.refuse();
         insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 20) n;
         truncate agent_sync.outbox",
    )
    .await;
    let running = Running::serve(&db, ALL);
    let line = running.line("the agent cannot be synced in time").await;
    assert!(line.contains("57014"), "{line}");
    running
        .line("Startup sync summary: total=20 created=19 updated=0 skipped=0 failed=1")
        .await;
}

#[tokio::test]
async fn a_long_pass_says_how_far_it_is() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute(
        "insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 1200) as n;
         truncate agent_sync.outbox",
    )
    .await;
    let last: uuid::Uuid = db
        .rows("select id from public.agents order by id desc limit 1", &[])
        .await[0]
        .get(0);
    // The last page takes longer than the pass is ever silent, by Postgres' own clock.
    let holder = db.hold_agent(last).await;
    let running = Running::serve(&db, ALL);
    db.somebody_waits_for_an_agent().await;
    holder
        .batch_execute("select pg_sleep(5.5); commit")
        .await
        .expect("released");
    running.line("Startup sync so far: total=").await;
    running
        .line("Startup sync summary: total=1200 created=1200")
        .await;
}

#[tokio::test]
async fn a_write_back_that_is_missing_or_wrong_is_repaired_though_nothing_else_changed() {
    let db = TestDatabase::new().await;
    let (a, b) = (db.agent("a").await, db.agent("b").await);
    TestWorker::start(&db, ALL).await.stop().await;
    let versions = db.versions().await;
    db.execute(&format!(
        "update public.agents set langgraph_assistant_id = null where id = '{a}';
         update public.agents set langgraph_assistant_id = 'wrong' where id = '{b}'"
    ))
    .await;
    assert_eq!(
        db.count("agent_sync.outbox").await,
        0,
        "the write-back column must not ring the bell"
    );
    TestWorker::start(&db, ALL).await.stop().await;
    assert_eq!(
        db.count("public.agents where langgraph_assistant_id = id::text")
            .await,
        2
    );
    assert_eq!(db.versions().await, versions);
}

#[tokio::test]
async fn only_the_listed_organizations_are_in_scope() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let scope =
        "org:0a000000-0000-4000-8000-000000000001 , ORG:0A000000-0000-4000-8000-000000000003";
    let worker = TestWorker::start(&db, &[(SCOPE, scope)]).await;
    let organizations = db
        .rows(
            "select metadata ->> 'supabase_organization_id' as id, count(*) from langgraph_server.assistants group by 1 order by 1",
            &[],
        )
        .await;
    let counts: Vec<(String, i64)> = organizations
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(
        counts,
        [
            ("0a000000-0000-4000-8000-000000000001".to_owned(), 3),
            ("0a000000-0000-4000-8000-000000000003".to_owned(), 4)
        ]
    );
    worker.stop().await;
}

#[tokio::test]
async fn scope_none_is_said_and_skips_the_pass() {
    let db = TestDatabase::new().await;
    db.agent("a").await;
    let running = Running::serve(&db, &[]);
    running
        .line("agent sync disabled (AGENT_SYNC_SCOPE=none)")
        .await;
    assert_eq!(db.count("langgraph_server.assistants").await, 0);
}

#[tokio::test]
async fn an_invalid_scope_is_named_and_the_worker_runs() {
    let db = TestDatabase::new().await;
    db.agent("a").await;
    let running = Running::serve(&db, &[(SCOPE, "org:not-a-uuid")]);
    let line = running.line("AGENT_SYNC_SCOPE is invalid").await;
    assert!(
        line.contains("WARN") && line.contains("org:not-a-uuid"),
        "{line}"
    );
    drop(running);
    let invalid = [(SCOPE, "org:not-a-uuid"), (ROBYN_DEV, "true")];
    let worker = TestWorker::start(&db, &invalid).await;
    assert_eq!(worker.create(json!({"graph_id": "agent"})).await.0, 200);
    assert_eq!(db.count("agent_sync.ledger").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn an_agent_with_undecodable_data_fails_alone_and_is_tried_at_once_when_it_is_edited() {
    let db = TestDatabase::new().await;
    db.execute(
        "insert into public.agents (id, name, status, sampling_params)
         select ('a0000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'agent ' || n, 'active',
           case n when 42 then '\"top secret\"'::jsonb else '{\"temperature\": 1}' end
         from generate_series(1, 100) as n",
    )
    .await;
    let worker = TestWorker::start(&db, ALL).await;
    let bad = "a0000000-0000-4000-8000-000000000042";
    assert_eq!(db.count("langgraph_server.assistants").await, 99);
    assert_eq!(
        db.count("agent_sync.ledger where state = 'synced'").await,
        99
    );
    let failed = db
        .rows(
            "select agent_id::text, state, error from agent_sync.ledger where state <> 'synced'",
            &[],
        )
        .await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].get::<_, String>("agent_id"), bad);
    assert_eq!(failed[0].get::<_, String>("state"), "failed");
    assert_eq!(
        failed[0].get::<_, String>("error"),
        "agents.sampling_params is text, expected a JSON object"
    );
    assert_eq!(
        db.count(&format!(
            "agent_sync.outbox where key = '{bad}' and due_at > now()"
        ))
        .await,
        1,
        "it is to be tried again"
    );

    // Far longer than this test may take, so that only the edit can have been the reason.
    db.execute("update agent_sync.outbox set due_at = now() + interval '1 hour'")
        .await;
    db.execute(&format!(
        "update public.agents set sampling_params = '{{}}' where id = '{bad}'"
    ))
    .await;
    db.converged().await;
    assert_eq!(
        db.count("agent_sync.ledger where state = 'synced' and error is null")
            .await,
        100
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_failing_agent_is_tried_again_by_itself() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    TestWorker::start(&db, &[]).await.stop().await;
    // A fault of the target, not of the agent: no edit will announce that it is gone.
    db.execute("alter table langgraph_server.assistants add constraint assistants_name_check check (name <> 'a')")
        .await;
    let others = [db.agent("b").await, db.agent("c").await];
    let worker = TestWorker::start(&db, ALL).await;
    assert!(db.assistant(id).await.is_none());
    for other in others {
        assert!(
            db.assistant(other).await.is_some(),
            "one bad agent must not take its batch with it"
        );
    }
    assert_eq!(
        db.count("agent_sync.ledger where state = 'failed'").await,
        1
    );
    db.execute("alter table langgraph_server.assistants drop constraint assistants_name_check")
        .await;
    // By its retry, that is, and not by the backstop of half a minute.
    tokio::time::timeout(std::time::Duration::from_secs(20), db.converged())
        .await
        .expect("soon");
    worker.stop().await;
}

#[tokio::test]
async fn agents_under_one_id_of_somebody_else_are_conflicts_and_stay_untouched() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    let worker = TestWorker::start(&db, &[]).await;
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, graph_id, config, metadata, name)
         values ('{id}', 'theirs', '{{}}', '{{\"owner\": \"mallory\", \"supabase_agent_id\": \"{id}\"}}', 'theirs')"
    ))
    .await;
    let before = db.assistant(id).await;
    worker.stop().await;
    let worker = TestWorker::start(&db, ALL).await;
    assert_eq!(db.assistant(id).await, before);
    assert_eq!(
        db.count("agent_sync.ledger where state = 'conflict'").await,
        1
    );
    // The agent has another in its place, and says so.
    let other = uuid::Uuid::new_v5(&id, b"system");
    assert_eq!(db.prompt(other).await, Some("You are a.".to_owned()));
    assert_eq!(
        db.count(&format!(
            "public.agents where langgraph_assistant_id = '{other}'"
        ))
        .await,
        1
    );

    // Once it is out of the way, the agent's next edit makes it right.
    db.execute(&format!(
        "delete from langgraph_server.assistants where id = '{id}'; update public.agents set name = 'b' where id = '{id}'"
    ))
    .await;
    db.converged().await;
    assert_eq!(
        db.count("agent_sync.ledger where state = 'synced'").await,
        2
    );
    assert_eq!(db.prompt(id).await, Some("You are a.".to_owned()));
    db.written_back(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_older_runtimes_assistant_gives_its_id_and_nothing_else() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, graph_id, config, context, metadata, name, version, created_at)
         values ('{id}', 'old', '{{\"configurable\": {{\"x\": 1}}}}', '{{\"y\": 1}}', '{{\"owner\": \"system\", \"leak\": 1}}', 'old', 7, '2020-01-01')"
    ))
    .await;
    TestWorker::start(&db, ALL).await.stop().await;
    assert_eq!(db.differences().await, Vec::<String>::new());
    let assistant = db.assistant(id).await.expect("an assistant");
    assert_eq!(assistant["version"], 8);
    assert!(assistant["metadata"].get("leak").is_none());
    assert_eq!(
        db.count("agent_sync.ledger where state = 'synced' and owner = 'system'")
            .await,
        1
    );
}

#[tokio::test]
async fn missing_optional_tables_and_columns_are_tolerated() {
    let db = TestDatabase::empty().await;
    db.execute_as_worker(
        "create table public.agents (id uuid primary key, name text, temperature float8, max_tokens int);
         insert into public.agents values (gen_random_uuid(), 'older', 0.5, 100)",
    )
    .await;
    let running = Running::serve(
        &db,
        &[(SCOPE, "all"), ("AGENT_SYNC_RESYNC_INTERVAL", "50ms")],
    );
    let line = running.line("incomplete").await;
    for missing in [
        "table mcp_tools",
        "table ai_models",
        "agents.status",
        "agents.langgraph_assistant_id",
    ] {
        assert!(line.contains(missing), "{line}");
    }
    running.line("created=1 updated=0 skipped=0 failed=0").await;
    let config = &db
        .rows("select config from langgraph_server.assistants", &[])
        .await[0];
    assert_eq!(
        config.get::<_, serde_json::Value>(0),
        json!({"configurable": {"model_name": "openai:gpt-4o", "temperature": 0.5, "max_tokens": 100}})
    );
    // A column that appears later is read from then on, and its edits are noticed.
    db.execute("alter table public.agents add column system_prompt text; update public.agents set system_prompt = 'new'").await;
    eventually("the new column is mapped", || async {
        let prompts = db.count("langgraph_server.assistants where config -> 'configurable' ->> 'system_prompt' = 'new'").await;
        if prompts == 1 { Ok(()) } else { Err(running.output()) }
    })
    .await;
    // Once for each state of the tables; that of the new column may have been reported meanwhile, too.
    let output = running.output();
    let reports = output
        .lines()
        .filter(|line| line.contains("incomplete") && line.contains("agents.system_prompt"));
    assert_eq!(reports.count(), 1, "{output}");
}

#[tokio::test]
async fn without_the_agents_table_there_is_one_clear_error_and_the_server_answers() {
    let db = TestDatabase::empty().await;
    let worker = TestWorker::start_with(&[(DATABASE_URL, &db.url), (SCOPE, "all")]).await;
    eventually("ready says why not", || async {
        let (status, body) = request(worker.admin, "GET", "/ready", None).await;
        let said = body["reasons"][0]
            .as_str()
            .unwrap_or_default()
            .contains("no table public.agents");
        if status == 503 && said {
            Ok(())
        } else {
            Err(format!("{status} {body}"))
        }
    })
    .await;
    assert_eq!(request(worker.admin, "GET", "/live", None).await.0, 200);

    // It recovers by itself, triggers included.
    db.execute_as_worker("create table public.agents (id uuid primary key, name text)")
        .await;
    worker.ready().await;
    db.execute(&format!(
        "insert into public.agents values ('{}', 'late')",
        uuid(1)
    ))
    .await;
    db.synced(uuid(1)).await;
    worker.stop().await;
}

#[tokio::test]
async fn live_comes_before_the_pass_and_ready_after_it() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    TestWorker::start(&db, &[]).await.stop().await;
    // Whoever holds the agent's lock holds up the pass.
    let blocker = db.hold_agent(id).await;
    let worker =
        TestWorker::start_with(&[(DATABASE_URL, &db.url), (SCOPE, "all"), (ROBYN_DEV, "true")])
            .await;
    db.somebody_waits_for_an_agent().await;
    assert_eq!(request(worker.admin, "GET", "/live", None).await.0, 200);
    let (status, body) = request(worker.admin, "GET", "/ready", None).await;
    assert_eq!(
        (status, &body["reasons"][0]),
        (503, &json!("the startup pass is running"))
    );
    assert_eq!(
        worker.create(json!({"graph_id": "agent"})).await.0,
        200,
        "the API serves meanwhile"
    );
    blocker.batch_execute("commit").await.expect("released");
    worker.ready().await;
    assert_eq!(
        db.differences().await.len(),
        1,
        "only the assistant that was made by hand is not an agent's"
    );
    worker.stop().await;
}

/// Whether users can be asked about is looked into at start, and nothing waits for what comes of it: not for as long as all its
/// deadlines allow, which here never end.
#[tokio::test]
async fn an_authenticator_that_never_answers_holds_up_neither_start_nor_end() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    let agent = db.agent("a").await;
    let project = Project::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let asking = db.url_by_way_of(silent.local_addr().expect("an address"));

    // Paused time moves on when there is nothing to do, but not while such a task runs. (Where the code is wrong, it ends.)
    tokio::time::pause();
    let (_melt, frozen) = mpsc::channel::<()>();
    let ice = tokio::task::spawn_blocking(move || frozen.recv_timeout(Duration::from_secs(60)));
    let own = [
        (DATABASE_URL, db.url.as_str()),
        (AUTHENTICATOR_URL, asking.as_str()),
    ];
    let worker = TestWorker::start_with(&[&own, ALL, &project.variables()].concat()).await;
    let _asked = silent.accept().await.expect("somebody asks");
    while request(worker.admin, "GET", "/ready", None).await.0 != 200 {
        assert!(!ice.is_finished(), "the start waits for the answer");
    }
    assert!(db.assistant(agent).await.is_some());
    worker.stop().await;
    assert!(!ice.is_finished(), "the end waits for the answer");
}

#[tokio::test]
async fn a_database_that_is_away_at_start_is_waited_for() {
    let worker = TestWorker::start_with(&[
        (
            DATABASE_URL,
            "postgresql://nobody:canary-password@127.0.0.1:1/none",
        ),
        (SCOPE, "all"),
        (ROBYN_DEV, "true"),
    ])
    .await;
    let (status, body) = request(worker.admin, "GET", "/ready", None).await;
    assert_eq!(status, 503);
    assert!(!body.to_string().contains("canary-password"));
    assert_eq!(request(worker.admin, "GET", "/live", None).await.0, 200);
    let (status, body) = worker.create(json!({"graph_id": "agent"})).await;
    assert_eq!(
        (status, body),
        (503, json!({"detail": "Service Unavailable"}))
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_pass_takes_a_few_statements_per_thousand_agents() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute(
        "create extension pg_stat_statements;
         insert into public.agents (name, status) select n::text, 'active' from generate_series(1, 3000) as n;
         truncate agent_sync.outbox",
    )
    .await;
    let statements = || async {
        let sum = "select coalesce(sum(calls), 0)::int8 from pg_stat_statements
                   where dbid = (select oid from pg_database where datname = current_database())";
        db.rows(sum, &[]).await[0].get::<_, i64>(0)
    };
    let calls = |part: &'static str| {
        let sum = "select coalesce(sum(calls), 0)::int8 from pg_stat_statements where query like $1
                   and dbid = (select oid from pg_database where datname = current_database())";
        let db = &db;
        async move { db.rows(sum, &[&part]).await[0].get::<_, i64>(0) }
    };
    for pass in ["cold", "warm"] {
        let before = statements().await;
        TestWorker::start(&db, ALL).await.stop().await;
        let sent = statements().await - before;
        assert!(
            sent < 600,
            "a {pass} pass over 3,000 agents sent {sent} statements"
        );
        assert_eq!(
            calls("%pg_advisory_xact_lock(k.key)%").await,
            6,
            "at most 500 agents are locked in a transaction, and none of those where nothing is to be done"
        );
    }
    assert_eq!(db.count("langgraph_server.assistants").await, 3000);
    assert_eq!(
        calls("%update public.agents%").await,
        30,
        "whoever edits one of them waits for a hundred at most"
    );
}

#[tokio::test]
async fn the_default_model_is_for_agents_without_one() {
    let db = TestDatabase::new().await;
    let id = db.agent("a").await;
    let worker = TestWorker::start(
        &db,
        &[(SCOPE, "all"), ("AGENT_SYNC_DEFAULT_MODEL", "local:llama")],
    )
    .await;
    let assistant = db.assistant(id).await.expect("an assistant");
    assert_eq!(
        assistant["config"]["configurable"]["model_name"],
        "local:llama"
    );
    worker.stop().await;
}

async fn one(db: &TestDatabase, statement: &str) -> String {
    db.rows(statement, &[]).await[0].get(0)
}

#[tokio::test]
async fn another_scope_is_said_and_an_invalid_one_changes_nothing() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, ALL).await.stop().await;
    TestWorker::start(&db, &[(SCOPE, "nonsense")])
        .await
        .stop()
        .await;
    assert_eq!(db.count("agent_sync.settings where scope = 'all'").await, 1);
    let running = Running::serve(&db, &[(SCOPE, "none")]);
    let line = running.line("the scope has changed").await;
    assert!(
        line.contains("before=all") && line.contains("now=none"),
        "{line}"
    );
    assert_eq!(
        db.count("agent_sync.settings where scope = 'none'").await,
        1
    );
}
