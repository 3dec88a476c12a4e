-- $1 text[]: assistants that the ledger says are ours. Returns those that another session holds: they are passed over.
with free as (
  select id from langgraph_server.assistants where id = any ($1::text[]) order by id for update skip locked
), deleted as (
  delete from langgraph_server.assistants as a using free where a.id = free.id returning a.id
)
select id from langgraph_server.assistants where id = any ($1::text[])
except
select id from deleted;
