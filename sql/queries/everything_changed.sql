-- Every agent may have changed, as far as we know.
insert into agent_sync.outbox (source, key) values ('agents', null);
