-- agent-sync, version 6: by what a pass sees that an agent and its assistant are as they were left, without reading either. A worker of
-- version 5 would leave marks behind that are not true any more; it stops writing when it meets this version.

-- Of what the mapping read when the assistant was last found, or made, equal to its agent (sql/queries/source_said.sql), and of
-- content_hash and row_hash: whoever writes those, and not this, has it looked at.
alter table agent_sync.ledger add column if not exists source_hash bytea;
-- Which version of the assistant's row that was: who wrote it, and where it lies. Any other is looked at more closely.
alter table agent_sync.ledger add column if not exists row_xmin xid;
alter table agent_sync.ledger add column if not exists row_ctid tid;
