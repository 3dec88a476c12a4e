-- $1 text[], $2 text[]: settings and their values, for the rest of the transaction (or until a savepoint is rolled back to). As
-- PostgREST takes a role and hands over the claims of a caller; nothing is built from what the claims say.
select set_config(s.name, s.value, true)
from unnest($1::text[], $2::text[]) as s (name, value);
