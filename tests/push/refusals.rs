//! What the server refuses of one agent is that agent's own trouble.

use agent_sync::syncer::{Outcome, Summary};
use serde_json::json;
use uuid::Uuid;

use super::{Setting, outcome, pass};
use crate::support::double::Fault;

/// A pass over two agents, of which one is refused with an error that says this.
async fn refused(
    setting: &Setting,
    syncer: &agent_sync::syncer::Syncer,
    agents: [Uuid; 2],
    says: &str,
) {
    let [bad, good] = agents;
    let before = setting
        .entry(bad)
        .await
        .map_or(0, |(_, attempts, _)| attempts);
    let batch = pass(syncer, &agents).await;
    match outcome(&batch, bad) {
        Outcome::Failed(error) => assert!(error.contains(says), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_ne!(Summary::of(&batch.outcomes).skipped, 2);
    let (state, attempts, error) = setting.entry(bad).await.expect("an entry");
    assert_eq!((state.as_str(), attempts), ("failed", before + 1));
    assert!(error.expect("why").contains(says));
    let retry = format!("agent_sync.outbox where key = '{bad}' and due_at > '-infinity'");
    assert_eq!(setting.db.count(&retry).await, 1);
    setting.is_synced(good).await;
}

#[tokio::test]
async fn an_agent_that_the_server_refuses_fails_alone_and_recovers() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let syncer = setting.syncer("all");
    let (bad, good) = (db.agent("bad").await, db.agent("good").await);
    let faults = [
        (Fault::detail(422, "name is too long"), "name is too long"),
        (
            Fault::detail(400, "Cannot specify both"),
            "Cannot specify both",
        ),
        (Fault::detail(409, "Assistant exists"), "Assistant exists"),
        (
            Fault::detail(413, "Request body too large"),
            "Request body too large",
        ),
        (
            Fault::Answer(500, vec![], "Internal Server Error".to_owned()),
            "Internal Server Error",
        ),
    ];
    for method in ["POST", "PATCH"] {
        for (n, (fault, says)) in faults.iter().enumerate() {
            if method == "PATCH" {
                let edit = format!("update public.agents set system_prompt = 'edit {n}'");
                db.execute(&edit).await;
            }
            server.always(method, bad, fault.clone());
            refused(&setting, &syncer, [bad, good], says).await;
            server.mend();
            let next = format!("update public.agents set system_prompt = '{method} {n}'");
            db.execute(&next).await;
            if method == "PATCH" {
                pass(&syncer, &[bad, good]).await;
                setting.is_synced(bad).await;
                assert_eq!(server.prompt(bad), Some(format!("PATCH {n}")));
            }
        }
        // The first of the PATCHes needs something to be there.
        pass(&syncer, &[bad, good]).await;
        setting.is_synced(bad).await;
    }
    db.execute("update public.agents set status = 'disabled'")
        .await;
    server.always("DELETE", bad, Fault::detail(409, "runs in flight"));
    let batch = pass(&syncer, &[bad, good]).await;
    assert!(matches!(outcome(&batch, bad), Outcome::Failed(why) if why.contains("runs in flight")));
    assert_eq!(outcome(&batch, good), &Outcome::Removed);
    server.mend();
    let batch = pass(&syncer, &[bad]).await;
    assert_eq!(outcome(&batch, bad), &Outcome::Removed);
}

#[tokio::test]
async fn a_graph_that_the_server_does_not_know_is_named() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    server.know_only(&["agent"]);
    let (bad, good) = (db.agent("bad").await, db.agent("good").await);
    let graph =
        |name: &str| format!("update public.agents set graph_id = '{name}' where id = '{bad}'");
    db.execute(&graph("nope")).await;
    let running = setting.running(&[]);
    let line = running.line("agent failed").await;
    for part in [&bad.to_string(), "Graph 'nope' not found", "404"] {
        assert!(line.contains(part), "{line}");
    }
    setting.prompted(good, "You are good.").await;
    // At once when it is edited.
    db.execute(&graph("agent")).await;
    setting.prompted(bad, "You are bad.").await;
    // The same as an update. It is not taken for the assistant that is not there.
    db.execute(&graph("gone")).await;
    running.line("Graph 'gone' not found").await;
    setting.prompt(good, "goes on").await;
    setting.prompted(good, "goes on").await;
    assert_eq!(server.assistant(bad).expect("there")["graph_id"], "agent");
    db.execute(&graph("agent")).await;
    db.drained().await;
    setting.is_synced(bad).await;
    assert!(
        !running.output().contains("may have lost"),
        "{}",
        running.output()
    );
}

#[tokio::test]
async fn an_answer_about_another_assistant_is_not_believed() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let syncer = setting.syncer("all");
    let (bad, good) = (db.agent("bad").await, db.agent("good").await);
    // As servers do that take two of one owner with the same configuration for one.
    let others = json!({"assistant_id": Uuid::new_v4(), "graph_id": "agent", "metadata": {"owner": "system"}});
    let others = Fault::Answer(200, vec![], others.to_string());
    server.always("POST", bad, others);
    refused(&setting, &syncer, [bad, good], "instead of").await;
    assert_eq!(server.assistant(bad), None);
    server.mend();
    db.execute("update public.agents set system_prompt = 'edited'")
        .await;
    pass(&syncer, &[bad, good]).await;
    server.always("PATCH", bad, Fault::AnotherId);
    db.execute("update public.agents set system_prompt = 'edited again'")
        .await;
    refused(&setting, &syncer, [bad, good], "instead of").await;
    assert_eq!(server.assistants().len(), 2, "and nothing else is touched");
}

/// Between the look and the write somebody else makes one under the id, and the server answers with that.
#[tokio::test]
async fn an_assistant_that_somebody_was_faster_to_make_is_not_taken_for_ours() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let syncer = setting.syncer("all");
    let agent = db.agent("a").await;
    server.next("GET", agent, Fault::HoldAfter);
    let racing = async {
        server.held().await;
        server.put(
            agent,
            json!({"graph_id": "theirs", "metadata": {"owner": "mallory"}}),
        );
        server.let_go();
    };
    let agents = [agent];
    let (batch, ()) = tokio::join!(pass(&syncer, &agents), racing);
    assert_eq!(outcome(&batch, agent), &Outcome::Busy);
    let theirs = server.assistant(agent).expect("theirs");
    assert_eq!(
        (&theirs["graph_id"], &theirs["version"]),
        (&json!("theirs"), &json!(1))
    );
    let batch = pass(&syncer, &[agent]).await;
    assert_eq!(outcome(&batch, agent), &Outcome::Conflict);
    assert_eq!(server.assistant(agent), Some(theirs));
    assert_eq!(setting.entry(agent).await.expect("an entry").0, "conflict");
}

/// Each of what one agent has may be what cannot be read.
#[tokio::test]
async fn an_agent_whose_assistant_cannot_be_read_fails_alone() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let syncer = setting.syncer("all");
    let (bad, good) = (db.agent("bad").await, db.agent("good").await);
    for fault in [
        Fault::status(500),
        Fault::AnotherId,
        Fault::Longer(17 << 20),
    ] {
        pass(&syncer, &[bad, good]).await;
        server.always("GET", bad, fault.clone());
        db.execute("update public.agents set system_prompt = system_prompt || '!'")
            .await;
        let batch = pass(&syncer, &[bad, good]).await;
        assert!(
            matches!(outcome(&batch, bad), Outcome::Failed(_)),
            "{fault:?}"
        );
        assert_eq!(outcome(&batch, good), &Outcome::Updated);
        setting.is_synced(good).await;
        assert_eq!(setting.entry(bad).await.expect("an entry").1, 1);
        server.mend();
        let batch = pass(&syncer, &[bad, good]).await;
        assert_eq!(outcome(&batch, bad), &Outcome::Updated);
    }
}
