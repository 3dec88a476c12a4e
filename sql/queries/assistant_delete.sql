-- $1 text: an assistant that a client made and takes away. The row was taken before (assistant_take.sql).
delete from langgraph_server.assistants where id = $1;
