-- A whole table changed, or a table that can no longer be followed to its agents: every agent there is,
-- and every agent that we made an assistant for.
insert into agent_sync.outbox (source, key)
select 'agents', id::text from public.agents
union
select 'agents', agent_id::text from agent_sync.ledger;
