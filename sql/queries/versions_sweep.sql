-- What is left of assistants that somebody has deleted behind our back, as a runtime does that shares the table.
delete from agent_sync.versions as v
where not exists (select from langgraph_server.assistants as a where a.id = v.assistant_id);
