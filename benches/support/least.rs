//! The least that keeps our promises, in SQL: what a floor leaves out that a worker may not. How far the floor can be reached at all.
//!
//! - A sync takes what was recorded off the outbox, locks the agents, keeps what each assistant said as a version, and notes in the
//!   ledger what it says now.
//! - Who asks for an agent is answered when two looks agree: what there is, as the worker, and the agent, as the caller, under
//!   row-level security.
//!
//! Nothing here is a way to do it: all of it is in one snapshot, which is older than the locks (but for [`InOrder`]); nothing fails alone;
//! and no client is told anything.

use agent_sync::config::Authorize;
use agent_sync::source::Source;
use futures::future::join_all;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{AnyError, DEFAULT_MODEL, EXPECTED, connect};

type Param<'a> = &'a (dyn ToSql + Sync);

/// Assistants that say what they should. `which`: of which agents.
pub fn upsert(which: &str) -> String {
    format!(
        "insert into langgraph_server.assistants as a
           (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at)
         select id, graph_id, config, '{{}}', metadata || jsonb_build_object('synced_at', now()), name, description, 1, now(), now()
         from ({EXPECTED} {which}) as e
         on conflict (id) do update
         set graph_id = excluded.graph_id, config = excluded.config, metadata = a.metadata || excluded.metadata,
           name = excluded.name, description = excluded.description, version = a.version + 1, updated_at = now()"
    )
}

/// Writes the ledger's entries of what was written before.
const NOTED: &str = "
  insert into agent_sync.ledger as l (assistant_id, agent_id, owner, state, content_hash, row_hash, source_hash, row_xmin, row_ctid)
  select id::uuid, id::uuid, 'system', 'synced', row_hash, row_hash, row_hash, row_xmin, row_ctid from written
  on conflict (assistant_id) do update
  set content_hash = excluded.content_hash, row_hash = excluded.row_hash, source_hash = excluded.source_hash,
    row_xmin = excluded.row_xmin, row_ctid = excluded.row_ctid, updated_at = now()";

const WRITTEN: &str =
    "a.id, agent_sync.fingerprint(a.graph_id, a.config, a.context, a.name, a.description, a.metadata) as row_hash,
    a.xmin as row_xmin, a.ctid as row_ctid";

/// Keeps what assistants said `before` as a version.
const KEPT: &str = "
  insert into agent_sync.versions (assistant_id, version, graph_id, config, context, metadata, name, description, created_at)
  select id, version, graph_id, config, context, metadata, name, description, updated_at from before";

/// A pass over agents that have no assistants. $1: the default model.
pub fn pass() -> String {
    format!(
        "with written as ({} returning {WRITTEN}) {NOTED}",
        upsert("")
    )
}

/// A batch of what was recorded; says how many agents that were. $1: the default model.
pub fn sync() -> String {
    format!(
        "with claimed as (
           delete from agent_sync.outbox
           where id in (select id from agent_sync.outbox where key is not null order by id limit 500 for update skip locked)
           returning key::uuid as agent
         ), locked as (
           select agent, pg_advisory_xact_lock(hashtextextended('agent_sync:' || agent, 0)) from (select distinct agent from claimed) as c
         ), before as (
           select a.* from langgraph_server.assistants as a where a.id in (select agent::text from locked)
         ), written as (
           {} returning {WRITTEN}
         ), kept as ({KEPT}), noted as ({NOTED})
         select count(*) from written",
        upsert("and a.id in (select agent from locked)")
    )
}

/// The same for an edit, in the order that a worker has to keep: a statement that locks and reads sees what there was before it had the
/// lock. What an assistant is to say is received, and sent back, as by one who maps it. All that can be is sent together, and answered
/// in this order; the first message is the claim, the second locks and reads, the third writes and ends.
pub struct InOrder {
    client: Client,
    claim: Statement,
    lock: Statement,
    read: Statement,
    write: Statement,
    delete: Statement,
}

impl InOrder {
    pub async fn new(client: Client) -> Result<Self, tokio_postgres::Error> {
        let write = format!(
            "with before as (
               select a.* from langgraph_server.assistants as a where a.id = $1
             ), written as (
               insert into langgraph_server.assistants as a
                 (id, graph_id, name, description, config, context, metadata, version, created_at, updated_at)
               select $1, $2, $3, $4, $5::text::jsonb, '{{}}', $6::text::jsonb || jsonb_build_object('synced_at', now()), 1, now(), now()
               on conflict (id) do update
               set graph_id = excluded.graph_id, config = excluded.config, metadata = a.metadata || excluded.metadata,
                 name = excluded.name, description = excluded.description, version = a.version + 1, updated_at = now()
               returning {WRITTEN}
             ), kept as ({KEPT})
             {NOTED}"
        );
        let read = format!(
            "select id, graph_id, name, description, config::text, metadata::text from ({EXPECTED} and a.id = any ($2)) as e"
        );
        Ok(Self {
            claim: client
                .prepare("select id, key from agent_sync.outbox where key is not null order by id limit 500 for update skip locked")
                .await?,
            lock: client
                .prepare("select pg_advisory_xact_lock(hashtextextended('agent_sync:' || a, 0)) from unnest($1::uuid[]) as a")
                .await?,
            read: client.prepare(&read).await?,
            write: client.prepare(&write).await?,
            delete: client
                .prepare("delete from agent_sync.outbox where id = any ($1)")
                .await?,
            client,
        })
    }

    /// What was recorded, once.
    pub async fn sync(&self) -> Result<(), AnyError> {
        let client = &self.client;
        let (begun, claimed) = futures::join!(
            client.batch_execute("begin"),
            client.query(&self.claim, &[])
        );
        begun?;
        let (mut rows, mut agents) = (Vec::new(), Vec::new());
        for row in claimed? {
            rows.push(row.get::<_, i64>(0));
            agents.push(row.get::<_, &str>(1).parse::<Uuid>()?);
        }
        let (of_them, wanted): ([Param<'_>; 1], [Param<'_>; 2]) =
            ([&agents], [&DEFAULT_MODEL, &agents]);
        let (locked, read) = futures::join!(
            client.query(&self.lock, &of_them),
            client.query(&self.read, &wanted),
        );
        locked?;
        let read = read?;
        let texts = read.iter().map(|row| (0..6).map(|n| row.get(n)).collect());
        let texts: Vec<Vec<Option<String>>> = texts.collect();
        let writing = join_all(texts.iter().map(async |texts| {
            let texts: Vec<_> = texts
                .iter()
                .map(|text| text as &(dyn ToSql + Sync))
                .collect();
            client.execute(&self.write, &texts).await
        }));
        let done: [Param<'_>; 1] = [&rows];
        let (written, deleted, committed) = futures::join!(
            writing,
            client.execute(&self.delete, &done),
            client.batch_execute("commit")
        );
        for written in written {
            written?;
        }
        deleted?;
        committed?;
        Ok(())
    }
}

/// For pgbench, by its simple protocol, of the agent `:n`: the two looks, as the statements that a worker's sessions keep. Of the
/// messages around them only what they cannot do without.
pub async fn looks(url: &str, owner: &str) -> Result<String, AnyError> {
    let client = connect(url).await?;
    let shape = Source::default().shape(&client).await?;
    let glances = shape.glances(Authorize::Agent);
    let agent = "('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid";
    let execute = |statement: &agent_sync::database::prepared::Prepared, arguments: &str| {
        let execute = statement.execute(&format!("{agent}, {arguments}"));
        execute.trim_end_matches(';').to_owned()
    };
    Ok(format!(
        r#"\if :i = 0
{}{}\endif
begin isolation level read committed, read only \; set local row_security = off \; set local search_path = '' \; set local plan_cache_mode = force_generic_plan \; {} \; set local plan_cache_mode to default \; set local row_security = on \; set local search_path = public, extensions \; set local role = authenticated \; select set_config('request.jwt.claims', '{{"sub": "{owner}", "role": "authenticated"}}', true) \; {} \; rollback;
"#,
        glances.glance.prepare(),
        glances.as_caller.prepare(),
        execute(&glances.glance, &format!("'{owner}', 'basis'")),
        execute(&glances.as_caller, "'basis'"),
    ))
}

/// What follows for an agent without an assistant: its lock, its assistant, the ledger, and the write-back.
pub const FIRST: &str = r#"\if :i = 1
prepare first (uuid) as with locked as (select pg_advisory_xact_lock(hashtextextended('agent_sync:' || $1, 0))), written as (insert into langgraph_server.assistants as a (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at) select id::text, graph_id, jsonb_build_object('configurable', jsonb_build_object('system_prompt', system_prompt, 'supabase_organization_id', organization_id) || sampling_params), '{}', jsonb_build_object('supabase_agent_id', id, 'supabase_organization_id', organization_id, 'owner', '11111111-2222-4333-8444-555555555555'), name, description, 1, now(), now() from public.agents, locked where id = $1 on conflict (id) do nothing returning a.id, agent_sync.fingerprint(a.graph_id, a.config, a.context, a.name, a.description, a.metadata) as row_hash, a.xmin as row_xmin, a.ctid as row_ctid) insert into agent_sync.ledger (assistant_id, agent_id, owner, state, content_hash, row_hash, source_hash, row_xmin, row_ctid) select id::uuid, id::uuid, 'system', 'synced', row_hash, row_hash, row_hash, row_xmin, row_ctid from written;
prepare named (uuid) as update public.agents set langgraph_assistant_id = $1::text where id = $1;
\endif
execute first (('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid);
begin \; set local synchronous_commit = off \; execute named (('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid) \; commit;
"#;
