//! The tables that agents are in. Schemas drift: what is missing is done without, but for `public.agents` and its `id`.

use super::{Found, Patient, Stop, Verdict};
use crate::config::DATABASE_URL;
use crate::database::Error;
use crate::source::{LOOK, Shape};

impl Patient<'_> {
    /// What the tables look like. Without agents, nothing more can be said.
    pub async fn shape(&self) -> Result<Shape, Stop> {
        let rows = self.session()?.ask(LOOK, &[]).await?;
        Shape::seen(&rows).map_err(|e| match e {
            Error::Setup(_) => Stop::Skipped("there is no table public.agents".to_owned()),
            other => Stop::Failed(other),
        })
    }
}

pub async fn tables(patient: &Patient<'_>) -> Found {
    let rows = patient.session()?.ask(LOOK, &[]).await?;
    match Shape::seen(&rows) {
        Ok(shape) => Ok(judge(shape.missing())),
        Err(Error::Setup(what)) => Ok(Verdict::wrong(
            what,
            format!("psql \"${DATABASE_URL}\" -c '\\d public.agents'"),
        )),
        Err(e) => Err(e.into()),
    }
}

fn judge(missing: &[String]) -> Verdict {
    match missing {
        [] => Verdict::ok("all tables and columns are there"),
        missing => Verdict::warning(
            format!(
                "missing, so agents are synced without: {}",
                missing.join(", ")
            ),
            "if your application has them under other names, add them as they are named here; else there is nothing to mend",
        ),
    }
}
