-- For look_over.sql: what it puts together of a page's agents is to be done in memory, and by this session alone.
select set_config('work_mem', '32MB', true), set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)
