//! Whether the role is let in.

use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

use super::Refusal;
use crate::config::DATABASE_URL;
use crate::doctor::{Found, Patient, Stop, Verdict};

pub async fn check(patient: &Patient<'_>) -> Found {
    let connection = patient.connection()?;
    let config = connection.url.config();
    let user = config.get_user().unwrap_or("the user of this process");
    if connection.session.is_some() {
        return Ok(Verdict::ok(format!("{user} is let in")));
    }
    match &connection.refusal {
        None => Err(Stop::Skipped("nothing answers".to_owned())),
        Some(refusal) if refusal.is_about_tls() => {
            Err(Stop::Skipped("there is no TLS with the server".to_owned()))
        }
        Some(refusal) => {
            let password = config.get_password();
            let is_pooler = config.get_hosts().iter().any(is_supabase_pooler);
            Ok(judge(&Attempt {
                refusal,
                user,
                is_bracketed: password
                    .is_some_and(|text| text.starts_with(b"[") && text.ends_with(b"]")),
                lacks_project: is_pooler && !user.contains('.'),
            }))
        }
    }
}

/// Supabase's shared pooler, which knows projects by their users' names.
pub fn is_supabase_pooler(host: &Host) -> bool {
    matches!(host, Host::Tcp(name) if name.ends_with(".pooler.supabase.com"))
}

struct Attempt<'a> {
    refusal: &'a Refusal,
    user: &'a str,
    /// The password stands in square brackets.
    is_bracketed: bool,
    /// A pooler is asked that has to know the project, and is not told.
    lacks_project: bool,
}

fn judge(attempt: &Attempt<'_>) -> Verdict {
    let Attempt { refusal, user, .. } = attempt;
    let (code, message) = match refusal {
        Refusal::Login(code, message) => (code.as_str(), message.as_str()),
        Refusal::NoPassword => {
            return Verdict::wrong(
                format!("the server wants a password of {user}, and {DATABASE_URL} has none"),
                format!("in {DATABASE_URL}, write postgresql://{user}:<password>@…"),
            );
        }
        other => {
            let said = match other {
                Refusal::Other(said) => said.as_str(),
                _ => "it speaks another language",
            };
            return Verdict::wrong(
                format!("something answers there, but not as PostgreSQL does: {said}"),
                format!("are host and port in {DATABASE_URL} those of the database?"),
            );
        }
    };
    let is = |state: &SqlState| state.code() == code;
    match () {
        () if attempt.lacks_project => Verdict::wrong(
            format!(
                "{user} is not let in ({message}): Supabase's pooler knows projects by the user's name"
            ),
            format!("in {DATABASE_URL}, write the user as {user}.<project ref>"),
        ),
        () if message.contains("Tenant or user not found") => Verdict::wrong(
            format!("the pooler knows no such project or user as {user}"),
            format!(
                "copy {DATABASE_URL} anew (Supabase: Connect, \"Session pooler\"): the user is <role>.<project ref>, and the host the one of the \
                 project's region"
            ),
        ),
        () if message.contains("unsupported startup parameter") => Verdict::wrong(
            format!("the pooler takes no options at login ({message})"),
            format!("leave options=… out of {DATABASE_URL}"),
        ),
        () if is(&SqlState::INVALID_PASSWORD) && attempt.is_bracketed => Verdict::wrong(
            format!("the password of {user} is wrong: it stands in square brackets"),
            format!("in {DATABASE_URL}, leave out the brackets of Supabase's [YOUR-PASSWORD]"),
        ),
        () if is(&SqlState::INVALID_PASSWORD) => Verdict::wrong(
            format!("the password of {user} is wrong"),
            format!(
                "is it percent-encoded in {DATABASE_URL} (@ as %40, / as %2F, % as %25)?\n\
                 psql \"$OWNER_URL\" -c '\\password {user}'   # a new one; of Supabase's postgres: Database, Reset password"
            ),
        ),
        () if is(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => Verdict::wrong(
            format!("{user} is not let in: {message}"),
            "psql \"$OWNER_URL\" -c '\\du'   # is there such a role, may it log in, and does pg_hba.conf let it in from here?\n\
             agent-sync roles | psql \"$OWNER_URL\"   # makes agent_sync_worker",
        ),
        () if is(&SqlState::INVALID_CATALOG_NAME) => Verdict::wrong(
            format!("the database that {DATABASE_URL} names is not there: {message}"),
            "psql \"$OWNER_URL\" -l   # Supabase's is postgres",
        ),
        () if is(&SqlState::INSUFFICIENT_PRIVILEGE) => Verdict::wrong(
            format!("{user} is not let in: {message}"),
            format!("psql \"$OWNER_URL\" -c 'grant connect on database … to {user}'"),
        ),
        () if is(&SqlState::TOO_MANY_CONNECTIONS) => Verdict::wrong(
            format!("there is no connection left for {user}: {message}"),
            "psql \"$OWNER_URL\" -c 'select usename, application_name, count(*) from pg_stat_activity group by 1, 2 order by 3 desc'   # who has them",
        ),
        () if is(&SqlState::CANNOT_CONNECT_NOW) => Verdict::wrong(
            format!("the server is not ready: {message}"),
            "agent-sync doctor   # again, once it has started",
        ),
        () => Verdict::wrong(
            format!("{user} is not let in: {message} (SQLSTATE {code})"),
            format!("psql \"${DATABASE_URL}\"   # is it let in?"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(code: &str, message: &str, is_bracketed: bool, lacks_project: bool) -> String {
        let refusal = Refusal::Login(code.to_owned(), message.to_owned());
        let verdict = judge(&Attempt {
            refusal: &refusal,
            user: "app",
            is_bracketed,
            lacks_project,
        });
        match verdict {
            Verdict::Wrong(complaint) => format!("{} -> {}", complaint.what, complaint.mend),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_reason_not_to_be_let_in_is_told_with_what_to_do() {
        for (code, message, said) in [
            (
                "28P01",
                "password authentication failed",
                "the password of app is wrong",
            ),
            ("28000", "role \"app\" does not exist", "agent-sync roles"),
            (
                "3D000",
                "database \"x\" does not exist",
                "Supabase's is postgres",
            ),
            ("42501", "permission denied for database", "grant connect"),
            ("53300", "too many connections", "pg_stat_activity"),
            (
                "57P03",
                "the database system is starting up",
                "once it has started",
            ),
            ("XX000", "Tenant or user not found", "<role>.<project ref>"),
            (
                "08P01",
                "unsupported startup parameter: options",
                "leave options=… out",
            ),
            ("XX000", "odd", "(SQLSTATE XX000)"),
        ] {
            let complaint = complaint(code, message, false, false);
            assert!(complaint.contains(said), "{complaint}");
        }
        assert!(complaint("28P01", "no", true, false).contains("brackets"));
        assert!(complaint("28P01", "no", false, true).contains("app.<project ref>"));
    }

    #[test]
    fn what_is_no_database_is_told() {
        for refusal in [Refusal::NoPassword, Refusal::Other("closed".to_owned())] {
            let attempt = Attempt {
                refusal: &refusal,
                user: "app",
                is_bracketed: false,
                lacks_project: false,
            };
            assert!(matches!(judge(&attempt), Verdict::Wrong(_)));
        }
    }
}
