//! The limits of our transactions and connections, and what they protect from.

use agent_sync::access::Access;
use agent_sync::config::{SCOPE, Settings};
use agent_sync::database::{Database, DatabaseUrl, at_once, begin};
use agent_sync::ids::AgentId;
use agent_sync::scope::Scope;
use agent_sync::syncer::{Entrance, Outcome, Syncer};

use crate::support::{TestDatabase, TestWorker};

const SETTINGS: [&str; 7] = [
    "isolation",
    "read_only",
    "statement",
    "lock",
    "idle",
    "rls",
    "path",
];

#[tokio::test]
async fn every_transaction_of_ours_has_its_limits_whatever_the_database_is_set_to() {
    let db = TestDatabase::new().await;
    db.execute(&format!(
        "alter database {0} set default_transaction_isolation = 'repeatable read';
         alter database {0} set search_path = evil, public",
        db.name()
    ))
    .await;
    let settings = "select current_setting('transaction_isolation') as isolation, current_setting('transaction_read_only') as read_only,
                      current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock,
                      current_setting('idle_in_transaction_session_timeout') as idle, current_setting('row_security') as rls,
                      current_setting('search_path') as path";
    let pool = db.pool();
    let mut client = pool.client().await.expect("a connection");
    let read = |row: tokio_postgres::Row| SETTINGS.map(|name| row.get::<_, String>(name));
    let tx = begin(&mut client).await.expect("begun");
    let ours = read(tx.query_one(settings, &[]).await.expect("settings"));
    assert_eq!(
        ours,
        ["read committed", "off", "30s", "12s", "10s", "off", ""]
    );
    tx.rollback().await.expect("ended");
    // Where the application's own triggers run, only time is limited.
    let rows = at_once(&client, settings).await.expect("settings");
    let plain = SETTINGS.map(|name| rows[0].get(name).expect("a setting"));
    assert_eq!(
        plain,
        [
            "read committed",
            "off",
            "5s",
            "50ms",
            "0",
            "on",
            "evil, public"
        ]
    );
    let after = read(client.query_one(settings, &[]).await.expect("settings"));
    assert_eq!(
        after[2..],
        ["0", "0", "0", "on", "evil, public"],
        "nothing stays with the session"
    );
}

#[test]
fn connections_find_out_that_their_peer_is_gone() {
    let url: DatabaseUrl = "postgresql://u@h/d".parse().expect("a url");
    let config = url.config();
    assert_eq!(config.get_keepalives_idle().as_secs(), 10);
    assert_eq!(
        config.get_keepalives_interval().map(|d| d.as_secs()),
        Some(5)
    );
    assert_eq!(config.get_tcp_user_timeout().map(|d| d.as_secs()), Some(15));
    assert_eq!(config.get_connect_timeout().map(|d| d.as_secs()), Some(5));
    assert_eq!(config.get_application_name(), Some("agent-sync"));
}

/// A worker's role that row-level security applies to sees no agents. That must not look like "all are deleted".
#[tokio::test]
async fn agents_that_row_level_security_hides_do_not_lose_their_assistants() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    TestWorker::start(&db, &[(SCOPE, "all")]).await.stop().await;
    let role = format!("blind_{}", db.name());
    db.execute(&format!(
        "create role {role} login;
         grant usage on schema agent_sync, langgraph_server to {role};
         grant all on all tables in schema public, agent_sync, langgraph_server to {role};
         grant execute on all functions in schema agent_sync to {role}"
    ))
    .await;
    let blind = Syncer::new(
        Database::new(&db.url_as(&role)),
        Access::open(),
        Settings::default(),
    );
    let error = blind
        .sync_now(&[AgentId(agent)], Entrance::Pass)
        .await
        .expect_err("an error, not a removal")
        .to_string();
    assert!(
        error.contains("row-level security") && error.contains("bypassrls"),
        "{error}"
    );
    assert!(db.assistant(agent).await.is_some());
    db.execute(&format!("drop owned by {role}; drop role {role}"))
        .await;
}

/// One statement with all contents of a batch would be in memory a few times over, here and at the server.
#[tokio::test]
async fn large_assistants_are_written_with_several_statements() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    db.execute(
        "create table public.statements (kind text);
         create function public.count_statement() returns trigger language plpgsql security definer as $$
           begin insert into public.statements values (tg_op); return null; end $$;
         create trigger counted after insert or update on langgraph_server.assistants
           for each statement execute function public.count_statement();
         insert into public.agents (name, status, description, system_prompt)
         select 'a' || n, 'active', repeat('d', 4000), repeat('p', 45000) from generate_series(1, 20) as n",
    )
    .await;
    let (syncer, agents) = of_all_agents(&db).await;
    for kind in ["INSERT", "UPDATE"] {
        syncer
            .sync_now(&agents, Entrance::Pass)
            .await
            .expect("synced");
        let statements = format!("public.statements where kind = '{kind}'");
        assert_eq!(db.count(&statements).await, 2, "{kind}");
        assert_eq!(db.differences().await, Vec::<String>::new());
        db.execute("update public.agents set name = name || '!'")
            .await;
    }
}

/// A control character is six bytes of JSON.
#[tokio::test]
async fn an_agent_that_is_too_large_fails_alone_and_can_be_switched_off() {
    let db = TestDatabase::new().await;
    TestWorker::start(&db, &[]).await.stop().await;
    let (large, other) = (db.agent("large").await, db.agent("other").await);
    let (syncer, agents) = of_all_agents(&db).await;
    let sync = async || {
        let batch = syncer.sync_now(&agents, Entrance::Change).await;
        let outcomes = batch.expect("synced").outcomes.into_iter();
        let of = |id| outcomes.clone().find(|(agent, _)| agent.0 == id);
        (of(large).map(|(_, o)| o), of(other).map(|(_, o)| o))
    };
    let both = |outcome: Outcome| (Some(outcome.clone()), Some(outcome));
    assert_eq!(sync().await, both(Outcome::Created));

    db.execute(&format!(
        "update public.agents set system_prompt = 'edited';
         update public.agents set system_prompt = repeat(chr(1), 200000) where id = '{large}'"
    ))
    .await;
    let (Some(Outcome::Failed(error)), Some(Outcome::Updated)) = sync().await else {
        panic!("the large one fails, and no other")
    };
    assert!(
        error.contains("too large: 1200") && error.contains("1048576"),
        "{error}"
    );
    assert_eq!(db.prompt(other).await.as_deref(), Some("edited"));
    assert!(db.assistant(large).await.is_some(), "it stays as it was");

    for off in ["status = 'disabled'", "deleted_at = now()"] {
        db.execute(&format!(
            "update public.agents set {off} where id = '{large}'"
        ))
        .await;
        assert_eq!(sync().await.0, Some(Outcome::Removed), "{off}");
        db.execute(
            "update public.agents set status = 'active', deleted_at = null, system_prompt = null",
        )
        .await;
        assert_eq!(sync().await.0, Some(Outcome::Created), "{off}");
        db.execute("update public.agents set system_prompt = repeat(chr(1), 200000)")
            .await;
    }
    // Where there is no such column, every agent is active.
    db.execute("alter table public.agents drop column status cascade")
        .await;
    syncer.source.outdated();
    assert!(matches!(sync().await.0, Some(Outcome::Failed(_))));
}

/// A syncer whose scope is everything, and all agents that there are.
async fn of_all_agents(db: &TestDatabase) -> (Syncer, Vec<AgentId>) {
    let settings = Settings {
        scope: Scope::All,
        ..Settings::default()
    };
    let syncer = Syncer::new(db.pool(), Access::open(), settings);
    let agents = db.rows("select id from public.agents", &[]).await;
    let agents = agents.iter().map(|row| AgentId(row.get(0))).collect();
    (syncer, agents)
}
