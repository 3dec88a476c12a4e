-- $1 uuid[]: entries under which no assistant of ours ever stood, of agents that are gone.
delete from agent_sync.ledger where assistant_id = any ($1::uuid[]);
