-- $1 text[]: agents to leave for later.
-- What is left in the outbox: whether there are changes that name no agent; whether there is one of an agent to claim; and how long
-- until there may be something, in milliseconds, null when it is empty. What is due already and was not claimed just now is in another
-- session's hands: should that one die, it is ours a second later. And how many changes have ever been recorded, as in look.sql, but null
-- for a role that may not know. (By way of the indexes: most of the table is dead rows where much is edited.)
select
  (
    select last_value from pg_catalog.pg_sequences where schemaname = 'agent_sync' and sequencename = 'outbox_id_seq'
  ) as recorded,
  exists (
    select from agent_sync.outbox where source not in ('agents', 'agent_mcp_tools') or key is null
  ) as shared,
  exists (
    select from (
      select
      from agent_sync.outbox
      where source in ('agents', 'agent_mcp_tools') and key is not null
        and due_at <= clock_timestamp()
        and key <> all ($1::text[])
      order by id
      limit 1
    ) as change
  ) as of_agents,
  (extract(epoch from
    least(
      (select min(due_at) from agent_sync.outbox where due_at > '-infinity' and due_at > clock_timestamp()) - clock_timestamp(),
      case
        when exists (
          select from (select from agent_sync.outbox where due_at <= clock_timestamp() order by id limit 1) as change
        ) then interval '1 second'
      end
    )
  ) * 1000)::bigint as wait_ms;
