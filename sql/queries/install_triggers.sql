-- Puts every missing trigger in place. Only printed (`migrate --print`); a worker installs them one at a time.
do $$
declare
  missing record;
begin
  for missing in select ddl from agent_sync.missing_triggers() loop
    execute missing.ddl;
  end loop;
end;
$$;
