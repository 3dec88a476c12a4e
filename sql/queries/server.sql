-- Which database of which server this is, since when.
select pg_postmaster_start_time()::text || '/' || (select oid from pg_catalog.pg_database where datname = current_database())::text
  as place;
