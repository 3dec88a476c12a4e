-- The version of our schema, and what all workers share.
select coalesce(max(version), 0) as version, (select scope from agent_sync.settings) as scope
from agent_sync.migrations;
