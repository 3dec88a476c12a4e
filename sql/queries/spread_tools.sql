-- $1 uuid[]: changed tools. Every agent that uses one is changed.
-- A link that is not committed yet brings a change of its own, and that one reads the tool as it is now.
insert into agent_sync.outbox (source, key)
select distinct 'agents', agent_id::text from public.agent_mcp_tools where mcp_tool_id = any ($1::uuid[]);
