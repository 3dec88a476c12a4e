-- All agents that a caller may have, as in read_as_caller.sql.
select a.id from (select /* columns */ id /* end */ from public.agents) as a;
