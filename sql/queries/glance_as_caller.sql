-- $1 uuid: an agent, as a caller reads it whose role and claims were taken just before. It says by itself whether the role is in force,
-- whether row-level security decides, and which server this is: without that its row counts for nothing.
select current_user = 'authenticated' and row_security_active('public.agents') as secured, here.place,
  r.id, r.agent, r.tools, r.model, r.too_large
from (
  /* server */ select null::text as place /* end */
) as here
left join (
  /* read */ select null::uuid as id /* end */
) as r on true
