-- $1 bigint: how many rows at most.
-- The changes that do not name an agent: of tools, engines and models, and of a whole table (a null key).
select id, source, key, changed_at
from agent_sync.outbox
where source not in ('agents', 'agent_mcp_tools') or key is null
order by id
limit $1
for update skip locked;
