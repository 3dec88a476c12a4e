-- $1 uuid[]: agents, as a caller reads them who has taken a role of the database's own. Every column that the mapping uses is
-- named, and no other: who may not read one of them may not have the agent.
select a.id, row_to_json(a)::text as agent, null::text as tools, null::text as model
from (select /* columns */ id /* end */ from public.agents where id = any ($1::uuid[])) as a;
