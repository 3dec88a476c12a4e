-- The agents that somebody holds at the moment.
select agent_id from agent_sync.leases where until > clock_timestamp();
