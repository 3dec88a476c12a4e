-- $1 text: the worker's own channel; $2 text: what it will hear there.
-- Whether the bell is free, as whoever edits now would find it.
select pg_notify($1, $2), pg_try_advisory_xact_lock_shared(hashtextextended('agent_sync.bell', 0)) as is_free;
