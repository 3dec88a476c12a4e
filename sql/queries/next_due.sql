-- How long until there may be something to claim, in milliseconds; null when the outbox is empty. What is due already and
-- was not claimed just now is in another session's hands: should that one die, it is ours a second later. (By way of the indexes: most
-- of the table is dead rows where much is edited.)
select (extract(epoch from
  least(
    (select min(due_at) from agent_sync.outbox where due_at > '-infinity' and due_at > clock_timestamp()) - clock_timestamp(),
    case
      when exists (
        select from (select from agent_sync.outbox where due_at <= clock_timestamp() order by id limit 1) as change
      ) then interval '1 second'
    end
  )) * 1000)::bigint as wait_ms;
