//! Certificates, and a PostgreSQL that shows them and asks for passwords.

use agent_sync::demo::postgres::Postgres;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Authorities are of one name, as Supabase has them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Test Root CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a root");
        Self { issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key, in PEM.
    pub fn issue(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![host.to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A server with this certificate, which lets in whom `hba` says. When it begins to is to be waited for.
pub async fn server(certificate: &str, key: &str, hba: &str) -> Postgres {
    let postgres = Postgres::start(&[]).await.expect("a cluster");
    for (file, text) in [
        ("server.crt", certificate),
        ("server.key", key),
        ("pg_hba.conf", hba),
    ] {
        // As base64, since `copy` escapes line ends. The server's user owns the files, as it must.
        let encoded =
            format!("translate(encode(convert_to('{text}', 'UTF8'), 'base64'), E'\n', '')");
        let into = format!("base64 -d > {file} && chmod 600 {file}");
        postgres
            .execute(
                "postgres",
                &format!("copy (select {encoded}) to program '{into}'"),
            )
            .await
            .expect("a file");
    }
    postgres
        .execute("postgres", "alter system set ssl = on")
        .await
        .expect("ssl");
    postgres
        .execute("postgres", "select pg_reload_conf()")
        .await
        .expect("reloaded");
    postgres
}
