-- After by_index.sql.
set local enable_seqscan to default;
set local enable_bitmapscan to default;
set local enable_sort to default;
set local plan_cache_mode to default;
