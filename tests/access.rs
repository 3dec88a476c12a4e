//! Which agents a user may have: the database is asked as that user, and what it says is kept to.

use std::time::Duration;

use agent_sync::access::{Access, For, Identity, Question, Shown, Verdict};
use agent_sync::config::{Authorize, OnRemove, Settings};
use agent_sync::database::{DatabaseUrl, Error, Fault};
use agent_sync::ids::AgentId;
use agent_sync::plan::{Answer, Claim, IfExists};
use agent_sync::removals::MaxRemovals;
use agent_sync::source::Source;
use agent_sync::syncer::{Entrance, Outcome, Syncer};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::support::cluster::{Cluster, Server};
use crate::support::database::Role;
use crate::support::interceptor::Interceptor;
use crate::support::proxy::Proxy;
use crate::support::{TestDatabase, TestWorker, eventually};

/// Two organizations with a member and an agent each.
struct Tenants {
    db: TestDatabase,
    syncer: Syncer,
    ours: Uuid,
    theirs: Uuid,
    alice: Uuid,
    mallory: Uuid,
    agent: AgentId,
}

impl Tenants {
    async fn new() -> Self {
        Self::with(Authorize::Agent, true).await
    }

    async fn with(authorize: Authorize, recheck: bool) -> Self {
        Self::on(TestDatabase::new().await, authorize, recheck).await
    }

    async fn on(db: TestDatabase, authorize: Authorize, recheck: bool) -> Self {
        TestWorker::start(&db, &[]).await.stop().await;
        let (ours, alice) = db.organization().await;
        let (theirs, mallory) = db.organization().await;
        let agent = AgentId(db.agent("a").await);
        db.execute(&format!(
            "update public.agents set organization_id = '{ours}' where id = '{agent}'"
        ))
        .await;
        let access = Access::new(&db.url(), authorize, recheck);
        let syncer = Syncer::new(db.pool(), access, Settings::default());
        Self {
            db,
            syncer,
            ours,
            theirs,
            alice,
            mallory,
            agent,
        }
    }

    async fn may_have(&self, user: Uuid) -> bool {
        self.asked(&signed_in(user)).await.expect("an answer")
    }

    async fn asked(&self, identity: &Identity) -> Result<bool, Error> {
        let verdict = self.syncer.may_have(identity, self.agent).await?;
        Ok(verdict == Verdict::Granted)
    }

    /// What the user gets who asks for the agent.
    async fn ask(&self, user: Uuid) -> Option<Uuid> {
        let claim = Claim {
            owner: user.to_string(),
            identity: Some(signed_in(user)),
            assistant_id: None,
            if_exists: IfExists::Raise,
            metadata: Map::new(),
        };
        let batch = self
            .syncer
            .sync_now(&[self.agent], Entrance::Request(&claim))
            .await
            .expect("synced");
        match batch.answer {
            Some(Answer::Assistant(id)) => Some(id.0),
            _ => None,
        }
    }

    async fn sync(&self, entrance: Entrance<'_>) -> Outcome {
        let mut batch = self
            .syncer
            .sync_now(&[self.agent], entrance)
            .await
            .expect("synced");
        batch.outcomes.pop().expect("an outcome").1
    }

    /// A new login role as PostgREST's authenticator: it can become others and is nothing by itself.
    async fn authenticator(&self) -> String {
        let role = format!("authenticator_{}", Uuid::new_v4().simple());
        self.db
            .execute(&format!(
                "create role {role} login noinherit; grant authenticated to {role}"
            ))
            .await;
        role
    }

    /// A syncer that asks elsewhere than it works, or as somebody else.
    fn asking_at(&self, url: &DatabaseUrl) -> Syncer {
        let access = Access::new(url, Authorize::Agent, true);
        Syncer::new(self.db.pool(), access, Settings::default())
    }

    /// One more member of our organization.
    async fn member(&self) -> Uuid {
        let user = Uuid::new_v4();
        let ours = self.ours;
        self.db
            .execute(&format!(
                "insert into public.organization_members values ('{ours}', '{user}')"
            ))
            .await;
        user
    }

    async fn has_a_tool(&self) {
        let agent = self.agent;
        self.db
            .execute(&format!(
                "insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{agent}', 't', 'https://tools.example');
                 insert into public.agent_mcp_tools values ('{agent}', '{agent}')"
            ))
            .await;
    }

    /// From now on a policy takes for ever about this user; and there is something to sync.
    async fn slow_for(&self, user: Uuid) {
        self.db
            .execute(&format!(
                "create function public.dawdle() returns boolean language plpgsql as $$
                 begin
                   if current_setting('request.jwt.claims')::jsonb ->> 'sub' = '{user}' then
                     perform pg_sleep(600);
                   end if;
                   return true;
                 end $$;
                 create policy \"slow\" on public.agents as restrictive for select to authenticated
                 using ((select public.dawdle()));
                 update public.agents set system_prompt = 'new'"
            ))
            .await;
    }

    async fn leaves(&self, user: Uuid) {
        self.db
            .execute(&format!(
                "delete from public.organization_members where user_id = '{user}'"
            ))
            .await;
    }
}

fn signed_in(user: Uuid) -> Identity {
    with_claims(user, json!({}))
}

fn with_claims(user: Uuid, more: Value) -> Identity {
    let mut claims = json!({"sub": user, "role": "authenticated", "aud": "authenticated"});
    let (Value::Object(claims), Value::Object(more)) = (&mut claims, more) else {
        panic!("objects")
    };
    claims.extend(more);
    Identity::verified(user, claims.clone())
}

#[tokio::test]
async fn row_level_security_decides() {
    let tenants = Tenants::new().await;
    assert!(tenants.may_have(tenants.alice).await);
    assert!(!tenants.may_have(tenants.mallory).await);
    assert!(!tenants.may_have(Uuid::new_v4()).await);
    tenants.leaves(tenants.alice).await;
    assert!(!tenants.may_have(tenants.alice).await);
}

#[tokio::test]
async fn whatever_the_policies_say_goes() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute(
            "update public.agents set is_global = true;
             create policy \"everybody sees global ones\" on public.agents for select to authenticated using (is_global)",
        )
        .await;
    assert!(tenants.may_have(tenants.mallory).await);
    tenants
        .db
        .execute(
            "create policy \"only with a second factor\" on public.agents as restrictive for select to authenticated
             using (current_setting('request.jwt.claims')::jsonb ->> 'aal' = 'aal2')",
        )
        .await;
    assert!(!tenants.may_have(tenants.alice).await);
    let strong = with_claims(tenants.alice, json!({"aal": "aal2"}));
    assert!(tenants.asked(&strong).await.expect("an answer"));
}

/// Policies of older projects read each claim from a setting of its own.
#[tokio::test]
async fn claims_are_told_as_old_versions_of_postgrest_told_them() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute(&format!(
            "drop policy \"members manage their organizations' agents\" on public.agents;
             create policy \"old\" on public.agents for select to authenticated using (
               current_setting('request.jwt.claim.sub', true)::uuid = '{}'
               and (current_setting('request.jwt.claim.app_metadata', true)::jsonb ->> 'plan') = 'pro')",
            tenants.mallory
        ))
        .await;
    let pro = json!({"app_metadata": {"plan": "pro"}, "https://example.com/odd name'--": "x"});
    let asked = async |user, claims: &Value| {
        let identity = with_claims(user, claims.clone());
        tenants.asked(&identity).await.expect("an answer")
    };
    assert!(asked(tenants.mallory, &pro).await);
    assert!(!asked(tenants.mallory, &json!({"app_metadata": {"plan": "free"}})).await);
    assert!(!asked(tenants.alice, &pro).await);
}

#[tokio::test]
async fn who_may_not_read_every_mapped_column_may_not_have_the_agent() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute(
            "revoke select on public.agents from authenticated;
             grant select (id, organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt,
               sampling_params) on public.agents to authenticated",
        )
        .await;
    assert!(!tenants.may_have(tenants.alice).await);
    tenants
        .db
        .execute("grant select (assistant_tool_ids) on public.agents to authenticated")
        .await;
    // Not langgraph_assistant_id, nor what the application keeps there besides.
    assert!(tenants.may_have(tenants.alice).await);
}

#[tokio::test]
async fn the_whole_source_may_be_asked_for() {
    let tenants = Tenants::with(Authorize::Source, true).await;
    let agent = tenants.agent;
    tenants.has_a_tool().await;
    assert!(tenants.may_have(tenants.alice).await);
    tenants
        .db
        .execute(
            "drop policy \"users manage tools\" on public.mcp_tools;
             create policy \"nobody\" on public.mcp_tools for select to authenticated using (false)",
        )
        .await;
    assert!(!tenants.may_have(tenants.alice).await);
    let lenient = Syncer::new(
        tenants.db.pool(),
        Access::new(&tenants.db.url(), Authorize::Agent, true),
        Settings::default(),
    );
    let verdict = lenient.may_have(&signed_in(tenants.alice), agent).await;
    assert_eq!(
        verdict.expect("an answer"),
        Verdict::Granted,
        "tools belong to the agent"
    );
}

#[tokio::test]
async fn without_row_level_security_everybody_is_refused() {
    for change in [
        "alter table public.agents disable row level security",
        "alter table public.agents owner to authenticated",
    ] {
        let tenants = Tenants::new().await;
        tenants.db.execute(change).await;
        let error = tenants
            .asked(&signed_in(tenants.alice))
            .await
            .expect_err("refused");
        assert_eq!(error.fault(), Fault::Setup);
        assert!(
            error.to_string().contains("enable row level security"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_login_that_cannot_become_authenticated_is_told_what_to_grant() {
    let tenants = Tenants::new().await;
    let role = format!("stranger_{}", Uuid::new_v4().simple());
    tenants
        .db
        .execute(&format!("create role {role} login"))
        .await;
    let syncer = tenants.asking_at(&tenants.db.url_as(&role));
    let alice = signed_in(tenants.alice);
    let asked = async || syncer.may_have(&alice, tenants.agent).await;
    let error = asked().await.expect_err("refused");
    assert!(
        error.fault() == Fault::Setup && error.to_string().contains("grant authenticated to"),
        "{error}"
    );
    tenants
        .db
        .execute(&format!("grant authenticated to {role}"))
        .await;
    assert_eq!(asked().await.expect("an answer"), Verdict::Granted);
    assert_eq!(
        tenants
            .db
            .count(&format!(
                "pg_stat_activity where usename = '{role}' and application_name = 'agent-sync access'"
            ))
            .await,
        1,
        "the connection goes back"
    );
}

/// Policies may leave something in the session: a cache of who it is that asks, say.
#[tokio::test]
async fn nobody_is_asked_about_under_anothers_name() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute(
            "create function public.who() returns uuid language plpgsql set search_path = '' as $$
             begin
               if coalesce(current_setting('app.who', true), '') = '' then
                 perform set_config('app.who', current_setting('request.jwt.claims')::jsonb ->> 'sub', false);
               end if;
               return current_setting('app.who')::uuid;
             end $$;
             grant execute on function public.who() to authenticated;
             grant select on public.organization_members to authenticated;
             drop policy \"members manage their organizations' agents\" on public.agents;
             drop policy \"members see their memberships\" on public.organization_members;
             create policy \"who\" on public.organization_members for select to authenticated using (user_id = (select public.who()));
             create policy \"who\" on public.agents for select to authenticated using (
               organization_id in (select m.organization_id from public.organization_members as m))",
        )
        .await;
    for _ in 0..5 {
        assert!(tenants.may_have(tenants.alice).await);
        assert!(!tenants.may_have(tenants.mallory).await);
    }
    // Many in one transaction: a pass asks about all.
    let bob = tenants.member().await;
    assert!(tenants.ask(tenants.alice).await.is_some() && tenants.ask(bob).await.is_some());
    tenants.leaves(bob).await;
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Revoked);
    assert_eq!(tenants.db.count("langgraph_server.assistants").await, 1);
    assert!(tenants.db.assistant(tenants.agent.0).await.is_some());
}

/// Whatever else it is used for. (That it is the same server, too, must not be told by how it writes dates.)
#[tokio::test]
async fn what_a_login_role_is_set_to_makes_no_difference() {
    let tenants = Tenants::new().await;
    let role = tenants.authenticator().await;
    for setting in [
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'German, DMY'",
        "extra_float_digits = -15",
        "row_security = off",
        "search_path = ''",
        "default_transaction_isolation = 'serializable'",
    ] {
        tenants
            .db
            .execute(&format!("alter role {role} set {setting}"))
            .await;
        let syncer = tenants.asking_at(&tenants.db.url_as(&role));
        let alice = signed_in(tenants.alice);
        match syncer.may_have(&alice, tenants.agent).await {
            Ok(verdict) => assert_eq!(verdict, Verdict::Granted, "{setting}"),
            Err(e) => panic!("{setting}: {e}"),
        }
        tenants
            .db
            .execute(&format!("alter role {role} reset all"))
            .await;
    }
}

/// A login whose sessions are never as they should be: it is somebody else from the start.
#[tokio::test]
async fn a_session_that_is_not_clean_is_not_lent_again() {
    let tenants = Tenants::new().await;
    let role = tenants.authenticator().await;
    for (disguise, lent_again) in [("none", 1), ("authenticated", 0)] {
        tenants
            .db
            .execute(&format!("alter role {role} set role = '{disguise}'"))
            .await;
        let syncer = tenants.asking_at(&tenants.db.url_as(&role));
        let asked = syncer
            .may_have(&signed_in(tenants.alice), tenants.agent)
            .await;
        assert_eq!(asked.expect("an answer"), Verdict::Granted);
        let sessions = format!("pg_stat_activity where usename = '{role}'");
        eventually("the session is kept, or closed", || async {
            match tenants.db.count(&sessions).await {
                open if open == lent_again => Ok(()),
                open => Err(format!("{open} open")),
            }
        })
        .await;
        drop(syncer);
        eventually("the pool is closed", || async {
            match tenants.db.count(&sessions).await {
                0 => Ok(()),
                open => Err(format!("{open} open")),
            }
        })
        .await;
    }
}

/// Everything that ever stood in an assistant's configuration.
async fn watch_assistants(db: &TestDatabase) {
    db.execute(
        "create table public.seen (id text, prompt text);
         create function public.see() returns trigger language plpgsql security definer set search_path = '' as $$
         begin
           insert into public.seen values (new.id, new.config -> 'configurable' ->> 'system_prompt');
           return null;
         end $$;
         create trigger see after insert or update on langgraph_server.assistants for each row execute function public.see()",
    )
    .await;
}

#[tokio::test]
async fn an_agent_that_moves_takes_its_new_content_to_nobody_who_may_not_see_it() {
    for recheck in [true, false] {
        let tenants = Tenants::with(Authorize::Agent, recheck).await;
        watch_assistants(&tenants.db).await;
        let bob = tenants.member().await;
        assert_eq!(tenants.ask(tenants.alice).await, Some(tenants.agent.0));
        let copy = tenants.ask(bob).await.expect("bob's own");
        let theirs = tenants.theirs;
        tenants
            .db
            .execute(&format!(
                "update public.agents set organization_id = '{theirs}', system_prompt = 'secret of the other organization'"
            ))
            .await;
        assert_eq!(tenants.sync(Entrance::Change).await, Outcome::Revoked);
        assert_eq!(tenants.db.count("langgraph_server.assistants").await, 0);
        assert_eq!(tenants.db.count("agent_sync.ledger").await, 0);
        assert_eq!(
            tenants
                .db
                .count("public.seen where prompt like 'secret%'")
                .await,
            0
        );
        assert_eq!(tenants.ask(bob).await, None);
        // Those who may see it now get it, the first of them under its own id.
        assert_eq!(tenants.ask(tenants.mallory).await, Some(tenants.agent.0));
        assert!(tenants.db.assistant(copy).await.is_none());
    }
}

#[tokio::test]
async fn who_lost_access_loses_the_assistant_at_the_next_resync_however_many_they_are() {
    let tenants = Tenants::new().await;
    let mut members = Vec::new();
    for _ in 0..15 {
        members.push(tenants.member().await);
    }
    for member in &members {
        assert!(tenants.ask(*member).await.is_some());
    }
    assert_eq!(tenants.ask(tenants.mallory).await, None);
    for member in &members[1..] {
        tenants.leaves(*member).await;
    }
    // Nothing new is written: a change that touches nobody asks nobody.
    assert_eq!(tenants.sync(Entrance::Change).await, Outcome::Skipped);
    assert_eq!(tenants.db.count("langgraph_server.assistants").await, 15);
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Revoked);
    assert_eq!(tenants.db.count("langgraph_server.assistants").await, 1);
    assert_eq!(
        tenants
            .db
            .count("agent_sync.ledger where state = 'held'")
            .await,
        0
    );
}

#[tokio::test]
async fn without_the_recheck_only_a_move_takes_assistants_away() {
    let tenants = Tenants::with(Authorize::Agent, false).await;
    tenants.ask(tenants.alice).await.expect("hers");
    tenants.leaves(tenants.alice).await;
    tenants
        .db
        .execute("update public.agents set system_prompt = 'new'")
        .await;
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Updated);
    // Who asks is asked about all the same.
    assert!(!tenants.may_have(tenants.alice).await);
}

/// Policies that go by `app_metadata`: the token of a user who is not here is not at hand, but what Supabase Auth would
/// put into it is.
#[tokio::test]
async fn what_supabase_auth_knows_of_a_user_counts() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute(&format!(
            "create table auth.users (id uuid primary key, raw_app_meta_data jsonb, is_anonymous boolean not null default false);
             grant usage on schema auth to {worker};
             grant select on auth.users to {worker};
             insert into auth.users values ('{}', '{{\"orgs\": [\"{}\"]}}');
             drop policy \"members manage their organizations' agents\" on public.agents;
             create policy \"by token\" on public.agents for select to authenticated using (
               current_setting('request.jwt.claims')::jsonb -> 'app_metadata' -> 'orgs' ? organization_id::text
               and not (current_setting('request.jwt.claims')::jsonb ->> 'is_anonymous')::boolean)",
            tenants.alice,
            tenants.ours,
            worker = tenants.db.role.name()
        ))
        .await;
    tenants.syncer.source.outdated();
    let claim = Claim {
        owner: tenants.alice.to_string(),
        identity: Some(with_claims(
            tenants.alice,
            json!({"app_metadata": {"orgs": [tenants.ours]}, "is_anonymous": false}),
        )),
        assistant_id: None,
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    };
    assert_eq!(
        tenants.sync(Entrance::Request(&claim)).await,
        Outcome::Created
    );
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Skipped);
    tenants
        .db
        .execute("update auth.users set raw_app_meta_data = '{}'")
        .await;
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Revoked);
}

#[tokio::test]
async fn where_it_cannot_be_told_the_users_assistant_stays_as_it_is_and_everybody_elses_goes_on() {
    let tenants = Tenants::new().await;
    tenants
        .db
        .execute("insert into agent_sync.settings (scope) values ('all') on conflict (singleton) do update set scope = 'all'")
        .await;
    let named = Uuid::new_v4();
    let claim = Claim {
        owner: tenants.alice.to_string(),
        identity: Some(signed_in(tenants.alice)),
        assistant_id: Some(agent_sync::ids::AssistantId(named)),
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    };
    tenants.sync(Entrance::Request(&claim)).await;
    tenants
        .db
        .execute(
            "create policy \"broken\" on public.agents as restrictive for select to authenticated using (1 / (random() * 0)::int = 1);
             update public.agents set system_prompt = 'new'",
        )
        .await;
    let Outcome::Failed(why) = tenants.sync(Entrance::Change).await else {
        panic!("failed")
    };
    assert!(
        why.contains(&tenants.alice.to_string()) && why.contains("division by zero"),
        "{why}"
    );
    assert_eq!(
        tenants.db.prompt(tenants.agent.0).await.as_deref(),
        Some("new"),
        "the system's"
    );
    assert_eq!(
        tenants.db.prompt(named).await.as_deref(),
        Some("You are a.")
    );
    tenants
        .db
        .execute("drop policy \"broken\" on public.agents")
        .await;
    assert_eq!(tenants.sync(Entrance::Change).await, Outcome::Updated);
    assert_eq!(tenants.db.prompt(named).await.as_deref(), Some("new"));
    assert_eq!(
        tenants
            .db
            .count("agent_sync.ledger where state <> 'synced'")
            .await,
        0
    );
}

#[tokio::test]
async fn what_nobody_had_to_sign_for_is_gone_once_somebody_has_to() {
    let tenants = Tenants::new().await;
    let open = Syncer::new(tenants.db.pool(), Access::open(), Settings::default());
    let claim = Claim {
        owner: "dev".to_owned(),
        identity: None,
        assistant_id: None,
        if_exists: IfExists::Raise,
        metadata: Map::new(),
    };
    let made = open
        .sync_now(&[tenants.agent], Entrance::Request(&claim))
        .await
        .expect("synced");
    assert_eq!(
        made.answer,
        Some(Answer::Assistant(tenants.agent.canonical()))
    );
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Revoked);
    assert_eq!(tenants.db.count("langgraph_server.assistants").await, 0);
}

/// An editor who waits for the whole table has everybody wait behind him, us too, and a sync may be what he waits for.
#[tokio::test]
async fn a_question_waits_for_nobodys_lock_for_long() {
    let tenants = Tenants::new().await;
    let editor = tenants.db.connect().await;
    editor
        .batch_execute("begin; lock table public.agents in access exclusive mode")
        .await
        .expect("locked");
    let access = Access::new(&tenants.db.url(), Authorize::Agent, true);
    let source = Source::default();
    let shape = source.inspect(&tenants.db.client).await.expect("a shape");
    let alice = signed_in(tenants.alice);
    let listing = access.list(&shape, &alice);
    let error = tokio::time::timeout(Duration::from_secs(60), listing)
        .await
        .expect("an end")
        .expect_err("locked");
    assert_eq!(error.fault(), Fault::Locked);
    editor.batch_execute("rollback").await.expect("released");
}

/// What a policy may not do says nothing about its user: a forgotten grant takes nobody's assistant away.
#[tokio::test]
async fn a_policy_that_lacks_a_privilege_takes_nothing_away() {
    let tenants = Tenants::new().await;
    assert!(tenants.ask(tenants.alice).await.is_some());
    tenants
        .db
        .execute(
            "create function public.is_open() returns boolean language sql as 'select true';
             revoke all on function public.is_open() from public;
             create policy \"open\" on public.agents as restrictive for select to authenticated using (public.is_open())",
        )
        .await;
    let Outcome::Failed(why) = tenants.sync(Entrance::Pass).await else {
        panic!("failed")
    };
    assert!(
        why.contains("permission denied for function is_open"),
        "{why}"
    );
    assert_eq!(tenants.db.count("langgraph_server.assistants").await, 1);
    assert!(!tenants.may_have(tenants.alice).await, "nor gives anything");
    tenants
        .db
        .execute("grant execute on function public.is_open() to authenticated")
        .await;
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Skipped);
    // A privilege of the role's own is another matter.
    tenants
        .db
        .execute("revoke select on public.agents from authenticated")
        .await;
    assert_eq!(tenants.sync(Entrance::Pass).await, Outcome::Revoked);
}

/// However many requests wait for an answer of their own.
#[tokio::test]
async fn requests_keep_no_sync_from_asking() {
    let tenants = Tenants::new().await;
    assert!(tenants.ask(tenants.alice).await.is_some());
    tenants
        .db
        .execute("update public.agents set system_prompt = 'new'")
        .await;
    let interceptor = Interceptor::before(&tenants.db).await;
    let url = interceptor.url.parse().expect("a url");
    let syncer = tenants.asking_at(&url);
    // As many as may ask at a time.
    let held: Vec<_> = (0..3)
        .map(|_| interceptor.hold_at("begin isolation level"))
        .collect();
    let mallory = signed_in(tenants.mallory);
    let requests = futures::future::join_all(
        held.iter()
            .map(|_| syncer.may_have(&mallory, tenants.agent)),
    );
    let sync = async {
        interceptor.reached().await;
        let synced = syncer.sync_now(&[tenants.agent], Entrance::Change).await;
        let outcomes = synced.expect("synced").outcomes;
        assert_eq!(outcomes, [(tenants.agent, Outcome::Updated)]);
        drop(held);
    };
    tokio::join!(requests, sync);
}

/// An agent that is off, or makes no sense, says nothing new; who may see what it said is asked all the same.
#[tokio::test]
async fn who_lost_access_loses_what_is_kept_or_held_too() {
    let kept = Settings {
        on_remove: OnRemove::Keep,
        ..Settings::default()
    };
    let held = Settings {
        max_removals: MaxRemovals::AtMost(0),
        ..Settings::default()
    };
    for (settings, change) in [
        (kept, "status = 'disabled'"),
        (held, "status = 'disabled'"),
        (Settings::default(), "sampling_params = '[]'"),
    ] {
        let tenants = Tenants::new().await;
        let bob = tenants.member().await;
        assert!(tenants.ask(tenants.alice).await.is_some() && tenants.ask(bob).await.is_some());
        tenants
            .db
            .execute(&format!("update public.agents set {change}"))
            .await;
        tenants.leaves(tenants.alice).await;
        let access = Access::new(&tenants.db.url(), Authorize::Agent, true);
        let syncer = Syncer::new(tenants.db.pool(), access, settings);
        syncer
            .sync_now(&[tenants.agent], Entrance::Pass)
            .await
            .expect("synced");
        let left = |user: Uuid| {
            format!("langgraph_server.assistants where metadata ->> 'owner' = '{user}'")
        };
        assert_eq!(tenants.db.count(&left(tenants.alice)).await, 0, "{change}");
        assert_eq!(tenants.db.count(&left(bob)).await, 1, "{change}");
    }
}

/// The policy is slow for some; who else is in the batch is asked about all the same.
#[tokio::test]
async fn a_policy_that_is_slow_for_one_user_keeps_nobody_elses_assistant_from_being_written() {
    let tenants = Tenants::new().await;
    let slow = tenants.member().await;
    let first = tenants.ask(slow).await.expect("theirs");
    let second = tenants.ask(tenants.alice).await.expect("hers");
    tenants.slow_for(slow).await;
    let Outcome::Failed(why) = tenants.sync(Entrance::Change).await else {
        panic!("the slow one fails")
    };
    assert!(why.contains(&slow.to_string()), "{why}");
    assert_eq!(tenants.db.prompt(second).await.as_deref(), Some("new"));
    assert_eq!(
        tenants.db.prompt(first).await.as_deref(),
        Some("You are a.")
    );
}

/// A database of the same shape, but not the same: a staging project, say. Or one without agents, where whoever is asked has to
/// say so, too.
#[tokio::test]
async fn another_servers_answers_do_not_count() {
    let tenants = Tenants::new().await;
    assert!(tenants.ask(tenants.alice).await.is_some());
    for other in [TestDatabase::new().await, TestDatabase::empty().await] {
        let syncer = tenants.asking_at(&other.url_as(tenants.db.role.name()));
        let error = syncer.check_access().await.expect_err("refused");
        assert!(error.to_string().contains("another server"), "{error}");
        syncer
            .sync_now(&[tenants.agent], Entrance::Pass)
            .await
            .expect("synced");
        assert_eq!(tenants.db.count("langgraph_server.assistants").await, 1);
    }
}

/// A restart makes another server of it, too; but it is the same for both.
#[tokio::test]
async fn users_are_asked_about_again_after_a_restart() {
    let cluster = Cluster::start(&[]).await;
    let db = cluster.database(Role::of_run()).await;
    let tenants = Tenants::on(db, Authorize::Agent, true).await;
    assert!(tenants.may_have(tenants.alice).await);
    Server::of(&tenants.db).await.crash_and_restart().await;
    let alice = signed_in(tenants.alice);
    eventually("she may have it again", || async {
        match tenants.asked(&alice).await {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(tenants.ask(tenants.alice).await, Some(tenants.agent.0));
}

/// A router that forgets connections forgets all that are idle: one that never answers is reason to try none of the others.
#[tokio::test]
async fn one_question_without_an_answer_is_enough_to_make_new_connections() {
    let tenants = Tenants::new().await;
    let proxy = Proxy::before(tenants.db.port()).await;
    let url = tenants.db.url_by_way_of(proxy.address).parse();
    let syncer = tenants.asking_at(&url.expect("a url"));
    let alice = signed_in(tenants.alice);
    let ask = async || syncer.may_have(&alice, tenants.agent).await;
    let (one, other) = tokio::join!(ask(), ask());
    assert_eq!(one.expect("an answer"), Verdict::Granted);
    assert_eq!(other.expect("an answer"), Verdict::Granted);
    assert_eq!(proxy.stall(), 2, "both are idle, and dead");
    match ask().await {
        Ok(verdict) => panic!("{verdict:?}"),
        Err(e) => assert_eq!(e.fault(), Fault::Passing, "{e}"),
    }
    assert_eq!(ask().await.expect("an answer"), Verdict::Granted);
    assert_eq!(proxy.connections(), 3);
}

/// So it is where many are asked about, and the first of them were answered.
#[tokio::test]
async fn what_was_answered_before_the_connection_died_counts() {
    let tenants = Tenants::new().await;
    let interceptor = Interceptor::before(&tenants.db).await;
    let url = interceptor.url.parse().expect("a url");
    let access = Access::new(&url, Authorize::Agent, true);
    let shape = Source::default().inspect(&tenants.db.client).await;
    let shape = shape.expect("a shape");
    let question = || Question {
        identity: signed_in(tenants.alice),
        agents: vec![tenants.agent],
    };
    // More than are asked about at once.
    let questions: Vec<_> = (0..101).map(|_| question()).collect();
    let ask = async || access.ask(For::Syncs, &shape, &questions).await;
    let (one, other) = tokio::join!(ask(), ask());
    assert!(one.is_ok() && other.is_ok());
    let sessions = "pg_stat_activity where application_name = 'agent-sync access' and datname = current_database()";
    assert_eq!(tenants.db.count(sessions).await, 2);

    drop(interceptor.hold_at("begin isolation level"));
    let silence = interceptor.hold_at("begin isolation level");
    let shown = ask().await.expect("answers");
    let answered = shown.iter().filter(|shown| matches!(shown, Shown::Rows(_)));
    assert_eq!(answered.count(), 100);
    let unknown = shown
        .iter()
        .filter(|shown| matches!(shown, Shown::Unknown { passing: true, .. }));
    assert_eq!(unknown.count(), 1);
    drop(silence);
    eventually("the connection that was idle is closed, too", || async {
        match tenants.db.count(sessions).await {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        }
    })
    .await;
}

/// What a user sees of an agent is less than there is, and no edit is under way that would explain it.
#[tokio::test]
async fn who_may_see_only_a_part_loses_the_whole() {
    let tenants = Tenants::with(Authorize::Source, true).await;
    tenants.has_a_tool().await;
    assert!(tenants.ask(tenants.alice).await.is_some());
    tenants
        .db
        .execute(
            "drop policy \"users manage tools\" on public.mcp_tools;
             update public.agents set system_prompt = 'new'",
        )
        .await;
    assert_eq!(tenants.sync(Entrance::Change).await, Outcome::Revoked);
}
