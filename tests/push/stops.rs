//! Nothing can be written: the work waits, that is told once, and goes on by itself.

use super::Setting;
use crate::support::double::Fault;
use crate::support::eventually;
use crate::support::worker::request;

#[tokio::test]
async fn a_worker_that_is_not_let_in_says_so_once_and_goes_on_when_it_is() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let (agent, other) = (db.agent("a").await, db.agent("other").await);
    // As some do, it quotes what it was given.
    let quoting = Fault::detail(401, "Invalid API key: lsv2_canary");
    server.always("", "/assistants", quoting);
    let running = setting.running(&[("LANGGRAPH_API_KEY", "lsv2_canary")]);
    let line = running.line("cannot be used").await;
    for part in [
        "ERROR",
        "401",
        "Invalid API key",
        "LANGGRAPH_API_KEY",
        &server.url(),
    ] {
        assert!(line.contains(part), "{line}");
    }
    let started = running.line("agent-sync started").await;
    let admin = started.split("admin=").nth(1).expect("an address").trim();
    let admin = admin.parse().expect("an address");
    // Before there is anything to do but the pass.
    eventually("it says why it is not ready", || async {
        let (status, body) = request(admin, "GET", "/ready", None).await;
        let says = status == 503 && body.to_string().contains("Invalid API key");
        says.then_some(()).ok_or(body.to_string())
    })
    .await;
    // And goes on to say so whenever the server is asked again.
    eventually("it is asked again a few times", || async {
        let (status, body) = request(admin, "GET", "/ready", None).await;
        assert_eq!(status, 503, "{body}");
        let asked = server.requests().len();
        (asked > 4).then_some(()).ok_or(format!("{asked}"))
    })
    .await;
    setting.prompt(agent, "edited").await;
    let (status, body) = request(admin, "GET", "/ready", None).await;
    assert_eq!(status, 503);
    assert!(body.to_string().contains("Invalid API key"), "{body}");
    let output = running.output();
    assert_eq!(output.matches("ERROR").count(), 1, "{output}");
    // That no caller can be known.
    assert_eq!(output.matches("WARN").count(), 1, "{output}");
    assert!(!output.contains("canary") && !body.to_string().contains("canary"));
    assert!(server.assistants().is_empty());
    assert_eq!(db.count("agent_sync.ledger where attempts > 0").await, 0);

    server.mend();
    setting.converged().await;
    running.line("can be used again").await;
    for agent in [agent, other] {
        setting.is_synced(agent).await;
        assert_eq!(server.versions(agent), 1);
    }
    eventually("it is ready again", || async {
        match request(admin, "GET", "/ready", None).await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// It may read, and so it finds out again and again that there is something to write.
#[tokio::test]
async fn a_worker_that_may_read_and_not_write_says_so_once_and_loses_nothing() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let agents = [db.agent("a").await, db.agent("b").await];
    let running = setting.running(&[]);
    running.line("Startup sync summary").await;
    // What announced the two, too.
    setting.converged().await;
    server.always("PATCH", "", Fault::detail(403, "Forbidden"));
    db.execute("update public.agents set system_prompt = 'edited'")
        .await;
    running.line("Forbidden").await;
    eventually("it is asked again a few times", || async {
        let writes = server
            .writes()
            .iter()
            .filter(|seen| seen.method == "PATCH")
            .count();
        (writes > 4).then_some(()).ok_or(format!("{writes}"))
    })
    .await;
    assert_eq!(db.count("agent_sync.outbox").await, 2);
    assert_eq!(db.count("agent_sync.ledger where attempts > 0").await, 0);
    server.mend();
    for agent in agents {
        setting.prompted(agent, "edited").await;
        assert_eq!(server.versions(agent), 2);
    }
    setting.converged().await;
    let output = running.output();
    assert_eq!(output.matches("ERROR").count(), 1, "{output}");
    assert_eq!(output.matches("can be used again").count(), 1, "{output}");
}

#[tokio::test]
async fn while_the_server_is_down_work_waits_in_the_outbox_and_nobody_failed() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let insert = "insert into public.agents (name, status, system_prompt)
        select 'agent ' || n, 'active', 'You are ' || n from generate_series(1, 120) as n";
    db.execute(insert).await;
    let running = setting.running(&[]);
    running.line("Startup sync summary").await;
    setting.converged().await;
    server.refuse();
    db.execute("update public.agents set system_prompt = system_prompt || '!'")
        .await;
    db.agent("new").await;
    running.line("left in peace").await;
    assert_eq!(db.count("agent_sync.outbox").await, 121);
    server.listen().await;
    setting.converged().await;
    let output = running.output();
    // That no caller can be known, and this.
    assert_eq!(output.matches("WARN").count(), 2, "{output}");
    assert_eq!(output.matches("ERROR").count(), 0, "{output}");
    assert_eq!(
        db.count("agent_sync.ledger where attempts > 0 or error is not null")
            .await,
        0
    );
    assert!(
        server
            .assistants()
            .iter()
            .all(|a| a["name"] == "new" || a["version"] == 2)
    );
}

/// A worker that is told to stop while a server keeps it waiting ends in time, and the next one finds what was done.
#[tokio::test]
async fn a_worker_stops_in_time_whatever_the_server_does() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let agent = db.agent("a").await;
    let mut running = setting.running(&[]);
    running.line("Startup sync summary").await;
    setting.converged().await;
    server.next("PATCH", agent, Fault::HoldAfter);
    setting.prompt(agent, "edited").await;
    server.held().await;
    running.signal("-TERM");
    assert_eq!(running.ended().await, Some(0));
    setting.expire_leases().await;
    server.let_go();
    let worker = setting.worker(&[]).await;
    setting.converged().await;
    assert_eq!(server.versions(agent), 2);
    worker.stop().await;
}
