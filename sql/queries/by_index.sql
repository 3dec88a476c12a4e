-- The outbox grows and shrinks all the time, so the planner knows it badly. Along the indexes, in their order, only those changes are
-- looked at that are taken, however many there are; so there is nothing to plan anew, either, where the session keeps the statement.
-- (Where something has to be read in full all the same, be it a sequence's one row, that makes a plan look as if it were worth compiling,
-- which takes longer than all the rest.)
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true),
  set_config('plan_cache_mode', 'force_generic_plan', true), set_config('jit', 'off', true);
