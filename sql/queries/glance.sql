-- $1 uuid: an agent; $2 text: who asks for it; $3 text: what else the mapping goes by. In one snapshot: what all workers share, what the
-- agent says, as a hash (`said`, source_said.sql; `shown`, glance_as_caller.sql), the ledger's entries that the answer depends on, and of each whether its assistant
-- is as it should be, and as the API shows it. Nothing that the mapping reads leaves the server: that it is as it was is told by what the
-- last sync has noted, as in look_over.sql. (Sent prepared, so all of it comes as text.)
select (select max(version) from agent_sync.migrations) as version,
  coalesce((select scope from agent_sync.settings), 'none') as scope,
  a.id, a.organization_id, a.named, a.shown, encode(a.said, 'hex') as said,
  l.assistant_id, l.owner, i.in_step,
  s.graph_id, s.name, s.description, s.version as assistant_version, s.config, s.metadata,
  (extract(epoch from s.created_at) * 1000000)::bigint as created_at,
  (extract(epoch from s.updated_at) * 1000000)::bigint as updated_at
from (select) as one
left join (
  select a.id,
    /* organization */ a.organization_id::text /* end */ as organization_id,
    /* named */ a.langgraph_assistant_id::text /* end */ as named,
    /* shown */ null::bytea /* end */ as shown,
    /* said */ null::bytea /* end */ as said
  from public.agents as a
  where a.id = $1
  offset 0 -- so that each is made once
) as a on true
left join agent_sync.ledger as l on l.agent_id = $1 and (l.owner in ('system', $2) or l.assistant_id = $1)
left join langgraph_server.assistants as s on s.id = l.assistant_id::text
cross join lateral (
  select coalesce(
    l.state = 'synced' and s.xmin = l.row_xmin and s.ctid = l.row_ctid
      and l.source_hash = sha256(a.said || l.content_hash || l.row_hash),
    false) as in_step
  offset 0
) as i
