//! The command line, the configuration, and the demo.

use std::path::{Path, PathBuf};

use agent_sync::config::{Config, LogFormat, Variables};
use agent_sync::scope::Scope;

use crate::support::TestDatabase;
use crate::support::binary::{FREE_PORTS, Running, command, run};

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn the_defaults_are_as_documented() {
    let config = Config::from_variables(&Variables::new()).expect("defaults");
    assert!(config.database.is_none() && !config.dev && config.auto_migrate);
    assert_eq!(config.authentication, Default::default());
    assert_eq!(config.scope, Ok(Scope::None));
    assert_eq!(config.http_addr.to_string(), "127.0.0.1:8090");
    assert_eq!(config.admin_addr.to_string(), "127.0.0.1:8091");
    assert_eq!(config.sync.default_model, "openai:gpt-4o");
    assert_eq!(
        (config.log.filter.as_str(), config.log.format),
        ("info", LogFormat::Text)
    );
    assert_eq!(
        config.resync_interval,
        Some(std::time::Duration::from_secs(600))
    );
    assert_eq!(config.sync, agent_sync::config::Settings::default());
    let never = Config::from_variables(&variables(&[("AGENT_SYNC_RESYNC_INTERVAL", "0")]));
    assert_eq!(never.expect("valid").resync_interval, None);
    for yes in ["true", "1", "yes", "TRUE", " Yes "] {
        assert!(
            Config::from_variables(&variables(&[("ROBYN_DEV", yes)]))
                .expect("valid")
                .dev,
            "{yes}"
        );
    }
    for no in ["false", "0", "no", ""] {
        assert!(
            !Config::from_variables(&variables(&[("ROBYN_DEV", no)]))
                .expect("valid")
                .dev,
            "{no}"
        );
    }
}

#[test]
fn database_urls_as_people_paste_them() {
    let url = |text: &str| Config::from_variables(&variables(&[("DATABASE_URL", text)]));
    for good in [
        "postgresql://postgres:pw@db.example.supabase.co:5432/postgres",
        "postgres://postgres.ref:p%40ss%2Fw%3Frd@aws-0-eu-central-1.pooler.supabase.com:5432/postgres?sslmode=require",
        "postgresql://postgres@[::1]:5432/postgres?pgbouncer=true&connect_timeout=5",
        "postgresql://u:p@host/db?sslmode=verify-full",
        "postgresql://u:p@host/db?sslmode=verify-ca&pgbouncer=true",
        "postgresql://u:p@host/db?sslmode=disable",
        "postgresql://u:p@host/db?sslmode=prefer",
    ] {
        assert!(url(good).is_ok(), "{good}: {:?}", url(good).err());
    }
    for (bad, says) in [
        ("mysql://u:canary-secret@host/db", "not a postgresql:// URL"),
        ("postgresql://u:canary-secret@host:port/db", "port"),
        (
            "postgresql://u:canary-secret@host/db?sslmode=maybe",
            "its sslmode is unknown",
        ),
        (
            "postgresql://u:canary-secret@host/db?sslmode=verify-full&sslrootcert=/no/such.pem",
            "the file that sslrootcert names cannot be read: ",
        ),
        ("postgresql://u:pw@canary-secret@host/db", "write it as %40"),
        (
            "postgresql://u:pw?sslmode=canary-secret@host/db",
            "write it as %3F",
        ),
        (
            "postgresql://u:pw@host/db?sslmode=require&sslrootcert=canary-secret",
            "the file that sslrootcert names cannot be read: ",
        ),
        (
            "postgresql://u:pw@host/db?sslmode=disable&canary-secret=1",
            "an option that is not known",
        ),
    ] {
        let errors = url(bad).expect_err(bad).to_string();
        assert!(
            errors.contains("DATABASE_URL") && errors.contains(says),
            "{errors}"
        );
        assert!(!errors.contains("canary-secret"), "{errors}");
    }
    for good in [
        "postgresql://u:canary-secret@host/db",
        "postgresql://u:pw@host/db#canary-secret",
        "postgresql://u:pw@host/db?host=canary-secret",
    ] {
        let config = url(good).expect(good);
        assert!(!format!("{config:?}").contains("canary-secret"), "{good}");
    }
}

#[tokio::test]
async fn all_bad_configuration_is_reported_at_once_with_exit_code_64() {
    let ended = run(
        &["serve"],
        &[
            ("DATABASE_URL", "not-a-url"),
            ("ROBYN_DEV", "maybe"),
            ("AGENT_SYNC_HTTP_ADDR", "here"),
            ("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1"),
            ("AGENT_SYNC_AUTO_MIGRATE", "perhaps"),
            ("AGENT_SYNC_LOG", "agent_sync=loud"),
            ("AGENT_SYNC_LOG_FORMAT", "xml"),
            ("AGENT_SYNC_RESYNC_INTERVAL", "soon"),
            ("AGENT_SYNC_ON_REMOVE", "ask"),
            ("AGENT_SYNC_WRITE_BACK", "sometimes"),
            ("AGENT_SYNC_SCOPE", "invalid, but only worth a warning"),
        ],
    )
    .await;
    assert_eq!(ended.code, Some(64));
    let said = ended.stderr;
    for name in [
        "DATABASE_URL",
        "ROBYN_DEV",
        "AGENT_SYNC_HTTP_ADDR",
        "AGENT_SYNC_ADMIN_ADDR",
        "AGENT_SYNC_AUTO_MIGRATE",
        "AGENT_SYNC_LOG:",
        "AGENT_SYNC_LOG_FORMAT",
        "AGENT_SYNC_RESYNC_INTERVAL",
        "AGENT_SYNC_ON_REMOVE",
        "AGENT_SYNC_WRITE_BACK",
    ] {
        assert!(said.contains(name), "{name} is not in {said}");
    }
    assert!(!said.contains("SCOPE"));
}

#[tokio::test]
async fn secrets_come_from_files_too_and_what_is_in_them_is_never_said() {
    let db = TestDatabase::new().await;
    let directory = std::env::temp_dir().join(format!("agent-sync-files-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory");
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("written");
        path.display().to_string()
    };
    let url = file("url", &format!("{}\n", db.url));
    let ended = run(&["migrate"], &[("DATABASE_URL_FILE", &url)]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let nonsense = file("nonsense", "canary-nonsense\n");
    let missing = directory.join("missing").display().to_string();
    let ended = run(
        &["serve"],
        &[
            ("DATABASE_URL", &db.url),
            ("DATABASE_URL_FILE", &url),
            ("AGENT_SYNC_AUTHENTICATOR_URL_FILE", &nonsense),
            ("SUPABASE_JWT_SECRET_FILE", &nonsense),
            ("LANGGRAPH_API_KEY_FILE", &missing),
            ("AGENT_SYNC_HTTP_ADDR", "here"),
        ],
    )
    .await;
    assert_eq!(ended.code, Some(64));
    for said in [
        "DATABASE_URL and DATABASE_URL_FILE are both set",
        "AGENT_SYNC_AUTHENTICATOR_URL: it is not a postgresql:// URL",
        "SUPABASE_JWT_SECRET: it has 15 bytes",
        &format!("LANGGRAPH_API_KEY_FILE: {missing} cannot be read: No such file or directory"),
        "AGENT_SYNC_HTTP_ADDR: `here`",
    ] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("canary"), "{}", ended.stderr);

    // Not told twice, as something else.
    let ended = run(
        &["serve"],
        &[
            ("DATABASE_URL_FILE", &missing),
            ("AGENT_SYNC_STORE", "postgres"),
        ],
    )
    .await;
    assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test]
async fn a_value_that_is_not_utf8_is_not_ignored() {
    let url = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
        b"postgresql://u:\xff@host/db",
    );
    let output = command(&["serve"], &[])
        .env("DATABASE_URL", url)
        .output()
        .await
        .expect("ran");
    assert_eq!(output.status.code(), Some(64));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("DATABASE_URL: it is not valid UTF-8")
    );
}

#[tokio::test]
async fn help_and_version() {
    let help = run(&["--help"], &[]).await;
    assert_eq!(help.code, Some(0));
    for word in ["serve", "migrate", "uninstall", "demo"] {
        assert!(help.stdout.contains(word), "{help:?}");
    }
    assert_eq!(
        run(&["--version"], &[]).await.stdout,
        format!("agent-sync {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(run(&["nonsense"], &[]).await.code, Some(64));
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = busy.local_addr().expect("an address").to_string();
    let ended = run(&[], &[("AGENT_SYNC_HTTP_ADDR", &address)]).await;
    assert_eq!(ended.code, Some(1));
    let said = ended.stderr;
    assert!(
        said.contains(&address) && said.contains("AGENT_SYNC_HTTP_ADDR"),
        "{said}"
    );
}

#[tokio::test]
async fn logs_can_be_json() {
    let running = Running::start(
        &[],
        &[
            ("AGENT_SYNC_LOG_FORMAT", "json"),
            ("AGENT_SYNC_HTTP_ADDR", "127.0.0.1:0"),
            ("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1:0"),
        ],
    );
    let line: serde_json::Value =
        serde_json::from_str(&running.line("agent-sync started").await).expect("JSON");
    assert_eq!(
        (&line["level"], &line["message"]),
        (&"INFO".into(), &"agent-sync started".into())
    );
    assert!(line["api"].is_string());
}

#[tokio::test]
async fn the_second_signal_ends_at_once() {
    // A worker that cannot finish: a client has a request half sent.
    let mut running = Running::start(&[], &[FREE_PORTS, &[("ROBYN_DEV", "true")]].concat());
    let _client = running.request_in_hand().await;
    running.signal("-TERM");
    running.line("stopping").await;
    running.signal("-TERM");
    assert_eq!(running.ended().await, Some(130));
}

#[tokio::test]
async fn the_demo_runs_prints_what_to_try_and_leaves_nothing_behind() {
    let temporary = directory_for_all("demo");
    let variables = [
        ("TMPDIR", temporary.to_str().expect("text")),
        ("AGENT_SYNC_HTTP_ADDR", "127.0.0.1:0"),
        ("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1:0"),
        // What it prints works without a token all the same.
        ("SUPABASE_JWT_SECRET", crate::support::tokens::SECRET),
    ];
    for ending in ["-INT", "-KILL"] {
        let mut running = Running::start(&["demo"], &variables);
        running
            .line("Startup sync summary: total=10 created=10 updated=0 skipped=0 failed=0")
            .await;
        let edit = running.line("psql 'postgresql://").await;
        let create = running.line("curl -s http://").await;
        running.line("Ctrl-C").await;

        let (code, out) = shell(edit.trim()).await;
        assert!(code && out.contains("UPDATE 1"), "{edit}: {out}");
        running.line("agent synced").await;
        let body = running.line("-d '{").await;
        let (code, out) = shell(&format!(
            "{} {}",
            create.trim().trim_end_matches('\\'),
            body.trim()
        ))
        .await;
        assert!(code && out.contains("You answer in haiku."), "{out}");
        let look = running
            .output()
            .lines()
            .rfind(|line| line.contains("psql '"))
            .expect("a third thing")
            .to_owned();
        let (code, out) = shell(look.trim()).await;
        assert!(code && out.contains("Refund Desk"), "{out}");

        running.signal(ending);
        let code = running.ended().await;
        assert_eq!(code, if ending == "-INT" { Some(0) } else { None });
        nothing_is_left(&temporary).await;
        let port = edit
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .expect("a port");
        assert!(
            std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err(),
            "the server is gone"
        );
    }
    std::fs::remove_dir(&temporary).expect("empty");
}

#[tokio::test]
async fn the_demo_does_not_mind_a_busy_default_port() {
    // Ours, or somebody else's: busy either way.
    let _busy = std::net::TcpListener::bind("127.0.0.1:8090");
    let mut running = Running::start(&["demo"], &[]);
    running.line("Ctrl-C").await;
    assert_ne!(running.api().await.port(), 8090);
    running.signal("-INT");
    assert_eq!(running.ended().await, Some(0));
}

#[tokio::test]
async fn a_demo_that_is_killed_while_it_starts_leaves_nothing_behind_either() {
    let temporary = directory_for_all("killed-demo");
    let mut running = Running::start(&["demo"], &[("TMPDIR", temporary.to_str().expect("text"))]);
    running.line("starting a throw-away PostgreSQL").await;
    crate::support::eventually("initdb is at work", || async {
        let begun = files(&temporary)
            .iter()
            .any(|cluster| cluster.join("log").exists());
        if begun {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    running.signal("-KILL");
    running.ended().await;
    nothing_is_left(&temporary).await;
    std::fs::remove_dir(&temporary).expect("empty");
}

/// Where the demo puts its cluster, and its server's user may.
fn directory_for_all(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("agent-sync-{name}-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&directory, mode).expect("open to all");
    directory
}

async fn nothing_is_left(directory: &Path) {
    crate::support::eventually("nothing is left", || async {
        let left = files(directory);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
}

async fn shell(line: &str) -> (bool, String) {
    let output = tokio::process::Command::new("sh")
        .args(["-c", line])
        .output()
        .await
        .expect("sh");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), text)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[tokio::test]
async fn the_log_filter_is_honoured_and_robyn_dev_is_warned_about() {
    let variables = [
        &[("ROBYN_DEV", "true"), ("AGENT_SYNC_LOG", "warn")],
        FREE_PORTS,
    ]
    .concat();
    let running = Running::start(&[], &variables);
    running.line("not for production").await;
    assert!(
        !running.output().contains("agent-sync started"),
        "{}",
        running.output()
    );
}
