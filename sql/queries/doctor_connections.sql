-- How many connections the server takes, how many there are, and how many of those are workers' (but for this one); and up to how many
-- this role and this database may have (-1: any number), and have.
select current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
    - coalesce(current_setting('reserved_connections', true)::bigint, 0) as server_limit,
  (select sum(numbackends)::bigint from pg_catalog.pg_stat_database) as server_has,
  r.rolconnlimit::bigint as role_limit,
  (select count(*) from pg_catalog.pg_stat_activity as s where s.usesysid = r.oid) as role_has,
  d.datconnlimit::bigint as database_limit,
  (select count(*) from pg_catalog.pg_stat_activity as s where s.datid = d.oid) as database_has,
  (
    select count(*)
    from pg_catalog.pg_stat_activity as s
    where s.datid = d.oid
      and s.application_name in ('agent-sync', 'agent-sync listener', 'agent-sync bell', 'agent-sync access', 'agent-sync admin')
  ) as ours
from pg_catalog.pg_roles as r, pg_catalog.pg_database as d
where r.rolname = current_user and d.datname = current_database();
