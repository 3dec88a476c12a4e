-- $1 uuid[]: changed models; $2 timestamptz: when the first of them was. Every agent whose engine runs on one is changed.
insert into agent_sync.outbox (source, key, organization, changed_at)
select 'agents', a.id::text, coalesce(left(/* organization */ a.organization_id::text /* end */, 64), ''), $2
from public.agents as a
join public.global_ai_engines as e on e.id = a.engine_id
where e.language_model_id = any ($1::uuid[]);
