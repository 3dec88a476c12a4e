-- $1 text[]: assistants that the ledger says are ours. They go with all their versions. Returns those that another session holds: they
-- are passed over.
with free as (
  select id from langgraph_server.assistants where id = any ($1::text[]) order by id for update skip locked
), deleted as (
  delete from langgraph_server.assistants as a using free where a.id = free.id returning a.id
), gone as (
  delete from agent_sync.versions as v using deleted where v.assistant_id = deleted.id
)
select id from langgraph_server.assistants where id = any ($1::text[])
except
select id from deleted;
