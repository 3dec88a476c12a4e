-- :migrations, the texts of all versions, as one statement: whichever tool runs the printed script, and whether or not it
-- stops at an error, they are installed whole or not at all. Whoever comes after us waits for as long as we do.
do $migrations$
declare
  patience text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', '200ms', true);
  :migrations
  perform set_config('lock_timeout', patience, true);
exception when lock_not_available then
  raise exception 'agent-sync: open transactions use schema agent_sync, so nothing of it was changed: run this again when they have ended'
    using errcode = 'lock_not_available';
end;
$migrations$;

