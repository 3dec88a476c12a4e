-- $1 uuid[]: assistants that were just removed; $2 boolean: whether the guard is to count them.
-- The entries stay: an agent that comes back gets the same ids. One that could not come back went when it did.
update agent_sync.ledger
set state = 'removed', removed_at = case when content_hash is null then removed_at when $2 then statement_timestamp() end,
  content_hash = null, row_hash = null, error = null, attempts = 0, updated_at = statement_timestamp()
where assistant_id = any ($1::uuid[]);
