-- How long until the next change is due, in milliseconds; no row when nothing waits.
select greatest(0, extract(epoch from min(due_at) - clock_timestamp()) * 1000)::bigint as wait_ms
from agent_sync.outbox
where due_at > '-infinity'
having min(due_at) is not null;
