-- $1 text[]: agents to leave for later.
-- Whether there is anything to claim; and how many changes have ever been recorded, whoever took them and whether or not they are
-- committed. (In the order of the index, which knows of most dead rows that they are.)
select s.last_value as recorded,
  exists (
    select from (
      select
      from agent_sync.outbox
      where due_at <= clock_timestamp() and (key is null or key <> all ($1::text[]))
      order by id
      limit 1
    ) as change
  ) as is_pending
from agent_sync.outbox_id_seq as s;
