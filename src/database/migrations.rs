//! What the worker needs in the database, and the triggers on the customer's tables.
//!
//! Our own schema is migrated in one transaction under an advisory lock. The triggers come one at a time, each in a
//! transaction of its own: creating one has to lock out the table's writers, and waiting for that lock makes everybody
//! wait who comes after us. Either goes out as one message and gives way at once ([`at_once`]).

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;
use tracing::{info, warn};

use super::{Client, Database, Error, Fault, at_once, begin, column};
use crate::retry::Backoff;

macro_rules! migration {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/sql/migrations/",
            $name,
            ".sql"
        ))
    };
}

/// In order; a version is never changed once it is released.
const MIGRATIONS: [(i32, &str); 8] = [
    (1, migration!("0001_agent_sync")),
    (2, migration!("0002_removals_and_turns")),
    (3, migration!("0003_users_are_asked_about")),
    (4, migration!("0004_versions")),
    (5, migration!("0005_leases")),
    (6, migration!("0006_marks")),
    (7, migration!("0007_silent_edits")),
    (8, migration!("0008_edits_of_one_agent")),
];

pub const LATEST: i32 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// How long [`migrate`] keeps asking for a lock that an open transaction of the customer's holds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The worker's login role and what it may do: `sql/roles.sql`.
pub const ROLES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/roles.sql"));

/// Triggers that are still missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Open transactions hold their tables: worth another try soon.
    pub locked: Vec<String>,
    /// Only the owner of their tables may install them, and this role is not.
    pub denied: Vec<String>,
}

impl Left {
    pub fn is_empty(&self) -> bool {
        self.locked.is_empty() && self.denied.is_empty()
    }
}

/// The whole of it as one script, fit for `supabase/migrations/`.
pub fn script() -> String {
    let mut migrations = String::new();
    for (version, text) in MIGRATIONS {
        migrations.extend([text, "\n", &record(version), "\n\n"]);
    }
    let mut script = String::from("-- agent-sync: made by `agent-sync migrate --print`\n\n");
    script.push_str(&crate::sql!("print_migrations").replace("  :migrations", &migrations));
    script.push_str(crate::sql!("install_triggers"));
    script
}

/// Installs or upgrades. Idempotent, and safe when several run at once. A table that stays locked for longer
/// than `patience` is left without its triggers, and so is one that this role may not alter.
pub async fn migrate(database: &Database, patience: Duration) -> Result<Left, Error> {
    let client = database.client().await?;
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    while let Err(e) = migrate_schema(&client).await {
        let pause = backoff.pause();
        let in_the_way = e.fault() == Fault::Locked;
        if !in_the_way && !e.is_lost_race() {
            return Err(e);
        }
        if in_the_way && Instant::now() + pause > deadline {
            return Err(Error::Setup(
                "schema agent_sync could not be upgraded, because an open transaction holds the outbox: it is needed for a moment. \
                 It is tried again; look for sessions that are idle in transaction"
                    .to_owned(),
            ));
        }
        tokio::time::sleep(pause).await;
    }
    loop {
        let missing = missing_triggers(&client).await?;
        let (mut left, mut installed) = (Left::default(), 0);
        for trigger in missing {
            // Not tried where it is known to fail: the table would be locked before the server looks who asks.
            if !trigger.ours_to_alter {
                left.denied.push(trigger.to_string());
                continue;
            }
            match apply(&client, &trigger).await {
                Ok(()) => installed += 1,
                Err(e) if e.fault() == Fault::Locked => left.locked.push(trigger.to_string()),
                Err(e) if e.denial().is_some() => left.denied.push(trigger.to_string()),
                Err(e) => return Err(e),
            }
        }
        if installed > 0 {
            info!(installed, "triggers installed");
        }
        let pause = backoff.pause();
        if left.locked.is_empty() || Instant::now() + pause > deadline {
            client.give_back();
            return Ok(left);
        }
        warn!(
            triggers = left.locked.join(", "),
            "the tables are in use, their triggers are tried again"
        );
        tokio::time::sleep(pause).await;
    }
}

/// The functions that are installed, by name and arguments as `pg_get_function_identity_arguments` writes them, and their bodies: of one
/// that a later version replaces, the later.
pub fn functions() -> std::collections::BTreeMap<String, &'static str> {
    let texts = MIGRATIONS.iter().map(|(_, text)| *text);
    let definitions =
        texts.flat_map(|text| text.split("create or replace function agent_sync.").skip(1));
    definitions
        .filter_map(|definition| {
            let (called, rest) = definition.split_once(')')?;
            let (name, arguments) = called.split_once('(')?;
            let arguments = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
            let body = rest.split("$$").nth(1)?;
            Some((format!("{name}({arguments})"), body))
        })
        .collect()
}

/// What is missing, each in a few words; empty when all is in place.
pub async fn missing(database: &Database) -> Result<Vec<String>, Error> {
    let client = database.client().await?;
    let installed = Installed::look(&client).await?;
    let mut missing = installed.missing();
    if installed.version == LATEST {
        missing.extend(
            missing_triggers(&client)
                .await?
                .iter()
                .map(|trigger| format!("trigger {trigger}")),
        );
    }
    client.give_back();
    Ok(missing)
}

/// What there is of our schema, triggers aside.
struct Installed {
    /// Not newer than ours.
    version: i32,
    has_assistants: bool,
}

impl Installed {
    async fn look(client: &tokio_postgres::Client) -> Result<Self, Error> {
        let version = version(client).await?;
        if version > LATEST {
            return Err(Error::Newer(version));
        }
        let has_assistants = exists(client, "langgraph_server.assistants").await?;
        Ok(Self {
            version,
            has_assistants,
        })
    }

    fn missing(&self) -> Vec<String> {
        let older = (self.version < LATEST).then(|| {
            format!(
                "schema agent_sync is at version {}, needed is {LATEST}",
                self.version
            )
        });
        let assistants =
            (!self.has_assistants).then(|| "table langgraph_server.assistants".to_owned());
        older.into_iter().chain(assistants).collect()
    }
}

/// What there is of what the worker needs, as far as agents can be looked at without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footing {
    /// Schema agent_sync is there, and of this version.
    pub has_schema: bool,
    /// The runtime's table is.
    pub has_assistants: bool,
}

/// Looks, and changes nothing.
///
/// # Errors
/// The schema is another version's: what to do.
pub async fn footing(client: &tokio_postgres::Client) -> Result<Footing, Error> {
    let Installed {
        version,
        has_assistants,
    } = Installed::look(client).await?;
    match version {
        0 | LATEST => Ok(Footing {
            has_schema: version == LATEST,
            has_assistants,
        }),
        _ => Err(Error::Setup(format!(
            "schema agent_sync is at version {version}, needed is {LATEST}: run `agent-sync migrate`"
        ))),
    }
}

/// Removes the triggers and the schema. Returns how many assistants of ours are left behind.
pub async fn uninstall(database: &Database, patience: Duration) -> Result<i64, Error> {
    let mut client = database.client().await?;
    if !exists(&client, "agent_sync.migrations").await? {
        return Err(Error::Setup(
            "there is no schema agent_sync in this database".to_owned(),
        ));
    }
    check(&client).await?;
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let mut left = Vec::new();
        for trigger in triggers(&client, crate::sql!("installed_triggers")).await? {
            match apply(&client, &trigger).await {
                Ok(()) => {}
                Err(e) if e.fault() == Fault::Locked => left.push(trigger.to_string()),
                Err(e) => return Err(e),
            }
        }
        if left.is_empty() {
            break;
        }
        let pause = backoff.pause();
        if Instant::now() + pause > deadline {
            return Err(Error::Setup(format!(
                "open transactions hold the tables, so these are still there: {}. Run it again when they have ended",
                left.join(", ")
            )));
        }
        tokio::time::sleep(pause).await;
    }
    let tx = begin(&mut client).await?;
    let statement = "select count(*) as ours from agent_sync.ledger where content_hash is not null";
    let ours = column(&tx.query_typed_one(statement, &[]).await?, "ours")?;
    tx.batch_execute(crate::sql!("uninstall")).await?;
    tx.commit().await?;
    client.give_back();
    Ok(ours)
}

/// All of it in one message ([`at_once`]): should we be stopped now, nobody waits for a lock of ours.
async fn migrate_schema(client: &Client) -> Result<(), Error> {
    let installed = Installed::look(client).await?;
    let missing = installed.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let Installed {
        version: seen,
        has_assistants: whole,
    } = installed;
    // All scripts again where only the runtime's table is gone: every one can be run twice.
    let mut scripts = crate::sql!("migrate").replace(":seen", &seen.to_string());
    for (number, text) in MIGRATIONS
        .into_iter()
        .filter(|(number, _)| !whole || *number > seen)
    {
        scripts.extend([text, &record(number), "\n"]);
    }
    at_once(client, &scripts)
        .await
        .map_err(|e| match e.denial() {
            Some(denial) => Error::Setup(format!(
                "missing: {}. This role may not install it ({denial}): run `agent-sync migrate`, or the output of \
                 `agent-sync migrate --print`, as the owner of the tables, and then `agent-sync roles` for the worker's own role",
                missing.join(", ")
            )),
            None => e,
        })?;
    info!(version = LATEST, "schema agent_sync migrated");
    Ok(())
}

async fn version(client: &tokio_postgres::Client) -> Result<i32, Error> {
    if !exists(client, "agent_sync.migrations").await? {
        return Ok(0);
    }
    recorded(client).await
}

async fn recorded(client: &tokio_postgres::Client) -> Result<i32, Error> {
    let row = client
        .query_typed_one(
            "select coalesce(max(version), 0) as version from agent_sync.migrations",
            &[],
        )
        .await?;
    column(&row, "version")
}

async fn exists(client: &tokio_postgres::Client, table: &str) -> Result<bool, Error> {
    let row = client
        .query_typed_one(
            "select to_regclass($1) is not null as present",
            &[(&table, Type::TEXT)],
        )
        .await?;
    column(&row, "present")
}

fn record(version: i32) -> String {
    format!(
        "insert into agent_sync.migrations (version) values ({version}) on conflict do nothing;"
    )
}

/// An error where the schema is a newer worker's, or there is none.
pub async fn check(client: &tokio_postgres::Client) -> Result<(), Error> {
    match recorded(client).await? {
        version if version > LATEST => Err(Error::Newer(version)),
        _ => Ok(()),
    }
}

struct Trigger {
    source: String,
    name: String,
    ddl: String,
    /// Whether this role may alter its table.
    ours_to_alter: bool,
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on public.{}", self.name, self.source)
    }
}

async fn missing_triggers(client: &tokio_postgres::Client) -> Result<Vec<Trigger>, Error> {
    triggers(client, crate::sql!("missing_triggers")).await
}

async fn triggers(client: &tokio_postgres::Client, statement: &str) -> Result<Vec<Trigger>, Error> {
    let rows = client.query_typed(statement, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(Trigger {
                source: column(row, "source")?,
                name: column(row, "trigger")?,
                ddl: column(row, "ddl")?,
                ours_to_alter: column(row, "ours_to_alter")?,
            })
        })
        .collect()
}

/// Waits for nobody's lock for long, and lets nobody wait for it for long.
async fn apply(client: &Client, trigger: &Trigger) -> Result<(), Error> {
    at_once(client, &trigger.ddl).await?;
    Ok(())
}
