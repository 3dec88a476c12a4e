-- $1 bigint: how far is counted. How many changes wait, for how long the first of them does, and how many agents are to be tried again.
select (
    select count(*) from (select from agent_sync.outbox where due_at = '-infinity' limit $1) as change
  ) as depth,
  (
    select count(*) from (select from agent_sync.outbox where due_at > '-infinity' limit $1) as retry
  ) as retries,
  (
    select extract(epoch from clock_timestamp() - changed_at)::float8
    from agent_sync.outbox
    where due_at = '-infinity'
    order by id
    limit 1
  ) as oldest_age_seconds;
