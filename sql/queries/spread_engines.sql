-- $1 uuid[]: changed engines; $2 timestamptz: when the first of them was. Every agent that uses one is changed.
insert into agent_sync.outbox (source, key, organization, changed_at)
select 'agents', a.id::text, coalesce(left(/* organization */ a.organization_id::text /* end */, 64), ''), $2
from public.agents as a
where a.engine_id = any ($1::uuid[]);
