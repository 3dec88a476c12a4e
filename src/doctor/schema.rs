//! What agent-sync has installed: the version of its schema, its functions, and its triggers on the source tables.

use std::collections::BTreeMap;

use futures::FutureExt;
use serde::Deserialize;
use tokio_postgres::types::Type;

use super::session::Session;
use super::{Examination, Found, Patient, Stop, Verdict};
use crate::config::{AUTO_MIGRATE, Store};
use crate::database::{Error, column, migrations};
use crate::sql;

const MIGRATE: &str = "DATABASE_URL=\"$OWNER_URL\" agent-sync migrate";

const ROLES: &str = "agent-sync roles | psql \"$OWNER_URL\"   # for the role agent_sync_worker, again after each migration";

/// What a statement trigger of ours is for, and the function that it calls.
const EVENTS: [(&str, &str, &str); 4] = [
    ("insert", "REFERENCING NEW TABLE AS rows ", "record_rows"),
    (
        "update",
        "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows ",
        "record_update",
    ),
    ("delete", "REFERENCING OLD TABLE AS rows ", "record_rows"),
    ("truncate", "", "record_truncate"),
];

/// `None`: there is none.
async fn installed(session: &Session) -> Result<Option<i32>, Stop> {
    let row = session.ask_one(sql!("doctor_schema")).await?;
    if !column::<bool>(&row, "is_installed")? {
        return Ok(None);
    }
    if !column::<bool>(&row, "is_open")? {
        return Err(Stop::Skipped(
            "this role may not look into schema agent_sync".to_owned(),
        ));
    }
    let row = session.ask_one(sql!("status_schema")).await?;
    Ok(Some(column(&row, "version")?))
}

/// Skips what has no meaning without.
pub async fn needs_installation(session: &Session) -> Result<(), Stop> {
    match installed(session).await? {
        Some(_) => Ok(()),
        None => Err(Stop::Skipped("agent-sync is not installed".to_owned())),
    }
}

pub async fn version(patient: &Patient<'_>) -> Found {
    let session = patient.session()?;
    let row = session.ask_one(sql!("doctor_schema")).await?;
    let (is_installed, is_open): (bool, bool) =
        (column(&row, "is_installed")?, column(&row, "is_open")?);
    if !is_installed {
        // It may well be another database: nothing is to be installed there.
        patient.shape().await?;
    }
    if is_installed && !is_open {
        return Ok(Verdict::wrong(
            "this role may not look into schema agent_sync",
            ROLES,
        ));
    }
    let has_assistants: bool = column(&row, "has_assistants")?;
    let needs_assistants = patient.config.store == Store::Postgres;
    Ok(judge_version(
        installed(session).await?,
        has_assistants || !needs_assistants,
        patient.config.auto_migrate,
    ))
}

fn judge_version(version: Option<i32>, has_assistants: bool, auto_migrate: bool) -> Verdict {
    let latest = migrations::LATEST;
    let by_itself = match auto_migrate {
        true => "a worker does it at its start, where its role may".to_owned(),
        false => format!("{AUTO_MIGRATE}=false, so no worker does it"),
    };
    let migrate = format!("{MIGRATE}   # {by_itself}\n{ROLES}");
    match version {
        None => Verdict::wrong("agent-sync is not installed in this database", migrate),
        Some(newer) if newer > latest => Verdict::wrong(
            Error::Newer(newer).to_string(),
            "run the agent-sync that has migrated it, or a later one: older workers write nothing any more",
        ),
        Some(older) if older < latest => Verdict::wrong(
            format!("schema agent_sync is at version {older}, and this agent-sync needs {latest}"),
            migrate,
        ),
        Some(version) if !has_assistants => Verdict::wrong(
            format!(
                "schema agent_sync is at version {version}, but there is no table langgraph_server.assistants"
            ),
            migrate,
        ),
        Some(version) => Verdict::ok(format!("agent_sync is at version {version}")),
    }
}

pub async fn functions(patient: &Patient<'_>) -> Found {
    let session = patient.session()?;
    match installed(session).await? {
        Some(migrations::LATEST) => {}
        Some(_) => {
            return Err(Stop::Skipped("the schema is another version's".to_owned()));
        }
        None => return Err(Stop::Skipped("agent-sync is not installed".to_owned())),
    }
    let rows = session.ask(sql!("doctor_functions"), &[]).await?;
    let mut found = BTreeMap::new();
    for row in &rows {
        let (name, arguments): (&str, &str) = (column(row, "name")?, column(row, "arguments")?);
        found.insert(
            format!("{name}({arguments})"),
            column::<String>(row, "body")?,
        );
    }
    Ok(judge_functions(&found))
}

/// By what they are called with, the bodies that there are.
fn judge_functions(found: &BTreeMap<String, String>) -> Verdict {
    let expected = migrations::functions();
    let altered: Vec<&str> = expected
        .iter()
        .filter(|(called, body)| found.get(*called).map(String::as_str) != Some(*body))
        .map(|(called, _)| called.as_str())
        .collect();
    match altered.as_slice() {
        [] => Verdict::ok(format!("all {} are as they were installed", expected.len())),
        altered => Verdict::wrong(
            format!(
                "missing, or not as agent-sync installs them: {}",
                altered.join("; ")
            ),
            format!(
                "psql \"$OWNER_URL\" -c 'delete from agent_sync.migrations' && {MIGRATE}   # makes what is there anew, and loses nothing"
            ),
        ),
    }
}

/// A check a table.
pub fn triggers() -> [(&'static str, Examination); 5] {
    [
        ("triggers on agents", |p| standing(p, "agents").boxed()),
        ("triggers on agent_mcp_tools", |p| {
            standing(p, "agent_mcp_tools").boxed()
        }),
        ("triggers on mcp_tools", |p| {
            standing(p, "mcp_tools").boxed()
        }),
        ("triggers on global_ai_engines", |p| {
            standing(p, "global_ai_engines").boxed()
        }),
        ("triggers on ai_models", |p| {
            standing(p, "ai_models").boxed()
        }),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Trigger {
    /// As `pg_trigger` has it: `A`lways, `O`rigin, `R`eplica, `D`isabled.
    enabled: String,
    definition: String,
}

async fn standing(patient: &Patient<'_>, table: &str) -> Found {
    let session = patient.session()?;
    needs_installation(session).await?;
    let rows = session
        .ask(sql!("doctor_triggers"), &[(&table, Type::TEXT)])
        .await?;
    let Some(row) = rows.first() else {
        return Err(Stop::Skipped(format!("there is no table public.{table}")));
    };
    let triggers: serde_json::Value = column(row, "triggers")?;
    let triggers = serde_json::from_value(triggers)
        .map_err(|e| Error::Setup(format!("pg_trigger says something else: {e}")))?;
    Ok(judge_triggers(table, column(row, "kind")?, &triggers))
}

/// As `pg_get_triggerdef` writes it.
fn definition(table: &str, (event, transition, function): (&str, &str, &str)) -> String {
    format!(
        "CREATE TRIGGER agent_sync_{event} AFTER {} ON public.{table} {transition}FOR EACH STATEMENT EXECUTE FUNCTION agent_sync.{function}()",
        event.to_uppercase()
    )
}

fn judge_triggers(table: &str, kind: &str, found: &BTreeMap<String, Trigger>) -> Verdict {
    if !matches!(kind, "r" | "p") {
        return Verdict::warning(
            format!(
                "public.{table} is no table, so no trigger can stand on it: what changes there is found by the resync only"
            ),
            "make it a table; or set AGENT_SYNC_RESYNC_INTERVAL to how long an edit may take",
        );
    }
    let (mut faults, mut drop) = (Vec::new(), Vec::new());
    for event @ (name, _, function) in EVENTS {
        let trigger = format!("agent_sync_{name}");
        let Some(Trigger {
            enabled,
            definition: is,
        }) = found.get(&trigger)
        else {
            faults.push(format!("{name} is missing"));
            continue;
        };
        let calls = format!("EXECUTE FUNCTION agent_sync.{function}()");
        match enabled.as_str() {
            "D" => faults.push(format!("{name} is disabled")),
            "A" => {}
            _ => faults.push(format!(
                "{name} is not `enable always` (a restore silences it)"
            )),
        }
        if *is != definition(table, event) {
            faults.push(format!("{name} is altered"));
            // What calls our function and is enabled looks right to `migrate`.
            if is.ends_with(&calls) {
                drop.push(format!("drop trigger {trigger} on public.{table}"));
            }
        }
    }
    if faults.is_empty() {
        return Verdict::ok("insert, update, delete and truncate: enabled always, unaltered");
    }
    let mend = match drop.as_slice() {
        [] => MIGRATE.to_owned(),
        drop => format!("psql \"$OWNER_URL\" -c '{}' && {MIGRATE}", drop.join("; ")),
    };
    Verdict::wrong(
        format!(
            "{}. What goes unnoticed so is found by the resync only",
            faults.join(", ")
        ),
        mend,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(verdict: Verdict) -> (String, String) {
        match verdict {
            Verdict::Wrong(complaint) => (complaint.what, complaint.mend),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_trigger_is_looked_at() {
        let mut found: BTreeMap<String, Trigger> = EVENTS
            .into_iter()
            .map(|event| {
                let trigger = Trigger {
                    enabled: "A".to_owned(),
                    definition: definition("agents", event),
                };
                (format!("agent_sync_{}", event.0), trigger)
            })
            .collect();
        assert!(matches!(
            judge_triggers("agents", "r", &found),
            Verdict::Ok(_)
        ));
        assert!(matches!(
            judge_triggers("agents", "v", &found),
            Verdict::Warning(_)
        ));
        found.get_mut("agent_sync_insert").expect("it").enabled = "D".to_owned();
        found.get_mut("agent_sync_update").expect("it").enabled = "O".to_owned();
        let altered = &mut found.get_mut("agent_sync_delete").expect("it").definition;
        *altered = altered.replace("EXECUTE", "WHEN (false) EXECUTE");
        found.remove("agent_sync_truncate");
        let (what, mend) = wrong(judge_triggers("agents", "r", &found));
        for said in [
            "insert is disabled",
            "update is not `enable always`",
            "delete is altered",
            "truncate is missing",
        ] {
            assert!(what.contains(said), "{what}");
        }
        assert!(
            mend.contains("'drop trigger agent_sync_delete on public.agents' && DATABASE_URL="),
            "{mend}"
        );
    }

    #[test]
    fn functions_that_were_replaced_are_found() {
        let mut found: BTreeMap<String, String> = migrations::functions()
            .into_iter()
            .map(|(called, body)| (called, body.to_owned()))
            .collect();
        assert!(matches!(judge_functions(&found), Verdict::Ok(_)));
        found.insert("application(text)".to_owned(), String::new());
        assert!(matches!(judge_functions(&found), Verdict::Ok(_)));
        found.insert(
            "record_update()".to_owned(),
            "begin return null; end".to_owned(),
        );
        found.remove("record_truncate()");
        let (what, _) = wrong(judge_functions(&found));
        assert!(
            what.ends_with(": record_truncate(); record_update()"),
            "{what}"
        );
    }

    #[test]
    fn versions_are_compared() {
        let judged = |version| judge_version(version, true, true);
        assert!(matches!(judged(Some(migrations::LATEST)), Verdict::Ok(_)));
        for version in [
            None,
            Some(migrations::LATEST - 1),
            Some(migrations::LATEST + 1),
        ] {
            wrong(judged(version));
        }
        wrong(judge_version(Some(migrations::LATEST), false, true));
    }
}
