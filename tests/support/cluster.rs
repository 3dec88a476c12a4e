//! A PostgreSQL cluster with two templates: one that has the schema of a Supabase project, and one where agent-sync is
//! installed in it, too.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_sync::database::{Database, migrations};
use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::database::{Role, TestDatabase, connect};

/// Owned by [`Role::Owner`]: the application's schema.
const SUPABASE: &str = "supabase";

/// The same with agent-sync in it, as that role installed it, and with what a worker's own role needs.
const INSTALLED: &str = "installed";

pub struct Cluster {
    postgres: Postgres,
    databases: AtomicU32,
    installed: OnceCell<()>,
}

impl Cluster {
    pub async fn start(settings: &[&str]) -> Self {
        let postgres = Postgres::start(settings).await.expect("a cluster");
        let cluster = Self {
            postgres,
            databases: AtomicU32::new(0),
            installed: OnceCell::new(),
        };
        let owner = Role::Owner.name();
        // The schema brings roles along, and so does the worker's file: that takes a superuser. The rest does not.
        let promoted = format!("create role {owner} login superuser");
        cluster.execute("postgres", &promoted).await;
        let create = format!("create database {SUPABASE} owner {owner}");
        cluster.execute("postgres", &create).await;
        cluster.execute_as(Role::Owner, SUPABASE, SCHEMA).await;
        cluster
            .execute_as(Role::Owner, "postgres", migrations::ROLES)
            .await;
        let demoted = format!("alter role {owner} nosuperuser");
        cluster.execute("postgres", &demoted).await;
        cluster
    }

    /// A new database with the schema of a Supabase project, for a worker of this role. One that may not install anything
    /// finds it installed.
    pub async fn database(&self, role: Role) -> TestDatabase {
        let template = match role {
            Role::Worker => {
                self.installed.get_or_init(|| self.install()).await;
                INSTALLED
            }
            Role::Superuser | Role::Owner => SUPABASE,
        };
        self.database_from(template, role).await
    }

    pub async fn database_from(&self, template: &str, role: Role) -> TestDatabase {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let statement = format!(
            "create database {name} template {template} owner {}",
            Role::Owner.name()
        );
        self.execute("postgres", &statement).await;
        TestDatabase::at(&self.postgres.url(&name), role).await
    }

    async fn install(&self) {
        let create = format!(
            "create database {INSTALLED} template {SUPABASE} owner {}",
            Role::Owner.name()
        );
        self.execute("postgres", &create).await;
        let url = Role::Owner.at(&self.postgres.url(INSTALLED));
        let database = Database::new(&url.parse().expect("a url"));
        let left = migrations::migrate(&database, migrations::PATIENCE).await;
        assert_eq!(left.expect("migrated"), migrations::Left::default());
        drop(database);
        self.execute_as(Role::Owner, INSTALLED, migrations::ROLES)
            .await;
        // The pool's connections are closed by and by, and a template must have none.
        let close = format!(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{INSTALLED}'"
        );
        self.execute("postgres", &close).await;
    }

    /// Whoever is still connected is thrown out.
    pub async fn discard(&self, database: TestDatabase) {
        let statement = format!("drop database {} with (force)", database.name());
        self.execute("postgres", &statement).await;
    }

    async fn execute(&self, database: &str, statements: &str) {
        self.postgres
            .execute(database, statements)
            .await
            .expect("executed");
    }

    async fn execute_as(&self, role: Role, database: &str, statements: &str) {
        let client = connect(&role.at(&self.postgres.url(database))).await;
        client.batch_execute(statements).await.expect("executed");
    }
}

/// A server that can be made to crash: what is needed for that, as it says itself.
pub struct Server {
    control: PathBuf,
    data: PathBuf,
    /// The uid and gid that it runs as.
    user: (u32, u32),
}

impl Server {
    pub async fn of(database: &TestDatabase) -> Self {
        let client = database.connect().await;
        let row = client
            .query_one(
                "select setting, current_setting('data_directory') from pg_config where name = 'BINDIR'",
                &[],
            )
            .await
            .expect("its places");
        let [bin, data] = [0, 1].map(|n| PathBuf::from(row.get::<_, String>(n)));
        let owner = std::fs::metadata(&data).expect("a directory");
        Self {
            control: bin.join("pg_ctl"),
            data,
            user: (owner.uid(), owner.gid()),
        }
    }

    /// All its processes quit at once, and it comes back under the same port after crash recovery.
    ///
    /// That nothing which was committed is lost by it, though fsync is off, is because the operating system does not
    /// crash with it: what was written is in its hands.
    pub async fn crash_and_restart(&self) {
        self.restart("immediate").await;
    }

    /// From now on it takes no writes, and waits for a primary.
    pub async fn become_standby(&self) {
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "").expect("written");
        let (uid, gid) = self.user;
        std::os::unix::fs::chown(&signal, Some(uid), Some(gid)).expect("the server's");
        self.restart("fast").await;
    }

    async fn restart(&self, mode: &str) {
        let output = Command::new(&self.control)
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(self.data.with_file_name("log"))
            .args(["-w", "-m", mode, "restart"])
            .uid(self.user.0)
            .gid(self.user.1)
            .current_dir(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .await
            .expect("pg_ctl runs");
        assert!(output.success(), "the server does not come back");
    }
}
