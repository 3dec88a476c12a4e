-- $1 uuid[]: agents, locked by this transaction; $2 uuid: who takes them; $3 bigint: for how many milliseconds.
-- Those that nobody else holds are the taker's now, and returned.
insert into agent_sync.leases as l (agent_id, holder, until)
select agent_id, $2, clock_timestamp() + $3 * interval '1 millisecond'
from unnest($1::uuid[]) as a (agent_id)
on conflict (agent_id) do update
set holder = excluded.holder, until = excluded.until
where l.until <= clock_timestamp()
returning agent_id;
