-- $1 text[]: assistants. Which of them exist, to whom they say they belong, what they say, and which version of
-- the row that is.
-- What is in one version of a row never changes: what the very one says that the ledger has noted is not made out again. (Whatever sets
-- row_hash there says which version it is of, or that it is of none.)
select a.id, a.metadata ->> 'owner' as owner,
  case
    when l.row_xmin = a.xmin and l.row_ctid = a.ctid and l.row_hash is not null then l.row_hash
    else agent_sync.fingerprint(a.graph_id, a.config, a.context, a.name, a.description, a.metadata)
  end as row_hash,
  a.xmin::text as row_xmin, a.ctid::text as row_ctid
from unnest($1::text[]) as w (id)
join langgraph_server.assistants as a on a.id = w.id
left join agent_sync.ledger as l on l.assistant_id = w.id::uuid;
