-- :agents, :assistants, quoted uuid[]: agents, and of each the assistant that stands. Writes its id into the agent where it is
-- missing or wrong, and returns the agents that must be tried again, and why. 'held': an editor has the row, and we never wait
-- for one of the customer's. 'refused': the update went through, and the row does not say what was written, which is the
-- application's own triggers' doing. 'hidden': row-level security applies to this role, so nothing can be told of any of
-- them. (Literals, not parameters: this goes out in one message with the limits that come before it. Of one agent, $1 and $2 are in their
-- place, and the session keeps the statement.)
with wrong as (
  select a.id, w.assistant_id::text as assistant_id
  from unnest(:'agents'::uuid[], :'assistants'::uuid[]) as w (agent_id, assistant_id)
  join public.agents as a on a.id = w.agent_id
  where a.langgraph_assistant_id is distinct from w.assistant_id::text
), free as (
  select a.id from public.agents as a where a.id in (select id from wrong) order by a.id for no key update skip locked
), written as (
  update public.agents as a set langgraph_assistant_id = wrong.assistant_id
  from free join wrong on wrong.id = free.id
  where a.id = free.id
  returning a.id, a.langgraph_assistant_id
)
select w.id, case when f.id is null then 'held' else 'refused' end as why
from wrong as w
left join free as f on f.id = w.id
where not exists (select from written as s where s.id = w.id and s.langgraph_assistant_id = w.assistant_id)
  and not row_security_active('public.agents')
union all
select id, 'hidden' from unnest(:'agents'::uuid[]) as a (id) where row_security_active('public.agents');
