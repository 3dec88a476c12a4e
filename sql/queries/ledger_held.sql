-- $1 uuid[], $2 text: assistants whose agents are gone, and why they are not removed for now.
update agent_sync.ledger
set state = 'held', error = $2, attempts = 0, updated_at = statement_timestamp()
where assistant_id = any ($1::uuid[]);
