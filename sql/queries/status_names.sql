-- $1 uuid[]: the names of these agents. (As json: schemas drift.)
select a.id, to_jsonb(a) ->> 'name' as name
from public.agents as a
where a.id = any ($1);
