-- All agents that a caller may have, as in read_as_caller.sql, and their organizations.
select a.id, /* organization */ a.organization_id /* end */::uuid as organization_id
from (select /* columns */ id, organization_id /* end */ from public.agents) as a;
