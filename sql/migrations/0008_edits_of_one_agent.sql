-- agent-sync, version 8: who syncs an agent takes all edits of it that are there, so no agent is synced for an edit that an earlier sync
-- has read already, and edits of the same agents, however many, do not pile up. They are found by the index that tells whose turn it is.

-- (Cut, as a key that does not fit in an index would fail its edit.) That is over in a moment unless the outbox has grown: then it is
-- emptied, and every agent counts as changed instead.
do $$
begin
  if to_regclass('agent_sync.outbox_agents_idx') is null then
    -- Whoever comes after us waits for as long as we do.
    perform set_config('lock_timeout', '50ms', true);
    lock table agent_sync.outbox in access exclusive mode;
    if (select count(*) from (select from agent_sync.outbox limit 10001) as change) > 10000 then
      truncate agent_sync.outbox;
      insert into agent_sync.outbox (source, key) values ('agents', null);
    end if;
    drop index agent_sync.outbox_turns_idx;
    create index outbox_agents_idx on agent_sync.outbox (organization, (left(key, 64)));
  end if;
end;
$$;
