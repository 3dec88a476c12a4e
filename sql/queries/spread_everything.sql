-- $1 timestamptz: when something changed.
-- A whole table changed, or a table that can no longer be followed to its agents: every agent there is,
-- and every agent that we made an assistant for.
insert into agent_sync.outbox (source, key, organization, changed_at)
select 'agents', a.id::text, coalesce(left(/* organization */ a.organization_id::text /* end */, 64), ''), $1
from public.agents as a
union
select 'agents', l.agent_id::text, '', $1
from agent_sync.ledger as l
where not exists (select from public.agents as a where a.id = l.agent_id);
