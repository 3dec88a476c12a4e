-- What is left once the triggers are gone: the outbox, the ledger, the functions. Without `cascade`: should anything of
-- the application's depend on it, that is said instead of dropped.
drop table if exists agent_sync.leases; -- since version 5
drop table if exists agent_sync.versions; -- since version 4
drop table agent_sync.outbox, agent_sync.ledger, agent_sync.settings, agent_sync.migrations;
drop function agent_sync.missing_triggers();
drop function agent_sync.record_rows();
drop function agent_sync.record_update();
drop function agent_sync.record_truncate();
drop function if exists agent_sync.record(text, text[], text[]); -- since version 2
drop function agent_sync.record(text, text[]);
drop function agent_sync.fingerprint(text, jsonb, jsonb, text, text, jsonb);
drop schema agent_sync;
