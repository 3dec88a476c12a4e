//! LangGraph's own SDKs find on agent-sync what they find on LangGraph's own server.

use agent_sync::config::ROBYN_DEV;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::database::Role;
use crate::support::langgraph::{ALICE, BOB, LangGraph};
use crate::support::sdk::Sdk;
use crate::support::transcript::{ABSENT, ANYTHING, Difference, compare};
use crate::support::{Project, TestDatabase, TestWorker};

const NO_REGISTRY: &str = "which graphs there are, only the runtime knows";
const CLEARED: &str =
    "LangGraph's production server clears both, its development server lets the two diverge";
const RESTORED: &str =
    "what a version says is restored as a whole, LangGraph's development server leaves these";
const ROUTED: &str = "Starlette speaks of the first route that it has for a path";
const OURSELVES: &str = "it says who answers";
const OWNED: &str = "an assistant is its owner's, who without keys is the developer";
const SYNCED: &str = "a synced assistant says since when it is equal to its agent";
const READ_ONLY: &str = "what an agent says is edited there";
const REFUSED: &str =
    "what is wrong with a token is said, as RFC 6750 has it; the other text is the fixture's";

const NOTHING_TO_SAY: &str = "the answer to a preflight is its head; theirs says OK, too";
const REQUEST_ID: &str = "a page may quote the id of a request that failed";
const POSTGRES: &str = "body.services.postgres";
const SKIPPED: &str = r#""skipped""#;
const BEHIND: &str = "it says what it stands on, the development server stands on nothing";
const EXPOSED: &str = "headers.access-control-expose-headers";
const THEIR_EXPOSED: &str = r#""x-pagination-total, x-pagination-next, content-location""#;
const OUR_EXPOSED: &str =
    r#""x-pagination-total, x-pagination-next, content-location, x-request-id""#;

const fn status(
    step: &'static str,
    theirs: &'static str,
    ours: &'static str,
    reason: &'static str,
) -> Difference {
    field(step, "status", theirs, ours, reason)
}

const fn field(
    step: &'static str,
    field: &'static str,
    theirs: &'static str,
    ours: &'static str,
    reason: &'static str,
) -> Difference {
    Difference {
        step,
        field,
        theirs,
        ours,
        reason,
    }
}

/// With either store.
const BOTH: &[Difference] = &[
    status("create for an unknown graph", "404", "200", NO_REGISTRY),
    status("and delete that again", "404", "204", NO_REGISTRY),
    status("search, an unknown graph", "404", "200", NO_REGISTRY),
    status("count, an unknown graph", "404", "200", NO_REGISTRY),
    status("update to an unknown graph", "404", "200", NO_REGISTRY),
    field(
        "update with an empty context",
        "body.config",
        r#"{"configurable": {"kept": 1}, "metadata": {"kept": 1}}"#,
        r#"{"configurable": {}}"#,
        CLEARED,
    ),
    field(
        "set the latest of another graph",
        "body.graph_id",
        r#""agent""#,
        r#""other""#,
        RESTORED,
    ),
    field(
        "set the latest of another graph",
        "body.context",
        r#"{"model_name": "openai:gpt-4o", "system_prompt": "You are Alpha."}"#,
        r#"{"model_name": "c"}"#,
        RESTORED,
    ),
    status("get the search", "422", "405", ROUTED),
    field(
        "put one",
        "headers.allow",
        r#""GET, HEAD""#,
        r#""DELETE, GET, HEAD, PATCH""#,
        ROUTED,
    ),
    field("what is it", "body", ANYTHING, ANYTHING, OURSELVES),
    status("a browser asks first", "200", "204", NOTHING_TO_SAY),
    field(
        "a browser searches",
        EXPOSED,
        THEIR_EXPOSED,
        OUR_EXPOSED,
        REQUEST_ID,
    ),
    field(
        "a browser is refused",
        EXPOSED,
        THEIR_EXPOSED,
        OUR_EXPOSED,
        REQUEST_ID,
    ),
];

const IN_MEMORY: &[Difference] = &[field("*", "**.metadata.owner", ABSENT, r#""dev""#, OWNED)];

const ON_POSTGRES: &[Difference] = &[
    field("*", "**.metadata.synced_at", ABSENT, ANYTHING, SYNCED),
    field("is it there", POSTGRES, ABSENT, SKIPPED, BEHIND),
    field(
        "nobody asks whether it is there",
        POSTGRES,
        ABSENT,
        SKIPPED,
        BEHIND,
    ),
    status("nobody's browser asks first", "200", "204", NOTHING_TO_SAY),
    status("update an agent's name", "200", "409", READ_ONLY),
    status("set the latest of an agent's", "200", "409", READ_ONLY),
    field(
        "versions of an agent's",
        "body",
        ANYTHING,
        ANYTHING,
        READ_ONLY,
    ),
    field("nobody gets", "body.detail", ANYTHING, ANYTHING, REFUSED),
    field(
        "nobody searches",
        "body.detail",
        ANYTHING,
        ANYTHING,
        REFUSED,
    ),
    field("nobody creates", "body.detail", ANYTHING, ANYTHING, REFUSED),
    field(
        "nobody asks what it is",
        "body",
        ANYTHING,
        ANYTHING,
        OURSELVES,
    ),
    field(
        "somebody with a wrong token gets",
        "body.detail",
        ANYTHING,
        ANYTHING,
        REFUSED,
    ),
    field("*", "headers.www-authenticate", ABSENT, ANYTHING, REFUSED),
];

/// Of the two scenarios, which are one.
const SDKS: &[Difference] = &[
    field("*", "error", ANYTHING, ANYTHING, "each has its own errors"),
    field(
        "*",
        "path",
        ANYTHING,
        ANYTHING,
        "the JavaScript SDK says of each assistant that its threads are not to be deleted",
    ),
];

fn agree(what: &str, theirs: &[Value], ours: &[Value], known: &[&[Difference]]) {
    let wrong = compare(theirs, ours, &known.concat());
    assert!(wrong.is_empty(), "{what} differs:\n{}", wrong.join("\n"));
}

async fn in_memory(sdk: Sdk) {
    if !Role::is_first_run() {
        return;
    }
    let server = LangGraph::shared().await;
    let theirs = sdk.scenario(&server.url(), &[]).await;
    let worker = TestWorker::start_with(&[(ROBYN_DEV, "true")]).await;
    let ours = sdk.scenario(&format!("http://{}", worker.api), &[]).await;
    worker.stop().await;
    agree("agent-sync in memory", &theirs, &ours, &[BOTH, IN_MEMORY]);
}

async fn on_postgres(sdk: Sdk) {
    let db = TestDatabase::new().await;
    let agent = Uuid::new_v4();
    let (organization, _) = db.organization().await;
    db.execute(&format!(
        "insert into public.organization_members values ('{organization}', '{}');
         insert into public.agents (id, organization_id, name, description, status, system_prompt)
         values ('{agent}', '{organization}', 'Alpha', 'The first', 'active', 'You are Alpha.')",
        ALICE.1
    ))
    .await;
    let link = json!({"supabase_agent_id": agent});
    let made = json!({"graph_id": "agent", "metadata": link});
    let said = json!({
        "graph_id": "agent", "assistant_id": agent, "name": "Alpha", "description": "The first",
        "config": {"configurable": {
            "supabase_organization_id": organization, "model_name": "openai:gpt-4o", "system_prompt": "You are Alpha."
        }},
        "metadata": {"supabase_agent_id": agent, "supabase_organization_id": organization},
    });
    let scenario = async |url: &str, create: Value, alice: &str, bob: &str| {
        let agent = json!({"create": create, "assistant_id": agent}).to_string();
        let variables = [
            ("SCENARIO_AGENT", agent.as_str()),
            ("SCENARIO_TOKEN", alice),
            ("SCENARIO_OTHER_TOKEN", bob),
        ];
        sdk.scenario(url, &variables).await
    };

    let server = LangGraph::shared_with_auth().await;
    let theirs = scenario(&server.url(), said, ALICE.0, BOB.0).await;
    let project = Project::new().await;
    let worker = TestWorker::start(&db, &project.variables()).await;
    let [alice, bob] = [ALICE, BOB].map(|(_, user)| project.token(user));
    let url = format!("http://{}", worker.api);
    let ours = scenario(&url, made, &alice, &bob).await;
    worker.stop().await;
    agree(
        "agent-sync on Postgres",
        &theirs,
        &ours,
        &[BOTH, ON_POSTGRES],
    );
}

#[tokio::test]
async fn both_sdks_are_asked_the_same() {
    if !Role::is_first_run() {
        return;
    }
    let url = LangGraph::shared().await.url();
    let [python, javascript] = [Sdk::Python, Sdk::JavaScript].map(|sdk| sdk.scenario(&url, &[]));
    agree("the other SDK", &python.await, &javascript.await, &[SDKS]);
}

#[tokio::test]
async fn the_python_sdk_finds_in_memory_what_it_finds_on_langgraphs_server() {
    in_memory(Sdk::Python).await;
}

#[tokio::test]
async fn the_javascript_sdk_finds_in_memory_what_it_finds_on_langgraphs_server() {
    in_memory(Sdk::JavaScript).await;
}

#[tokio::test]
async fn the_python_sdk_finds_on_postgres_what_it_finds_on_langgraphs_server() {
    on_postgres(Sdk::Python).await;
}

#[tokio::test]
async fn the_javascript_sdk_finds_on_postgres_what_it_finds_on_langgraphs_server() {
    on_postgres(Sdk::JavaScript).await;
}
