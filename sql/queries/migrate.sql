-- :seen, an integer: the version that the worker has seen.
-- Goes ahead of the scripts, in one message with them. Workers that start together migrate one after the other, and
-- whoever finds that another has been faster looks again.
select pg_advisory_xact_lock(hashtextextended('agent_sync.migrate', 0));
do $$
declare
  version integer := 0;
begin
  if to_regclass('agent_sync.migrations') is not null then
    select coalesce(max(m.version), 0) into version from agent_sync.migrations as m;
  end if;
  if version <> :seen then
    raise exception 'another worker has migrated meanwhile' using errcode = 'serialization_failure';
  end if;
end;
$$;
