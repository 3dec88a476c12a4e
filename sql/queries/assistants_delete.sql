-- $1 text[]: assistants that the ledger says are ours. They go with all their versions. Returns those that another session holds: they
-- are passed over.
with free as (
  select id from langgraph_server.assistants where id = any ($1::text[]) order by id for update skip locked
), deleted as (
  delete from langgraph_server.assistants as a using free where a.id = free.id returning a.id
), gone as (
  -- As in assistants_update.sql.
  delete from agent_sync.versions as v
  where v.ctid = any (array(
    select old.ctid
    from deleted
    cross join lateral (
      select o.ctid from agent_sync.versions as o where o.assistant_id = deleted.id order by o.version limit 25
    ) as old
  ))
)
select id from langgraph_server.assistants where id = any ($1::text[])
except
select id from deleted;
