-- One of us at a time removes assistants, so that what two of them remove is counted together. Held to the end of the
-- transaction; whoever holds it waits for no lock on an agent any more.
select pg_advisory_xact_lock(hashtextextended('agent_sync.removals', 0));
