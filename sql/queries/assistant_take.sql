-- $1 text: an assistant; $2 text: an owner. Nobody else changes it until the transaction ends, if it is theirs; a stranger's locks
-- nothing. Whose a synced assistant is the ledger says. What it is after the wait, a later statement tells (assistant_get.sql):
-- this one sees the ledger as it was before.
select from langgraph_server.assistants as a
left join agent_sync.ledger as l on l.assistant_id = $1::uuid and l.content_hash is not null
where a.id = $1 and coalesce(l.owner, a.metadata ->> 'owner') = $2
for no key update of a;
