-- $1 uuid: the last agent seen, null at first; $2 bigint: how many at most, null: all.
-- The agents that a pass over everything looks at, in order of id: those that exist, and those in the ledger.
select id from (
  (select id from public.agents where $1::uuid is null or id > $1 order by id limit $2)
  /* ledger */ union
  (select distinct agent_id from agent_sync.ledger where $1::uuid is null or agent_id > $1 order by agent_id limit $2) /* end */
) as candidates (id)
order by id
limit $2;
