-- agent-sync, version 3: from here on nothing is written into a user's assistant unless the database has said that the user may
-- have the agent. A worker of version 2 does not ask; it stops writing when it meets this version.

comment on column agent_sync.ledger.owner is
  'system, or the id of the user whose assistant it is: asked about before new content is written into it, and at every pass';
