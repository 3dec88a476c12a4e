-- $1 uuid: an agent; $2 text: what else the mapping goes by. What the agent says, as a hash, as a caller reads it whose role and claims
-- were taken just before; null where it is not shown to them. It says by itself whether the role is in force, and whether row-level security
-- decides: without that it counts for nothing. Every column that the mapping uses is named in it, and no other.
select current_user = 'authenticated' and row_security_active('public.agents') as secured, r.shown
from (select) as one
left join (
  /* read */ select null::bytea as shown /* end */
) as r on true
