//! A PostgreSQL cluster with a template that has the schema of a Supabase project.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::process::Command;

use super::database::{TestDatabase, connect};

const TEMPLATE: &str = "supabase";

pub struct Cluster {
    postgres: Postgres,
    databases: AtomicU32,
}

impl Cluster {
    pub async fn start(settings: &[&str]) -> Self {
        let postgres = Postgres::start(settings).await.expect("a cluster");
        let cluster = Self {
            postgres,
            databases: AtomicU32::new(0),
        };
        cluster
            .execute("postgres", &format!("create database {TEMPLATE}"))
            .await;
        cluster.execute(TEMPLATE, SCHEMA).await;
        cluster
    }

    /// A new database with the schema of a Supabase project.
    pub async fn database(&self) -> TestDatabase {
        self.database_from(TEMPLATE).await
    }

    pub async fn database_from(&self, template: &str) -> TestDatabase {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let statement = format!("create database {name} template {template}");
        self.execute("postgres", &statement).await;
        TestDatabase::at(&self.postgres.url(&name)).await
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
        let client = connect(&database.url).await;
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
        let output = Command::new(&self.control)
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(self.data.with_file_name("log"))
            .args(["-w", "-m", "immediate", "restart"])
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
