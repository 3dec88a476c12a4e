//! The listening connection, as an operator sees it: what it says of itself, and that no edit is lost meanwhile.

use agent_sync::config::{DATABASE_URL, SCOPE};

use crate::support::TestDatabase;
use crate::support::binary::{FREE_PORTS, Running};
use crate::support::pgbouncer::Pgbouncer;
use crate::support::proxy::Proxy;

fn serve(url: &str) -> Running {
    Running::start(
        &[],
        &[&[(DATABASE_URL, url), (SCOPE, "all")], FREE_PORTS].concat(),
    )
}

/// A router that forgot the connections: both ends stay open, nothing arrives, and nobody says so.
#[tokio::test]
async fn half_open_connections_are_found_and_made_anew() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let proxy = Proxy::before(db.port()).await;
    let running = serve(&db.url_by_way_of(proxy.address));
    running.line("listening for changes").await;
    db.converged().await;
    let before = proxy.connections();
    proxy.stall();
    db.execute("update public.agents set system_prompt = 'edited unheard'")
        .await;
    db.prompted(agent, "edited unheard").await;
    running
        .line("no listening connection, polling every second: notifications no longer arrive")
        .await;
    assert!(proxy.connections() > before);
    // And it hears again.
    crate::support::eventually("it listens again", || async {
        match running.output().matches("listening for changes").count() {
            2 => Ok(()),
            n => Err(format!("{n} times")),
        }
    })
    .await;
}

/// LISTEN succeeds behind a transaction-mode pooler, and nothing ever arrives.
#[tokio::test]
async fn behind_a_transaction_mode_pooler_it_says_what_to_do_and_polls() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    db.forget_edits().await;
    let pooler = Pgbouncer::before(&db).await;
    let running = serve(&pooler.url);
    running
        .line("Startup sync summary: total=10 created=10")
        .await;
    let said = running
        .line("polling every second: notifications do not arrive")
        .await;
    assert!(
        said.contains("WARN") && said.contains("session pooler (port 5432)"),
        "{said}"
    );
    for round in 0..3 {
        db.execute(&format!(
            "update public.agents set system_prompt = 'round {round}'"
        ))
        .await;
        db.converged().await;
    }
    db.written_back(10).await;
    assert!(!running.output().contains("ERROR"), "{}", running.output());
}

#[tokio::test]
async fn an_operator_finds_the_connections_by_name_and_each_loss_in_the_log_once() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let running = serve(&db.url);
    running.line("listening for changes").await;
    let listeners = "pg_stat_activity where datname = current_database() and application_name = 'agent-sync listener'";
    assert_eq!(db.count(listeners).await, 1);
    assert!(db.count("pg_stat_activity where datname = current_database() and application_name = 'agent-sync'").await >= 1);
    db.execute(&format!(
        "select pg_terminate_backend(pid) from {listeners}"
    ))
    .await;
    db.execute("update public.agents set system_prompt = 'edited meanwhile'")
        .await;
    db.prompted(agent, "edited meanwhile").await;
    let line = running.line("no listening connection").await;
    assert!(
        line.contains("terminating connection due to administrator command"),
        "{line}"
    );
    assert_eq!(
        running.output().matches("no listening connection").count(),
        1
    );
}
