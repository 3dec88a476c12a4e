-- $1 uuid[]: agents; $2 uuid: who holds them; $3 bigint: for how many milliseconds more. Returns those that are still his.
update agent_sync.leases
set until = clock_timestamp() + $3 * interval '1 millisecond'
where agent_id = any ($1::uuid[]) and holder = $2
returning agent_id;
