-- The outbox grows and shrinks all the time, so the planner knows it badly. Along the indexes, in their order, only those changes are
-- looked at that are taken, however many there are; so there is nothing to plan anew, either, where the session keeps the statement.
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_sort = off;
set local plan_cache_mode = force_generic_plan;
