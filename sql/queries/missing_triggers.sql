-- The triggers that should stand on the source tables and do not, each with the statement that puts it right and whether
-- this role may alter its table.
select m.source, 'agent_sync_' || m.event as trigger, m.ddl, pg_has_role(c.relowner, 'usage') as ours_to_alter
from agent_sync.missing_triggers() as m
join pg_catalog.pg_class as c on c.oid = to_regclass('public.' || m.source);
