-- $1 text: an assistant that a client made and takes away, with all its versions. The row was taken before (assistant_take.sql).
with gone as (delete from agent_sync.versions where assistant_id = $1)
delete from langgraph_server.assistants where id = $1;
