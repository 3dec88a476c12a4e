-- :agents, a quoted uuid[]: agents whose canonical assistant stands. Writes its id into the agent where it is missing or
-- wrong, and returns the agents that must be tried again because an editor holds them: we never wait for a row of the
-- customer's. (A literal, not a parameter: this goes out in one message with the limits that come before it.)
with wrong as (
  select id from public.agents where id = any (:'agents'::uuid[]) and langgraph_assistant_id is distinct from id::text
), free as (
  select a.id from public.agents as a where a.id in (select id from wrong) order by a.id for no key update skip locked
), written as (
  update public.agents as a set langgraph_assistant_id = a.id::text from free where a.id = free.id returning a.id
)
select id from wrong except select id from written;
