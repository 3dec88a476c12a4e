-- $1 uuid: a holder, who is done. What has changed meanwhile was passed over by everybody else: they are told.
with given_back as (
  delete from agent_sync.leases where holder = $1 returning agent_id
)
select pg_notify('agent_sync', '')
where exists (
  select from agent_sync.outbox where key = any (select agent_id::text from given_back) and due_at <= clock_timestamp()
);
