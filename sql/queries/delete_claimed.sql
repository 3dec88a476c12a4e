-- $1 bigint[]: claimed rows.
delete from agent_sync.outbox where id = any ($1::bigint[]);
