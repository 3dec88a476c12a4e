-- Transactions that were prepared and neither committed nor rolled back, in this database: they hold their locks.
select current_setting('max_prepared_transactions')::bigint as allowed, count(*) as standing,
  extract(epoch from clock_timestamp() - min(prepared))::float8 as oldest_age_seconds
from pg_catalog.pg_prepared_xacts
where database = current_database();
