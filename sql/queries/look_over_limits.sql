-- For look_over.sql: what it puts together of a page's agents is to be done in memory, and by this session alone. What it looks up is
-- in indexes: of a table that is just growing, the planner would believe that it is read as fast as a whole.
select set_config('work_mem', '32MB', true), set_config('max_parallel_workers_per_gather', '0', true), set_config('enable_seqscan', 'off', true)
