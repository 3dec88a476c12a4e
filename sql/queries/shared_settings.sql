-- What all workers on this database share, and the version of the schema; and the mark of this session (database/kept.rs).
select coalesce((select scope from agent_sync.settings), 'none') as scope,
  (select max(version) from agent_sync.migrations) as version,
  current_setting('agent_sync.session', true) as mark;
