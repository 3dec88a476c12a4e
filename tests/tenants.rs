//! Two organizations on one worker, under the policies of a real project: whatever one tries, it gets nothing of the other's.

use agent_sync::config::SCOPE;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::tokens::Project;
use crate::support::worker::exchange;
use crate::support::{TestDatabase, TestWorker, eventually};

/// A part of everything that the victim's agent says.
const CANARY: &str = "canary";

/// Two organizations with a member each. Either has an agent.
struct Tenants {
    db: TestDatabase,
    project: Project,
    victim: Uuid,
    mallory: Uuid,
    /// The victim's organization and agent.
    organization: Uuid,
    secret: Uuid,
    /// Mallory's agent.
    own: Uuid,
}

impl Tenants {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let (organization, victim) = db.organization().await;
        let (other, mallory) = db.organization().await;
        let (secret, own) = (db.agent("canary-name").await, db.agent("own").await);
        db.execute(&format!(
            "update public.agents set organization_id = '{organization}', description = 'canary-description',
               system_prompt = 'canary-prompt', sampling_params = '{{\"stop\": \"canary-parameter\"}}' where id = '{secret}';
             update public.agents set organization_id = '{other}' where id = '{own}';
             insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{secret}', 'canary-tool', 'https://canary.example/mcp');
             insert into public.agent_mcp_tools values ('{secret}', '{secret}')"
        ))
        .await;
        Self {
            db,
            project: Project::new().await,
            victim,
            mallory,
            organization,
            secret,
            own,
        }
    }

    async fn worker(&self, variables: &[(&str, &str)]) -> TestWorker {
        let variables = [&self.project.variables(), variables].concat();
        TestWorker::start(&self.db, &variables).await
    }

    /// What a user gets who asks for an agent.
    async fn lazily(&self, worker: &TestWorker, user: Uuid, agent: Uuid) -> Value {
        let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}});
        let (status, answer) = worker.create_as(&self.project.token(user), body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn get(&self, worker: &TestWorker, user: Uuid, id: &Value) -> (u16, Value) {
        let path = format!("/assistants/{}", id.as_str().expect("an id"));
        let token = self.project.token(user);
        worker.request_as(&token, "GET", &path, None).await
    }

    /// Nothing of the secret agent is in this answer: neither what it says, nor whose it is.
    fn assert_empty_handed(&self, attempt: &str, answer: &Value) {
        let text = answer.to_string();
        assert!(!text.contains(CANARY), "{attempt}: {text}");
        let organization = self.organization.to_string();
        assert!(!text.contains(&organization), "{attempt}: {text}");
        let victim = self.victim.to_string();
        assert!(!text.contains(&victim), "{attempt}: {text}");
    }

    /// Nor in anything that is stored for Mallory.
    async fn assert_nothing_stored(&self) {
        let (mallory, organization) = (self.mallory, self.organization);
        let leaked = format!(
            "langgraph_server.assistants as a where a.metadata ->> 'owner' = '{mallory}'
             and (a::text like '%{CANARY}%' or a::text like '%{organization}%')"
        );
        assert_eq!(self.db.count(&leaked).await, 0);
        let entries = format!(
            "agent_sync.ledger where agent_id = '{}' and owner = '{mallory}'",
            self.secret
        );
        assert_eq!(self.db.count(&entries).await, 0);
    }
}

/// Method, path and body of everything that somebody who knows all ids could try.
fn attempts(tenants: &Tenants) -> Vec<(&'static str, String, String)> {
    let Tenants {
        secret,
        own,
        victim,
        mallory,
        organization,
        ..
    } = tenants;
    let copy = |owner: &str| Uuid::new_v5(secret, owner.as_bytes());
    let copies = [
        *secret,
        copy(&victim.to_string()),
        copy(&mallory.to_string()),
        copy("system"),
    ];
    let mut attempts: Vec<(&'static str, String, String)> = Vec::new();
    let mut create = |body: Value| attempts.push(("POST", "/assistants".into(), body.to_string()));

    // Lazy sync of an agent whose id is known, in every spelling.
    let simple = secret.simple().to_string();
    for spelled in [
        secret.to_string(),
        secret.to_string().to_uppercase(),
        secret.braced().to_string(),
        secret.urn().to_string(),
        simple,
    ] {
        create(json!({"graph_id": "agent", "metadata": {"supabase_agent_id": spelled}}));
    }
    for odd in [
        json!([secret]),
        json!({"id": secret}),
        json!(format!("{own},{secret}")),
        json!(format!("{secret}'--")),
    ] {
        create(json!({"graph_id": "agent", "metadata": {"supabase_agent_id": odd}}));
    }
    // Naming ids, and asking for what stands there.
    for if_exists in ["raise", "do_nothing"] {
        for id in copies {
            create(
                json!({"graph_id": "agent", "assistant_id": id, "if_exists": if_exists, "metadata": {"supabase_agent_id": secret}}),
            );
        }
        create(
            json!({"graph_id": "agent", "assistant_id": Uuid::new_v4(), "if_exists": if_exists, "metadata": {"supabase_agent_id": secret}}),
        );
    }
    // Saying whose it is.
    for (owner, organization) in [
        (victim.to_string(), organization.to_string()),
        ("system".to_owned(), organization.to_string()),
        (mallory.to_string(), "*".to_owned()),
    ] {
        create(json!({"graph_id": "agent", "metadata": {
            "supabase_agent_id": secret, "owner": owner, "supabase_organization_id": organization, "synced_at": "2030-01-01T00:00:00Z"}}));
    }
    // Saying it elsewhere.
    create(json!({"graph_id": "agent", "supabase_agent_id": secret, "owner": "system"}));
    create(
        json!({"graph_id": "agent", "config": {"configurable": {"supabase_agent_id": secret}, "metadata": {"supabase_agent_id": secret}}}),
    );
    create(
        json!({"graph_id": "agent", "context": {"supabase_agent_id": secret, "assistant_id": secret}}),
    );
    attempts.push((
        "POST",
        "/assistants".into(),
        format!(r#"{{"graph_id": "agent", "metadata": {{"supabase_agent_id": "{own}", "supabase_agent_id": "{secret}"}}}}"#),
    ));

    for id in copies {
        let path = format!("/assistants/{id}");
        attempts.push(("GET", path.clone(), String::new()));
        attempts.push(("GET", format!("{path}?owner={victim}"), String::new()));
        for patch in [
            json!({}),
            json!({"metadata": {"owner": mallory}}),
            json!({"metadata": {"owner": "system", "supabase_agent_id": own}}),
            json!({"name": "mine"}),
            json!({"config": {"configurable": {"system_prompt": "mine"}}}),
        ] {
            attempts.push(("PATCH", path.clone(), patch.to_string()));
        }
        for part in ["versions", "latest", "graph", "schemas", "subgraphs"] {
            attempts.push(("POST", format!("{path}/{part}"), "{}".to_owned()));
            attempts.push(("GET", format!("{path}/{part}"), String::new()));
        }
        let first = json!({"version": 1}).to_string();
        attempts.push(("POST", format!("{path}/latest"), first));
    }
    for filter in [
        json!({}),
        json!({"metadata": {"owner": victim}}),
        json!({"metadata": {"owner": "system"}}),
        json!({"metadata": {"supabase_agent_id": secret}}),
        json!({"metadata": {"supabase_organization_id": organization}}),
        json!({"name": CANARY}),
        json!({"name": ""}),
        json!({"graph_id": "agent"}),
        json!({"sort_by": "name", "sort_order": "asc", "offset": 0}),
        json!({"select": ["config", "metadata", "name"]}),
        json!({"name": "' or true --"}),
        json!({"graph_id": "agent' or '1'='1"}),
    ] {
        let mut filter = filter;
        filter["limit"] = json!(1000);
        attempts.push(("POST", "/assistants/search".into(), filter.to_string()));
    }
    // Last: what succeeds changes what the others would find.
    for id in copies {
        create_own(&mut attempts, *own, id);
        attempts.push(("DELETE", format!("/assistants/{id}"), String::new()));
    }
    attempts
}

/// One's own agent, under an id of somebody else's.
fn create_own(attempts: &mut Vec<(&'static str, String, String)>, own: Uuid, id: Uuid) {
    for if_exists in ["raise", "do_nothing"] {
        let body = json!({"graph_id": "agent", "assistant_id": id, "if_exists": if_exists, "metadata": {"supabase_agent_id": own}});
        attempts.push(("POST", "/assistants".into(), body.to_string()));
        let bare = json!({"graph_id": "agent", "assistant_id": id, "if_exists": if_exists});
        attempts.push(("POST", "/assistants".into(), bare.to_string()));
    }
}

/// Before anybody has the agent; when a user has it; when it is everybody's who may see it; and when that user has a copy.
#[tokio::test]
async fn nothing_that_one_tenant_tries_yields_anything_of_anothers() {
    for (scope, asked_before) in [
        ("none", false),
        ("none", true),
        ("all", false),
        ("all", true),
    ] {
        let tenants = Tenants::new().await;
        let worker = tenants.worker(&[(SCOPE, scope)]).await;
        if asked_before {
            tenants
                .lazily(&worker, tenants.victim, tenants.secret)
                .await;
        }
        let secret = tenants.db.assistant(tenants.secret).await;
        let token = tenants.project.token_with(
            tenants.mallory,
            json!({"user_metadata": {"organization_id": tenants.organization, "role": "service_role"}}),
        );
        for (method, path, body) in attempts(&tenants) {
            let attempt = format!("scope {scope}: {method} {path} {body}");
            let bytes = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let (status, head, answer) = exchange(worker.api, &bytes).await;
            assert!((200..500).contains(&status), "{attempt}: {status} {answer}");
            tenants.assert_empty_handed(&attempt, &json!([head, answer]));
            if asked_before {
                // Not a word without proof of who it is.
                let bytes = bytes.replace(&format!("authorization: Bearer {token}\r\n"), "");
                let (status, _, answer) = exchange(worker.api, &bytes).await;
                assert_eq!(status, 401, "{attempt}: {answer}");
            }
        }
        let count = async |filter: Value| {
            let counted = worker.request_as(&token, "POST", "/assistants/count", Some(&filter));
            counted.await.1
        };
        for filter in [
            json!({"name": CANARY}),
            json!({"metadata": {"supabase_agent_id": tenants.secret}}),
        ] {
            assert_eq!(count(filter).await, json!(0));
        }
        tenants.assert_nothing_stored().await;
        if secret.is_some() {
            assert_eq!(
                tenants.db.assistant(tenants.secret).await,
                secret,
                "untouched"
            );
        }
        // And the rightful user gets it, whatever was tried.
        let answer = tenants
            .lazily(&worker, tenants.victim, tenants.secret)
            .await;
        assert_eq!(
            answer["config"]["configurable"]["system_prompt"],
            "canary-prompt"
        );
        worker.stop().await;
    }
}

/// "Not yours" reads like "no such agent".
#[tokio::test]
async fn nobody_learns_that_there_is_an_agent() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[]).await;
    let draft = tenants.db.agent("draft").await;
    tenants
        .db
        .execute(&format!(
            "update public.agents set status = 'draft', organization_id = (select organization_id from public.agents where id = '{}')
             where id = '{draft}'",
            tenants.own
        ))
        .await;
    let token = tenants.project.token(tenants.mallory);
    for named in [false, true] {
        let mut answers = Vec::new();
        for agent in [tenants.secret, Uuid::new_v4(), draft] {
            let mut body = json!({"graph_id": "g", "name": "n", "config": {"tags": ["t"]}, "metadata": {"supabase_agent_id": agent, "a": 1}});
            if named {
                body["assistant_id"] = json!(agent);
            }
            let (status, mut answer) = worker.create_as(&token, body).await;
            if named {
                assert_eq!(answer["assistant_id"], json!(agent));
            }
            for differs in ["assistant_id", "created_at", "updated_at"] {
                assert!(answer[differs].take().is_string(), "{answer}");
            }
            assert_eq!(
                answer["metadata"],
                json!({"a": 1, "owner": tenants.mallory})
            );
            answers.push((status, answer));
        }
        assert!(
            answers
                .iter()
                .all(|answer| *answer == answers[0] && answer.0 == 200),
            "{answers:?}"
        );
    }
    worker.stop().await;
    // Nor by naming one beside one's own: that is free, or taken, like any other id.
    for exists in [true, false] {
        let tenants = Tenants::new().await;
        let worker = tenants.worker(&[]).await;
        let id = match exists {
            true => tenants.secret,
            false => Uuid::new_v4(),
        };
        let body = json!({"graph_id": "g", "assistant_id": id, "metadata": {"supabase_agent_id": tenants.own}});
        let token = tenants.project.token(tenants.mallory);
        let (status, answer) = worker.create_as(&token, body).await;
        assert_eq!(
            (status, &answer["assistant_id"], &answer["name"]),
            (200, &json!(id), &json!("own"))
        );
        worker.stop().await;
    }
}

#[tokio::test]
async fn each_member_has_an_assistant_and_all_are_kept_in_step() {
    let tenants = Tenants::new().await;
    let second = Uuid::new_v4();
    tenants
        .db
        .execute(&format!(
            "insert into public.organization_members values ('{}', '{second}')",
            tenants.organization
        ))
        .await;
    let worker = tenants.worker(&[]).await;
    let first = tenants
        .lazily(&worker, tenants.victim, tenants.secret)
        .await;
    let copy = tenants.lazily(&worker, second, tenants.secret).await;
    assert_eq!(first["assistant_id"], json!(tenants.secret));
    let own = Uuid::new_v5(&tenants.secret, second.to_string().as_bytes());
    assert_eq!(copy["assistant_id"], json!(own));
    tenants
        .db
        .execute("update public.agents set system_prompt = 'new' where name = 'canary-name'")
        .await;
    for (user, id) in [(tenants.victim, tenants.secret), (second, own)] {
        tenants.db.prompted(id, "new").await;
        let (status, answer) = tenants.get(&worker, user, &json!(id)).await;
        assert_eq!((status, &answer["metadata"]["owner"]), (200, &json!(user)));
    }
    // One member's is not another's, though both may see the agent.
    assert_eq!(
        tenants.get(&worker, second, &json!(tenants.secret)).await.0,
        404
    );
    assert_eq!(
        tenants.get(&worker, tenants.victim, &json!(own)).await.0,
        404
    );
    worker.stop().await;
}

#[tokio::test]
async fn what_is_everybodys_is_seen_by_those_who_may_see_its_agent() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[(SCOPE, "all")]).await;
    let id = json!(tenants.secret);
    assert_eq!(tenants.get(&worker, tenants.victim, &id).await.0, 200);
    let hidden = tenants.get(&worker, tenants.mallory, &id).await;
    let missing = tenants
        .get(&worker, tenants.mallory, &json!(Uuid::new_v4()))
        .await;
    assert_eq!((hidden.0, &hidden), (404, &missing));
    let listed = async |user: Uuid| {
        let search = json!({"sort_by": "name", "sort_order": "asc"});
        let token = tenants.project.token(user);
        let (_, found) = worker
            .request_as(&token, "POST", "/assistants/search", Some(&search))
            .await;
        let (_, count) = worker
            .request_as(&token, "POST", "/assistants/count", Some(&search))
            .await;
        let names: Vec<_> = found
            .as_array()
            .expect("an array")
            .iter()
            .map(|a| a["name"].clone())
            .collect();
        (names, count)
    };
    assert_eq!(
        listed(tenants.victim).await,
        (vec![json!("canary-name")], json!(1))
    );
    assert_eq!(
        listed(tenants.mallory).await,
        (vec![json!("own")], json!(1))
    );
    assert_eq!(listed(Uuid::new_v4()).await, (vec![], json!(0)));
    tenants
        .db
        .execute(
            "create policy \"global ones\" on public.agents for select to authenticated using (is_global);
             update public.agents set is_global = true",
        )
        .await;
    assert_eq!(listed(tenants.mallory).await.1, json!(2));
    assert_eq!(tenants.get(&worker, tenants.mallory, &id).await.0, 200);
    for method in ["PATCH", "DELETE"] {
        let body = json!({"metadata": {"seen": true}});
        let token = tenants.project.token(tenants.mallory);
        let answer = worker
            .request_as(
                &token,
                method,
                &format!("/assistants/{}", tenants.secret),
                Some(&body),
            )
            .await;
        assert_eq!(answer.0, 409, "{answer:?}");
    }
    worker.stop().await;
}

/// Somebody takes the agent's id before the worker does, here through the API, there behind its back.
#[tokio::test]
async fn a_squatted_id_is_never_filled_and_the_rightful_users_get_theirs() {
    for scope in ["none", "all"] {
        for through_the_api in [true, false] {
            let tenants = Tenants::new().await;
            let (secret, mallory) = (tenants.secret, tenants.mallory);
            let worker = tenants.worker(&[]).await;
            if through_the_api {
                let body = json!({"graph_id": "agent", "assistant_id": secret, "name": "squatter",
                    "metadata": {"owner": "system", "supabase_agent_id": secret}});
                let answer = worker
                    .create_as(&tenants.project.token(mallory), body)
                    .await;
                assert_eq!(answer.0, 200, "{answer:?}");
            } else {
                let forged = json!({"owner": mallory, "supabase_agent_id": secret, "supabase_organization_id": tenants.organization,
                    "synced_at": "2030-01-01T00:00:00.000000Z"});
                tenants
                    .db
                    .execute(&format!(
                        "insert into langgraph_server.assistants (id, graph_id, config, metadata, name, version)
                         values ('{secret}', 'agent', '{{}}', '{forged}', 'squatter', 1)"
                    ))
                    .await;
            }
            worker.stop().await;
            let squatted = tenants.db.assistant(secret).await;

            let worker = tenants.worker(&[(SCOPE, scope)]).await;
            let answer = tenants.lazily(&worker, tenants.victim, secret).await;
            assert_eq!(
                answer["config"]["configurable"]["system_prompt"],
                "canary-prompt"
            );
            let owner = match scope {
                "all" => "system".to_owned(),
                _ => tenants.victim.to_string(),
            };
            let expected = Uuid::new_v5(&secret, owner.as_bytes());
            assert_eq!(
                (&answer["assistant_id"], &answer["metadata"]["owner"]),
                (&json!(expected), &json!(owner))
            );
            eventually("the agent's row names the one that works", || async {
                let named = format!(
                    "public.agents where id = '{secret}' and langgraph_assistant_id = '{expected}'"
                );
                match tenants.db.count(&named).await {
                    1 => Ok(()),
                    _ => Err("not yet".to_owned()),
                }
            })
            .await;
            assert_eq!(tenants.db.assistant(secret).await, squatted);
            let conflict =
                format!("agent_sync.ledger where assistant_id = '{secret}' and state = 'conflict'");
            assert_eq!(tenants.db.count(&conflict).await, 1);
            tenants.assert_nothing_stored_but_squatted().await;
            let (status, seen) = tenants.get(&worker, mallory, &json!(secret)).await;
            assert_eq!((status, &seen["name"]), (200, &json!("squatter")));
            assert_eq!(tenants.get(&worker, mallory, &json!(expected)).await.0, 404);
            worker.stop().await;
        }
    }
}

impl Tenants {
    /// Waits until an agent has failed.
    async fn one_has_failed(&self) {
        eventually("the agent has failed", || async {
            let failed = "agent_sync.ledger where state = 'failed'";
            match self.db.count(failed).await {
                1 => Ok(()),
                n => Err(n.to_string()),
            }
        })
        .await;
    }

    async fn assert_nothing_stored_but_squatted(&self) {
        let leaked = format!(
            "langgraph_server.assistants as a where a.metadata ->> 'owner' = '{}' and a::text like '%{CANARY}%'",
            self.mallory
        );
        assert_eq!(self.db.count(&leaked).await, 0);
    }
}

/// Who guesses the id that a user's copy is going to have has guessed an id.
#[tokio::test]
async fn a_copys_id_may_be_squatted_too() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[]).await;
    let copy = Uuid::new_v5(&tenants.secret, tenants.victim.to_string().as_bytes());
    let token = tenants.project.token(tenants.mallory);
    for (id, agent) in [(tenants.secret, json!(null)), (copy, json!(tenants.own))] {
        let body = json!({"graph_id": "agent", "assistant_id": id, "metadata": {"supabase_agent_id": agent}});
        assert_eq!(worker.create_as(&token, body).await.0, 200);
    }
    let first = tenants
        .lazily(&worker, tenants.victim, tenants.secret)
        .await;
    let again = tenants
        .lazily(&worker, tenants.victim, tenants.secret)
        .await;
    assert_eq!(first["assistant_id"], again["assistant_id"]);
    assert!(![json!(tenants.secret), json!(copy)].contains(&first["assistant_id"]));
    assert_eq!(
        first["config"]["configurable"]["system_prompt"],
        "canary-prompt"
    );
    tenants.assert_nothing_stored().await;
    worker.stop().await;
}

/// A member is asked about again; who left loses the copy at the next resync.
#[tokio::test]
async fn a_copy_goes_with_the_membership() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute(&format!(
            "insert into public.organization_members values ('{}', '{}')",
            tenants.organization, tenants.mallory
        ))
        .await;
    let worker = tenants
        .worker(&[("AGENT_SYNC_RESYNC_INTERVAL", "200ms")])
        .await;
    let copy = tenants
        .lazily(&worker, tenants.mallory, tenants.secret)
        .await;
    assert_eq!(
        copy["config"]["configurable"]["system_prompt"],
        "canary-prompt"
    );
    tenants
        .db
        .execute(&format!(
            "delete from public.organization_members where user_id = '{}' and organization_id = '{}'",
            tenants.mallory, tenants.organization
        ))
        .await;
    eventually("the copy is gone", || async {
        match tenants
            .get(&worker, tenants.mallory, &copy["assistant_id"])
            .await
        {
            (404, _) => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    tenants.assert_nothing_stored().await;
    worker.stop().await;
}

/// `service_role` is the database's own bypass: it reads everything there, so it does here, as the system.
#[tokio::test]
async fn a_trusted_backend_acts_as_the_system() {
    let tenants = Tenants::new().await;
    let worker = tenants
        .worker(&[("AGENT_SYNC_ALLOW_SERVICE_ROLE", "true")])
        .await;
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": tenants.secret}});
    let (status, answer) = worker
        .create_as(&tenants.project.service_role(), body)
        .await;
    assert_eq!(
        (
            status,
            &answer["assistant_id"],
            &answer["metadata"]["owner"]
        ),
        (200, &json!(tenants.secret), &json!("system"))
    );
    assert_eq!(
        tenants
            .get(&worker, tenants.victim, &json!(tenants.secret))
            .await
            .0,
        200
    );
    assert_eq!(
        tenants
            .get(&worker, tenants.mallory, &json!(tenants.secret))
            .await
            .0,
        404
    );
    let path = format!("/assistants/{}", tenants.secret);
    let deleted = worker
        .request_as(&tenants.project.service_role(), "DELETE", &path, None)
        .await;
    assert_eq!(deleted.0, 204);
    worker.stop().await;
}

#[tokio::test]
async fn without_row_level_security_nobody_is_served_anothers_agent() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[(SCOPE, "all")]).await;
    tenants
        .db
        .execute("alter table public.agents disable row level security")
        .await;
    for user in [tenants.victim, tenants.mallory] {
        let answer = tenants.lazily(&worker, user, tenants.secret).await;
        assert!(!answer.to_string().contains(CANARY), "{answer}");
        assert_eq!(
            tenants.get(&worker, user, &json!(tenants.secret)).await.0,
            404
        );
        // What is one's own is there all the same.
        assert_eq!(
            tenants.get(&worker, user, &answer["assistant_id"]).await.0,
            200
        );
    }
    worker.stop().await;
}

/// An assistant may outlive its agent; then its id is anybody's who may insert a row.
#[tokio::test]
async fn what_an_agent_has_said_is_not_shown_to_whoever_takes_its_id() {
    for (variable, value) in [
        ("AGENT_SYNC_ON_REMOVE", "keep"),
        ("AGENT_SYNC_MAX_REMOVALS", "0"),
    ] {
        for status in ["draft", "disabled"] {
            let tenants = Tenants::new().await;
            let worker = tenants.worker(&[(SCOPE, "all"), (variable, value)]).await;
            let id = json!(tenants.secret);
            assert_eq!(tenants.get(&worker, tenants.victim, &id).await.0, 200);
            tenants
                .db
                .execute(&format!(
                    "delete from public.agents where id = '{}'",
                    tenants.secret
                ))
                .await;
            tenants.db.drained().await;
            let mallory = tenants.db.connect_as(tenants.mallory).await;
            mallory
                .batch_execute(&format!(
                    "insert into public.agents (id, organization_id, name, status)
                     select '{}', organization_id, 'x', '{status}' from public.agents where id = '{}'",
                    tenants.secret, tenants.own
                ))
                .await
                .expect("her row");
            tenants.db.drained().await;
            assert!(tenants.db.assistant(tenants.secret).await.is_some());
            let (status, got) = tenants.get(&worker, tenants.mallory, &id).await;
            assert_eq!(status, 404, "{got}");
            let token = tenants.project.token(tenants.mallory);
            for (path, filter) in [
                ("search", json!({"limit": 1000})),
                ("count", json!({"name": CANARY})),
            ] {
                let path = format!("/assistants/{path}");
                let (_, found) = worker
                    .request_as(&token, "POST", &path, Some(&filter))
                    .await;
                tenants.assert_empty_handed(&path, &found);
                assert_ne!(found, json!(1));
            }
            worker.stop().await;
        }
    }
}

/// Who may see an agent that is off sees what is kept of it; nobody is told of one by an error of another's.
#[tokio::test]
async fn one_agent_that_makes_no_sense_spoils_nobodys_search() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[(SCOPE, "all")]).await;
    tenants
        .db
        .execute(&format!(
            "create policy \"global ones\" on public.agents for select to authenticated using (is_global);
             update public.agents set is_global = true, sampling_params = '[]' where id = '{}'",
            tenants.own
        ))
        .await;
    tenants.one_has_failed().await;
    let token = tenants.project.token(tenants.victim);
    let search = json!({"sort_by": "name", "sort_order": "asc"});
    let (status, found) = worker
        .request_as(&token, "POST", "/assistants/search", Some(&search))
        .await;
    let names: Vec<_> = found
        .as_array()
        .expect("an array")
        .iter()
        .map(|a| &a["name"])
        .collect();
    assert_eq!(
        (status, names),
        (200, vec![&json!("canary-name"), &json!("own")])
    );
    // Lazy sync of it does not fail either: the assistant is made from the request alone.
    let body = json!({"graph_id": "g", "metadata": {"supabase_agent_id": tenants.own}});
    let (status, answer) = worker
        .create_as(&tenants.project.token(tenants.mallory), body)
        .await;
    assert_eq!((status, &answer["graph_id"]), (200, &json!("g")));
    worker.stop().await;
}

/// An agent that fails keeps what it said last, when it was another organization's.
#[tokio::test]
async fn what_an_agent_said_in_another_organization_is_not_shown_in_the_next() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[(SCOPE, "all")]).await;
    let id = json!(tenants.secret);
    tenants
        .db
        .execute(&format!(
            "update public.agents set sampling_params = '[]', system_prompt = 'x', description = 'x',
               organization_id = (select organization_id from public.agents where id = '{}') where id = '{}'",
            tenants.own, tenants.secret
        ))
        .await;
    tenants.one_has_failed().await;
    assert!(tenants.db.assistant(tenants.secret).await.is_some());
    for user in [tenants.mallory, tenants.victim] {
        assert_eq!(tenants.get(&worker, user, &id).await.0, 404);
    }
    worker.stop().await;
}

/// Whoever can write assistants can write whose they are; of ours, the ledger says it.
#[tokio::test]
async fn whose_a_synced_assistant_is_its_metadata_does_not_say() {
    let tenants = Tenants::new().await;
    let worker = tenants.worker(&[("AGENT_SYNC_RESYNC_INTERVAL", "0")]).await;
    tenants
        .lazily(&worker, tenants.victim, tenants.secret)
        .await;
    tenants
        .db
        .execute(&format!(
            "update langgraph_server.assistants set metadata = metadata || '{{\"owner\": \"{}\"}}'",
            tenants.mallory
        ))
        .await;
    let id = json!(tenants.secret);
    assert_eq!(tenants.get(&worker, tenants.mallory, &id).await.0, 404);
    assert_eq!(tenants.get(&worker, tenants.victim, &id).await.0, 200);
    let token = tenants.project.token(tenants.mallory);
    let path = format!("/assistants/{}", tenants.secret);
    for method in ["PATCH", "DELETE"] {
        let (status, _) = worker
            .request_as(&token, method, &path, Some(&json!({})))
            .await;
        assert_eq!(status, 404, "{method}");
    }
    let all = json!({"limit": 1000, "select": ["assistant_id"]});
    for (user, theirs) in [
        (tenants.mallory, json!([])),
        (tenants.victim, json!([{"assistant_id": id}])),
    ] {
        let token = tenants.project.token(user);
        let found = worker.request_as(&token, "POST", "/assistants/search", Some(&all));
        assert_eq!(found.await, (200, theirs));
    }
    worker.stop().await;
}
