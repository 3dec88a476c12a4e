-- Whether there are changes that do not name an agent.
select exists (
  select from agent_sync.outbox where source not in ('agents', 'agent_mcp_tools') or key is null
) as pending;
