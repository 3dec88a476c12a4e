//! Whether the connection is encrypted, and with whom.

use tokio_postgres::config::{Host, SslMode};

use super::{Certificate, Refusal};
use crate::config::DATABASE_URL;
use crate::database::DatabaseUrl;
use crate::database::tls::Verify;
use crate::doctor::{Found, Patient, Stop, Verdict};

pub async fn check(patient: &Patient<'_>) -> Found {
    let connection = patient.connection()?;
    let (verify, is_here) = (connection.url.verify(), connection.is_here());
    if let Some(session) = &connection.session {
        return Ok(judge(session.is_encrypted, verify, is_here));
    }
    let requires = connection.url.config().get_ssl_mode() == SslMode::Require;
    match &connection.refusal {
        Some(refusal) if refusal.is_about_tls() => {
            let (what, mend) = complaint(refusal, &connection.url);
            Ok(Verdict::wrong(what, mend))
        }
        // Who is asked for a password has got that far.
        Some(Refusal::Login(..) | Refusal::NoPassword) if requires => {
            Ok(judge(true, verify, is_here))
        }
        Some(_) => Err(Stop::Skipped("nobody is let in".to_owned())),
        None => Err(Stop::Skipped("nothing answers".to_owned())),
    }
}

fn judge(is_encrypted: bool, verify: Verify, is_here: bool) -> Verdict {
    match (is_encrypted, verify) {
        (true, Verify::ChainAndHost) => {
            Verdict::ok("encrypted, and the certificate is the host's (verify-full)")
        }
        (true, Verify::Chain) => {
            Verdict::ok("encrypted, and the certificate is one of the CA's (verify-ca)")
        }
        (true, Verify::Nothing) => Verdict::ok(
            "encrypted; whose certificate it is is not looked at (that would be sslmode=verify-full with sslrootcert)",
        ),
        (false, _) if is_here => Verdict::ok("not encrypted, within this machine"),
        (false, _) => Verdict::warning(
            "not encrypted: whoever is in between can read all prompts, and take the connection over",
            format!("sslmode=require in {DATABASE_URL}, or better verify-full with sslrootcert"),
        ),
    }
}

fn complaint(refusal: &Refusal, url: &DatabaseUrl) -> (String, String) {
    let config = url.config();
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.as_str(),
        _ => "the host",
    };
    let port = config.get_ports().first().unwrap_or(&5432);
    let look =
        format!("openssl s_client -starttls postgres -connect {host}:{port} -showcerts </dev/null");
    match refusal {
        Refusal::NoTls => (
            "sslmode asks for TLS, and the server speaks none".to_owned(),
            format!(
                "turn it on in the server (ssl = on); or sslmode=prefer in {DATABASE_URL}, where nobody is in between"
            ),
        ),
        Refusal::WantsTls(said) => (
            format!("the server lets nobody in without TLS: {said}"),
            format!("sslmode=require in {DATABASE_URL}, or better verify-full with sslrootcert"),
        ),
        Refusal::Certificate(Certificate::UnknownIssuer) => (
            "no CA that is trusted has signed the server's certificate: sslrootcert names another one's, or none is named".to_owned(),
            format!(
                "download the CA's certificate (Supabase: Database, SSL configuration), and name it in {DATABASE_URL}: sslrootcert=/path/to/ca.crt\n\
                 {look}   # who has signed it"
            ),
        ),
        Refusal::Certificate(Certificate::OtherName) => (
            format!("the server's certificate is for other names than {host}"),
            format!(
                "in {DATABASE_URL}, name the host as the certificate does; or sslmode=verify-ca, which lets any name pass\n\
                 {look} | openssl x509 -noout -ext subjectAltName   # its names"
            ),
        ),
        Refusal::Certificate(Certificate::Expired) => (
            "the server's certificate has expired, or this machine's clock is ahead".to_owned(),
            format!("date -u; {look} | openssl x509 -noout -dates"),
        ),
        Refusal::Certificate(Certificate::NotYet) => (
            "the server's certificate is not valid yet, or this machine's clock is behind".to_owned(),
            format!("date -u; {look} | openssl x509 -noout -dates"),
        ),
        Refusal::Tls(said) => (format!("there is no TLS with the server: {said}"), look),
        Refusal::Login(..) | Refusal::NoPassword | Refusal::Other(_) => (String::new(), look),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_encrypted_is_told_but_within_the_machine() {
        assert!(matches!(
            judge(false, Verify::Nothing, true),
            Verdict::Ok(_)
        ));
        assert!(matches!(
            judge(false, Verify::Nothing, false),
            Verdict::Warning(_)
        ));
        for verify in [Verify::Nothing, Verify::Chain, Verify::ChainAndHost] {
            assert!(matches!(judge(true, verify, false), Verdict::Ok(_)));
        }
    }

    #[test]
    fn each_certificate_that_will_not_do_is_told_apart() {
        let url: DatabaseUrl = "postgresql://u:p@db.x:5433/db".parse().expect("a url");
        let mut told: Vec<String> = [
            Refusal::NoTls,
            Refusal::WantsTls("no encryption".to_owned()),
            Refusal::Certificate(Certificate::UnknownIssuer),
            Refusal::Certificate(Certificate::OtherName),
            Refusal::Certificate(Certificate::Expired),
            Refusal::Certificate(Certificate::NotYet),
            Refusal::Tls("odd".to_owned()),
        ]
        .iter()
        .map(|refusal| complaint(refusal, &url).0)
        .collect();
        told.dedup();
        assert_eq!(told.len(), 7, "{told:?}");
        assert!(told.iter().all(|what| !what.is_empty()));
        let (_, mend) = complaint(&Refusal::Certificate(Certificate::UnknownIssuer), &url);
        assert!(
            mend.contains("sslrootcert=") && mend.contains("-connect db.x:5433"),
            "{mend}"
        );
    }
}
