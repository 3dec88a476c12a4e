-- $1 uuid: the last agent seen, null at first; $2 bigint: how many at most, null: all; $3 uuid[]: organizations; $4 boolean: whether
-- agents of other organizations count that are in the ledger.
-- The agents that a pass over some organizations looks at, in order of id: those that exist, and those in the ledger.
select id from (
  (
    select id from public.agents
    where ($1::uuid is null or id > $1) and organization_id = any ($3::uuid[])
    order by id
    limit $2
  )
  /* ledger */ union
  (
    select distinct agent_id from agent_sync.ledger
    where ($1::uuid is null or agent_id > $1) and ($4 or organization_id = any ($3::uuid[]))
    order by agent_id
    limit $2
  ) /* end */
) as candidates (id)
order by id
limit $2;
