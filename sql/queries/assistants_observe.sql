-- $1 text[]: assistants. Which of them exist, to whom they say they belong, what they say, and which version of
-- the row that is. Row by row (offset 0), by the indexes, as in ledger_read.sql.
-- What is in one version of a row never changes: what the very one says that the ledger has noted is not made out again. (Whatever sets
-- row_hash there says which version it is of, or that it is of none.)
select a.id, a.metadata ->> 'owner' as owner,
  case
    when l.row_xmin = a.row_xmin and l.row_ctid = a.row_ctid and l.row_hash is not null then l.row_hash
    else agent_sync.fingerprint(a.graph_id, a.config, a.context, a.name, a.description, a.metadata)
  end as row_hash,
  a.row_xmin::text as row_xmin, a.row_ctid::text as row_ctid
from unnest($1::text[]) as w (id)
cross join lateral (
  select a.id, a.graph_id, a.config, a.context, a.name, a.description, a.metadata, a.xmin as row_xmin, a.ctid as row_ctid
  from langgraph_server.assistants as a
  where a.id = w.id
  offset 0
) as a
left join lateral (
  select l.row_hash, l.row_xmin, l.row_ctid from agent_sync.ledger as l where l.assistant_id = w.id::uuid offset 0
) as l on true;
