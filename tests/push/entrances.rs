//! All that happens to an agent reaches its assistants on the server, through each entrance.

use agent_sync::plan::Claim;
use agent_sync::syncer::Outcome;
use serde_json::json;
use uuid::Uuid;

use super::{Setting, ask, claim, outcome, owner, pass, variables};
use crate::support::binary::Running;
use crate::support::double::Fault;
use crate::support::eventually;

#[tokio::test]
async fn the_startup_pass_makes_what_is_missing_and_edits_follow() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    db.execute(agent_sync::demo::DATA).await;
    let worker = setting.worker(&[]).await;
    setting.converged().await;
    let made = server.assistants();
    assert!(!made.is_empty());
    assert!(made.iter().all(|assistant| assistant["version"] == 1));

    let agent = db.agent("new").await;
    setting.prompted(agent, "You are new.").await;
    setting.prompt(agent, "edited").await;
    setting.prompted(agent, "edited").await;
    assert_eq!(server.versions(agent), 2);
    setting.converged().await;
    // Its row names it, as anywhere.
    eventually("the agent's row names its assistant", || async {
        let named = format!("public.agents where langgraph_assistant_id = '{agent}'");
        let named = db.count(&named).await;
        (named == 1).then_some(()).ok_or(format!("{named}"))
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_switched_off_loses_its_assistant_and_gets_it_back() {
    let setting = Setting::new().await;
    let agent = setting.db.agent("a").await;
    let worker = setting.worker(&[]).await;
    for (status, expected) in [("disabled", false), ("active", true), ("draft", false)] {
        let set = format!("update public.agents set status = '{status}'");
        setting.db.execute(&set).await;
        eventually(status, || async {
            let there = setting.server.assistant(agent).is_some();
            (there == expected).then_some(()).ok_or(format!("{there}"))
        })
        .await;
    }
    setting.converged().await;
    let entry = setting.entry(agent).await.expect("an entry");
    assert_eq!(entry, ("removed".to_owned(), 0, None));
    worker.stop().await;
}

#[tokio::test]
async fn what_is_somebody_elses_or_the_servers_own_is_never_touched() {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    let (squatted, system, adopted) = (
        db.agent("squatted").await,
        db.agent("taken by the server").await,
        db.agent("of an older runtime").await,
    );
    let theirs = json!({"graph_id": "theirs", "metadata": {"owner": "mallory", "supabase_agent_id": squatted}});
    server.put(squatted, theirs);
    // As an older runtime's are, but for who says to have made it.
    let servers =
        json!({"graph_id": "agent", "metadata": {"owner": "system", "created_by": "system"}});
    server.put(system, servers);
    server.put(
        adopted,
        json!({"graph_id": "x", "metadata": {"owner": "system", "secret": 1}}),
    );
    let before = [squatted, system].map(|id| server.assistant(id));

    let worker = setting.worker(&[]).await;
    for (agent, systems) in [squatted, system].map(|agent| (agent, Uuid::new_v5(&agent, b"system")))
    {
        let assistant = server.assistant(systems).expect("another in its place");
        assert_eq!(assistant["metadata"]["supabase_agent_id"], json!(agent));
        setting.prompt(agent, "edited").await;
        setting.prompted(systems, "edited").await;
        let (state, _, error) = setting.entry(agent).await.expect("an entry");
        assert_eq!(state, "conflict");
        assert!(error.expect("why").contains(&agent.to_string()));
    }
    // Only its id is taken over.
    let taken = server.assistant(adopted).expect("there");
    assert_eq!(
        (&taken["graph_id"], owner(&taken)),
        (&json!("agent"), "system")
    );
    assert!(taken["metadata"]["secret"].is_null());

    // Not even when they are off.
    db.execute("update public.agents set status = 'disabled'")
        .await;
    eventually("all of ours are gone", || async {
        let left = server.assistants().len();
        (left == 2).then_some(()).ok_or(format!("{left}"))
    })
    .await;
    db.drained().await;
    assert_eq!([squatted, system].map(|id| server.assistant(id)), before);
    for id in [squatted, system] {
        assert!(
            server
                .writes()
                .iter()
                .all(|seen| !seen.path.contains(&id.to_string()))
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn who_asks_first_has_the_canonical_one_until_the_agent_comes_into_scope() {
    let setting = Setting::installed().await;
    let Setting { db, server } = &setting;
    let agent = db.agent("a").await;
    let syncer = setting.syncer("none");
    let alices = Claim {
        metadata: json!({"note": "hers"})
            .as_object()
            .cloned()
            .expect("an object"),
        ..claim("alice")
    };
    for _ in 0..2 {
        assert_eq!(ask(&syncer, agent, &alices).await, agent);
        let copy = ask(&syncer, agent, &claim("bob")).await;
        assert_eq!(copy, Uuid::new_v5(&agent, b"bob"));
        assert_eq!(owner(&server.assistant(copy).expect("his")), "bob");
    }
    let hers = server.assistant(agent).expect("hers");
    assert_eq!(
        (owner(&hers), &hers["metadata"]["note"]),
        ("alice", &json!("hers"))
    );
    assert_eq!(server.writes().len(), 2, "each was made once");

    // Both are kept in step.
    setting.prompt(agent, "edited").await;
    assert_eq!(
        outcome(&pass(&syncer, &[agent]).await, agent),
        &Outcome::Updated
    );
    let prompts = [agent, Uuid::new_v5(&agent, b"bob")].map(|id| server.prompt(id));
    assert_eq!(
        prompts,
        [Some("edited".to_owned()), Some("edited".to_owned())]
    );
    assert_eq!(
        server.assistant(agent).expect("hers")["metadata"]["note"],
        "hers"
    );

    pass(&setting.syncer("all"), &[agent]).await;
    let now = server.assistant(agent).expect("the system's");
    assert_eq!(owner(&now), "system");
    assert!(now["metadata"]["note"].is_null(), "nothing of hers stays");
    assert_eq!(server.versions(agent), 3);
    pass(&setting.syncer("all"), &[agent]).await;
    assert_eq!(server.versions(agent), 3);
}

#[tokio::test]
async fn many_agents_are_more_than_one_batch() {
    let setting = Setting::new().await;
    setting
        .db
        .execute(
            "insert into public.agents (name, status, system_prompt)
             select 'agent ' || n, 'active', 'You are ' || n from generate_series(1, 130) as n",
        )
        .await;
    let worker = setting.worker(&[]).await;
    setting.converged().await;
    let edit = "update public.agents set system_prompt = system_prompt || '!'";
    setting.db.execute(edit).await;
    setting.converged().await;
    assert_eq!(setting.server.assistants().len(), 130);
    assert!(
        setting
            .server
            .assistants()
            .iter()
            .all(|a| a["version"] == 2)
    );
    assert!(setting.server.most_in_hand() <= 4);
    worker.stop().await;
}

/// `agent-sync sync`: one pass, and the verdict in the exit code.
#[tokio::test]
async fn a_pass_by_hand_says_how_it_went() {
    let setting = Setting::new().await;
    let agent = setting.db.agent("a").await;
    let url = setting.server.url();
    let own = [("DATABASE_URL", setting.db.url.as_str())];
    let sync = || Running::start(&["sync"], &[&own[..], &variables(&url)].concat());
    let mut made = sync();
    assert_eq!(made.ended().await, Some(0), "{}", made.output());
    made.line("Sync summary: total=1 created=1").await;
    setting.prompt(agent, "edited").await;
    let forbidden = Fault::detail(403, "Forbidden");
    setting.server.always("PATCH", agent, forbidden);
    let mut refused = sync();
    assert_eq!(refused.ended().await, Some(1), "{}", refused.output());
    refused.line("Forbidden").await;
    setting.server.mend();
    let mut passed = sync();
    assert_eq!(passed.ended().await, Some(0), "{}", passed.output());
    passed.line("updated=1").await;
    assert_eq!(setting.leases().await, 0);
}
