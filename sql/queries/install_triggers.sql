-- Puts every missing trigger in place, but waits for no editor: a table that is in use is passed over, with a warning.
do $$
declare
  missing record;
  patience text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', '50ms', true);
  for missing in select source, ddl from agent_sync.missing_triggers() loop
    begin
      execute missing.ddl;
    exception when lock_not_available then
      raise warning 'public.% is in use: run "agent-sync migrate" to install its triggers', missing.source;
    end;
  end loop;
  perform set_config('lock_timeout', patience, true);
end;
$$;
