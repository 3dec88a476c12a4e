-- What all workers on this database share, and the version of the schema.
select coalesce((select scope from agent_sync.settings), 'none') as scope,
  (select max(version) from agent_sync.migrations) as version;
