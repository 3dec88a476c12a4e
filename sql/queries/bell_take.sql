-- Waits until nobody edits in silence any more, and has whoever edits ring from the first moment of waiting on.
select pg_advisory_lock(hashtextextended('agent_sync.bell', 0));
