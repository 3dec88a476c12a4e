//! `agent-sync sync`: which agents, what it says to people and to programs, and its exit codes.

use std::process::Stdio;

use agent_sync::config::{DATABASE_URL, MAX_REMOVALS, ON_REMOVE};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{Setting, agents, document};
use crate::support::binary::{command, run};
use crate::support::uuid;

#[tokio::test]
async fn a_program_is_told_what_became_of_each_agent_that_was_touched() {
    let setting = Setting::table().await;
    let db = &setting.db;
    for n in 1..=4 {
        let id = uuid(n);
        db.execute(&format!(
            "insert into public.agents (id, name, status) values ('{id}', 'a{n}', 'active')"
        ))
        .await;
    }
    setting.sync(&[]).await;
    db.execute(&format!(
        "update public.agents set name = 'b' where id = '{}';
         update public.agents set sampling_params = '3' where id = '{}';
         delete from public.agents where id = '{}'",
        uuid(1),
        uuid(2),
        uuid(3)
    ))
    .await;
    let ended = setting
        .sync_with(&["--scope", "all", "--json"], &[(MAX_REMOVALS, "0")])
        .await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let mut said = document(&ended);
    let touched = said["agents"].as_array_mut().expect("agents");
    touched.sort_by_key(|agent| agent["agent_id"].to_string());
    let agent = |n: u128, outcome: &str, error: Option<&str>| json!({"agent_id": uuid(n), "outcome": outcome, "error": error, "why": null});
    let expected = json!({
        "agents": [
            agent(1, "updated", None),
            agent(2, "failed", Some("agents.sampling_params is a number, expected a JSON object")),
            agent(3, "held", None),
        ],
        "summary": {"total": 4, "created": 0, "updated": 1, "skipped": 1, "failed": 1, "removed": 0, "held": 1, "conflict": 0},
        "error": null,
    });
    assert_eq!(said, expected);
    // The logs do not get in the way.
    assert!(ended.stderr.contains("removals are held"), "{ended:?}");
}

#[tokio::test]
async fn just_the_agents_that_are_named_are_synced() {
    let setting = Setting::table().await;
    let db = &setting.db;
    agents(db, 5).await;
    let one = db.agent("one").await.to_string();
    let other = db.agent("other").await.to_string();
    let ended = setting
        .sync(&["--agent", &one, "--agent", &other, "--agent", &one])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .stdout
            .ends_with("Sync summary: total=2 created=2 updated=0 skipped=0 failed=0\n"),
        "{ended:?}"
    );
    assert_eq!(db.count("langgraph_server.assistants").await, 2);

    // What was named and is as it should be is counted, and of what cannot be synced it is said why.
    let (nobody, gone, off, beyond) = (uuid(1), uuid(2), uuid(3), uuid(4));
    db.execute(&format!(
        "insert into public.agents (id, name, status) values ('{off}', 'off', 'draft'), ('{beyond}', 'beyond', 'active');
         insert into agent_sync.ledger (assistant_id, agent_id, owner, state) values ('{gone}', '{gone}', 'system', 'removed')"
    ))
    .await;
    let sayings = [
        (nobody, "there is no such agent", 2),
        (
            gone,
            "the agent does not exist any more, and has no assistant",
            0,
        ),
        (off, "the agent is not active, and has no assistant", 0),
        (
            beyond,
            "the agent is not in scope (none), and has no assistant",
            0,
        ),
    ];
    for (agent, why, code) in sayings {
        let agent = agent.to_string();
        let args = ["--scope", "none", "--agent", &one, "--agent", &agent];
        let ended = setting.sync_with(&args, &[]).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let expected = format!(
            "Agent {agent}: {why}\nSync summary: total=1 created=0 updated=0 skipped=1 failed=0\n"
        );
        assert_eq!(ended.stdout, expected);
        let ended = setting
            .sync_with(&[&args[..], &["--json"]].concat(), &[])
            .await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(
            document(&ended)["agents"],
            json!([{"agent_id": agent, "outcome": "nothing", "error": null, "why": why}])
        );
        let ended = setting
            .sync_with(&[&args[..], &["--dry-run"]].concat(), &[])
            .await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stdout.contains(&format!(": {why}\n")), "{ended:?}");
        assert!(
            ended.stdout.contains(&format!("= agent {one}")),
            "{ended:?}"
        );
    }
    // In scope, it is made.
    let ended = setting.sync(&["--agent", &beyond.to_string()]).await;
    assert!(ended.stdout.contains("created=1"), "{ended:?}");
    assert_eq!(db.count("langgraph_server.assistants").await, 3);
    // One that is kept is said to be.
    db.execute(&format!(
        "update public.agents set status = 'disabled' where id = '{one}'"
    ))
    .await;
    let args = ["--scope", "all", "--agent", &one];
    let ended = setting.sync_with(&args, &[(ON_REMOVE, "keep")]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let kept = "the agent is not active, and its assistant is kept as it is";
    assert!(
        ended.stdout.starts_with(&format!("Agent {one}: {kept}\n")),
        "{ended:?}"
    );
    let ended = setting.sync(&["--agent", "canary"]).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
}

/// The others that have to go stay held.
#[tokio::test]
async fn one_agent_can_be_let_go_alone() {
    let setting = Setting::table().await;
    let db = &setting.db;
    agents(db, 3).await;
    setting.sync(&[]).await;
    db.execute("update public.agents set status = 'disabled' where name in ('a1', 'a2')")
        .await;
    let zero = [(MAX_REMOVALS, "0")];
    let one: uuid::Uuid = db
        .rows("select id from public.agents where name = 'a1'", &[])
        .await[0]
        .get(0);
    let one = one.to_string();
    let held = setting
        .sync_with(&["--scope", "all", "--agent", &one], &zero)
        .await;
    assert!(
        held.code == Some(2) && held.stdout.contains("held=1"),
        "{held:?}"
    );
    let planned = ["--scope", "all", "--agent", &one, "--dry-run"];
    let planned = setting.sync_with(&planned, &zero).await;
    assert!(
        planned.code == Some(2) && planned.stdout.contains(" 1 held."),
        "{planned:?}"
    );
    let gone = setting
        .sync_with(
            &["--scope", "all", "--agent", &one, "--allow-removals"],
            &zero,
        )
        .await;
    assert!(
        gone.code == Some(0) && gone.stdout.contains("removed=1"),
        "{gone:?}"
    );
    assert_eq!(db.count("langgraph_server.assistants").await, 2);
}

/// A program gets its document whatever happens, and what went wrong is in it.
#[tokio::test]
async fn a_command_that_cannot_run_says_why_and_ends_with_1() {
    let nowhere = [(DATABASE_URL, "postgresql://u:canary@127.0.0.1:1/x")];
    for args in [&["sync"][..], &["sync", "--dry-run"]] {
        let words = run(args, &nowhere).await;
        assert_eq!(
            (words.code, words.stdout.as_str()),
            (Some(1), ""),
            "{words:?}"
        );
        assert!(words.stderr.starts_with("agent-sync: "), "{words:?}");
        let ended = run(&[args, &["--json"]].concat(), &nowhere).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = document(&ended);
        assert_eq!(said["agents"], json!([]));
        assert!(
            said["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "{said}"
        );
        assert!(!ended.stdout.contains("canary") && !ended.stderr.contains("canary"));
    }
    let unset = run(&["sync", "--dry-run", "--json"], &[]).await;
    assert_eq!(unset.code, Some(64), "{unset:?}");
}

/// As with `| head`: a sync goes on without a reader, and a plan without one ends.
#[tokio::test]
async fn nobody_has_to_read_what_is_said() {
    let setting = Setting::table().await;
    agents(&setting.db, 300).await;
    let url = setting.db.url.as_str();
    for args in [
        &["--dry-run"][..],
        &["--dry-run", "--json"],
        &["--json"],
        &[],
    ] {
        let args = [&["sync", "--scope", "all"], args].concat();
        let mut child = command(&args, &[(DATABASE_URL, url), ("ROBYN_DEV", "true")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        drop(child.stdout.take());
        let output = child.wait_with_output().await.expect("ended");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{said}");
        let expected = if args.contains(&"--dry-run") { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{args:?}: {said}");
    }
    assert_eq!(setting.db.count("langgraph_server.assistants").await, 300);
}

/// On a terminal there is a bar, and each line of the log stands alone. Elsewhere there are lines only.
#[tokio::test]
async fn on_a_terminal_there_is_a_progress_bar_beside_the_log() {
    let setting = Setting::table().await;
    let db = &setting.db;
    agents(db, 3).await;
    db.execute("insert into public.agents (name, status, sampling_params) values ('broken', 'active', '[1]')")
        .await;
    let plain = setting.sync(&["--dry-run"]).await;
    assert!(!plain.stderr.contains('\u{1b}') && !plain.stdout.contains('\u{1b}'));
    // `script` gives it a terminal.
    let line = format!("{} sync --scope all", env!("CARGO_BIN_EXE_agent-sync"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs([
            ("TERM", "xterm"),
            (DATABASE_URL, &db.url),
            ("ROBYN_DEV", "true"),
            ("NO_COLOR", "1"),
        ])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("script (util-linux)");
    let screen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{screen}");
    assert!(screen.contains("4/4 agents"), "{screen}");
    // Before a line is written, what was there is cleared.
    let shown = strip(&screen);
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    assert!(!shown.contains(['░', '█']), "{screen}");
    let failed = lines
        .iter()
        .filter(|line| line.contains("agent failed; it is tried again"));
    assert_eq!(failed.count(), 1, "{screen}");
    assert_eq!(
        lines.last(),
        Some(&"Sync summary: total=4 created=3 updated=0 skipped=0 failed=1"),
        "{screen}"
    );
}

/// What a terminal shows in the end of what was sent to it: a carriage return, with what clears the line, begins it anew.
fn strip(screen: &str) -> String {
    let lines = screen.split('\n').map(|line| {
        let line = line.trim_end_matches('\r');
        let line = line.rsplit("\u{1b}[2K").next().unwrap_or(line);
        // Colours.
        let parts = line.split("\u{1b}[").enumerate().map(|(n, part)| match n {
            0 => part,
            _ => part.split_once('m').map_or(part, |(_, text)| text),
        });
        parts.collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Stopped in the middle, it says so.
#[tokio::test]
async fn a_plan_that_is_stopped_is_no_plan() {
    let setting = Setting::server().await;
    agents(&setting.db, 1).await;
    setting.sync_with(&["--scope", "none"], &[]).await;
    let server = setting.server.as_ref().expect("a server");
    server.always(
        "GET",
        "/assistants",
        crate::support::double::Fault::HoldBefore,
    );
    let url = server.url();
    let mut child = command(
        &["sync", "--scope", "all", "--dry-run", "--json"],
        &[
            (DATABASE_URL, &setting.db.url),
            ("ROBYN_DEV", "true"),
            ("AGENT_SYNC_STORE", "langgraph"),
            ("LANGGRAPH_API_URL", &url),
        ],
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("started");
    server.held().await;
    let pid = child.id().expect("running").to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await;
    assert!(sent.expect("kill").success());
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.expect("a line") {
        said.push_str(&line);
    }
    assert_eq!(child.wait().await.expect("ended").code(), Some(1));
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["error"], "stopped before the end");
}
