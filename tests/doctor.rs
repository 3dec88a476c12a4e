//! `agent-sync doctor`. What it says of whole installations is in tests/installations.rs.

use std::collections::BTreeSet;

use agent_sync::config::NAMES;
use agent_sync::config::secrets::{IN_FILES, file_variable};
use serde_json::{Value, json};

use crate::support::binary::run;
use crate::support::database::Role;
use crate::support::double::Double;
use crate::support::langgraph::{KEY, LangGraph};
use crate::support::tls::{self, Authority};
use crate::support::tokens::Project;
use crate::support::{TestDatabase, eventually};

/// What it says of one check: the verdict, and the words.
async fn verdict(check: &str, variables: &[(&str, &str)]) -> (String, String) {
    let report = report(variables).await.1;
    let checks = report["checks"].as_array().expect("checks");
    let of = checks.iter().find(|one| one["check"] == check);
    let of = of.unwrap_or_else(|| panic!("no check {check}: {report:#}"));
    let text = |name: &str| of[name].as_str().unwrap_or_default().to_owned();
    (
        text("verdict"),
        format!("{} {}", text("says"), text("mend")),
    )
}

async fn report(variables: &[(&str, &str)]) -> (Option<i32>, Value) {
    let ended = run(&["doctor", "--json"], variables).await;
    let report = serde_json::from_str(&ended.stdout);
    (
        ended.code,
        report.unwrap_or_else(|e| panic!("{e}: {ended:?}")),
    )
}

/// All that is in a database, its schema included, as `pg_dump` has it.
async fn dump(db: &TestDatabase) -> String {
    let binaries: String = db
        .rows("select setting from pg_config where name = 'BINDIR'", &[])
        .await[0]
        .get(0);
    let output = tokio::process::Command::new(format!("{binaries}/pg_dump"))
        .arg(&db.superuser_url)
        .output()
        .await
        .expect("pg_dump");
    assert!(output.status.success(), "{output:?}");
    let dump = String::from_utf8(output.stdout).expect("text");
    // Newer ones begin and end with a word of chance.
    let lines = dump.lines().filter(|line| !line.contains("restrict"));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn it_writes_nothing_and_leaves_nobody_behind() {
    let project = Project::new().await;
    for db in [
        TestDatabase::for_role(Role::Worker).await,
        TestDatabase::to_install().await,
    ] {
        db.agent("Anna").await;
        let variables = [
            &[("DATABASE_URL", db.url.as_str())],
            project.variables().as_slice(),
        ]
        .concat();
        let before = dump(&db).await;
        for arguments in [&["doctor"][..], &["status"]] {
            run(arguments, &variables).await;
        }
        let after = dump(&db).await;
        assert!(before == after, "{before}\n\n{after}");
        db.unattended().await;
    }
}

#[tokio::test]
async fn every_variable_of_the_readme_is_known_and_every_other_one_told() {
    let readme = include_str!("../README.md");
    let (_, table) = readme
        .split_once("| variable | default | meaning |")
        .expect("the table of variables");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let told: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let files = IN_FILES.map(file_variable);
    let known = NAMES.into_iter().chain(files.iter().map(String::as_str));
    assert_eq!(told, known.collect());

    let (verdict, says) = verdict("variables", &[("AGENT_SYNC_SCOP", "all")]).await;
    assert!(
        verdict == "warning" && says.contains("write AGENT_SYNC_SCOPE for AGENT_SYNC_SCOP"),
        "{verdict}: {says}"
    );
}

#[tokio::test]
async fn it_is_json_if_asked_for_and_the_exit_code_says_it_too() {
    let (code, report) = report(&[]).await;
    assert_eq!((code, &report["wrong"]), (Some(0), &json!(0)));
    let first = &report["checks"][0];
    assert_eq!(
        first,
        &json!({"check": "variables", "verdict": "ok", "says": "all that are set are known", "mend": null})
    );
    let away = [("DATABASE_URL", "postgresql://u:canary@127.0.0.1:1/db")];
    let (code, report) = self::report(&away).await;
    assert_eq!((code, &report["wrong"]), (Some(2), &json!(1)));
    assert!(!report.to_string().contains("canary"));
    // What cannot be used at all is told as it is for every other command.
    let unusable = [("DATABASE_URL", "canary")];
    let ended = run(&["doctor"], &unusable).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""));
    assert!(ended.stderr.contains("DATABASE_URL"), "{ended:?}");
}

#[tokio::test]
async fn a_langgraph_servers_key_and_graphs_are_looked_at_on_a_real_one() {
    if !Role::is_first_run() {
        return;
    }
    let server = LangGraph::shared_with_auth().await;
    let db = TestDatabase::for_role(Role::Worker).await;
    let agent = db.agent("Anna").await;
    let url = server.url();
    let with = |key: &'static str| {
        [
            ("DATABASE_URL", db.url.clone()),
            ("AGENT_SYNC_STORE", "langgraph".to_owned()),
            ("LANGGRAPH_API_URL", url.clone()),
            ("LANGGRAPH_API_KEY", key.to_owned()),
        ]
    };
    let check = async |check: &str, key: &'static str| {
        let variables = with(key);
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        verdict(check, &variables).await
    };
    for name in ["langgraph server", "langgraph key", "langgraph graphs"] {
        let (verdict, says) = check(name, KEY).await;
        assert_eq!(verdict, "ok", "{name}: {says}");
    }
    let (verdict, says) = check("langgraph key", "canary").await;
    assert_eq!(verdict, "wrong", "{says}");
    assert!(!says.contains("canary"), "{says}");

    db.execute(&format!(
        "update public.agents set graph_id = 'other' where id = '{agent}';
         insert into public.agents (name, status, graph_id) values ('Ben', 'active', 'nowhere'), ('Carl', 'draft', 'elsewhere')"
    ))
    .await;
    let (verdict, says) = check("langgraph graphs", KEY).await;
    assert_eq!(verdict, "wrong", "{says}");
    assert!(says.contains("no graph nowhere (1 agent)"), "{says}");
    assert!(!says.contains("elsewhere"), "{says}");
}

#[tokio::test]
async fn an_upstream_is_looked_for() {
    let server = Double::start().await;
    let url = server.url();
    let upstream = [("AGENT_SYNC_UPSTREAM", url.as_str())];
    assert_eq!(verdict("upstream", &upstream).await.0, "ok");
    server.refuse();
    assert_eq!(verdict("upstream", &upstream).await.0, "wrong");
}

#[tokio::test]
async fn how_a_connection_is_encrypted_is_told() {
    if !Role::is_first_run() {
        return;
    }
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost");
    let postgres = tls::server(&certificate, &key, "hostssl all all all trust").await;
    let file = std::env::temp_dir().join(format!("agent-sync-root-{}.crt", postgres.port()));
    std::fs::write(&file, authority.pem()).expect("written");
    let root = format!("sslrootcert={}", file.display());
    let at = |host: &str, query: &str| {
        format!(
            "postgresql://postgres@{host}:{}/postgres?{query}",
            postgres.port()
        )
    };
    eventually("the server takes TLS only", || async {
        let url = at("localhost", "sslmode=disable");
        let (_, says) = verdict("tls", &[("DATABASE_URL", &url)]).await;
        let is_told =
            says.contains("lets nobody in without TLS") && says.contains("sslmode=require");
        is_told.then_some(()).ok_or(says)
    })
    .await;
    for (host, query, verdict_is, said) in [
        ("localhost", "", "ok", "encrypted; whose"),
        ("localhost", "sslmode=require", "ok", "encrypted; whose"),
        (
            "127.0.0.1",
            &format!("sslmode=verify-ca&{root}"),
            "ok",
            "one of the CA's",
        ),
        (
            "localhost",
            &format!("sslmode=verify-full&{root}"),
            "ok",
            "the host's",
        ),
        (
            "127.0.0.1",
            &format!("sslmode=verify-full&{root}"),
            "wrong",
            "other names than 127.0.0.1",
        ),
        (
            "localhost",
            "sslmode=verify-full",
            "wrong",
            "no CA that is trusted",
        ),
    ] {
        let url = at(host, query);
        let (verdict, says) = verdict("tls", &[("DATABASE_URL", &url)]).await;
        assert_eq!(verdict, verdict_is, "{host} {query}: {says}");
        assert!(says.contains(said), "{host} {query}: {says}");
    }
    std::fs::remove_file(&file).expect("removed");

    let plain = TestDatabase::for_role(Role::Worker).await;
    let url = format!("{}?sslmode=require", plain.url);
    let (verdict, says) = verdict("tls", &[("DATABASE_URL", &url)]).await;
    assert!(
        verdict == "wrong" && says.contains("the server speaks none"),
        "{verdict}: {says}"
    );
}

#[tokio::test]
async fn passwords_are_good_encoded_and_where_nothing_is_ambiguous_as_they_are() {
    if !Role::is_first_run() {
        return;
    }
    let (certificate, key) = Authority::new().issue("localhost");
    let hba = "host all postgres all trust\nhost all all all scram-sha-256";
    let postgres = tls::server(&certificate, &key, hba).await;
    for (role, password) in [("one", "p@ss/w?rd#%[]"), ("two", "a#b/c:d%e")] {
        let made = format!("create role {role} login password '{password}'");
        postgres.execute("postgres", &made).await.expect("a role");
    }
    let port = postgres.port();
    let asks = format!("postgresql://one:wrong@127.0.0.1:{port}/postgres");
    eventually("the server asks for passwords", || async {
        let (verdict, says) = verdict("credentials", &[("DATABASE_URL", &asks)]).await;
        let is_wrong = verdict == "wrong" && says.contains("the password of one is wrong");
        is_wrong.then_some(()).ok_or(says)
    })
    .await;
    for (written, verdict_is, said) in [
        ("one:p%40ss%2Fw%3Frd%23%25%5B%5D", "ok", "one is let in"),
        ("two:a%23b%2Fc%3Ad%25e", "ok", "two is let in"),
        ("two:a#b/c:d%e", "ok", "two is let in"),
        ("two:[a#b/c:d%e]", "wrong", "brackets"),
        ("two", "wrong", "wants a password of two"),
        ("nobody:p", "wrong", "the password of nobody is wrong"),
    ] {
        let url = format!("postgresql://{written}@127.0.0.1:{port}/postgres?pgbouncer=true");
        let (verdict, says) = verdict("credentials", &[("DATABASE_URL", &url)]).await;
        assert_eq!(verdict, verdict_is, "{written}: {says}");
        assert!(says.contains(said), "{written}: {says}");
    }
}
