//! A dry run writes nothing: not in the database, not on a server, whatever there is to do.

use agent_sync::config::{AUTO_MIGRATE, MAX_REMOVALS};
use agent_sync::database::migrations::LATEST;
use agent_sync::ids::{AgentId, AssistantId};
use agent_sync::plan::{Claim, IfExists};
use agent_sync::syncer::Entrance;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::forecasts::syncer;
use super::{Setting, agents, document};
use crate::support::binary::run;
use crate::support::cluster::Cluster;
use crate::support::database::Role;
use crate::support::double::Double;
use crate::support::{TestDatabase, uuid};

/// All that a database holds, with what moves when a row is only touched: tables, sequences, and its catalogs.
async fn everything(db: &TestDatabase) -> Vec<(String, String)> {
    let names = "select c.oid::regclass::text, c.relkind::text from pg_class as c
         where c.relkind in ('r', 'S', 'm')
           and (c.relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema', 'pg_toast')
             or c.oid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_trigger'::regclass, 'pg_namespace'::regclass,
               'pg_attribute'::regclass))
         order by 1";
    let mut everything = Vec::new();
    for row in db.rows(names, &[]).await {
        let (name, kind): (String, String) = (row.get(0), row.get(1));
        let row = match kind.as_str() {
            "S" => "t.last_value::text || t.is_called::text",
            _ => "t::text || xmin::text || ctid::text",
        };
        let statement = format!(
            "select coalesce(md5(string_agg({row}, '|' order by {row})), '') from {name} as t"
        );
        everything.push((name, db.rows(&statement, &[]).await[0].get(0)));
    }
    everything
}

/// The next id that a transaction of this server gets which writes something.
async fn next_transaction(db: &TestDatabase) -> String {
    let next = "select pg_snapshot_xmax(pg_current_snapshot())::text";
    db.rows(next, &[]).await[0].get(0)
}

/// Something of each kind to do, and edits that wait in the outbox.
async fn plenty_to_do(db: &TestDatabase) {
    db.execute(agent_sync::demo::DATA).await;
    agents(db, 15).await;
    let found = uuid(900);
    db.execute(&format!(
        "insert into public.agents (id, name, status) values ('{found}', 'squatted', 'active');
         insert into public.agents (name, status, sampling_params) values ('broken', 'active', '[1]')"
    ))
    .await;
}

async fn edits_behind_our_back(db: &TestDatabase) {
    db.execute(
        "update public.agents set status = 'disabled' where name in ('a1', 'a2', 'a3');
         update public.agents set system_prompt = 'edited' where name in ('a4', 'a5');
         update public.agents set langgraph_assistant_id = null where name = 'a6';
         insert into public.agents (name, status) values ('new', 'active')",
    )
    .await;
}

#[tokio::test]
async fn nothing_is_written_to_a_database_whatever_there_is_to_do() {
    // Of one's own: nobody else writes there.
    let cluster = Cluster::start(&["autovacuum=off"]).await;
    let db = cluster.database(Role::Owner).await;
    plenty_to_do(&db).await;
    let setting = Setting { db, server: None };
    let db = &setting.db;
    for is_installed in [false, true] {
        if is_installed {
            setting.sync(&[]).await;
            edits_behind_our_back(db).await;
            db.execute(&format!(
                "update langgraph_server.assistants set name = 'edited' where name = 'a7';
                 insert into langgraph_server.assistants (id, graph_id, metadata) values ('{}', 'g', '{{\"owner\": \"mallory\"}}')
                 on conflict (id) do update set metadata = excluded.metadata",
                uuid(900)
            ))
            .await;
        }
        let (before, next) = (everything(db).await, next_transaction(db).await);
        let mut plans = Vec::new();
        for args in [
            &[][..],
            &["--json"],
            &["--allow-removals"],
            &["--agent", "a0000000-0000-4000-8000-000000000001"],
        ] {
            let args = [&["--dry-run"], args].concat();
            for limit in ["0", "unlimited"] {
                let args = [&["--scope", "all"], &args[..]].concat();
                let ended = setting.sync_with(&args, &[(MAX_REMOVALS, limit)]).await;
                assert!(
                    ended.code == Some(2) || args.contains(&"--agent"),
                    "{ended:?}"
                );
                plans.push(ended.stdout);
            }
        }
        assert!(
            plans[0].contains("create") && plans[0].contains("failed"),
            "{plans:?}"
        );
        assert!(!plans[0].contains("remove ("), "{plans:?}");
        assert_eq!(
            plans[1].contains("remove (the agent is not active)"),
            is_installed
        );
        assert_eq!(everything(db).await, before);
        assert_eq!(
            next_transaction(db).await,
            next,
            "somebody has written something"
        );
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_that_changes_anything() {
    let setting = Setting::server().await;
    plenty_to_do(&setting.db).await;
    let server = setting.server.as_ref().expect("a server");
    for is_synced in [false, true] {
        if is_synced {
            setting.sync(&[]).await;
            edits_behind_our_back(&setting.db).await;
        }
        server.forget_log();
        let (before, there) = (everything(&setting.db).await, server.assistants());
        let plan = setting.plan(&[]).await;
        let create = plan["summary"]["create"].as_u64();
        assert!(create > Some(0), "{plan}");
        let methods = server.log().into_iter().map(|seen| seen.method.to_string());
        assert!(methods.into_iter().all(|method| method == "GET"));
        assert_eq!(server.assistants(), there);
        assert_eq!(everything(&setting.db).await, before);
    }
}

/// A role that may only read sees the same plan, so nothing depends on being allowed to write.
#[tokio::test]
async fn a_role_that_may_write_nothing_sees_the_same_plan() {
    let setting = Setting::table().await;
    let db = &setting.db;
    plenty_to_do(db).await;
    let role = format!("reader_{}", db.name());
    let can_read = |schema: &str| {
        format!(
            "grant usage on schema {schema} to {role}; grant select on all tables in schema {schema} to {role};"
        )
    };
    db.execute(&format!(
        "create role {role} login bypassrls; {}",
        can_read("public")
    ))
    .await;
    let url = db
        .superuser_url
        .replacen("//postgres@", &format!("//{role}@"), 1);
    for is_installed in [false, true] {
        if is_installed {
            setting.sync(&[]).await;
            edits_behind_our_back(db).await;
            db.execute(&format!(
                "{} {} grant execute on function agent_sync.fingerprint to {role}",
                can_read("agent_sync"),
                can_read("langgraph_server")
            ))
            .await;
        } else if db.role == Role::Worker {
            // Installed already in that run.
            continue;
        }
        let args = ["sync", "--scope", "all", "--dry-run", "--json"];
        let reader = run(&args, &[("DATABASE_URL", &url), ("ROBYN_DEV", "true")]).await;
        assert_eq!(document(&reader), setting.plan(&[]).await, "{reader:?}");
    }
}

/// The user of an agent is asked about, as in a sync: who may not have it any more is going to lose the assistant.
#[tokio::test]
async fn users_are_asked_about_and_nothing_is_written_for_that() {
    let db = TestDatabase::new().await;
    let (organization, _) = db.organization().await;
    let agent = db.agent("a").await;
    let setting = Setting { db, server: None };
    let db = &setting.db;
    setting.sync(&[]).await;
    db.execute(&format!(
        "update public.agents set organization_id = '{organization}' where id = '{agent}'"
    ))
    .await;
    setting.sync(&[]).await;
    // A user's own, made while nobody was asked.
    let copy = Uuid::new_v4();
    let claim = Claim {
        owner: Uuid::new_v4().to_string(),
        identity: None,
        assistant_id: Some(AssistantId(copy)),
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    };
    let asking = syncer(&setting);
    asking
        .sync_now(&[AgentId(agent)], Entrance::Request(&claim))
        .await
        .expect("synced");
    let before = everything(db).await;
    let asked = [("DATABASE_URL", db.url.as_str())];
    let args = ["sync", "--scope", "all", "--dry-run", "--json"];
    let plan = document(&run(&args, &asked).await);
    let touched = plan["agents"].as_array().expect("agents");
    assert_eq!(touched.len(), 1, "{plan}");
    let assistants = &touched[0]["assistants"];
    assert_eq!(assistants.as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!(assistants[0]["assistant_id"], json!(copy));
    assert_eq!(assistants[0]["action"], "remove");
    assert_eq!(
        assistants[0]["why"],
        "the database does not show the agent to its user"
    );
    assert_eq!(everything(db).await, before);
    let done = document(&run(&["sync", "--scope", "all", "--json"], &asked).await);
    assert_eq!(done["agents"][0]["outcome"], "revoked", "{done}");
    assert_eq!(db.assistant(copy).await, None);
}

#[tokio::test]
async fn before_anything_is_installed_there_is_a_plan_and_an_older_schema_is_not_upgraded_for_one()
{
    let setting = Setting {
        db: TestDatabase::to_install().await,
        server: None,
    };
    let db = &setting.db;
    agents(db, 3).await;
    // What an older runtime has left, and somebody else.
    let ids: Vec<Uuid> = {
        let rows = db
            .rows("select id from public.agents order by name", &[])
            .await;
        rows.iter().map(|row| row.get(0)).collect()
    };
    db.execute(&format!(
        "create schema langgraph_server;
         create table langgraph_server.assistants (id text primary key, graph_id text, config jsonb, context jsonb, metadata jsonb,
           name text, description text, version integer default 1, created_at timestamptz, updated_at timestamptz);
         alter schema langgraph_server owner to installer;
         alter table langgraph_server.assistants owner to installer;
         insert into langgraph_server.assistants (id, graph_id, metadata)
         values ('{}', 'g', '{{\"owner\": \"system\"}}'), ('{}', 'g', '{{\"owner\": \"mallory\"}}')",
        ids[0], ids[1]
    ))
    .await;
    let plan = setting.plan(&[]).await;
    assert_eq!(plan["installed"], Value::Bool(false));
    let summary = json!({"create": 1, "update": 1, "conflict": 1, "remove": 0, "unchanged": 0, "held": 0, "failed": 0});
    assert_eq!(plan["summary"], summary, "{plan}");
    let words = setting
        .sync_with(&["--scope", "all", "--dry-run"], &[(AUTO_MIGRATE, "false")])
        .await;
    assert!(
        words
            .stderr
            .contains("run `agent-sync migrate` before a sync"),
        "{words:?}"
    );
    assert_eq!(
        db.count("pg_namespace where nspname = 'agent_sync'").await,
        0
    );
    let done = document(&setting.sync(&["--json"]).await);
    let summary = json!({"total": 3, "created": 1, "updated": 1, "conflict": 1, "removed": 0, "skipped": 0, "held": 0, "failed": 0});
    assert_eq!(done["summary"], summary, "{done}");

    db.execute(&format!(
        "delete from agent_sync.migrations where version = {LATEST}"
    ))
    .await;
    let before = everything(db).await;
    let older = setting.sync(&["--dry-run"]).await;
    assert_eq!(older.code, Some(1), "{older:?}");
    assert!(
        older.stderr.contains("run `agent-sync migrate`"),
        "{older:?}"
    );
    assert_eq!(everything(db).await, before);
    db.execute(&format!(
        "insert into agent_sync.migrations (version) values ({LATEST}), (1000)"
    ))
    .await;
    let before = everything(db).await;
    let newer = setting.sync(&["--dry-run"]).await;
    assert_eq!(newer.code, Some(1), "{newer:?}");
    assert!(newer.stderr.contains("is at version 1000"), "{newer:?}");
    assert_eq!(everything(db).await, before);
}

/// Who reads only takes no lock that anybody waits for, and waits for none of ours.
#[tokio::test]
async fn agents_that_somebody_syncs_just_now_are_looked_at_all_the_same() {
    let setting = Setting::table().await;
    let agent = setting.db.agent("a").await;
    setting.sync_with(&["--scope", "none"], &[]).await;
    let _holder = setting.db.hold_agent(agent).await;
    let plan = setting.plan(&[]).await;
    assert_eq!(plan["summary"]["create"], 1, "{plan}");

    let setting = Setting::server().await;
    let agent = setting.db.agent("a").await;
    setting.sync_with(&["--scope", "none"], &[]).await;
    setting
        .db
        .execute(&format!(
            "insert into agent_sync.leases values ('{agent}', gen_random_uuid(), now() + interval '1 hour')"
        ))
        .await;
    let plan = setting.plan(&[]).await;
    assert_eq!(plan["summary"]["create"], 1, "{plan}");
    assert!(setting.server.as_ref().map(Double::assistants) == Some(vec![]));
}
