//! Supabase's own lints, as `supabase db lint` and `supabase db advisors` run them on a project: what we install, and what
//! our worker's role is given, is free of findings.
//!
//! `make advisors` installs the CLI, and the extension that it lints functions with.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::support::TestDatabase;
use crate::support::database::Role;

/// Everything that we install is in these; our triggers on the application's tables are told by their functions.
const OURS: [&str; 2] = ["agent_sync", "langgraph_server"];

/// An index that no query has used yet: true of each one in a database that is a second old.
const OF_A_NEW_DATABASE: &str = "unused_index";

fn supabase() -> PathBuf {
    let installed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/supabase/node_modules/.bin/supabase"
    );
    let cli = std::env::var_os("SUPABASE_CLI").map_or_else(|| installed.into(), PathBuf::from);
    assert!(
        cli.exists(),
        "the Supabase CLI is not at {}: run `make advisors`, or set SUPABASE_CLI",
        cli.display()
    );
    cli
}

/// What `supabase db <command>` finds in this database.
async fn findings(db: &TestDatabase, command: &str, arguments: &[&str]) -> Vec<Value> {
    let remote = format!("--remote={}?sslmode=disable", db.superuser_url);
    let home = home(db);
    std::fs::create_dir_all(&home).expect("a directory");
    let mut cli = Command::new(supabase());
    cli.args(["db", command, &remote, "--output-format", "json"])
        .args(arguments)
        .current_dir(&home)
        // It keeps its settings there, and asks nobody for anything.
        .env("HOME", &home)
        .env("SUPABASE_TELEMETRY_DISABLED", "1")
        .env("DO_NOT_TRACK", "1")
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), cli.output())
        .await
        .expect("it ends")
        .expect("it starts");
    std::fs::remove_dir_all(&home).expect("removed");
    let said = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&said)
        .unwrap_or_else(|e| panic!("supabase db {command}: {e}: {output:?}"));
    match answer["results"].as_array() {
        Some(results) => results.clone(),
        None => panic!("supabase db {command}: {output:?}"),
    }
}

fn home(db: &TestDatabase) -> PathBuf {
    std::env::temp_dir().join(format!("agent-sync-supabase-{}-{}", db.port(), db.name()))
}

/// The two of them together, of what is ours; the rest is printed.
async fn all_findings(db: &TestDatabase) -> Vec<String> {
    let mut ours = Vec::new();
    let advice = findings(db, "advisors", &["--type", "all", "--level", "info"]).await;
    for finding in advice
        .iter()
        .filter(|finding| finding["name"] != OF_A_NEW_DATABASE)
    {
        let text = format!("{}: {}", finding["name"], finding["detail"]);
        let schema = finding["metadata"]["schema"].as_str();
        // Of a schema that is not told, it might be about anything of ours.
        if schema.is_none_or(|schema| OURS.contains(&schema)) || text.contains("agent_sync") {
            ours.push(text);
        } else {
            println!("not about what we install: {text}");
        }
    }
    let lint = findings(db, "lint", &["--level", "warning"]).await;
    ours.extend(
        lint.iter()
            .map(ToString::to_string)
            .filter(|finding| OURS.iter().any(|schema| finding.contains(schema))),
    );
    ours
}

#[tokio::test]
async fn supabases_lints_find_nothing_in_what_we_install() {
    let db = TestDatabase::for_role(Role::Worker).await;
    assert_eq!(all_findings(&db).await, Vec::<String>::new());
}

/// That they are run at all, and on what is ours.
#[tokio::test]
async fn supabases_lints_would_find_something() {
    let db = TestDatabase::for_role(Role::Worker).await;
    db.execute(
        "create function agent_sync.anywhere() returns void language plpgsql security definer as $$
         begin perform pg_notify('agent_sync', ''); end $$;
         create function agent_sync.nowhere() returns bigint language plpgsql set search_path = '' as $$
         begin return (select count(*) from agent_sync.nothing); end $$",
    )
    .await;
    let findings = all_findings(&db).await;
    for expected in ["search_path", "agent_sync.nothing"] {
        assert!(
            findings.iter().any(|finding| finding.contains(expected)),
            "{expected}: {findings:?}"
        );
    }
}
