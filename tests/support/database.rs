//! One cluster for the whole run, a database a test.
//!
//! The whole suite runs twice, `make test`: with workers that log in as a superuser and install what they need, and with
//! `AGENT_SYNC_TEST_ROLE=worker`, where they log in as the role that `sql/roles.sql` makes, on databases where a role which
//! owns the application's tables, and is no superuser, has installed everything. Tests whose subject is installing take a
//! database [`TestDatabase::to_install`], in both runs.

use agent_sync::database::{Database, DatabaseUrl};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};
use uuid::Uuid;

use super::cluster::Cluster;

/// It ends with the process: its keeper reads our pipe.
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(|| {
            Cluster::start(&[
                "max_connections=400",
                "autovacuum=off",
                "shared_preload_libraries=pg_stat_statements",
                // Each test has a database of its own, and statements in it: none is to be forgotten for another's.
                "pg_stat_statements.max=100000",
            ])
        })
        .await
}

/// Who a worker logs in as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Superuser,
    /// Of the database and the application's tables.
    Owner,
    /// What `sql/roles.sql` makes.
    Worker,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Superuser => SUPERUSER,
            Self::Owner => "installer",
            Self::Worker => "agent_sync_worker",
        }
    }

    /// Of this run.
    pub fn of_run() -> Self {
        match std::env::var("AGENT_SYNC_TEST_ROLE").as_deref() {
            Err(_) | Ok("" | "superuser") => Self::Superuser,
            Ok("worker") => Self::Worker,
            Ok(other) => panic!("AGENT_SYNC_TEST_ROLE is `{other}`: superuser or worker"),
        }
    }

    /// Whether this is the first of the two runs, which is enough for what has nothing to do with roles.
    pub fn is_first_run() -> bool {
        Self::of_run() == Self::Superuser
    }

    /// A superuser's url, made this role's.
    pub fn at(self, url: &str) -> String {
        at(url, self.name())
    }
}

fn at(superuser_url: &str, role: &str) -> String {
    superuser_url.replacen(&format!("//{SUPERUSER}@"), &format!("//{role}@"), 1)
}

const SUPERUSER: &str = "postgres";

/// A database with the schema of a Supabase project, and a superuser's connection to it.
pub struct TestDatabase {
    /// The worker's.
    pub url: String,
    pub superuser_url: String,
    pub role: Role,
    pub client: Client,
}

impl TestDatabase {
    pub async fn new() -> Self {
        Self::for_role(Role::of_run()).await
    }

    /// Where nothing of ours is installed, and the worker owns the tables, so that it can.
    pub async fn to_install() -> Self {
        Self::for_role(Role::Owner).await
    }

    /// For workers that log in as this role, whichever run it is.
    pub async fn for_role(role: Role) -> Self {
        cluster().await.database(role).await
    }

    /// With nothing in it, and the worker owns it.
    pub async fn empty() -> Self {
        cluster()
            .await
            .database_from("template0", Role::Owner)
            .await
    }

    /// One that exists, by its superuser's url.
    pub async fn at(superuser_url: &str, role: Role) -> Self {
        Self {
            url: role.at(superuser_url),
            superuser_url: superuser_url.to_owned(),
            role,
            client: connect(superuser_url).await,
        }
    }

    /// The worker's, by way of this address.
    pub fn url_by_way_of(&self, address: impl std::fmt::Display) -> String {
        format!(
            "postgresql://{}@{address}/{}",
            self.role.name(),
            self.name()
        )
    }

    pub fn url(&self) -> DatabaseUrl {
        self.url.parse().expect("a url")
    }

    /// Where this role logs in.
    pub fn url_as(&self, role: &str) -> DatabaseUrl {
        at(&self.superuser_url, role).parse().expect("a url")
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.url().config().get_ports()[0]
    }

    pub fn name(&self) -> String {
        self.url().config().get_dbname().expect("a name").to_owned()
    }

    pub fn pool(&self) -> Database {
        Database::new(&self.url())
    }

    /// One more connection, as the superuser.
    pub async fn connect(&self) -> Client {
        connect(&self.superuser_url).await
    }

    /// One more connection, as a user of the application: role `authenticated`, under row-level security.
    pub async fn connect_as(&self, user: Uuid) -> Client {
        let client = self.connect().await;
        let claims = format!(r#"{{"sub": "{user}", "role": "authenticated"}}"#);
        client
            .batch_execute(&format!(
                "set request.jwt.claims = '{claims}'; set role authenticated"
            ))
            .await
            .expect("role");
        client
    }

    /// Another worker, as far as the database can tell: a session that has the agent's lock in an open transaction.
    pub async fn hold_agent(&self, agent: Uuid) -> Client {
        let holder = self.connect().await;
        let lock = format!(
            "select pg_advisory_xact_lock(hashtextextended('agent_sync:' || '{agent}'::uuid, 0))"
        );
        holder
            .batch_execute(&format!("begin; {lock}"))
            .await
            .expect("the agent's lock");
        holder
    }

    /// Waits until somebody waits for an agent's lock.
    pub async fn somebody_waits_for_an_agent(&self) {
        super::eventually("somebody waits for the agent's lock", || async {
            let waiting = self
                .count(
                    "pg_locks where locktype = 'advisory' and not granted
                     and database = (select oid from pg_database where datname = current_database())",
                )
                .await;
            if waiting == 1 { Ok(()) } else { Err(format!("{waiting} waiting")) }
        })
        .await;
    }

    /// As if all edits so far were older than our triggers: left to the startup pass, and not for the change loop to be
    /// faster.
    pub async fn forget_edits(&self) {
        self.execute(
            "do $$ begin if to_regclass('agent_sync.outbox') is not null then delete from agent_sync.outbox; end if; end $$",
        )
        .await;
    }

    /// Waits until nothing is left in the outbox.
    pub async fn drained(&self) {
        super::eventually("the outbox is drained", || async {
            let left = self.count("agent_sync.outbox").await;
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} left"))
            }
        })
        .await;
    }

    /// Waits until no worker and no command is connected any more.
    pub async fn unattended(&self) {
        let ours = "pg_stat_activity where datname = current_database() and application_name like 'agent-sync%'";
        super::eventually("nobody of ours is connected", || async {
            match self.count(ours).await {
                0 => Ok(()),
                left => Err(format!("{left} are")),
            }
        })
        .await;
    }

    /// Waits until the assistant is told this at the start of a conversation.
    pub async fn prompted(&self, assistant: Uuid, expected: &str) {
        super::eventually("the assistant has the prompt", || async {
            let prompt = self.prompt(assistant).await;
            if prompt.as_deref() == Some(expected) {
                Ok(())
            } else {
                Err(format!("{prompt:?}"))
            }
        })
        .await;
    }

    /// Waits until the agent has its canonical assistant.
    pub async fn synced(&self, agent: Uuid) {
        super::eventually("the agent has its assistant", || async {
            self.assistant(agent)
                .await
                .map(drop)
                .ok_or_else(|| "none yet".to_owned())
        })
        .await;
    }

    /// Waits until this many agents' rows name their canonical assistants.
    pub async fn written_back(&self, agents: i64) {
        super::eventually("the agents' rows name their assistants", || async {
            let named = self
                .count("public.agents where langgraph_assistant_id = id::text")
                .await;
            if named == agents {
                Ok(())
            } else {
                Err(format!("{named} of {agents}"))
            }
        })
        .await;
    }

    pub async fn execute(&self, statements: &str) {
        if let Err(e) = self.client.batch_execute(statements).await {
            panic!(
                "{statements}: {:?}",
                e.as_db_error()
                    .map_or_else(|| e.to_string(), |db| format!("{db:?}"))
            );
        }
    }

    /// As the role that the worker logs in as.
    pub async fn execute_as_worker(&self, statements: &str) {
        self.execute_as(self.role, statements).await;
    }

    pub async fn execute_as(&self, role: Role, statements: &str) {
        let client = connect(&role.at(&self.superuser_url)).await;
        client.batch_execute(statements).await.expect("executed");
    }

    pub async fn rows(&self, statement: &str, params: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.client
            .query(statement, params)
            .await
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"))
    }

    pub async fn count(&self, of: &str) -> i64 {
        self.rows(&format!("select count(*) from {of}"), &[]).await[0].get(0)
    }

    /// An organization with one member. Returns (organization, user).
    pub async fn organization(&self) -> (Uuid, Uuid) {
        let (organization, user) = (Uuid::new_v4(), Uuid::new_v4());
        self.execute(&format!(
            "insert into public.organizations (id, name) values ('{organization}', 'org');
             insert into public.organization_members values ('{organization}', '{user}')"
        ))
        .await;
        (organization, user)
    }

    /// An active agent.
    pub async fn agent(&self, name: &str) -> Uuid {
        let id = Uuid::new_v4();
        self.execute(&format!(
            "insert into public.agents (id, name, status, system_prompt) values ('{id}', '{name}', 'active', 'You are {name}.')"
        ))
        .await;
        id
    }

    /// The assistant's row as JSON.
    pub async fn assistant(&self, id: Uuid) -> Option<Value> {
        let rows = self
            .rows(
                "select to_jsonb(a) from langgraph_server.assistants a where id = $1",
                &[&id.to_string()],
            )
            .await;
        rows.first().map(|row| row.get(0))
    }

    /// What the assistant is told at the start of a conversation.
    pub async fn prompt(&self, id: Uuid) -> Option<String> {
        let assistant = self.assistant(id).await?;
        Some(
            assistant["config"]["configurable"]["system_prompt"]
                .as_str()?
                .to_owned(),
        )
    }
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
}

/// Connects as soon as the server lets anybody in.
pub async fn reconnect(url: &str) -> Client {
    let connected = OnceCell::new();
    super::eventually("connected", || async {
        let (client, connection) = tokio_postgres::connect(url, NoTls)
            .await
            .map_err(|e| format!("{e:?}"))?;
        tokio::spawn(connection);
        connected.set(client).map_err(|e| e.to_string())
    })
    .await;
    connected.into_inner().expect("a connection")
}

/// A readable, fixed uuid.
pub fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0000 + number)
}
