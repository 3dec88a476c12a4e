-- $1 text[]: agents to leave for later (a burst of edits is still going on); $2 bigint: how many rows at most.
-- The changes that name an agent, oldest first, locked for this transaction; other workers pass over them.
select id, key,
  (extract(epoch from clock_timestamp() - changed_at) * 1000)::bigint as age_ms,
  due_at > '-infinity' as retry
from agent_sync.outbox
where source in ('agents', 'agent_mcp_tools') and key is not null
  and due_at <= clock_timestamp()
  and key <> all ($1::text[])
order by id
limit $2
for update skip locked;
