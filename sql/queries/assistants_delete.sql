-- $1 text[]: assistants that the ledger says are ours.
delete from langgraph_server.assistants where id = any ($1::text[]);
