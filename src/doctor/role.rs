//! The role that the worker logs in as: what it may do, and what it is shown.

use tokio_postgres::types::Type;

use super::schema::needs_installation;
use super::{Found, Patient, Verdict};
use crate::config::Store;
use crate::database::{Error, column};
use crate::sql;

/// The one that `agent-sync roles` makes.
const WORKER: &str = "agent_sync_worker";

const ROLES: &str = "agent-sync roles | psql \"$OWNER_URL\"";

/// Up to so many grants are written out.
const WRITTEN_OUT: usize = 3;

pub async fn privileges(patient: &Patient<'_>) -> Found {
    let session = patient.session()?;
    needs_installation(session).await?;
    let write_back = patient.config.sync.write_back;
    let in_database = patient.config.store == Store::Postgres;
    let params = [
        (&write_back as _, Type::BOOL),
        (&in_database as _, Type::BOOL),
    ];
    let rows = session.ask(sql!("doctor_privileges"), &params).await?;
    let lacking: Vec<&str> = rows
        .iter()
        .map(|row| column(row, "lacking"))
        .collect::<Result<_, Error>>()?;
    let row = session.ask_one(sql!("doctor_server")).await?;
    Ok(judge_privileges(&lacking, column(&row, "role")?))
}

fn judge_privileges(lacking: &[&str], role: &str) -> Verdict {
    if lacking.is_empty() {
        return Verdict::ok(format!("{role} may do all that a worker does"));
    }
    let mend = match role == WORKER || lacking.len() > WRITTEN_OUT {
        true if role == WORKER => ROLES.to_owned(),
        true => format!("{ROLES}   # and log in as {WORKER}"),
        false => lacking
            .iter()
            .map(|privilege| format!("psql \"$OWNER_URL\" -c 'grant {privilege} to \"{role}\"'"))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    Verdict::wrong(format!("{role} lacks: {}", lacking.join("; ")), mend)
}

pub async fn hidden_rows(patient: &Patient<'_>) -> Found {
    let session = patient.session()?;
    let rows = session.ask(sql!("doctor_hidden_rows"), &[]).await?;
    let hidden: Vec<&str> = rows
        .iter()
        .map(|row| column(row, "name"))
        .collect::<Result<_, Error>>()?;
    let row = session.ask_one(sql!("doctor_server")).await?;
    Ok(judge_hidden(&hidden, column(&row, "role")?))
}

fn judge_hidden(hidden: &[&str], role: &str) -> Verdict {
    match hidden {
        [] => Verdict::ok(format!("row-level security hides nothing from {role}")),
        hidden => Verdict::wrong(
            format!(
                "row-level security may hide rows from {role}, and hidden agents look like deleted ones, so nothing is synced: {}",
                hidden.join(", ")
            ),
            match role {
                WORKER => ROLES.to_owned(),
                role => format!(
                    "{ROLES}   # and log in as {WORKER}\npsql \"$OWNER_URL\" -c 'alter role \"{role}\" bypassrls'   # or this"
                ),
            },
        ),
    }
}
