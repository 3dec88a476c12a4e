-- Which server this is and who we are; and how many workers listen, and how many connections of workers there are besides, in this
-- database. (What a session calls itself is shown to every role.)
select split_part(current_setting('server_version'), ' ', 1) as version, current_user::text as role,
  current_database()::text as name, to_regclass('public.agents') is not null as has_agents,
  (
    select count(*)
    from pg_catalog.pg_stat_activity
    where datname = current_database() and application_name = 'agent-sync listener'
  ) as listeners,
  (
    select count(*)
    from pg_catalog.pg_stat_activity
    where datname = current_database() and application_name in ('agent-sync', 'agent-sync access') and pid <> pg_backend_pid()
  ) as others;
