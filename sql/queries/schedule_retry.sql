-- $1 text[]: agents; $2 bigint[]: the milliseconds until each is tried again.
insert into agent_sync.outbox (source, key, due_at)
select 'agents', r.key, clock_timestamp() + r.delay_ms * interval '1 millisecond'
from unnest($1::text[], $2::bigint[]) as r (key, delay_ms);
