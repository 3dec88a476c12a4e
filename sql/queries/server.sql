-- Which database of which server this is, since when. In numbers: how a time is written is a role's own affair.
-- (Sent alone, and as one more row of source_columns.sql.)
select 'server' as source, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint || '/' || oid as place
from pg_catalog.pg_database where datname = current_database()
