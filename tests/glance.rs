//! An agent that is in step is answered for at a glance, without its lock; and only then, and only to those who may have it.

use agent_sync::access::{Access, Identity};
use agent_sync::config::{Authorize, Settings};
use agent_sync::ids::AgentId;
use agent_sync::plan::{Claim, IfExists};
use agent_sync::scope::Scope;
use agent_sync::syncer::{Batch, Entrance, Glance, Syncer};
use futures::future::join_all;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::support::{TestDatabase, TestWorker, eventually};

/// An organization with a member and an agent, which is in step. No change loop runs.
struct Scene {
    db: TestDatabase,
    syncer: Syncer,
    organization: Uuid,
    alice: Uuid,
    agent: AgentId,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Authorize::Agent, Settings::default()).await
    }

    async fn with(authorize: Authorize, settings: Settings) -> Self {
        let db = TestDatabase::new().await;
        TestWorker::start(&db, &[]).await.stop().await;
        let (organization, alice) = db.organization().await;
        let agent = AgentId(db.agent("a").await);
        db.execute(&format!(
            "update public.agents set organization_id = '{organization}' where id = '{agent}';
             insert into public.ai_models values ('{MODEL}', 'provider:model');
             insert into public.global_ai_engines values ('{MODEL}', 'engine', '{MODEL}');
             update public.agents set engine_id = '{MODEL}' where id = '{agent}';
             insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{MODEL}', 'tool', 'https://a.example');
             insert into public.agent_mcp_tools values ('{agent}', '{MODEL}')"
        ))
        .await;
        let access = Access::new(&db.url(), authorize, true);
        let syncer = Syncer::new(db.pool(), access, settings);
        let scene = Self {
            db,
            syncer,
            organization,
            alice,
            agent,
        };
        scene.sync(scene.alice).await;
        scene
    }

    fn claim(&self, user: Uuid) -> Claim {
        Claim {
            owner: user.to_string(),
            identity: Some(signed_in(user)),
            assistant_id: None,
            if_exists: IfExists::Raise,
            metadata: Map::new(),
        }
    }

    async fn sync(&self, user: Uuid) {
        let claim = self.claim(user);
        self.syncer
            .sync_now(&[self.agent], Entrance::Request(&claim))
            .await
            .expect("synced");
    }

    async fn glance(&self, user: Uuid) -> Glance {
        let claim = self.claim(user);
        let seen = self.syncer.glance(self.agent, &claim).await;
        seen.expect("a glance")
    }

    /// What a request comes to that has the agent synced.
    async fn synced(&self, user: Uuid) -> (Claim, Batch) {
        let (claim, agents) = (self.claim(user), [self.agent]);
        let synced = self.syncer.sync_now(&agents, Entrance::Request(&claim));
        let batch = synced.await.expect("synced");
        (claim, batch)
    }

    /// The answer to that request, where a glance gives it.
    async fn answer_to(&self, (claim, batch): &(Claim, Batch)) -> Option<Value> {
        let answer = self.syncer.glance_again(self.agent, claim, batch).await;
        answer.map(|answer| serde_json::from_str(&answer).expect("JSON"))
    }

    /// The assistant that a user is answered with at a glance.
    async fn answer(&self, user: Uuid) -> Option<Value> {
        match self.glance(user).await {
            Glance::InStep(answer) => Some(serde_json::from_str(&answer).expect("JSON")),
            _ => None,
        }
    }

    async fn member(&self) -> Uuid {
        let bob = Uuid::new_v4();
        let organization = self.organization;
        let member =
            format!("insert into public.organization_members values ('{organization}', '{bob}')");
        self.db.execute(&member).await;
        bob
    }
}

const MODEL: &str = "b0000000-0000-4000-8000-000000000001";

fn signed_in(user: Uuid) -> Identity {
    let claims = json!({"sub": user, "role": "authenticated", "aud": "authenticated", "it's": "\\'; select 1; --"});
    Identity::verified(user, claims.as_object().expect("claims").clone())
}

#[tokio::test]
async fn who_asks_for_an_agent_in_step_waits_for_nobody_who_holds_it() {
    for authorize in [Authorize::Agent, Authorize::Source] {
        let scene = Scene::with(authorize, Settings::default()).await;
        let held = scene.db.hold_agent(scene.agent.0).await;
        for _ in 0..3 {
            let answer = scene.answer(scene.alice).await.expect("in step");
            assert_eq!(answer["assistant_id"], json!(scene.agent));
            assert_eq!(answer["metadata"]["owner"], json!(scene.alice));
            assert_eq!(
                answer["context"], answer["config"]["configurable"],
                "{answer}"
            );
            assert_eq!(answer["context"]["model_name"], "provider:model");
        }
        drop(held);
    }
}

#[tokio::test]
async fn each_user_is_answered_with_their_own() {
    let scene = Scene::new().await;
    let bob = scene.member().await;
    assert_eq!(scene.answer(bob).await, None);
    scene.sync(bob).await;
    let (alices, bobs) = (scene.answer(scene.alice).await, scene.answer(bob).await);
    assert_eq!(alices.expect("in step")["assistant_id"], json!(scene.agent));
    assert_eq!(
        bobs.expect("in step")["assistant_id"],
        json!(scene.agent.copy_for(&bob.to_string()))
    );
}

#[tokio::test]
async fn whatever_is_not_just_as_it_was_left_is_looked_at_under_the_lock() {
    let scene = Scene::new().await;
    let agent = scene.agent;
    let mut still = Vec::new();
    for change in [
        "update public.agents set name = 'edited' where id = '{agent}'",
        "update public.agents set system_prompt = 'edited' where id = '{agent}'",
        "update public.agents set langgraph_assistant_id = null where id = '{agent}'",
        "update public.mcp_tools set endpoint_url = 'https://b.example'",
        "delete from public.agent_mcp_tools",
        "update public.ai_models set runtime_model_name = 'provider:other'",
        "update langgraph_server.assistants set name = 'tampered'",
        "update langgraph_server.assistants set config = '{}'",
        "update langgraph_server.assistants set metadata = metadata || '{\"owner\": \"system\"}'",
        "delete from langgraph_server.assistants",
        "update agent_sync.ledger set state = 'failed'",
        "update agent_sync.ledger set state = 'held'",
        "update agent_sync.ledger set state = 'removed'",
        "update agent_sync.ledger set content_hash = '\\x01'",
        "insert into agent_sync.settings (scope) values ('all') on conflict (singleton) do update set scope = 'all'",
    ] {
        assert!(
            scene.answer(scene.alice).await.is_some(),
            "before: {change}"
        );
        let statement = change.replace("{agent}", &agent.to_string());
        scene.db.execute(&statement).await;
        if !matches!(scene.glance(scene.alice).await, Glance::Granted) {
            still.push(change);
        }
        scene.sync(scene.alice).await;
    }
    assert_eq!(still, Vec::<&str>::new());
    // In the scope that is stored last, it became everybody's.
    let answer = scene.answer(scene.alice).await.expect("in step");
    assert_eq!(answer["metadata"]["owner"], "system");
}

#[tokio::test]
async fn an_assistant_that_is_as_it_should_be_is_noted_by_the_first_request() {
    let scene = Scene::new().await;
    // As after a dump and a restore, or an upgrade.
    for moved in [
        "update agent_sync.ledger set source_hash = null",
        "update langgraph_server.assistants set updated_at = updated_at",
    ] {
        scene.db.execute(moved).await;
        let granted = scene.glance(scene.alice).await;
        assert!(matches!(granted, Glance::Granted), "{moved}: {granted:?}");
        let before = scene.db.versions().await;
        scene.sync(scene.alice).await;
        assert!(scene.answer(scene.alice).await.is_some(), "{moved}");
        assert_eq!(scene.db.versions().await, before, "{moved}");
    }
}

#[tokio::test]
async fn users_are_asked_about_as_another_role_where_there_is_one() {
    for authorize in [Authorize::Agent, Authorize::Source] {
        let mut scene = Scene::with(authorize, Settings::default()).await;
        let role = format!("authenticator_{}", Uuid::new_v4().simple());
        let made = format!("create role {role} login noinherit; grant authenticated to {role}");
        scene.db.execute(&made).await;
        let access = Access::new(&scene.db.url_as(&role), authorize, true);
        scene.syncer = Syncer::new(scene.db.pool(), access, Settings::default());
        scene.sync(scene.alice).await;
        for _ in 0..2 {
            let answer = scene.answer(scene.alice).await.expect("in step");
            assert_eq!(answer["assistant_id"], json!(scene.agent));
            let stranger = scene.glance(Uuid::new_v4()).await;
            assert!(matches!(stranger, Glance::Denied), "{stranger:?}");
        }
        let edit = "update public.agents set name = 'edited'";
        scene.db.execute(edit).await;
        assert!(matches!(scene.glance(scene.alice).await, Glance::Granted));
    }
}

#[tokio::test]
async fn a_policy_is_told_every_claim_and_nothing_of_the_one_who_asked_before() {
    let scene = Scene::new().await;
    let odd = r#"\'; select 1; -- "E'\\' $1 ü"#;
    let quoted = odd.replace('\'', "''");
    scene
        .db
        .execute(&format!(
            r#"create function public.told() returns boolean language sql stable as $told$
               select current_setting('request.jwt.claim.select', true) = '{quoted}'
                 and current_setting('request.jwt.claims', true)::jsonb -> 'user_metadata' ->> 'odd' = '{quoted}'
                 and current_setting('request.jwt.claim.Order', true)::jsonb = '[1, "x"]'
             $told$;
             create policy told on public.agents as restrictive using (public.told())"#
        ))
        .await;
    let claims = json!({
        "sub": scene.alice, "role": "authenticated", "aud": "authenticated",
        "select": odd, "user_metadata": {"odd": odd}, "Order": [1, "x"], "a".repeat(64): "x",
    });
    let claims = claims.as_object().expect("claims").clone();
    let told = Claim {
        identity: Some(Identity::verified(scene.alice, claims)),
        ..scene.claim(scene.alice)
    };
    for _ in 0..3 {
        let seen = scene.syncer.glance(scene.agent, &told).await;
        assert!(matches!(seen, Ok(Glance::InStep(_))), "{seen:?}");
        // On the same connections.
        assert!(matches!(scene.glance(scene.alice).await, Glance::Denied));
    }
}

#[tokio::test]
async fn who_may_not_have_the_agent_is_denied_whether_or_not_it_is_in_step() {
    for authorize in [Authorize::Agent, Authorize::Source] {
        let settings = Settings {
            scope: Scope::All,
            ..Settings::default()
        };
        let scene = Scene::with(authorize, settings).await;
        let answer = scene.answer(scene.alice).await.expect("in step");
        assert_eq!(answer["metadata"]["owner"], "system");
        let mallory = Uuid::new_v4();
        assert!(matches!(scene.glance(mallory).await, Glance::Denied));
        let nobodys = AgentId(Uuid::new_v4());
        let claim = scene.claim(scene.alice);
        let seen = scene.syncer.glance(nobodys, &claim).await;
        assert!(matches!(seen, Ok(Glance::Denied)), "{seen:?}");

        scene
            .db
            .execute("delete from public.organization_members")
            .await;
        assert!(matches!(scene.glance(scene.alice).await, Glance::Denied));
    }
}

#[tokio::test]
async fn nobody_is_answered_where_row_level_security_does_not_decide_or_the_role_cannot_be_taken() {
    let scene = Scene::new().await;
    for (off, on) in [
        (
            "alter table public.agents disable row level security",
            "alter table public.agents enable row level security",
        ),
        (
            "revoke select on public.agents from authenticated; grant select (id, name) on public.agents to authenticated",
            "grant select on public.agents to authenticated",
        ),
        (
            "create policy broken on public.agents as restrictive using (1 / (length(name) - length(name)) = 1)",
            "drop policy broken on public.agents",
        ),
        // A policy that changes who is asking.
        (
            "create policy sly on public.agents as restrictive using (set_config('request.jwt.claims', '{}', false) is not null and set_config('role', 'none', true) is null)",
            "drop policy sly on public.agents",
        ),
    ] {
        assert!(scene.answer(scene.alice).await.is_some(), "before: {off}");
        scene.db.execute(off).await;
        for _ in 0..3 {
            assert_eq!(scene.answer(scene.alice).await, None, "{off}");
        }
        scene.db.execute(on).await;
    }
    assert!(scene.answer(scene.alice).await.is_some());

    // One that is nothing by itself, and may become nobody.
    let role = format!("nobody_{}", Uuid::new_v4().simple());
    scene
        .db
        .execute(&format!("create role {role} login bypassrls; grant usage on schema public to {role}; grant select on public.agents to {role}"))
        .await;
    let access = Access::new(&scene.db.url_as(&role), Authorize::Agent, true);
    let syncer = Syncer::new(scene.db.pool(), access, Settings::default());
    let client = scene.db.pool().client().await.expect("a connection");
    syncer.source.inspect(&client).await.expect("a look");
    for _ in 0..3 {
        let seen = syncer.glance(scene.agent, &scene.claim(scene.alice)).await;
        assert!(matches!(seen, Ok(Glance::Unclear)), "{seen:?}");
    }
}

#[tokio::test]
async fn a_request_that_names_an_id_and_one_while_a_newer_worker_takes_over_are_looked_at_closely()
{
    let scene = Scene::new().await;
    for if_exists in [IfExists::Raise, IfExists::DoNothing] {
        for id in [scene.agent.canonical(), AgentId(Uuid::new_v4()).canonical()] {
            let claim = Claim {
                assistant_id: Some(id),
                if_exists,
                ..scene.claim(scene.alice)
            };
            let seen = scene.syncer.glance(scene.agent, &claim).await;
            assert!(matches!(seen, Ok(Glance::Granted)), "{seen:?}");
        }
    }
    scene
        .db
        .execute("insert into agent_sync.migrations (version) values (9999)")
        .await;
    assert!(matches!(scene.glance(scene.alice).await, Glance::Unclear));
}

/// Nobody is shown an agent any more.
const CLOSE: &str = "create policy closed on public.agents as restrictive using (false)";
const OPEN: &str = "drop policy closed on public.agents";

#[tokio::test]
async fn who_was_asked_about_under_the_lock_is_not_asked_about_again() {
    for authorize in [Authorize::Agent, Authorize::Source] {
        let mut scene = Scene::with(authorize, Settings::default()).await;
        let role = format!("authenticator_{}", Uuid::new_v4().simple());
        let made = format!("create role {role} login noinherit; grant authenticated to {role}");
        scene.db.execute(&made).await;
        for login in [scene.db.url(), scene.db.url_as(&role)] {
            let access = Access::new(&login, authorize, true);
            scene.syncer = Syncer::new(scene.db.pool(), access, Settings::default());
            let bob = scene.member().await;
            let synced = scene.synced(bob).await;
            scene.db.execute(CLOSE).await;
            let answer = scene.answer_to(&synced).await.expect("in step");
            let copy = scene.agent.copy_for(&bob.to_string());
            assert_eq!(answer["assistant_id"], json!(copy));
            assert_eq!(answer["context"]["model_name"], "provider:model");
            assert!(matches!(scene.glance(bob).await, Glance::Denied));
            scene.db.execute(OPEN).await;
        }
    }
}

#[tokio::test]
async fn what_the_agent_says_since_then_is_shown_to_nobody_who_was_not_asked_about_that() {
    let scene = Scene::new().await;
    let (other, _) = scene.db.organization().await;
    let (agent, ours) = (scene.agent, scene.organization);
    let everybodys = "insert into agent_sync.settings (scope) values ('all')";
    let mut shown = Vec::new();
    for change in [
        "select",
        "update public.agents set organization_id = '{other}', system_prompt = 'secret'",
        "update public.agents set organization_id = '{other}'",
        "update public.agents set system_prompt = 'secret'",
        "update public.agents set sampling_params = '{\"secret\": 1}'",
        "update public.mcp_tools set endpoint_url = 'https://secret.example'",
        "insert into public.agent_mcp_tools select '{agent}', id from public.mcp_tools where id <> '{MODEL}'",
        "update public.ai_models set runtime_model_name = 'provider:secret'",
        "update public.agents set engine_id = null",
        "update public.agents set status = 'disabled'",
        "delete from public.agents",
    ] {
        scene
            .db
            .execute(&format!(
                "delete from langgraph_server.assistants; delete from agent_sync.ledger; delete from agent_sync.settings;
                 delete from public.mcp_tools where id <> '{MODEL}';
                 insert into public.mcp_tools (tool_name, endpoint_url) values ('more', 'https://more.example');
                 update public.agents set organization_id = '{ours}', status = 'active', engine_id = '{MODEL}', system_prompt = null, sampling_params = null;
                 update public.mcp_tools set endpoint_url = 'https://a.example'; update public.ai_models set runtime_model_name = 'provider:model'"
            ))
            .await;
        let synced = scene.synced(scene.alice).await;
        let answer = scene.answer_to(&synced).await.expect("in step");
        assert_eq!(answer["metadata"]["owner"], json!(scene.alice), "{change}");
        let change = change
            .replace("{other}", &other.to_string())
            .replace("{agent}", &agent.to_string())
            .replace("{MODEL}", MODEL);
        scene.db.execute(everybodys).await;
        scene.db.execute(&change).await;
        // What comes of it is in step, and everybody's.
        let pass = scene.syncer.sync_now(&[agent], Entrance::Pass).await;
        pass.expect("synced");
        let active = "public.agents where status = 'active'";
        if scene.db.count(active).await > 0 {
            let unasked = Claim {
                identity: None,
                ..scene.claim(scene.alice)
            };
            let seen = scene.syncer.glance(agent, &unasked).await;
            assert!(matches!(seen, Ok(Glance::InStep(_))), "{change}: {seen:?}");
        }
        if let Some(answer) = scene.answer_to(&synced).await {
            shown.push((change, answer["metadata"]["owner"].clone()));
        }
    }
    // Who has it meanwhile does not matter: it says what they were asked about.
    assert_eq!(shown, [("select".to_owned(), json!("system"))]);
}

#[tokio::test]
async fn who_was_not_asked_about_under_the_lock_is_asked_about_before_they_are_answered() {
    let settings = Settings {
        scope: Scope::All,
        ..Settings::default()
    };
    let scene = Scene::with(Authorize::Agent, settings).await;
    let mallory = Uuid::new_v4();
    for prompt in ["first", "second"] {
        let edit = format!("update public.agents set system_prompt = '{prompt}'");
        scene.db.execute(&edit).await;
        // What is written is everybody's. (Mallory has just lost the agent, say.)
        let mallorys = scene.synced(mallory).await;
        assert_eq!(scene.answer_to(&mallorys).await, None);
        let alices = scene.synced(scene.alice).await;
        let answer = scene.answer_to(&alices).await.expect("in step");
        assert_eq!(answer["context"]["system_prompt"], prompt);
        scene.db.execute(CLOSE).await;
        assert_eq!(scene.answer_to(&alices).await, None);
        scene.db.execute(OPEN).await;
    }
    // Nor does it help whom the sync has refused.
    let scene = Scene::new().await;
    let mallorys = scene.synced(mallory).await;
    assert_eq!(mallorys.1.answer, None);
    assert_eq!(scene.answer_to(&mallorys).await, None);
}

#[tokio::test]
async fn whatever_tables_and_columns_there_are_what_was_asked_about_is_known_again() {
    let scene = Scene::new().await;
    scene
        .db
        .execute(&format!(
            "create policy everybody on public.agents using (true);
             insert into public.mcp_tools (tool_name, endpoint_url) values ('b', 'https://b.example'), ('c', 'https://c.example');
             insert into public.agent_mcp_tools select '{}', id from public.mcp_tools where id <> '{MODEL}'",
            scene.agent
        ))
        .await;
    for change in [
        "select",
        "delete from public.agent_mcp_tools",
        "update public.agents set engine_id = null",
        "alter table public.mcp_tools drop column auth_required",
        "alter table public.agents drop column sampling_params; alter table public.agents add column temperature float default 0.5, add column max_tokens int",
        "alter table public.agents drop column assistant_tool_ids",
        "alter table public.agents drop column organization_id cascade",
        "alter table public.agents drop column langgraph_assistant_id",
        "drop table public.ai_models cascade",
        "drop table public.mcp_tools cascade",
        "alter table public.agents drop column description, drop column graph_id, drop column status, drop column deleted_at",
        "alter table public.agents drop column engine_id, drop column system_prompt, drop column name",
    ] {
        scene.db.execute(change).await;
        scene.syncer.source.outdated();
        let user = Uuid::new_v4();
        let synced = scene.synced(user).await;
        scene.db.execute(CLOSE).await;
        let answer = scene.answer_to(&synced).await;
        let answer = answer.unwrap_or_else(|| panic!("not in step: {change}"));
        assert_eq!(answer["metadata"]["owner"], json!(user), "{change}");
        scene.db.execute(OPEN).await;
    }
}

/// Whoever is asked about must find nothing of who was asked about before in the same transaction, whatever a policy leaves behind. By the
/// locks it can be told, afterwards, how many transactions there were. A claimant may say to wait for the gate, and to fail.
const ASKED: &str = r#"
create function public.asked() returns boolean language plpgsql volatile as $$
declare
  claims jsonb := current_setting('request.jwt.claims')::jsonb;
begin
  perform pg_advisory_lock_shared(77, ((extract(epoch from now()) * 1000)::bigint % 1000000000)::integer);
  -- (It is called for each table that a policy reads agents for.)
  if coalesce(current_setting('test.left', true), '') not in ('', claims::text) then
    return false;
  end if;
  if coalesce(current_setting('request.jwt.claim.only', true), '') <> coalesce(claims ->> 'only', '') then
    return false;
  end if;
  perform set_config('test.left', claims::text, false);
  while claims ? 'waits' and not pg_try_advisory_xact_lock_shared(78) loop
    perform pg_sleep(0.01);
  end loop;
  if claims ? 'fails' then
    raise exception 'so be it';
  end if;
  return true;
end;
$$;
create policy asked on public.agents as restrictive for select to authenticated using (public.asked());"#;

impl Scene {
    /// With one more claim.
    fn claiming(&self, user: Uuid, more: &str) -> Claim {
        let claims =
            json!({"sub": user, "role": "authenticated", "aud": "authenticated", more: "so"});
        let claims = claims.as_object().expect("claims").clone();
        Claim {
            identity: Some(Identity::verified(user, claims)),
            ..self.claim(user)
        }
    }

    /// The answers to those who ask while all connections are taken.
    async fn asked_together(&self, claims: &[Claim]) -> Vec<Glance> {
        let waiting: Vec<Claim> = (0..3).map(|_| self.claiming(self.alice, "waits")).collect();
        let gate = self.db.connect().await;
        let closed = gate.batch_execute("select pg_advisory_lock(78)");
        closed.await.expect("closed");
        let all: Vec<&Claim> = waiting.iter().chain(claims).collect();
        let asking = join_all(all.into_iter().map(async |claim| {
            let seen = self.syncer.glance(self.agent, claim).await;
            seen.expect("a glance")
        }));
        let opening = async {
            eventually("they wait", || async {
                let sleeping = "pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
                match self.db.count(sleeping).await {
                    3 => Ok(()),
                    other => Err(other.to_string()),
                }
            })
            .await;
            let opened = gate.batch_execute("select pg_advisory_unlock(78)");
            opened.await.expect("opened");
        };
        let (mut seen, ()) = futures::join!(asking, opening);
        seen.split_off(3)
    }

    /// How many transactions there have been in which users were asked about, since last time.
    async fn transactions(&self) -> i64 {
        let there = "(
            select distinct pid, objid from pg_catalog.pg_locks
            where locktype = 'advisory' and classid = 77 and objsubid = 2
              and database = (select oid from pg_database where datname = current_database())
        ) as t";
        self.db.count(there).await
    }
}

fn word(seen: &Glance) -> &'static str {
    match seen {
        Glance::InStep(_) => "in step",
        Glance::Granted => "granted",
        Glance::Denied => "denied",
        Glance::Unclear => "unclear",
    }
}

#[tokio::test]
async fn users_who_are_asked_about_together_are_told_apart() {
    for authorize in [Authorize::Agent, Authorize::Source] {
        let scene = Scene::with(authorize, Settings::default()).await;
        scene.db.execute(ASKED).await;
        let (alice, bob, mallory) = (scene.alice, scene.member().await, Uuid::new_v4());
        let claims = [
            scene.claiming(alice, "only"),
            scene.claim(bob),
            scene.claim(mallory),
            scene.claim(alice),
            scene.claiming(mallory, "only"),
            scene.claim(alice),
            scene.claiming(bob, "only"),
            scene.claim(alice),
        ];
        let seen = scene.asked_together(&claims).await;
        let words: Vec<&str> = seen.iter().map(word).collect();
        let expected = [
            "in step", "granted", "denied", "in step", "denied", "in step", "granted", "in step",
        ];
        assert_eq!(words, expected);
        for seen in seen {
            if let Glance::InStep(answer) = seen {
                let answer: Value = serde_json::from_str(&answer).expect("JSON");
                assert_eq!(answer["metadata"]["owner"], json!(alice));
            }
        }
        // Those that waited for the gate; then as many as had a turn, with all the others.
        let transactions = scene.transactions().await;
        assert!((3 + 1..=3 + 3).contains(&transactions), "{transactions}");
    }
}

#[tokio::test]
async fn whoever_cannot_be_asked_about_is_nobody_elses_harm() {
    let scene = Scene::new().await;
    scene.db.execute(ASKED).await;
    let claims = [
        scene.claim(scene.alice),
        scene.claiming(scene.alice, "fails"),
        scene.claim(scene.member().await),
        scene.claim(Uuid::new_v4()),
    ];
    let seen = scene.asked_together(&claims).await;
    let words: Vec<&str> = seen.iter().map(word).collect();
    assert_eq!(words, ["in step", "unclear", "granted", "denied"]);
}
