-- $1 uuid[]: assistants that are as they should be, although the ledger says that they failed.
update agent_sync.ledger
set state = 'synced', error = null, attempts = 0, updated_at = statement_timestamp()
where assistant_id = any ($1::uuid[]);
