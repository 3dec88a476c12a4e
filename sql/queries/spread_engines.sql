-- $1 uuid[]: changed engines. Every agent that uses one is changed.
insert into agent_sync.outbox (source, key)
select 'agents', id::text from public.agents where engine_id = any ($1::uuid[]);
