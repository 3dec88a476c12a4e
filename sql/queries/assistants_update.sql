-- $1 text[] id, $2 text[] graph_id, $3 text[] name, $4 text[] description, $5 text[] config, $6 text[] metadata,
-- $7 boolean[] fresh, $8 boolean[] adopt.
-- Existing assistants get new content; keys of the metadata that are not ours stay, but for a fresh one. One that is
-- adopted must still say that it is the system's. What another session holds is passed over, and missing from the answer.
with free as (
  select id from langgraph_server.assistants where id = any ($1::text[]) order by id for no key update skip locked
)
update langgraph_server.assistants as a
set graph_id = w.graph_id, config = w.config::jsonb, context = '{}', name = w.name, description = w.description,
  metadata = case
      when w.fresh or jsonb_typeof(a.metadata) is distinct from 'object' then '{}'::jsonb
      else a.metadata - array['supabase_agent_id', 'supabase_organization_id', 'owner', 'synced_at']
    end || w.metadata::jsonb || jsonb_build_object(
      'synced_at', to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
  version = coalesce(a.version, 0) + 1, updated_at = statement_timestamp()
from free
join unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::boolean[])
  as w (id, graph_id, name, description, config, metadata, fresh, adopt) on w.id = free.id
where a.id = free.id and (not w.adopt or a.metadata ->> 'owner' = 'system')
returning a.id, agent_sync.fingerprint(a.graph_id, a.config, a.context, a.name, a.description, a.metadata) as row_hash;
