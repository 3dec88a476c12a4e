-- $1 integer: the session of ours that waits for the bell.
-- Whether it waits for another worker's session, which has the bell. Then nobody edits in silence, either.
select coalesce(
  bool_or(granted and mode = 'ExclusiveLock') and bool_or(not granted and pid = $1::integer),
  false
) as is_held
from pg_catalog.pg_locks
where locktype = 'advisory' and objsubid = 1
  and database = (select oid from pg_catalog.pg_database where datname = current_database())
  and (classid::bigint << 32 | objid::bigint) = hashtextextended('agent_sync.bell', 0);
