-- How long until there may be something to claim, in milliseconds; null when the outbox is empty. What is due already and
-- was not claimed just now is in another session's hands: should that one die, it is ours a second later.
select (extract(epoch from
  least(
    min(due_at) filter (where due_at > clock_timestamp()) - clock_timestamp(),
    case when bool_or(due_at <= clock_timestamp()) then interval '1 second' end
  )) * 1000)::bigint as wait_ms
from agent_sync.outbox;
