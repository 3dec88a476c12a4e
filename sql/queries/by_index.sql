-- The outbox grows and shrinks all the time, so the planner knows it badly. Along the indexes, in their order, only those changes are
-- looked at that are taken, however many there are.
set local enable_seqscan = off;
set local enable_bitmapscan = off;
set local enable_sort = off;
