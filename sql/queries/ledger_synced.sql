-- Assistants that were just written outside this database: $7 bytea[] row_hash, and what ledger_written.sql, which follows, has.
with written as (
  select w.id, w.row_hash, null::xid as row_xmin, null::tid as row_ctid
  from unnest($1::text[], $7::bytea[]) as w (id, row_hash)
)
