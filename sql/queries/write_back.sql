-- :agents, :assistants, quoted uuid[]: agents, and of each the assistant that stands. Writes its id into the agent where it is
-- missing or wrong, and returns the agents that must be tried again because an editor holds them: we never wait for a row of
-- the customer's. (Literals, not parameters: this goes out in one message with the limits that come before it.)
with wrong as (
  select a.id, w.assistant_id
  from unnest(:'agents'::uuid[], :'assistants'::uuid[]) as w (agent_id, assistant_id)
  join public.agents as a on a.id = w.agent_id
  where a.langgraph_assistant_id is distinct from w.assistant_id::text
), free as (
  select a.id from public.agents as a where a.id in (select id from wrong) order by a.id for no key update skip locked
), written as (
  update public.agents as a set langgraph_assistant_id = wrong.assistant_id::text
  from free join wrong on wrong.id = free.id
  where a.id = free.id
  returning a.id
)
select id from wrong except select id from written;
