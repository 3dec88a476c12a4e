-- $1 uuid[]: agents, as a caller reads them who has taken a role of the database's own. Every column that the mapping uses is
-- named, and no other: who may not read one of them may not have the agent. Of one that is too large, only its size travels.
select id, case when fits then agent else '{}' end as agent, null::text as tools, null::text as model,
  case when not fits then bytes end as too_large
from (
  select id, agent, octet_length(agent)::bigint as bytes, octet_length(agent) <= /* largest */ 1048576 /* end */ as fits
  from (
    select a.id, row_to_json(a)::text as agent
    from (select /* columns */ id /* end */ from public.agents where id = any ($1::uuid[])) as a
    offset 0 -- so that each is made once
  ) as j
) as s;
