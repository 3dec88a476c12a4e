-- $1 uuid[]: agents. One of us at a time works on an agent; held to the end of the transaction.
-- In the order of the keys, so that two batches can never wait for each other in a circle.
select pg_advisory_xact_lock(k.key)
from (
  select distinct hashtextextended('agent_sync:' || a.id, 0) as key
  from unnest($1::uuid[]) as a (id)
  order by key
) as k;
