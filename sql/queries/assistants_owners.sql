-- $1 text[]: assistants. Which of them exist, and to whom they say they belong: where nothing of ours is installed yet.
select id, metadata ->> 'owner' as owner from langgraph_server.assistants where id = any ($1::text[]);
