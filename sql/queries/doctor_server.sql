-- Which server this is, and whether it takes writes. (Asked in a transaction that is read-only by itself.)
select split_part(current_setting('server_version'), ' ', 1) as version,
  current_setting('server_version_num')::integer as number,
  pg_is_in_recovery() as in_recovery,
  current_setting('default_transaction_read_only')::boolean as read_only,
  current_database()::text as database, current_user::text as role;
