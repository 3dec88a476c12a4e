-- $1 uuid[], $2 bytea[], $3 text[], $4 text[]: assistants that are as they should be, what their agents said, and which version of its
-- row each is. Nothing else of the entry moves, nor its time.
update agent_sync.ledger as l
set source_hash = m.source_hash, row_xmin = m.row_xmin::xid, row_ctid = m.row_ctid::tid
from unnest($1::uuid[], $2::bytea[], $3::text[], $4::text[]) as m (assistant_id, source_hash, row_xmin, row_ctid)
where l.assistant_id = m.assistant_id;
