-- A page of the agents that the ledger knows, those in the worst state first, and of those the ones that changed last.
-- $1 text: only those in this state, all when null; $2 text: only those with this in their names, in whatever case, or (as well) with
-- an id or an assistant's id from $3 to $4 uuid; $5 integer, $6 timestamptz, $7 uuid: the last one of the page before, null at first;
-- $8 bigint: how many at most. `total` is of all pages, and there even where the page is empty: it comes in a row without an agent.
-- It is planned with its parameters, so what they leave out costs nothing.
with agents as not materialized (
  -- Columns as they are called, or null where one is not there (schemas drift): a name that is not found in the row is looked for
  -- further out. to_jsonb(a) ->> 'name' would do the same, and make json of every prompt.
  select a.id, drifted.name, drifted.organization_id
  from (select null::text as name, null::text as organization_id) as missing
  cross join public.agents as a
  cross join lateral (select name::text as name, organization_id::text as organization_id from (select a.*) as r) as drifted
), wanted as (
  select id as agent_id from agents where strpos(lower(name), lower($2)) > 0
  union
  select agent_id from agent_sync.ledger where agent_id between $3 and $4 or assistant_id between $3 and $4
), known as (
  -- Of an agent with several assistants, the worst counts, as in status_agents.sql.
  select agent_id, max(updated_at) as changed_at,
    min(case state when 'failed' then 1 when 'conflict' then 2 when 'held' then 3 when 'synced' then 4 else 5 end) as rank
  from agent_sync.ledger
  where ($1::text is null or agent_id in (select agent_id from agent_sync.ledger where state = $1))
    and ($2::text is null or agent_id in (select agent_id from wanted))
  group by agent_id
), found as materialized (
  select agent_id, changed_at, rank, (array['failed', 'conflict', 'held', 'synced', 'removed'])[rank] as state
  from known
  where $1::text is null or (array['failed', 'conflict', 'held', 'synced', 'removed'])[rank] = $1
), page as (
  select *
  from found
  where $5::integer is null or rank > $5 or (rank = $5 and (changed_at, agent_id) < ($6::timestamptz, $7::uuid))
  order by rank, changed_at desc, agent_id desc
  limit $8
)
select counted.total, page.agent_id, page.rank, page.state, page.changed_at, agent.name,
  coalesce(agent.organization_id, entries.organization_id) as organization_id,
  entries.assistants, entries.synced_at, entries.wrote_at, entries.attempts, entries.error
from (select count(*) as total from found) as counted
left join page on true
-- (limit: each is looked up.)
left join lateral (select name, organization_id from agents where id = page.agent_id limit 1) as agent on true
left join lateral (
  select max(l.organization_id::text) as organization_id, count(l.content_hash) as assistants,
    max(l.updated_at) filter (where l.state = 'synced') as synced_at,
    -- Of one that stands from before it failed, what its metadata says. (Text: whoever may write the table may have written it.)
    max(s.metadata ->> 'synced_at') filter (where l.state <> 'synced') as wrote_at, max(l.attempts) as attempts,
    -- The one of the worst entry.
    (array_agg(left(l.error, 1000) order by l.updated_at desc) filter (where l.state = page.state))[1] as error
  from agent_sync.ledger as l
  left join langgraph_server.assistants as s on s.id = l.assistant_id::text and l.content_hash is not null
  where l.agent_id = page.agent_id
) as entries on true
order by page.rank, page.changed_at desc, page.agent_id desc;
