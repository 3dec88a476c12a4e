-- agent-sync, version 5: leases, for assistants that live outside this database. What is written there takes longer than a transaction may,
-- so a worker holds its agents by a row each instead of a lock. One that dies loses them when their time is over.

create table if not exists agent_sync.leases (
  agent_id uuid primary key,
  holder uuid not null, -- one sync, of some worker
  until timestamptz not null
);
