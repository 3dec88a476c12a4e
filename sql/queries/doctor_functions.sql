-- The functions of schema agent_sync, and what they do.
select p.proname::text as name, pg_get_function_identity_arguments(p.oid) as arguments, p.prosrc as body
from pg_catalog.pg_proc as p
where p.pronamespace = (select oid from pg_catalog.pg_namespace where nspname = 'agent_sync');
