-- $1 uuid[]: changed tools; $2 timestamptz: when the first of them was. Every agent that uses one is changed.
-- A link that is not committed yet brings a change of its own, and that one reads the tool as it is now.
insert into agent_sync.outbox (source, key, organization, changed_at)
select 'agents', l.agent_id::text, coalesce(left(/* organization */ a.organization_id::text /* end */, 64), ''), $2
from (select distinct agent_id from public.agent_mcp_tools where mcp_tool_id = any ($1::uuid[])) as l
left join public.agents as a on a.id = l.agent_id;
