-- $1 uuid[]: changed engines. Every agent that uses one is changed.
insert into agent_sync.outbox (source, key, organization)
select 'agents', a.id::text, coalesce(left(/* organization */ a.organization_id::text /* end */, 64), '')
from public.agents as a
where a.engine_id = any ($1::uuid[]);
