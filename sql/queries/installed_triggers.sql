-- Our triggers, each with the statement that drops it and whether this role may alter its table.
select c.relname::text as source, t.tgname::text as trigger,
  format('drop trigger %I on %I.%I', t.tgname, c.relnamespace::regnamespace::text, c.relname) as ddl,
  pg_has_role(c.relowner, 'usage') as ours_to_alter
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_proc as p on p.oid = t.tgfoid
where p.pronamespace = to_regnamespace('agent_sync') and not t.tgisinternal
order by c.relname, t.tgname;
