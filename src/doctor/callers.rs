//! Whether users can be known by their tokens, and whether the database can be asked about them.

use tokio_postgres::types::Type;

use super::connection::credentials::is_supabase_pooler;
use super::{Found, Patient, Stop, Verdict};
use crate::access::Access;
use crate::config::{
    AUTHENTICATOR_URL, Authentication, Config, DATABASE_URL, RECHECK_ACCESS, ROBYN_DEV,
    SUPABASE_JWT_SECRET, SUPABASE_URL,
};
use crate::database::{DatabaseUrl, Error, column};
use crate::http::auth;
use crate::sql;

pub async fn known(patient: &Patient<'_>) -> Found {
    let config = patient.config;
    let warnings = config.authentication.warnings(config.dev, config.http_addr);
    Ok(judge_known(&warnings, config.dev, &config.authentication))
}

fn judge_known(warnings: &[String], is_dev: bool, settings: &Authentication) -> Verdict {
    let project = format!("{SUPABASE_URL}=https://<ref>.supabase.co");
    match (warnings, &settings.issuer) {
        ([], Some(issuer)) => Verdict::ok(format!("whoever has a token of {issuer}")),
        ([], None) => Verdict::ok("whoever has a token that a known key has signed"),
        (warnings, _) if is_dev => Verdict::warning(
            warnings.join(". "),
            format!("in production, unset {ROBYN_DEV}"),
        ),
        _ if !settings.has_keys() => Verdict::warning(
            "there are no keys to know callers by, so the API refuses every request",
            format!("{project}; or {SUPABASE_JWT_SECRET}=…, where the project has a legacy secret"),
        ),
        (warnings, None) => Verdict::warning(warnings.join(". "), project),
        (warnings, Some(_)) => Verdict::warning(
            warnings.join(". "),
            "use https://, or see that nobody is in between",
        ),
    }
}

pub async fn keys(patient: &Patient<'_>) -> Found {
    let Authentication { jwks, secret, .. } = &patient.config.authentication;
    let has_secret = secret.is_some();
    match jwks {
        Some(url) => {
            let published = auth::published(url).await.map_err(|e| e.to_string());
            Ok(judge_keys(published, has_secret, &url.to_string()))
        }
        None if has_secret => Ok(Verdict::ok(format!(
            "only {SUPABASE_JWT_SECRET}: tokens of published keys are refused"
        ))),
        None => Err(Stop::DoesNotApply),
    }
}

/// How many are published that are of use.
fn judge_keys(published: Result<usize, String>, has_secret: bool, url: &str) -> Verdict {
    match (published, has_secret) {
        (Ok(0), true) => Verdict::ok(format!(
            "the project publishes none, and {SUPABASE_JWT_SECRET} is set"
        )),
        (Ok(0), false) => Verdict::wrong(
            format!(
                "{url} publishes no key that is of use: the project signs with its legacy secret, and no token can be verified"
            ),
            format!(
                "{SUPABASE_JWT_SECRET}=<the legacy secret> (Supabase: JWT Keys); or make the project sign with an ES256 key"
            ),
        ),
        (Ok(1), _) => Verdict::ok(format!("1 key at {url}")),
        (Ok(count), _) => Verdict::ok(format!("{count} keys at {url}")),
        (Err(why), true) => Verdict::warning(
            format!(
                "the published keys cannot be had, so only tokens of the legacy secret are verified: {why}"
            ),
            format!("curl -sS -i '{url}'"),
        ),
        (Err(why), false) => Verdict::wrong(
            format!("the keys cannot be had, so no token can be verified: {why}"),
            format!(
                "curl -sS -i '{url}'   # is {SUPABASE_URL} the project's, and the way there open?"
            ),
        ),
    }
}

/// Skips what is about users where there are none.
fn are_asked_about(config: &Config) -> Result<(), Stop> {
    match (config.dev, config.authentication.has_keys()) {
        (true, _) => Err(Stop::Skipped(format!(
            "{ROBYN_DEV}=true: the database is not asked about callers"
        ))),
        (false, false) => Err(Stop::Skipped("nobody is let in".to_owned())),
        (false, true) => Ok(()),
    }
}

/// What the database has of row-level security on agents.
struct Walls {
    is_on: bool,
    has_role: bool,
    policies: i64,
    can_become: bool,
}

async fn walls(patient: &Patient<'_>) -> Result<Walls, Stop> {
    let session = patient.session()?;
    are_asked_about(patient.config)?;
    let asker = patient.config.tenancy.authenticator.as_ref().map(asker);
    let rows = session
        .ask(
            sql!("doctor_row_level_security"),
            &[(&asker as _, Type::TEXT)],
        )
        .await?;
    let row = rows
        .first()
        .ok_or_else(|| Stop::Skipped("there is no table public.agents".to_owned()))?;
    Ok(Walls {
        is_on: column(row, "is_on")?,
        has_role: column(row, "has_role")?,
        policies: column(row, "policies")?,
        can_become: column(row, "can_become")?,
    })
}

/// The role that this url logs in as: through Supabase's pooler, it is followed by the project.
fn asker(url: &DatabaseUrl) -> &str {
    let config = url.config();
    let user = config.get_user().unwrap_or_default();
    match config.get_hosts().iter().any(is_supabase_pooler) {
        true => user.split('.').next().unwrap_or(user),
        false => user,
    }
}

pub async fn row_level_security(patient: &Patient<'_>) -> Found {
    Ok(judge_walls(&walls(patient).await?))
}

fn judge_walls(walls: &Walls) -> Verdict {
    match walls {
        Walls { is_on: false, .. } => Verdict::wrong(
            "it is off for public.agents, so every user would see every agent: lazy sync is refused",
            "psql \"$OWNER_URL\" -c 'alter table public.agents enable row level security'   # and a policy for role authenticated",
        ),
        Walls { policies: 0, .. } => Verdict::warning(
            "no policy of public.agents lets role authenticated read: no user gets an agent",
            "psql \"$OWNER_URL\" -c 'create policy … on public.agents for select to authenticated using (…)'",
        ),
        Walls { policies: 1, .. } => Verdict::ok("on for public.agents, with 1 policy for reading"),
        Walls { policies, .. } => Verdict::ok(format!(
            "on for public.agents, with {policies} policies for reading"
        )),
    }
}

pub async fn authenticated(patient: &Patient<'_>) -> Found {
    let walls = walls(patient).await?;
    let config = patient.config;
    let own = config.tenancy.authenticator.as_ref();
    let Some(url) = own.or(config.database.as_ref()) else {
        return Err(Stop::DoesNotApply);
    };
    if !walls.has_role {
        return Ok(Verdict::wrong(
            "there is no such role, so nobody can be asked about: lazy sync is refused",
            format!("is {DATABASE_URL} the project's database? Supabase makes that role in each"),
        ));
    }
    let asker = asker(url);
    if !walls.can_become {
        return Ok(Verdict::wrong(
            format!(
                "{asker} cannot take it, to ask the database what a user may have: lazy sync is refused"
            ),
            format!("psql \"$OWNER_URL\" -c 'grant authenticated to \"{asker}\"'"),
        ));
    }
    if !walls.is_on {
        return Err(Stop::Skipped("row-level security is off".to_owned()));
    }
    if !patient.session()?.is_writable() {
        return Err(Stop::Skipped("nothing can be written there".to_owned()));
    }
    let shape = patient.shape().await?;
    let access = Access::new(url, config.tenancy.authorize, config.tenancy.recheck);
    let is_privileged = access.is_privileged(&shape).await;
    Ok(judge_authenticated(is_privileged, asker, own.is_some()))
}

fn judge_authenticated(
    is_privileged: Result<bool, Error>,
    asker: &str,
    is_another: bool,
) -> Verdict {
    match is_privileged {
        Ok(true) => Verdict::ok(format!("{asker} can take it, and it may read agents")),
        Ok(false) => Verdict::wrong(
            "it may not read every column of public.agents that an assistant is made from: no user gets an agent",
            "psql \"$OWNER_URL\" -c 'grant select on public.agents to authenticated'",
        ),
        Err(Error::Setup(what)) => Verdict::wrong(
            what,
            "psql \"$OWNER_URL\" -c 'alter role authenticated nobypassrls'   # and see that it does not own public.agents",
        ),
        Err(e) => Verdict::wrong(
            format!("{asker} cannot ask about anybody: {e}"),
            match is_another {
                true => format!(
                    "does {AUTHENTICATOR_URL} name the same database as {DATABASE_URL}, and the right password?"
                ),
                false => "agent-sync doctor   # again".to_owned(),
            },
        ),
    }
}

pub async fn users(patient: &Patient<'_>) -> Found {
    let shape = patient.shape().await?;
    are_asked_about(patient.config)?;
    if !patient.config.tenancy.recheck {
        return Err(Stop::DoesNotApply);
    }
    Ok(match shape.has_users() {
        true => Verdict::ok(
            "may be read, so policies that go by app_metadata hold for users who are not there, too",
        ),
        false => Verdict::warning(
            "is not there, or this role may not read it: if policies of public.agents go by app_metadata, users lose their assistants at the next resync",
            format!("agent-sync roles | psql \"$OWNER_URL\"   # or set {RECHECK_ACCESS}=false"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(verdict: &Verdict) -> &'static str {
        verdict.word()
    }

    #[test]
    fn keys_that_cannot_verify_anything_are_wrong_and_a_secret_makes_up_for_them() {
        let judged = |published: Result<usize, &str>, has_secret| {
            word(&judge_keys(
                published.map_err(str::to_owned),
                has_secret,
                "https://x",
            ))
        };
        assert_eq!(judged(Ok(2), false), "ok");
        assert_eq!([judged(Ok(0), true), judged(Ok(0), false)], ["ok", "wrong"]);
        assert_eq!(
            [judged(Err("away"), true), judged(Err("away"), false)],
            ["warning", "wrong"]
        );
    }

    #[test]
    fn walls_that_are_down_are_wrong_and_those_without_a_door_are_told() {
        let judged = |is_on, policies| {
            word(&judge_walls(&Walls {
                is_on,
                policies,
                has_role: true,
                can_become: true,
            }))
        };
        assert_eq!(
            [judged(true, 1), judged(true, 0), judged(false, 1)],
            ["ok", "warning", "wrong"]
        );
    }

    #[test]
    fn whoever_logs_in_through_a_pooler_is_a_role_of_the_database() {
        for (url, role) in [
            ("postgresql://authenticator:p@h/db", "authenticator"),
            ("postgresql://with.dot:p@h/db", "with.dot"),
            (
                "postgresql://authenticator.ref:p@aws-0-eu.pooler.supabase.com/postgres",
                "authenticator",
            ),
        ] {
            assert_eq!(asker(&url.parse().expect("a url")), role);
        }
    }

    #[test]
    fn what_users_may_not_read_is_told() {
        assert_eq!(word(&judge_authenticated(Ok(true), "a", false)), "ok");
        for refused in [
            Ok(false),
            Err(Error::Setup(String::new())),
            Err(Error::Pool(String::new())),
        ] {
            assert_eq!(word(&judge_authenticated(refused, "a", true)), "wrong");
        }
    }
}
