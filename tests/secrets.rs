//! Nothing secret is printed, whatever happens and however much is logged.

use agent_sync::config::{
    AUTHENTICATOR_URL, DATABASE_URL, LOG, RESYNC_INTERVAL, SCOPE, SUPABASE_JWKS_URL,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::sse::EventSource;
use crate::support::tokens::Project;
use crate::support::worker::{exchange, request};
use crate::support::{TestDatabase, TestWorker, eventually};

/// A part of everything that must not be printed, each with a word of its own behind it.
const CANARY: &str = "canary-";

/// As many of a worker's ways as one run can go: each is told where it was seen, so that it cannot be missed in silence.
#[tokio::test]
async fn no_secret_is_printed_in_a_whole_run() {
    let db = TestDatabase::new().await;
    // What stands there already, so that a row of it can be refused.
    TestWorker::start(&db, &[]).await.stop().await;
    let project = Project::with_secret().await;
    let (organization, member) = db.organization().await;
    let (_, stranger) = db.organization().await;
    let (agent, odd, refused) = (
        db.agent("a").await,
        db.agent("odd").await,
        db.agent("refused").await,
    );
    db.execute(&format!(
        "update public.agents set organization_id = '{organization}', system_prompt = 'canary-prompt', description = 'canary-description',
           sampling_params = '{{\"key\": \"canary-parameter\"}}' where id in ('{agent}', '{refused}');
         update public.agents set organization_id = '{organization}', sampling_params = '\"canary-undecodable\"' where id = '{odd}';
         insert into public.mcp_tools (id, tool_name, endpoint_url)
         values ('{agent}', 'tool', 'https://canary-user:canary-word@tools.example/mcp?token=canary-query#canary-fragment');
         insert into public.agent_mcp_tools values ('{agent}', '{agent}'), ('{refused}', '{agent}');
         alter table langgraph_server.assistants add constraint no_such_name check (name <> 'refused') not valid"
    ))
    .await;

    let with_password = |url: &str| {
        let (scheme, rest) = url.split_once("://").expect("a url");
        let (user, host) = rest.split_once('@').expect("a user");
        let user = user.split(':').next().unwrap_or(user);
        format!("{scheme}://{user}:canary-password@{host}")
    };
    let keys = project
        .server
        .url()
        .replace("://", "://canary-name:canary-secret@");
    let variables = project.variables();
    let (own, asking, jwks) = (
        with_password(&db.url),
        with_password(&db.url),
        format!("{keys}/auth/v1/.well-known/jwks.json?apikey=canary-apikey"),
    );
    let running = Running::start(
        &[],
        &[
            FREE_PORTS,
            &variables,
            &[
                (DATABASE_URL, own.as_str()),
                (AUTHENTICATOR_URL, asking.as_str()),
                (SUPABASE_JWKS_URL, jwks.as_str()),
                (SCOPE, "all"),
                (LOG, "trace"),
                (RESYNC_INTERVAL, "1s"),
            ],
        ]
        .concat(),
    );
    let (api, admin) = (running.api().await, running.admin().await);
    running.line("Startup sync summary").await;
    running.line("agents.sampling_params is text").await;
    running.line("violates check constraint").await;

    // What the API says to whoever does not get what they ask for.
    let mut refusals = String::new();
    let token =
        |user: Uuid| project.token_with(user, json!({"user_metadata": {"note": "canary-claim"}}));
    let ask = async |token: &str, method: &str, path: &str, body: &str| {
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncookie: canary-cookie\r\n\
             x-canary-header: canary-header\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(api, &bytes).await
    };
    let lazily = |agent: Uuid| {
        json!({"graph_id": "g", "metadata": {"supabase_agent_id": agent, "note": "canary-note"}})
            .to_string()
    };
    eventually("the member gets it", || async {
        let (status, _, body) = ask(&token(member), "POST", "/assistants", &lazily(agent)).await;
        match body.contains("canary-prompt") {
            true => Ok(()),
            false => Err(format!("{status} {body}")),
        }
    })
    .await;
    let expired = project.token_with(member, json!({"exp": 1, "sub": "canary-subject"}));
    let deep = format!("{}\"canary-deep\"", "[".repeat(200));
    for (token, method, path, body) in [
        (
            token(stranger),
            "POST",
            "/assistants",
            lazily(agent).replace("canary-note", "x"),
        ),
        (
            token(stranger),
            "GET",
            &format!("/assistants/{agent}?q=canary-search"),
            String::new(),
        ),
        (
            token(stranger),
            "POST",
            "/assistants/search",
            r#"{"name": "x"}"#.to_owned(),
        ),
        (
            token(member),
            "PATCH",
            &format!("/assistants/{agent}"),
            r#"{"name": "canary-rename"}"#.to_owned(),
        ),
        (
            token(member),
            "POST",
            "/assistants",
            r#"{"graph_id": "g", "name": "refused"}"#.to_owned(),
        ),
        (
            token(member),
            "POST",
            "/assistants",
            "{canary-invalid".to_owned(),
        ),
        (token(member), "POST", "/assistants", deep),
        (
            token(member),
            "POST",
            "/assistants",
            format!("\"{}\"", "canary-large".repeat(100_000)),
        ),
        (token(member), "POST", "/canary-path", String::new()),
        (expired, "GET", "/assistants/canary-id", String::new()),
        (
            "canary-token".to_owned(),
            "GET",
            "/assistants/x",
            String::new(),
        ),
        (
            project.service_role(),
            "GET",
            "/assistants/x",
            String::new(),
        ),
        (
            "sb_secret_canary-key".to_owned(),
            "GET",
            "/assistants/x",
            String::new(),
        ),
    ] {
        let (status, head, body) = ask(&token, method, path, &body).await;
        assert!((200..500).contains(&status), "{status} {body}");
        refusals.push_str(&format!("{method} {status}\n{head}\n{body}\n"));
    }

    // What goes wrong in the database.
    let broken = "create policy broken on public.agents as restrictive for select to authenticated
        using ((current_setting('request.jwt.claims')::jsonb -> 'user_metadata' ->> 'note')::int = 1)";
    db.execute(broken).await;
    refusals.push_str(
        &ask(&token(member), "POST", "/assistants", &lazily(agent))
            .await
            .2
            .replace("canary-note", ""),
    );
    db.execute("drop policy broken on public.agents; update public.agents set system_prompt = 'canary-new'")
        .await;
    db.prompted(agent, "canary-new").await;
    db.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'agent-sync%' and datname = current_database()")
        .await;
    running.line("catching up").await;
    db.execute("update public.agents set system_prompt = 'canary-newer'")
        .await;
    db.prompted(agent, "canary-newer").await;
    for path in [
        "/ready", "/live", "/canary", "/metrics", "/status", "/history",
    ] {
        let (_, said): (u16, Value) = request(admin, "GET", path, None).await;
        refusals.push_str(&said.to_string());
    }
    let mut events = EventSource::open(admin, None).await;
    refusals.push_str(&format!("{:?}", events.next().await));
    refusals.push_str(&format!("{:?}", events.come()));

    let printed = running.output();
    for said in ["TRACE", "lazy sync skipped", "a request failed", "answered"] {
        assert!(printed.contains(said), "{said} was never said");
    }
    // Paths are printed, and ids; what is asked for beyond that is not.
    let printed = printed
        .replace("/canary-path", "")
        .replace("/assistants/canary-id", "")
        .replace("/canary", "");
    for text in [printed, refusals] {
        let found = text.lines().find(|line| line.contains(CANARY));
        assert_eq!(found, None);
        for part in project.key.jwk["x"]
            .as_str()
            .into_iter()
            .chain([crate::support::tokens::SECRET])
        {
            assert!(!text.contains(part));
        }
    }
}
