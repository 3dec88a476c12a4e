//! What a dry run says, word for word.

use agent_sync::config::MAX_REMOVALS;
use serde_json::json;

use super::{Setting, document};
use crate::support::uuid;

const BEFORE: &str = "
insert into public.ai_models (id, runtime_model_name) values ('00000000-0000-4000-8000-00000000000a', 'openai:gpt-5');
insert into public.global_ai_engines (id, language_model_id)
values ('00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-00000000000a');
insert into public.mcp_tools (id, tool_name, endpoint_url) values
  ('00000000-0000-4000-8000-000000000001', 'search', 'https://search.example/mcp?key=canary1'),
  ('00000000-0000-4000-8000-000000000002', 'mail', 'https://user:canary2@mail.example/mcp#canary3');
insert into public.agents (id, name, status, system_prompt, sampling_params) values
  (:1, 'Support', 'active', 'You help. ' || repeat('Be kind. ', 40) || 'Answer in English. ' || repeat('Be brief. ', 40),
    '{\"temperature\": 0.7, \"api_key\": \"canary4\"}'),
  (:2, 'Sales', 'active', 'You sell.', null),
  (:3, 'Calm', 'active', 'You rest.', null),
  (:4, 'Odd', 'active', 'You are odd.', null),
  (:5, 'Gone', 'active', 'You go.', null);
insert into public.agent_mcp_tools values (:1, '00000000-0000-4000-8000-000000000001')";

const EDITS: &str = "
update public.agents set system_prompt = replace(system_prompt, 'English', 'German'), description = E'Two\\nlines \\x1b[2J',
  engine_id = '00000000-0000-4000-8000-00000000000b', sampling_params = '{\"top_p\": 1, \"api_key\": \"canary5\"}' where id = :1;
update public.mcp_tools set endpoint_url = 'https://search.example/mcp?key=canary6' where tool_name = 'search';
insert into public.agent_mcp_tools values (:1, '00000000-0000-4000-8000-000000000002');
update public.agents set status = 'draft' where id = :2;
update public.agents set sampling_params = '[\"canary7\"]' where id = :4;
delete from public.agents where id = :5;
insert into public.agents (id, name, status, system_prompt) values
  (:6, 'New', 'active', 'You came from https://user:canary8@new.example/x?canary9'), (:7, 'Twice', 'active', null);
insert into langgraph_server.assistants (id, graph_id, metadata) values (:7, 'g', '{\"owner\": \"mallory\", \"x\": \"canary10\"}')";

/// Ids that can be read.
fn with_ids(statement: &str) -> String {
    (1..=7).fold(statement.to_owned(), |statement, n| {
        statement.replace(&format!(":{n}"), &format!("'{}'", uuid(n)))
    })
}

async fn edited() -> Setting {
    let setting = Setting::table().await;
    setting.db.execute(&with_ids(BEFORE)).await;
    assert_eq!(setting.sync(&[]).await.code, Some(0));
    setting.db.execute(&with_ids(EDITS)).await;
    setting
}

const PLAN: &str = r#"~ agent a0000000-0000-4000-8000-000000000001 "Support": update
      + description: "Two\nlines \u{1b}[2J"
      ~ config.configurable.api_key: "(secret)" (what has changed is not shown)
      ~ config.configurable.mcp_config.servers["https://search.example/mcp?…"].url: "https://search.example/mcp?…" (what has changed is not shown)
      + config.configurable.mcp_config.servers["https://…@mail.example/mcp#…"]: {"auth_required":false,"name":"mail"}
      ~ config.configurable.model_name: "openai:gpt-4o" → "openai:gpt-5"
      ~ config.configurable.system_prompt:
          "…. Be kind. Be kind. Answer in English. Be brief. Be brief. Be brief…"
        → "…. Be kind. Be kind. Answer in German. Be brief. Be brief. Be brief…"
      - config.configurable.temperature: 0.7
      + config.configurable.top_p: 1
- agent a0000000-0000-4000-8000-000000000002 "Sales": remove (the agent is not active)
! agent a0000000-0000-4000-8000-000000000004 "Odd": failed (agents.sampling_params is an array, expected a JSON object)
- agent a0000000-0000-4000-8000-000000000005 "Gone": remove (the agent does not exist any more)
+ agent a0000000-0000-4000-8000-000000000006 "New": create
      + name: "New"
      + graph_id: "agent"
      + config.configurable.model_name: "openai:gpt-4o"
      + config.configurable.system_prompt: "You came from https://…@new.example/x?…"
      + metadata.owner: "system"
      + metadata.supabase_agent_id: "a0000000-0000-4000-8000-000000000006"
      ~ public.agents.langgraph_assistant_id: "a0000000-0000-4000-8000-000000000006"
! agent a0000000-0000-4000-8000-000000000007 "Twice": conflict
    + assistant ea4abcc3-6774-5749-a337-9530a7430d35 of "system": create
      + name: "Twice"
      + graph_id: "agent"
      + config.configurable.model_name: "openai:gpt-4o"
      + metadata.owner: "system"
      + metadata.supabase_agent_id: "a0000000-0000-4000-8000-000000000007"
    ! assistant a0000000-0000-4000-8000-000000000007 of "system": conflict (it exists and is not ours: it stays untouched)
      ~ public.agents.langgraph_assistant_id: "ea4abcc3-6774-5749-a337-9530a7430d35"
Plan: 1 to create, 1 to update, 2 to remove, 1 unchanged, 1 in conflict, 1 failing.
"#;

#[tokio::test]
async fn each_change_is_told_field_by_field_and_nothing_secret() {
    let setting = edited().await;
    let ended = setting.sync(&["--dry-run"]).await;
    assert_eq!(
        (ended.stdout.as_str(), ended.code),
        (PLAN, Some(2)),
        "{}",
        ended.stdout
    );
    assert!(!ended.stderr.contains("canary"), "{ended:?}");
    let json = setting.sync(&["--dry-run", "--json"]).await;
    assert!(
        !json.stdout.contains("canary") && !json.stderr.contains("canary"),
        "{json:?}"
    );

    let held = setting
        .sync_with(&["--scope", "all", "--dry-run"], &[(MAX_REMOVALS, "1")])
        .await;
    let expected = PLAN.replace("remove (", "held (").replace("\n- agent", "\n! agent").replace(
        "Plan: 1 to create, 1 to update, 2 to remove, 1 unchanged, 1 in conflict, 1 failing.",
        "Held: removals are held, nothing is removed: 2 agents would lose their assistants within 10 minutes, of 5 that have one, \
         and AGENT_SYNC_MAX_REMOVALS allows 1. If that is what you want: agent-sync sync --allow-removals, in this worker's \
         environment (with --scope org:<uuid>, for one organization).\n\
         Plan: 1 to create, 1 to update, 0 to remove, 1 unchanged, 1 in conflict, 2 held, 1 failing.",
    );
    assert_eq!(
        (held.stdout.as_str(), held.code),
        (expected.as_str(), Some(2)),
        "{}",
        held.stdout
    );
    let allowed = setting
        .sync_with(
            &["--scope", "all", "--dry-run", "--allow-removals"],
            &[(MAX_REMOVALS, "1")],
        )
        .await;
    assert_eq!(allowed.stdout, PLAN);
}

#[tokio::test]
async fn a_program_is_told_the_same() {
    let setting = edited().await;
    let ended = setting
        .sync(&[
            "--dry-run",
            "--json",
            "--agent",
            &uuid(1).to_string(),
            "--agent",
            &uuid(5).to_string(),
        ])
        .await;
    let plan = document(&ended);
    let before = "…. Be kind. Be kind. Answer in English. Be brief. Be brief. Be brief…";
    let field = |path: &str, before: serde_json::Value, after: serde_json::Value, hidden: bool| json!({"path": path, "before": before, "after": after, "hidden": hidden});
    let server = "config.configurable.mcp_config.servers";
    let url = "https://search.example/mcp?…";
    let configurable = |key: &str| format!("config.configurable.{key}");
    let expected = json!({
        "agents": [
            {
                "agent_id": uuid(1), "name": "Support", "action": "update", "why": null, "error": null,
                "more_assistants": 0, "langgraph_assistant_id": null,
                "assistants": [{
                    "assistant_id": uuid(1), "owner": "system", "action": "update", "why": null, "more_fields": 0,
                    "fields": [
                        field("description", json!(null), json!("Two\nlines \u{1b}[2J"), false),
                        field(&configurable("api_key"), json!("(secret)"), json!("(secret)"), true),
                        field(&format!("{server}[\"{url}\"].url"), json!(url), json!(url), true),
                        field(&format!("{server}[\"https://…@mail.example/mcp#…\"]"), json!(null), json!({"auth_required": false, "name": "mail"}), false),
                        field(&configurable("model_name"), json!("openai:gpt-4o"), json!("openai:gpt-5"), false),
                        field(&configurable("system_prompt"), json!(before), json!(before.replace("English", "German")), false),
                        field(&configurable("temperature"), json!(0.7), json!(null), false),
                        field(&configurable("top_p"), json!(null), json!(1), false),
                    ],
                }],
            },
            {
                "agent_id": uuid(5), "name": "Gone", "action": "remove", "why": "the agent does not exist any more", "error": null,
                "more_assistants": 0, "langgraph_assistant_id": null,
                "assistants": [{
                    "assistant_id": uuid(5), "owner": "system", "action": "remove", "why": null, "more_fields": 0, "fields": [],
                }],
            },
        ],
        "summary": {"create": 0, "update": 1, "remove": 1, "unchanged": 0, "conflict": 0, "held": 0, "failed": 0},
        "held_because": null,
        "installed": true,
        "error": null,
    });
    assert_eq!(plan, expected, "{}", ended.stdout);
    assert_eq!(ended.code, Some(0));
}

/// The content is the same, and what it was made by is not: somebody has edited the row, or taken it.
#[tokio::test]
async fn what_else_makes_a_write_is_told_too() {
    let setting = edited().await;
    setting.sync(&["--allow-removals"]).await;
    let db = &setting.db;
    db.execute(&with_ids(
        "update langgraph_server.assistants set metadata = '{\"owner\": \"mallory\", \"supabase_agent_id\": \"x\", \"theirs\": \"canary\"}',
           config = config || '{\"tags\": [\"b\"]}', context = '{\"a\": {\"password\": \"canary\"}}' where id = :3;
         update agent_sync.ledger set content_hash = 'other' where agent_id = :6",
    ))
    .await;
    let ended = setting
        .sync(&[
            "--dry-run",
            "--agent",
            &uuid(3).to_string(),
            "--agent",
            &uuid(6).to_string(),
        ])
        .await;
    let expected = r#"~ agent a0000000-0000-4000-8000-000000000003 "Calm": update
    (it changes hands, and nothing that was its owner's stays)
      - config.tags[0]: "b"
      - context.a.password: "(secret)"
      ~ metadata.owner: "mallory" → "system"
      ~ metadata.supabase_agent_id: "x" → "a0000000-0000-4000-8000-000000000003"
      - metadata.theirs: "(not shown)"
~ agent a0000000-0000-4000-8000-000000000006 "New": update
    (it is written anew, and says the same)
Plan: 0 to create, 2 to update, 0 to remove, 0 unchanged.
"#;
    assert_eq!(
        (ended.stdout.as_str(), ended.code),
        (expected, Some(0)),
        "{}",
        ended.stdout
    );
}

/// Of what a server says in its own way only what means something else is told.
#[tokio::test]
async fn what_a_server_adds_and_how_it_writes_is_no_difference() {
    let setting = Setting::server().await;
    let (db, id) = (&setting.db, uuid(1));
    db.execute(&format!(
        "insert into public.agents (id, name, status, system_prompt, sampling_params)
         values ('{id}', 'A', 'active', 'You wait.', '{{\"temperature\": 0.50, \"top_p\": 1}}')"
    ))
    .await;
    setting.sync(&[]).await;
    let server = setting.server.as_ref().expect("a server");
    let said = server.assistant(id).expect("an assistant");
    let configurable = &said["config"]["configurable"];
    let config = json!({"configurable": configurable, "tags": []});
    server.patch(id, json!({"config": config, "description": ""}));
    let unchanged = setting.plan(&[]).await;
    assert_eq!(unchanged["summary"]["unchanged"], 1, "{unchanged}");
    db.execute("update public.agents set system_prompt = 'You act.'")
        .await;
    let ended = setting.sync(&["--dry-run"]).await;
    let expected = r#"~ agent a0000000-0000-4000-8000-000000000001 "A": update
      ~ config.configurable.system_prompt: "You wait." → "You act."
Plan: 0 to create, 1 to update, 0 to remove, 0 unchanged.
"#;
    assert_eq!(ended.stdout, expected, "{}", ended.stdout);
}

/// Nobody reads a plan of ten thousand lines about one agent.
#[tokio::test]
async fn of_an_agent_with_many_users_not_all_are_told_of() {
    let setting = Setting::table().await;
    let db = &setting.db;
    let agent = db.agent("a").await;
    setting.sync(&[]).await;
    db.execute(&format!(
        "insert into agent_sync.ledger (assistant_id, agent_id, owner, state, content_hash)
         select gen_random_uuid(), '{agent}', 'user' || n, 'synced', 'x' from generate_series(1, 25) as n"
    ))
    .await;
    let plan = setting.plan(&[]).await;
    let agents = plan["agents"].as_array().expect("agents");
    let [agent] = &agents[..] else {
        panic!("{plan}");
    };
    let listed = agent["assistants"].as_array().map(Vec::len);
    assert_eq!((listed, &agent["more_assistants"]), (Some(10), &json!(15)));
    let words = setting.sync(&["--dry-run"]).await.stdout;
    assert!(
        words.contains("\n    … and 15 more assistants of this agent\n"),
        "{words}"
    );
}
