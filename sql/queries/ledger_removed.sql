-- $1 uuid[]: assistants that were just removed. The entries stay: an agent that comes back gets the same ids.
update agent_sync.ledger
set state = 'removed', content_hash = null, row_hash = null, error = null, attempts = 0,
  updated_at = statement_timestamp()
where assistant_id = any ($1::uuid[]);
