//! `agent-sync demo`: a throw-away PostgreSQL with a few agents, and the worker on it.

pub mod postgres;

use std::net::{Ipv4Addr, SocketAddr};

use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Store, Variables};
use crate::database::DatabaseUrl;
use crate::scope::Scope;
use crate::worker::Worker;
use postgres::Postgres;

/// The tables of a Supabase project, as far as they concern agents.
pub const SCHEMA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/demo/schema.sql"));

/// 3 organizations, 12 agents.
pub const DATA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/demo/data.sql"));

/// Whatever the environment says of a database and of a server, the demo is about its own database, and about no server but one that
/// was named for it.
pub fn set_apart(variables: &mut Variables, langgraph: Option<&str>) {
    variables.remove(&config::secrets::file_variable(config::DATABASE_URL));
    let mut set = |name: &str, value: &str| variables.insert(name.to_owned(), value.to_owned());
    // Replaced once it runs.
    set(config::DATABASE_URL, "postgresql://localhost");
    match langgraph {
        None => set(config::STORE, "postgres"),
        Some(url) => {
            set(config::LANGGRAPH_API_URL, url);
            set(config::STORE, "langgraph")
        }
    };
}

/// Runs until `shutdown` is called, and leaves nothing behind.
pub async fn run(
    config: Config,
    variables: &Variables,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    println!("starting a throw-away PostgreSQL ...");
    let postgres = Postgres::start(&[]).await?;
    postgres.execute("postgres", SCHEMA).await?;
    postgres.execute("postgres", DATA).await?;
    let url = postgres.url("postgres");

    let mut config = Config {
        database: Some(url.parse::<DatabaseUrl>()?),
        scope: Ok(Scope::All),
        dev: true,
        // What the demo prints is tried without a token.
        authentication: config::Authentication::default(),
        auto_migrate: true,
        ..config
    };
    // A busy default port must not spoil the first impression; one that was asked for is asked for.
    for (address, variable) in [
        (&mut config.http_addr, config::HTTP_ADDR),
        (&mut config.admin_addr, config::ADMIN_ADDR),
    ] {
        if !variables.contains_key(variable) && std::net::TcpListener::bind(*address).is_err() {
            *address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        }
    }
    let store = config.store.clone();
    let worker = Worker::bind(config).await?;
    let look = look(&store, &url, worker.http_addr());
    let (api, admin, ready) = (worker.http_addr(), worker.admin_addr(), worker.readiness());
    let stop = shutdown.clone();
    let guide = async {
        while ready.pending().is_some() && !stop.is_cancelled() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        if !stop.is_cancelled() {
            println!("{}", try_this(&url, &look, api, admin));
        }
    };
    tokio::join!(worker.run(shutdown.clone()), guide);
    postgres.stop();
    Ok(())
}

/// How to look at the assistants, where they live.
fn look(store: &Store, url: &str, api: SocketAddr) -> String {
    let server = match store {
        Store::Postgres => {
            return format!(
                "psql '{url}' -c \"select name, version, updated_at, config -> 'configurable' ->> 'system_prompt' as prompt from \
                 langgraph_server.assistants order by updated_at desc\""
            );
        }
        Store::Memory => format!("http://{api}"),
        Store::LangGraph(server) => server.url.to_string().trim_end_matches('/').to_owned(),
    };
    format!(
        "curl -s {server}/assistants/search -H 'content-type: application/json' \\
     -d '{{\"sort_by\": \"updated_at\", \"limit\": 3}}'"
    )
}

fn try_this(url: &str, look: &str, api: SocketAddr, admin: SocketAddr) -> String {
    format!(
        r#"
agent-sync is running on a database with 12 agents: 10 are active, one is a draft, one is deleted.

1. Edit an agent, and watch the line that appears here, `agent synced`, within milliseconds, or the page at http://{admin}:

   psql '{url}' -c "update public.agents set system_prompt = 'You answer in haiku.' where name = 'Refund Desk'"

2. Create an assistant that names an agent. It comes back with the agent's whole configuration:

   curl -s http://{api}/assistants -H 'content-type: application/json' \
     -d '{{"graph_id": "agent", "metadata": {{"supabase_agent_id": "a0000000-0000-4000-8000-000000000001"}}}}'

3. Look at the assistants, the newest change first:

   {look}

Ctrl-C stops everything and leaves nothing behind.
"#
    )
}
