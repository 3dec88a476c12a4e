-- $1 text[]: the names of settings; $2 text[]: their values. Tells a session whose questions follow, in the way of PostgREST.
-- (Not with `set`: of that, `pg_stat_statements` keeps the text, one for each caller, and with it what the claims say.)
select count(pg_catalog.set_config(claim.name, claim.value, true)) as claims
from unnest($1::text[], $2::text[]) as claim (name, value);
