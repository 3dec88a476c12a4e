//! TLS to the database, in libpq's degrees of trust.

use agent_sync::database::{Database, DatabaseUrl};

use crate::support::tls::{Authority, server};

async fn connects(url: &str) -> Result<(), String> {
    let url: DatabaseUrl = url.parse().map_err(|e| format!("{e}"))?;
    Database::new(&url).check().await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn each_sslmode_trusts_what_it_should() {
    let directory = std::env::temp_dir().join(format!("agent-sync-tls-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory");
    let (ours, namesake) = (Authority::new(), Authority::new());
    let bundle = directory.join("both roots.pem");
    std::fs::write(&bundle, format!("{}{}", namesake.pem(), ours.pem())).expect("written");
    let wrong = directory.join("wrong.pem");
    std::fs::write(&wrong, namesake.pem()).expect("written");
    let bundle = bundle.display().to_string().replace(' ', "%20");
    let wrong = wrong.display();

    let (certificate, key) = ours.issue("localhost");
    let postgres = server(&certificate, &key, "hostssl all all all trust").await;
    let at = |host: &str, query: &str| {
        format!(
            "postgresql://postgres@{host}:{}/postgres?{query}",
            postgres.port()
        )
    };

    crate::support::eventually("the server takes TLS only", || async {
        match connects(&at("localhost", "sslmode=disable")).await {
            Err(e) if e.contains("no pg_hba.conf entry") || e.contains("no encryption") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for query in ["", "sslmode=prefer", "sslmode=require"] {
        assert_eq!(connects(&at("127.0.0.1", query)).await, Ok(()), "{query}");
    }
    for (host, query, expected) in [
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={bundle}"),
            true,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={bundle}"),
            false,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={bundle}"),
            true,
        ),
        (
            "127.0.0.1",
            format!("sslmode=require&sslrootcert={bundle}"),
            true,
        ),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={wrong}"),
            false,
        ),
        (
            "localhost",
            format!("sslmode=require&sslrootcert={wrong}"),
            false,
        ),
        ("localhost", "sslmode=verify-full".to_owned(), false),
    ] {
        let connected = connects(&at(host, &query)).await;
        assert_eq!(connected.is_ok(), expected, "{host} {query}: {connected:?}");
        if let Err(e) = connected {
            assert!(e.contains("certificate"), "the reason is told: {e}");
        }
    }
    std::fs::remove_dir_all(&directory).expect("removed");
}
