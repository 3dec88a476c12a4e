-- After by_index.sql. (By null: whatever the role or the database has for a default.)
select set_config('enable_seqscan', null, true), set_config('enable_bitmapscan', null, true), set_config('enable_sort', null, true),
  set_config('plan_cache_mode', null, true);
