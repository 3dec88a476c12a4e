-- $1 text: a source table. What kind of relation it is (no row: there is none), and our triggers on it as they stand.
select c.relkind::text as kind, coalesce(
    jsonb_object_agg(t.tgname, jsonb_build_object('enabled', t.tgenabled, 'definition', pg_get_triggerdef(t.oid)))
      filter (where t.oid is not null),
    '{}'
  ) as triggers
from pg_catalog.pg_class as c
left join pg_catalog.pg_trigger as t on t.tgrelid = c.oid and starts_with(t.tgname::text, 'agent_sync_') and not t.tgisinternal
where c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = 'public') and c.relname = $1
group by c.relkind;
